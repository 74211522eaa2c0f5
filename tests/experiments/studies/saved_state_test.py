"""State of runs in parts."""

import contextlib
import errno
import itertools
import json
import shutil

import numpy as np
import pytest

from experiments.studies import queue_files
from experiments.studies import saved_state
from flowkd_jax import train
from flowkd_jax.jobs import similarity_preserving


@pytest.fixture
def begun(tmp_path, monkeypatch):
  """A work directory with an interrupted run that starts from another's network."""
  monkeypatch.setattr(saved_state, "PART_BYTES", 1000)
  root = tmp_path / "here"
  folder = root / "study" / "run" / "1"
  noise = np.random.default_rng(0).bytes(5000)
  for step, content in (("9", b"old"), ("12", noise)):
    (folder / "student" / "checkpoints" / step / "state").mkdir(parents=True)
    (folder / "student" / "checkpoints" / step / "state" / "d").write_bytes(content)
  (folder / "tensorboard").mkdir()
  (folder / "tensorboard" / "events").write_text("not needed")
  config = {"networks_from": f"{root}/study/teacher/1", "data_dir": "/data"}
  (folder / "config.json").write_text(json.dumps(config))
  (folder / "metrics.jsonl").write_text('{"stage": "student", "epoch": 0}\n')
  return root, noise


def test_state_is_cut_into_parts_and_comes_back_elsewhere(begun, tmp_path):
  root, noise = begun
  parts = saved_state.pack(tmp_path / "out", root, ["study/run/1"])
  assert len(parts) > 4
  assert all(part.stat().st_size <= 1000 for part in parts)
  there = tmp_path / "there"
  saved_state.unpack(tmp_path / "out", there)
  folder = there / "study" / "run" / "1"
  found = {
    str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
  }
  assert found == {"config.json", "metrics.jsonl", "student/checkpoints/12/state/d"}
  assert (folder / "student/checkpoints/12/state/d").read_bytes() == noise
  config = json.loads((folder / "config.json").read_text())
  assert config == {"networks_from": f"{there}/study/teacher/1", "data_dir": "/data"}


def test_a_run_that_is_there_is_not_replaced(begun, tmp_path):
  root, _ = begun
  saved_state.pack(tmp_path / "out", root, ["study/run/1"])
  metrics = root / "study" / "run" / "1" / "metrics.jsonl"
  metrics.write_text("newer")
  saved_state.unpack(tmp_path / "out", root)
  assert metrics.read_text() == "newer"


@pytest.mark.parametrize("lost", [0, 2, -1])
def test_a_state_that_lacks_a_part_is_refused_and_leaves_nothing(begun, tmp_path, lost):
  root, _ = begun
  saved_state.pack(tmp_path / "out", root, ["study/run/1"])[lost].unlink()
  there = tmp_path / "there"
  with pytest.raises(ValueError, match=r"expected (all parts of the|a whole) state"):
    saved_state.unpack(tmp_path / "out", there)
  assert not [*there.glob("study/*")]


def test_a_new_state_replaces_the_one_before(begun, tmp_path):
  root, _ = begun
  saved_state.pack(tmp_path / "out", root, ["study/run/1"])
  assert saved_state.pack(tmp_path / "out", root, []) == []
  assert not [*(tmp_path / "out").iterdir()]


def test_a_state_that_is_further_replaces_a_run_of_the_same_settings(begun, tmp_path):
  root, _ = begun
  saved_state.pack(tmp_path / "out", root, ["study/run/1"])
  folder = root / "study" / "run" / "1"
  shutil.rmtree(folder / "student" / "checkpoints" / "12")  # this machine has step 9
  assert saved_state.unpack(tmp_path / "out", root) == ["study/run/1"]
  assert saved_state.progress(folder) == (0, 12)
  shutil.rmtree(folder / "student" / "checkpoints" / "12")
  (folder / "student" / "checkpoints" / "10").mkdir()
  (folder / "config.json").write_text('{"epochs": 3}')  # other settings
  saved_state.unpack(tmp_path / "out", root)
  assert saved_state.progress(folder) == (0, 10)


def test_a_finished_run_is_further_than_any_checkpoint(begun):
  root, _ = begun
  folder = root / "study" / "run" / "1"
  assert saved_state.progress(folder) == (0, 12)
  (folder / "student" / "results.json").touch()
  shutil.rmtree(folder / "student" / "checkpoints")
  assert saved_state.progress(folder) == (1, 0)


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.99])
def test_a_state_with_other_bytes_is_refused_and_leaves_nothing(begun, tmp_path, place):
  root, _ = begun
  parts = saved_state.pack(tmp_path / "out", root, ["study/run/1"])
  part = parts[int(place * len(parts))]
  content = bytearray(part.read_bytes())
  for index in range(len(content) // 2, min(len(content) // 2 + 40, len(content))):
    content[index] ^= 0x5A
  part.write_bytes(content)
  there = tmp_path / "there"
  with pytest.raises(ValueError, match=r"expected a whole state, got .* copy state"):
    saved_state.unpack(tmp_path / "out", there)
  assert not [*there.glob("*")]


def test_a_full_disk_keeps_the_state_before_and_is_no_damage(
  begun, tmp_path, monkeypatch
):
  root, noise = begun
  saved_state.pack(tmp_path / "out", root, ["study/run/1"])

  def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")

  with monkeypatch.context() as patched:
    patched.setattr(queue_files, "packed", full)
    with pytest.raises(OSError, match="No space left"):
      saved_state.pack(tmp_path / "out", root, ["study/run/1"])
    patched.setattr(queue_files, "write", full)
    with pytest.raises(OSError, match="No space left"):
      saved_state.unpack(tmp_path / "out", tmp_path / "there")
  assert not (tmp_path / "out" / ".packing").exists()
  saved_state.unpack(tmp_path / "out", tmp_path / "there")
  step = tmp_path / "there/study/run/1/student/checkpoints/12/state/d"
  assert step.read_bytes() == noise


@pytest.mark.slow
@pytest.mark.optimizer
def test_a_packed_run_goes_on_elsewhere_and_ends_with_the_same_bits(
  tmp_path, monkeypatch
):
  settings = {
    "dataset": "digits",
    "stages": ("student_labels",),
    "student_network": "digits_cnn:2",
    "student_epochs": "3@1e-3",
    "batch_size": 256,
    "measure": (),
    "diagnostics": False,
  }

  def train_in(root):
    folder = root / "study" / "run" / "0"
    job = similarity_preserving
    job.run(job.configure(**settings, workdir=str(folder)))
    return folder

  here, there, whole = (tmp_path / name for name in ("here", "there", "whole"))
  asked = itertools.count()
  with monkeypatch.context() as patched:
    stops = contextlib.nullcontext(lambda: "SIGTERM" if next(asked) == 9 else None)
    patched.setattr(train, "stop_on_signals", lambda: stops)
    with pytest.raises(train.Interrupted):
      train_in(here)
  parts = saved_state.pack(tmp_path / "out", here, ["study/run/0"])
  assert all(part.stat().st_size <= 16e6 for part in parts)
  saved_state.unpack(tmp_path / "out", there)
  shutil.rmtree(here)
  found = []
  for root in (there, whole):
    folder = train_in(root)
    (network,) = json.loads((folder / "results.json").read_text())["networks"]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = {(e["epoch"], e.get("loss")) for e in map(json.loads, lines)}
    found.append((network["accuracy"], losses))
  assert found[0] == found[1]
