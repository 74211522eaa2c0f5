"""Notebooks as pages: outputs beside their cells, and none beside a changed cell."""

import importlib.util
import json
import pathlib

import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def notebooks():
  place = ROOT / "docs" / "_notebooks.py"
  spec = importlib.util.spec_from_file_location("notebooks_of_the_site", place)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _notebook(folder, *sources):
  cells = [nbformat.v4.new_code_cell(source) for source in sources]
  path = folder / "mine.ipynb"
  nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
  return path


@pytest.mark.slow
def test_run_keeps_outputs_that_page_shows_until_the_cell_changes(notebooks, tmp_path):
  picture = "from PIL import Image\nImage.new('L', (2, 2))"
  path = _notebook(tmp_path, "print('a')\nprint('b')", picture, "x = 1")
  notebooks.run(path, tmp_path / "kept")
  shown = notebooks.page(path, tmp_path / "kept")
  assert "```text\na\nb\n```" in shown
  assert "](../outputs/mine/" in shown
  assert len(list((tmp_path / "kept" / "mine").glob("*.png"))) == 1
  assert "Outputs of a run with flowkd_jax" in shown
  changed = _notebook(tmp_path, "print('c')", picture)
  shown = notebooks.page(changed, tmp_path / "kept")
  assert "```text" not in shown
  assert "](../outputs/mine/" in shown


def test_joined_leaves_out_the_middle_of_long_texts(notebooks):
  lines = [{"text": f"line {i}"} for i in range(30)]
  picture = {"picture": "a.png"}
  text, kept, last = notebooks.joined([*lines, picture, {"text": "end"}])
  assert kept == picture
  assert last == {"text": "end"}
  assert text["text"].startswith("line 0\nline 1\nline 2\nline 3\n... 10 lines ...\n")
  assert text["text"].endswith("line 29")


def test_kept_pictures_are_shown_by_their_notebook(notebooks):
  for path in notebooks.paths():
    kept = json.loads((notebooks.KEPT / path.stem / "outputs.json").read_text())
    names = {
      output["picture"]
      for outputs in kept["cells"].values()
      for output in outputs
      if "picture" in output
    }
    folder = notebooks.KEPT / path.stem
    assert names == {file.name for file in folder.glob("*.png")}
