"""Small files: whole or not there, sealed, named when they are damaged."""

import json
import os

import pytest

from flowkd_jax import _files

CONTENT = {"name": "run", "rates": [0.1, 1e-9, 1e308], "seed": 3, "none": None}


def test_write_json_is_read_back_and_leaves_nothing_else(tmp_path):
  path = tmp_path / "new" / "file.json"
  for seed in (3, 4):
    _files.write_json(path, {**CONTENT, "seed": seed})
  assert _files.read_json(path, "") == {**CONTENT, "seed": 4}
  assert [*path.parent.iterdir()] == [path]


def test_write_json_seals_the_objects_of_a_list(tmp_path):
  path = tmp_path / "file.json"
  _files.write_json(path, [CONTENT, CONTENT])
  assert _files.read_json(path, "") == [CONTENT, CONTENT]
  path.write_text(path.read_text().replace("1e-09", "2e-09", 1))
  with pytest.raises(ValueError, match="file.json is damaged: its entries do not"):
    _files.read_json(path, "")


def test_read_json_takes_files_without_seal(tmp_path):
  (tmp_path / "old.json").write_text("[1, 2]")
  assert _files.read_json(tmp_path / "old.json", "") == [1, 2]


def test_read_json_notices_every_changed_bit(tmp_path):
  path = tmp_path / "file.json"
  _files.write_json(path, CONTENT)
  content = path.read_bytes()
  for index in range(8 * len(content)):
    changed = bytearray(content)
    changed[index // 8] ^= 1 << index % 8
    path.write_bytes(changed)
    try:
      found = _files.read_json(path, "do this")
    except ValueError as error:
      assert f"{path} is damaged: " in str(error)  # noqa: PT017
      assert str(error).endswith("; do this")  # noqa: PT017
    else:  # White space.
      assert found == CONTENT


@pytest.mark.parametrize("text", ["", "{", "\x00", "\udcff", 3000 * "[", "nul"])
def test_read_json_names_file_and_remedy(text, tmp_path):
  path = tmp_path / "config.json"
  path.write_bytes(text.encode("utf-8", "surrogateescape"))
  with pytest.raises(ValueError, match=r"config.json is damaged: .*; use another"):
    _files.read_json(path, "use another folder")


def test_write_text_keeps_the_old_file_if_the_disk_is_full(tmp_path, monkeypatch):
  path = tmp_path / "file.txt"
  _files.write_text(path, "old")

  def full(descriptor):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match="No space left"):
    _files.write_text(path, "new")
  assert path.read_text() == "old"
  assert [*tmp_path.iterdir()] == [path]


def test_write_text_flushes_before_it_replaces(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
  replace = os.replace
  monkeypatch.setattr(
    os, "replace", lambda *paths: (calls.append("replace"), replace(*paths))
  )
  _files.write_text(tmp_path / "file.txt", "text")
  assert calls == ["fsync", "replace", "fsync"]


def test_seal_covers_every_entry():
  sealed = _files.seal(CONTENT)
  assert _files.unseal(json.loads(json.dumps(sealed))) == CONTENT
  for name in CONTENT:
    with pytest.raises(_files.SealError, match="do not match their checksum"):
      _files.unseal({**sealed, name: "other"})


def test_write_json_refuses_what_json_cannot_hold(tmp_path):
  for content in ({"a": float("nan")}, [{"a": [float("inf")]}]):
    with pytest.raises(ValueError, match="not JSON compliant"):
      _files.write_json(tmp_path / "a.json", content)
  assert list(tmp_path.iterdir()) == []
