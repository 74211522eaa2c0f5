"""Modules that `import flowkd_jax` loads."""

import importlib.resources
import subprocess
import sys

import pytest

FORBIDDEN = {
  "equinox",
  "flax",
  "matplotlib",
  "orbax",
  "rich",
  "sklearn",
  "tensorflow",
  "tensorflow_datasets",
  "torch",
}


def _loaded(*modules):
  """Top-level modules that importing these loads into a fresh interpreter."""
  program = f"import {', '.join(modules)}, sys; print(*sys.modules)"
  finished = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  return {name.split(".")[0] for name in finished.stdout.split()}


@pytest.mark.slow
def test_import_loads_only_the_core():
  core = _loaded("jax", "jaxtyping", "optax")  # optax itself loads absl
  package = _loaded("flowkd_jax", "flowkd_jax.losses")
  assert "flowkd_jax" in package
  assert not package & FORBIDDEN
  beyond = package - core - {"flowkd_jax"} - sys.stdlib_module_names
  assert not {name for name in beyond if not name.startswith("_")}, beyond


@pytest.mark.slow
def test_capture_loads_other_frameworks_only_when_asked():
  pytest.importorskip("flax")
  assert "equinox" not in _loaded("flowkd_jax.capture")


def test_package_tells_type_checkers_that_it_is_typed():
  assert (importlib.resources.files("flowkd_jax") / "py.typed").is_file()
