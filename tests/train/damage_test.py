"""Stored states: changed bits, other states, names of folders, files of version 0.1."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from flowkd_jax import methods
from flowkd_jax import train
from flowkd_jax.train import _checkpoint

PROGRESS = {"step": 2, "sums": {"loss": 0.5}}


@pytest.fixture
def state():
  return {
    "kernel": jnp.linspace(0, 1, 24).reshape(4, 6),
    "count": jnp.int32(7),
    "key": jax.random.key(1),
  }


@pytest.fixture
def network():
  kernel = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
  return methods.Network(lambda: None, {"params": {"kernel": kernel}})


def _equal(one, other):
  leaves = [jax.tree.leaves(_checkpoint.to_host(tree)) for tree in (one, other)]
  return all(
    np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(*leaves, strict=True)
  )


def _flips(folder, each):
  """Changes one bit after the other, `each` in every file, and yields the file."""
  rng = np.random.default_rng(0)
  for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    content = path.read_bytes()
    for _ in range(each if content else 0):
      changed = bytearray(content)
      changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
      path.write_bytes(changed)
      yield path
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)


def _save(folder, state):
  with train.Checkpoints(folder) as checkpoints:
    checkpoints.save(1, state, {"step": 1})
    checkpoints.save(2, state, PROGRESS)


# Orbax leaves reads of a damaged store unfinished, whose threads complain.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_changed_bit_of_a_checkpoint_changes_nothing_or_is_damage(state, tmp_path):
  _save(tmp_path / "saved", state)
  seen = 0
  for _ in _flips(tmp_path / "saved" / "2", 2):
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(tmp_path / "saved", run)
    with train.Checkpoints(run) as checkpoints:
      restored, progress = checkpoints.restore(state)
    assert _equal(restored, state)
    if checkpoints.problems:
      (problem,) = checkpoints.problems
      assert "step 2" in problem
      assert problem.endswith("going on from step 1")
      seen += 1
    assert progress == ({"step": 1} if checkpoints.problems else PROGRESS)
  assert seen > 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_changed_bit_of_a_network_changes_nothing_or_is_refused(network, tmp_path):
  train.save_network(tmp_path / "network", network)
  refused = 0
  for _ in _flips(tmp_path / "network", 4):
    try:
      loaded = train.load_network(tmp_path / "network", network)
    except ValueError as error:
      assert f"saved in {tmp_path}/network is damaged" in str(error)  # noqa: PT017
      refused += 1
    else:
      assert _equal(loaded.variables, network.variables)
  assert refused > 5


@pytest.mark.parametrize(
  ("word", "other"),
  [
    ('"step": 2', '"step": 9'),
    ("sha256", "sha257"),
    ("progress", "progresz"),
    ("format", "formau"),
  ],
)
def test_changed_progress_is_damage(word, other, state, tmp_path):
  with train.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, state, PROGRESS)
  path = tmp_path / "2" / "progress" / "metadata"
  content = path.read_text()
  assert word in content
  path.write_text(content.replace(word, other))
  with (
    train.Checkpoints(tmp_path) as checkpoints,
    pytest.raises(ValueError, match=r"none of the steps \[2\] can be restored"),
  ):
    checkpoints.restore(state)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (
      {"kernel": jnp.zeros((4, 8))},
      r"kernel is float32\[4, 6\] there and float32\[4, 8",
    ),
    (
      {"count": jnp.float32(7)},
      r"count is int32\[\] there and float32\[\] in this run",
    ),
    ({"bias": jnp.zeros(3)}, r"bias is absent there and float32\[3\] in this run"),
    ({"key": None}, r"key is uint32\[2\] there and absent in this run"),
  ],
)
def test_checkpoint_of_another_state_is_refused_and_kept(
  change, match, state, tmp_path
):
  _save(tmp_path, state)
  with (
    train.Checkpoints(tmp_path) as checkpoints,
    pytest.raises(ValueError, match=match),
  ):
    checkpoints.restore({**state, **change})
  with train.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest == 2
    assert _equal(checkpoints.restore(state)[0], state)


def _save_array_by_array(folder, state, progress):
  host = _checkpoint.to_host(state)
  with ocp.CheckpointManager(folder, item_names=("state", "progress")) as manager:
    manager.save(
      2,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(host), progress=ocp.args.JsonSave(progress)
      ),
    )


def test_checkpoint_of_arrays_stored_one_by_one_is_read(state, tmp_path):
  host = _checkpoint.to_host(state)
  described = _checkpoint.sealed(host, "flowkd_jax checkpoint 2", progress=PROGRESS)
  _save_array_by_array(tmp_path, state, described)
  with train.Checkpoints(tmp_path) as checkpoints:
    restored, progress = checkpoints.restore(state)
    assert not checkpoints.problems
  assert _equal(restored, state)
  assert progress == PROGRESS


def test_checkpoint_of_version_0_1_is_read_with_a_warning(state, tmp_path):
  _save_array_by_array(tmp_path, state, PROGRESS)
  with train.Checkpoints(tmp_path) as checkpoints:
    restored, progress = checkpoints.restore(state)
    (problem,) = checkpoints.problems
    with pytest.raises(
      ValueError, match=r"kernel is float32\[4, 6\] there and float32"
    ):
      checkpoints.restore({**state, "kernel": jnp.zeros((4, 8))})
  assert _equal(restored, state)
  assert progress == PROGRESS
  assert "saved by version 0.1, without checksums" in problem


@pytest.mark.parametrize("name", ["[bold]y", "a*", "a?", "back\\slash", "gs:", "c:/d"])
def test_folders_that_orbax_takes_for_patterns_are_refused(
  name, network, state, tmp_path
):
  for write in (
    lambda: train.save_network(tmp_path / name / "network", network),
    lambda: train.Checkpoints(tmp_path / name / "checkpoints"),
  ):
    with pytest.raises(ValueError, match="directory: expected a path without"):
      write()
  assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["{x} %20 #,", "ü~ 'a'", "a:b", "trailing "])
def test_folders_of_unusual_names_work(name, network, state, tmp_path):
  train.save_network(tmp_path / name / "network", network)
  loaded = train.load_network(tmp_path / name / "network", network)
  assert _equal(loaded.variables, network.variables)
  _save(tmp_path / name / "checkpoints", state)
  with train.Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
    assert _equal(checkpoints.restore(state)[0], state)
