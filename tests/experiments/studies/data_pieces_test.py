"""Data folders that come in pieces."""

import pytest

from experiments.studies import data_pieces


def _write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def test_a_whole_folder_is_used_as_it_is(tmp_path):
  _write(tmp_path / "data" / "cifar10" / "a", "1")
  into = tmp_path / "joined"
  assert data_pieces.joined(tmp_path / "data", into) == tmp_path / "data"
  assert data_pieces.joined(tmp_path / "none", into) == tmp_path / "none"
  assert not into.exists()


def test_pieces_of_folders_and_files_are_joined_in_order(tmp_path):
  _write(tmp_path / "data.part0" / "set" / "whole", "w")
  for number in range(12):
    folder = tmp_path / f"data.part{number % 2}"
    _write(folder / "set" / f"large.part{number}", f"{number};")
  into = tmp_path / "joined"
  for _ in range(2):
    assert data_pieces.joined(tmp_path / "data", into) == into
    expected = "".join(f"{number};" for number in range(12))
    assert (into / "set" / "large").read_text() == expected
    assert (into / "set" / "whole").read_text() == "w"


def test_pieces_that_came_later_are_joined_too(tmp_path):
  _write(tmp_path / "data.part0" / "a", "1")
  into = tmp_path / "joined"
  data_pieces.joined(tmp_path / "data", into)
  _write(tmp_path / "data.part1" / "b.part0", "2")
  _write(tmp_path / "data.part1" / "b.part1", "3")
  data_pieces.joined(tmp_path / "data", into)
  assert (into / "a").read_text() == "1"
  assert (into / "b").read_text() == "23"


@pytest.mark.parametrize(
  ("names", "match"),
  [
    (("data/a.part0", "data/a.part2"), r"expected all pieces of a, got \[0, 2\]"),
    (("data/a.part2", "data/a.part3"), "expected pieces of a from part0 on"),
    (("data.part0/a", "data.part2/b"), "expected all pieces of data"),
    (("data.part0/a", "data.part1/a"), "expected each file in one piece"),
  ],
)
def test_missing_and_double_pieces_are_refused(tmp_path, names, match):
  for name in names:
    _write(tmp_path / name, "1")
  with pytest.raises(ValueError, match=match):
    data_pieces.joined(tmp_path / "data", tmp_path / "joined")
  assert not (tmp_path / "joined").exists()
