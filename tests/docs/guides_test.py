"""Blocks of the guides run, in the order of their pages."""

import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Pages whose blocks other tests run.
ELSEWHERE = {
  "extend.md",
  "install.md",
  "losses_by_kind.md",
  "work_directory.md",
  "README.md",
}
HERE = {"bring_your_data.md", "bring_your_model.md", "from_pytorch.md"}
_FENCED = re.compile(r"^```python([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _sections(page):
  """Blocks of each section, by its heading; those that need more are compiled only."""
  sections = {}
  for text in (ROOT / "docs" / page).read_text().split("\n## "):
    title = text.splitlines()[0].removeprefix("# ")
    sections[title] = []
    for info, block in _FENCED.findall(text):
      code = compile(block, f"{page}: {title}", "exec")
      if 'title="needs ' not in info:
        sections[title].append(code)
  return sections


def _run(blocks, names):
  for block in blocks:
    exec(block, names)
  return names


@pytest.fixture(scope="module")
def of_model():
  """Sections of the page, and the names that its first block makes."""
  sections = _sections("bring_your_model.md")
  return sections, _run(sections.pop("Bring your model"), {"__name__": "mine"})


@pytest.mark.slow
@pytest.mark.optimizer
@pytest.mark.parametrize("title", ["Flax Linen", "Flax NNX", "Equinox"])
def test_models_of_each_framework_train(of_model, title, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  sections, names = of_model
  names = _run(sections[title], dict(names))
  assert names["logits"].shape == (32, 10)
  assert {"block_2", "features"} <= names["taps"].keys()
  if title == "Flax NNX":  # The same method, in a work directory.
    _run(sections["Training it with a method"], names)
    assert (tmp_path / "runs" / "mine" / "student").is_dir()


@pytest.mark.slow
def test_other_blocks_about_models_run(of_model, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  sections, names = of_model
  names = dict(names)
  titles = ("Only the loss", "Which layer learns from which", "Measuring embeddings")
  for title in titles:
    assert sections[title]
    _run(sections[title], names)
  assert np.isfinite(names["loss"])
  assert names["pairs"]["dense"] == "dense"


@pytest.mark.slow
@pytest.mark.optimizer
def test_every_way_of_bringing_data_trains(tmp_path, monkeypatch, capsys):
  names = {"__name__": "mine", "folder": tmp_path}
  for blocks in _sections("bring_your_data.md").values():
    _run(blocks, names)
  assert names["first"]["image"].shape == (32, 8, 8, 3)
  assert (tmp_path / "mine" / "1.0.0").is_dir()


@pytest.mark.slow
def test_outputs_of_a_pytorch_teacher_are_recorded_and_read(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  assert "no_grad" in (ROOT / "docs" / "from_pytorch.md").read_text()

  def teacher_outputs(images):
    pooled = images.reshape(len(images), -1)[:, :5].astype(np.float32)
    return {"logits": pooled[:, :3], "taps/pooled": pooled}

  # In the place of the blocks that need PyTorch.
  rows = np.random.default_rng(0).random((1500, 6), np.float32)
  np.savez("teacher.npz", layer3=rows, pooled=rows[:, :3])
  names = {"teacher_outputs": teacher_outputs, "folder": tmp_path / "cache"}
  for blocks in _sections("from_pytorch.md").values():
    _run(blocks, names)
  assert (tmp_path / "cache" / "cache.json").exists()
  assert (tmp_path / "cache" / "taps" / "pooled" / "00000.rows.npy").exists()
  assert np.isfinite(names["value"])


def test_every_page_with_python_has_a_test_that_runs_it():
  pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
  with_python = {page.name for page in pages if "\n```python" in page.read_text()}
  assert with_python == HERE | ELSEWHERE
