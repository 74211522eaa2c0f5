"""Folders of prepared data sets, found by name."""

import pathlib

import pytest

from flowkd_jax.data import _prepared


def _prepare(root, *folders):
  for folder in folders:
    path = root / folder
    path.mkdir(parents=True)
    (path / "dataset_info.json").touch()


def test_newest_version_is_taken_by_number_unless_one_is_named(tmp_path):
  _prepare(tmp_path, "cifar10/3.9.0", "cifar10/3.10.0", "cifar10/incomplete.3.11.0")
  (tmp_path / "cifar10/4.0.0").mkdir()  # begun, and never finished
  (tmp_path / "cifar10/notes.txt").touch()
  found = _prepared.prepared_folder("cifar10", tmp_path)
  assert found == tmp_path / "cifar10/3.10.0"
  named = _prepared.prepared_folder("cifar10:3.9.0", tmp_path)
  assert named == tmp_path / "cifar10/3.9.0"
  assert _prepared.prepared_folder("cifar10:4.0.0", tmp_path) is None
  assert _prepared.prepared_folder("mnist", tmp_path) is None


def test_only_configuration_is_found_and_several_must_be_chosen_from(tmp_path):
  _prepare(tmp_path, "norb/small/1.0.0")
  (tmp_path / "norb/readme").touch()
  folder = tmp_path / "norb/small/1.0.0"
  assert _prepared.prepared_folder("norb", tmp_path) == folder
  _prepare(tmp_path, "norb/large/2.0.0")
  with pytest.raises(
    ValueError, match=r"configurations \(large, small\); .*norb/large"
  ):
    _prepared.prepared_folder("norb", tmp_path)
  assert _prepared.prepared_folder("norb/small", tmp_path) == folder
  # Only one configuration has that version.
  assert _prepared.prepared_folder("norb:1.0.0", tmp_path) == folder


@pytest.mark.parametrize("name", ["", "a/b/c", "cifar10:3", "cifar 10", "a:1.0.0/b"])
def test_malformed_names_are_refused(name, tmp_path):
  with pytest.raises(ValueError, match="name: expected DATASET, DATASET/CONFIG"):
    _prepared.prepared_folder(name, tmp_path)


def test_data_root_is_the_argument_the_environment_or_the_default(monkeypatch):
  monkeypatch.setenv("HOME", "/home/someone")
  assert _prepared.data_root("~/sets") == pathlib.Path("/home/someone/sets")
  monkeypatch.setenv("TFDS_DATA_DIR", "/from/environment")
  assert _prepared.data_root(None) == pathlib.Path("/from/environment")
  monkeypatch.delenv("TFDS_DATA_DIR")
  default = pathlib.Path("/home/someone/tensorflow_datasets")
  assert _prepared.data_root(None) == default


def test_error_says_where_was_looked_and_what_prepares_it(tmp_path):
  error = _prepared.not_prepared("norb/small:1.0.0", tmp_path)
  assert isinstance(error, FileNotFoundError)
  assert str(error).startswith("norb/small:1.0.0: no prepared copy")
  assert f"under {tmp_path / 'norb'}. " in str(error)
  assert f"tfds build norb/small:1.0.0 --data_dir={tmp_path}" in str(error)
