"""Paths that flags name."""

import errno
import os

import pytest

from flowkd_jax.jobs import places


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
  return tmp_path


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    ("", places.FOLDER),
    ("", places.NEW_FOLDER),
    ("new/below", places.NEW_FOLDER),
    ("file", places.FILE),
    ("file", places.NEW_FILE),
    ("new/file", places.NEW_FILE),
    ("new", places.PERHAPS_FOLDER),
  ],
)
def test_check_writes_nothing_where_a_path_can_be_used(name, kind, folder):
  places.check("--output", str(folder / name), kind)
  assert not (folder / "new").exists()


@pytest.mark.parametrize(
  ("name", "kind", "reason"),
  [
    ("new", places.FOLDER, "No such file"),
    ("new", places.FILE, "No such file"),
    ("file", places.FOLDER, "Not a directory"),
    ("file", places.PERHAPS_FOLDER, "Not a directory"),
    ("file/below", places.NEW_FOLDER, "Not a directory"),
    ("", places.NEW_FILE, "Is a directory"),
    ("", places.FILE, "Is a directory"),
    ("dangling", places.NEW_FILE, "No such file"),
    ("x" * 256, places.NEW_FILE, "File name too long"),
    ("long/" * 900, places.NEW_FOLDER, "File name too long"),
  ],
)
def test_check_says_what_was_expected_and_why_it_is_refused(name, kind, reason, folder):
  with pytest.raises(ValueError, match=rf"^--output: expected a {kind}, .*\({reason}"):
    places.check("--output", str(folder / name), kind)


@pytest.mark.parametrize(
  ("name", "kind"), [("file", places.NEW_FILE), ("a/b", places.NEW_FOLDER)]
)
def test_check_refuses_what_may_not_be_written(name, kind, folder, monkeypatch):
  # A test by root may write everywhere.
  monkeypatch.setattr(os, "access", lambda path, access: not access & os.W_OK)
  places.check("--page", str(folder / "file"), places.FILE)
  with pytest.raises(ValueError, match=r"^--output: .*\(Permission denied\)"):
    places.check("--output", str(folder / name), kind)


def test_message_names_the_file_or_else_the_work_directory():
  full = OSError(errno.ENOSPC, "No space left on device")
  assert places.message(full, "W") == "--workdir=W: No space left on device"
  assert places.message(full, "") == "file system: No space left on device"
  named = OSError(errno.EACCES, "Permission denied", "a/b")
  assert places.message(named, "W") == "a/b: Permission denied"
  assert places.message(ValueError("batch_size: too large"), "W") == (
    "batch_size: too large"
  )
