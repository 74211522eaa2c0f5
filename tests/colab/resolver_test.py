"""Install cells on the machines of Colab and Kaggle, resolved without network."""

import functools
import json
import tempfile

import pytest
from packaging.version import Version

from tests.colab import replay

pytest.importorskip("pip")  # an environment of another tool may lack it
FOUND = json.loads(replay.FILE.read_text())
MACHINES = sorted(FOUND["machines"])
# Packages that a fresh kernel there has imported, as far as pip could replace them.
LOADED = {"numpy", "pandas", "matplotlib", "pillow", "ipython", "ipykernel", "tornado"}


@functools.cache
def _installed_by_pip(name, *, limit=True):
  """Versions that pip would install on a machine by the cell that asks for most."""
  machine = FOUND["machines"][name]
  requires = FOUND["requires"][machine["python"]]
  asked = replay.asked_of_pip(replay.NOTEBOOK, machine["installed"])
  asked = [part.partition(" @")[0] for part in asked]
  with tempfile.TemporaryDirectory() as folder:
    python = replay.make_machine(f"{folder}/venv", machine["installed"], requires)
    wheels = replay.make_wheels(f"{folder}/wheels", requires)
    asked = asked if limit else replay.without_limit(asked)
    return replay.versions(replay.would_install(python, asked, wheels=wheels))


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_install_cell_leaves_what_a_kernel_has_loaded(name):
  added = _installed_by_pip(name)
  assert Version("0.10.2") <= Version(added["jax"]) < Version("0.11")
  assert added["jaxlib"] == added["jax"]
  assert added.keys() & LOADED == set()
  plugin = {"gpu": "jax-cuda12-plugin", "tpu": "libtpu"}.get(name.partition("_")[2])
  assert plugin is None or plugin in added


@pytest.mark.slow
def test_a_later_jax_would_replace_numpy():
  added = _installed_by_pip("colab_cpu", limit=False)
  assert Version(added["jax"]) >= Version("0.11")
  assert "numpy" in added


def test_a_machine_with_a_new_jax_keeps_it():
  def asked(**installed):
    return replay.asked_of_pip(replay.NOTEBOOK, installed)[2:]

  assert asked(jax="0.12.1", libtpu="0.0.50") == []
  assert asked(jax="0.10.2") == []
  assert asked(jax="0.10.1", libtpu="0.0.20") == ["jax[tpu]>=0.10.2,<0.11"]
  assert asked() == ["jax>=0.10.2,<0.11"]
