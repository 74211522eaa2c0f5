"""First cell of the notebooks, which installs, and the numbers that they promise."""

import importlib
import importlib.metadata
import json
import pathlib
import re
import statistics
import subprocess
import types

import nbformat
import pytest

from experiments.studies import catalogue
from experiments.tables import kept_runs
from experiments.tables import network_rows
from experiments.tables import paired_arms
from experiments.tables import update

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _install(
  path, monkeypatch, *, missing, address="https://host/me", code=0, numpy=""
):
  """Runs the cell where packages are missing; returns what pip was asked for.

  `numpy` is the version on disk, which may differ from the imported one.
  """
  cells = nbformat.read(path, as_version=4).cells
  (cell,) = [cell.source for cell in cells if "REPOSITORY =" in cell.source]
  asked = []

  def run(command, **_):
    asked.extend(command)
    return types.SimpleNamespace(returncode=code, stderr="no such repository")

  def version(name):
    if name in (*missing, "libtpu"):
      raise importlib.metadata.PackageNotFoundError(name)
    return numpy if numpy and name == "numpy" else installed(name)

  installed = importlib.metadata.version
  with monkeypatch.context() as patched:
    patched.setattr(subprocess, "run", run)
    patched.setattr(importlib.metadata, "version", version)
    exec(cell.replace("https://github.com/OWNER", address), {})
  return asked


@every_notebook
def test_nothing_is_installed_where_the_package_is(path, monkeypatch):
  assert _install(path, monkeypatch, missing=()) == []


@every_notebook
def test_a_folder_of_the_name_is_not_taken_for_the_package(path, monkeypatch, tmp_path):
  """A clone in the folder of the notebook can be imported, as an empty package."""
  (tmp_path / "flowkd_jax").mkdir()
  monkeypatch.chdir(tmp_path)
  asked = _install(path, monkeypatch, missing=("flowkd_jax",))
  assert "flowkd_jax[train] @ git+https://host/me/flowkd_jax" in asked


@every_notebook
def test_a_placeholder_and_a_failed_pip_stop_with_a_sentence(path, monkeypatch):
  package = ("flowkd_jax",)
  with pytest.raises(ValueError, match="REPOSITORY: write the address"):
    _install(path, monkeypatch, missing=package, address="https://github.com/OWNER")
  with pytest.raises(RuntimeError, match="(?s)could not install.*REPOSITORY.*no such"):
    _install(path, monkeypatch, missing=package, code=1)


@every_notebook
@pytest.mark.parametrize("missing", [("flowkd_jax",), ()], ids=["first", "again"])
def test_replaced_packages_ask_for_a_restart_until_it_is_done(
  path, missing, monkeypatch
):
  importlib.import_module("numpy")
  with pytest.raises(RuntimeError, match="replaced numpy, .* restart the kernel"):
    _install(path, monkeypatch, missing=missing, numpy="99.0")


def test_equinox_is_installed_though_the_package_is_there(monkeypatch):
  (path,) = [path for path in NOTEBOOKS if path.stem == "losses_in_your_own_code"]
  asked = _install(path, monkeypatch, missing=("equinox",))
  assert asked[-1] == "equinox>=0.13"


def test_install_cells_differ_only_in_what_they_need():
  cells = [
    re.sub(r"NEEDED = \{.*?\n?\}\n", "", cell.source, flags=re.DOTALL)
    for path in NOTEBOOKS
    for cell in nbformat.read(path, as_version=4).cells
    if "REPOSITORY =" in cell.source
  ]
  assert len(cells) == len(NOTEBOOKS)
  assert len(set(cells)) == 1


def _by_seed(study, row, column):
  runs = kept_runs.read(update.HERE / "results" / study)
  found = paired_arms.networks(catalogue.STUDIES[study], runs)
  (run,) = [one for one in catalogue.STUDIES[study].runs if one.name == row]
  return network_rows.numbers(run, column, found, factor=100)


def _text(values):
  mean = f"{statistics.mean(values):.1f}"
  return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def _spread(study, row, column):
  return _text([*_by_seed(study, row, column).values()])


def test_promised_numbers_are_those_of_the_kept_runs():
  (path,) = [path for path in NOTEBOOKS if path.stem == "quick_start"]
  notebook = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
  for title, row in (
    ("teacher, on labels", "teacher"),
    ("auxiliary, from the teacher", "auxiliary"),
    ("student, on labels only", "student_labels"),
    ("student, by information flow", "student"),
  ):
    classifies = row in ("teacher", "student_labels")
    columns = ["accuracy"] * classifies + ["centroid c", "area mAP e", "area mAP c"]
    cells = " | ".join(_spread("digits", row, column) for column in columns)
    cells = cells if classifies else f"– | {cells}"
    assert f"| {title} | {cells} |" in notebook, cells
  labels, student = (
    _by_seed("digits", row, "area mAP c") for row in ("student_labels", "student")
  )
  gains = [student[seed] - labels[seed] for seed in labels]
  # Student's factor of a 95 % interval, four degrees of freedom.
  half = 2.776 * statistics.stdev(gains) / len(gains) ** 0.5
  assert len(gains) == 5
  assert f"gains {statistics.mean(gains):.1f} ± {half:.1f} points of mAP" in notebook
  readme = (ROOT / "README.md").read_text()
  for study, rows, column in (
    ("digits", ("student_labels", "student"), "area mAP c"),
    ("cifar10", ("labels", "full"), "mAP c"),
    ("paper_chain", ("student_labels", "student"), "mAP c"),
  ):
    cells = " | ".join(_spread(study, row, column) for row in rows)
    assert f"| {cells} |" in readme, study


def test_promised_accuracy_after_ten_epochs_is_that_of_the_kept_runs():
  path = ROOT / "experiments" / "results" / "cifar10" / "runs.json"
  seeds = json.loads(path.read_text())["runs"]["labels"].values()
  curves = [seed["curves"]["student_labels"]["test_accuracy"] for seed in seeds]
  values = [100 * curve[10] for curve in curves]  # curve[0] is before training
  readme = (ROOT / "README.md").read_text()
  assert f"end at {_text(values)} % test accuracy (three seeds)" in readme
  assert "--student_labels_epochs=10@1e-3" in readme
