"""Bundles of finished runs."""

import json
import zipfile

import pytest

from experiments.studies import bundles


@pytest.fixture
def root(tmp_path):
  """A work directory with a run."""
  root = tmp_path / "here"
  folder = root / "study" / "run" / "1"
  folder.mkdir(parents=True)
  config = {"networks_from": f"{root}/study/teacher/1", "data_dir": "/data"}
  (folder / "config.json").write_text(json.dumps(config))
  lines = [json.dumps({"stage": "student", "epoch": n, "x": n**0.5}) for n in range(99)]
  (folder / "metrics.jsonl").write_text("\n".join(lines))
  return root


def test_bundles_of_several_calls_are_together_and_small(root, tmp_path):
  folder = root / "study" / "run" / "1"
  (folder / "results.json").write_text("{}")
  bundles.add(tmp_path / "first", root, "study/run/1")
  (folder / "results.json").write_text('{"again": 1}')
  bundles.add(tmp_path / "first", root, "study/run/1")  # replaces
  folder.rename(root / "study" / "run" / "2")
  bundles.add(tmp_path / "second", root, "study/run/2")
  bundles.copy(tmp_path / "first", tmp_path / "second")
  assert bundles.names(tmp_path / "second") == {"study/run/1", "study/run/2"}
  plain = 2 * (root / "study" / "run" / "2" / "metrics.jsonl").stat().st_size
  assert (tmp_path / "second" / bundles.FILE).stat().st_size < plain / 2
  there = tmp_path / "there"
  bundles.extract(tmp_path / "second", there)
  assert json.loads((there / "study/run/1/results.json").read_text()) == {"again": 1}
  text = (there / "study/run/2/config.json").read_text()
  assert json.loads(text)["networks_from"] == f"{there}/study/teacher/1"


def test_damaged_and_missing_bundles_are_named(tmp_path):
  assert bundles.names(tmp_path) == set()
  with pytest.raises(ValueError, match=r"expected bundles\.zip of a queue"):
    bundles.extract(tmp_path, tmp_path / "there")
  (tmp_path / bundles.FILE).write_text("cut")
  with pytest.raises(ValueError, match="got a damaged file"):
    bundles.names(tmp_path)


def test_a_bundle_that_is_here_is_not_replaced_by_a_copy(root, tmp_path):
  results = root / "study" / "run" / "1" / "results.json"
  for name in ("first", "second"):
    results.write_text(json.dumps({"of": name}))
    bundles.add(tmp_path / name, root, "study/run/1")
  bundles.copy(tmp_path / "first", tmp_path / "second")
  bundles.extract(tmp_path / "second", tmp_path / "there")
  found = tmp_path / "there" / "study" / "run" / "1" / "results.json"
  assert json.loads(found.read_text()) == {"of": "second"}


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_bundles_that_were_cut_off_are_refused_and_stay(root, tmp_path, kept):
  (root / "study" / "run" / "1" / "results.json").write_text("{}")
  bundles.add(tmp_path, root, "study/run/1")
  path = tmp_path / bundles.FILE
  content = path.read_bytes()
  path.write_bytes(content[: int(kept * len(content))])
  for use in (
    lambda: bundles.names(tmp_path),
    lambda: bundles.extract(tmp_path, tmp_path / "there"),
    lambda: bundles.copy(tmp_path, tmp_path / "other"),
    lambda: bundles.add(tmp_path, root, "study/run/1"),
  ):
    with pytest.raises(ValueError, match="got a damaged file .*copy it again, or move"):
      use()
  assert not (tmp_path / "there").exists()
  assert path.stat().st_size == int(kept * len(content))


def test_bundles_with_other_bytes_within_are_refused(root, tmp_path):
  (root / "study" / "run" / "1" / "results.json").write_text("{}")
  bundles.add(tmp_path, root, "study/run/1")
  path = tmp_path / bundles.FILE
  content = bytearray(path.read_bytes())
  with zipfile.ZipFile(path) as archive:
    start = archive.getinfo("study/run/1/metrics.jsonl").header_offset + 80
  content[start : start + 20] = bytes(20)
  path.write_bytes(content)
  with pytest.raises(ValueError, match="got a damaged file"):
    bundles.names(tmp_path)
