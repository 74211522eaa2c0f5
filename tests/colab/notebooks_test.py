"""The notebooks run from top to bottom on fewer epochs, and are kept clean."""

import pathlib

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# Put behind the cell that is tagged "parameters".
FEWER = {
  "quick_start": """
    TEACHER, AUXILIARY, STUDENT = "digits_resnet:2", "digits_cnn:4", "digits_cnn:2"
    TEACHER_EPOCHS = AUXILIARY_EPOCHS = STUDENT_EPOCHS = 1
    BATCH_SIZE = 200
  """,
  "losses_in_your_own_code": "STEPS = 40",
  "information_flow_analysis": """
    TEACHER_MODEL, STUDENT_MODEL = "digits_resnet:2", "digits_cnn:2"
    EPOCHS, QUERIES = 1, 2
  """,
}
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _executed(name, folder):
  notebook = nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)
  (at,) = [
    i
    for i, cell in enumerate(notebook.cells)
    if "parameters" in cell.metadata.get("tags", ())
  ]
  notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(FEWER[name]))
  where = {"metadata": {"path": str(folder)}}
  nbclient.NotebookClient(
    notebook, timeout=800, startup_timeout=800, resources=where
  ).execute()
  outputs = [output for cell in _code(notebook) for output in cell.outputs]
  assert not [x for x in outputs if x.get("name") == "stderr"]
  texts = [x.text for x in outputs if x.output_type == "stream"]
  return "".join(texts), [x.data for x in outputs if "data" in x]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Folder in which a notebook runs: only the package can be imported there."""
  (tmp_path / "path").mkdir()
  (tmp_path / "path" / "flowkd_jax").symlink_to(ROOT / "flowkd_jax")
  monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
  return tmp_path


@every_notebook
def test_notebooks_are_kept_without_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  for cell in _code(notebook):
    assert not cell.outputs
    assert cell.execution_count is None


def test_every_notebook_is_run():
  assert sorted(FEWER) == [path.stem for path in NOTEBOOKS]


@pytest.mark.eight_devices
@pytest.mark.slow
def test_quick_start_shows_flow_losses_and_results(folder):
  text, shown = _executed("quick_start", folder)
  assert "8 x cpu" in text
  assert "1000 images to train on, 797 to test on" in text
  assert sum("image/png" in data for data in shown) == 3
  assert any("student_labels" in data["text/plain"] for data in shown)
  stages = {"teacher", "student_labels", "auxiliary_labels", "auxiliary", "student"}
  kept = (folder / "runs" / "quick_start_digits").glob("*/network")
  assert {path.parent.name for path in kept} == stages


@pytest.mark.eight_devices
@pytest.mark.slow
def test_losses_in_your_own_code_learn_and_agree_on_devices(folder):
  text, _ = _executed("losses_in_your_own_code", folder)
  lines = [line.split() for line in text.splitlines() if "->" in line]
  assert len(lines) == 5
  for line in lines:
    first, last = (float(line[line.index("->") + i].strip(",")) for i in (-1, 1))
    assert last < 0.5 * first
  gaps = [float(x.split()[-1]) for x in text.splitlines() if "differs by" in x]
  assert len(gaps) == 4
  assert max(gaps) < 1e-5


@pytest.mark.slow
def test_information_flow_analysis_shows_flow_likeness_and_images(folder):
  text, shown = _executed("information_flow_analysis", folder)
  assert text.count("% of the images found are right") == 2
  assert sum("image/png" in data for data in shown) == 4
