"""Checkpoints: what is saved comes back, damage is reported and survived."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from flowkd_jax import train

pytestmark = pytest.mark.optimizer


@pytest.fixture
def state(toy):
  return toy().init(jax.random.key(3), jnp.zeros((2, 8, 8, 1)))


def _advanced(state, step):
  return state.replace(
    step=jnp.int32(step), params=jax.tree.map(lambda x: x + step, state.params)
  )


def _damage(folder):
  files = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 0]
  assert files
  for path in files:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_state_comes_back_bit_for_bit(state, tmp_path):
  with train.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(state) is None
    checkpoints.save(7, _advanced(state, 7), {"step": 7, "sums": {"loss": 0.1}})
  with train.Checkpoints(tmp_path) as checkpoints:
    restored, progress = checkpoints.restore(state)
  assert progress == {"step": 7, "sums": {"loss": 0.1}}
  assert int(restored.step) == 7
  np.testing.assert_array_equal(restored.params["x"], 7)
  assert jnp.issubdtype(restored.key.dtype, jax.dtypes.prng_key)
  np.testing.assert_array_equal(
    jax.random.key_data(restored.key), jax.random.key_data(state.key)
  )


def test_what_changes_after_saving_is_not_saved(tmp_path):
  """The file is written in the background, while the caller goes on."""
  state = {"x": np.arange(1_000_000.0), "y": jnp.ones(1_000_000)}
  progress = {"step": 1, "sums": {"loss": 0.1}}
  donating = jax.jit(lambda x: x + 1, donate_argnums=0)
  with train.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, progress)
    state["x"] += 1
    donating(state["y"]).block_until_ready()
    progress["sums"]["loss"] = 0.2
  template = {"x": np.zeros(1_000_000), "y": jnp.zeros(1_000_000)}
  with train.Checkpoints(tmp_path) as checkpoints:
    restored, found = checkpoints.restore(template)
    assert not checkpoints.problems
  np.testing.assert_array_equal(restored["x"], np.arange(1_000_000.0))
  np.testing.assert_array_equal(restored["y"], 1)
  assert found == {"step": 1, "sums": {"loss": 0.1}}


@pytest.mark.parametrize("call", ["save", "latest", "restore", "close"])
def test_failed_write_is_raised_by_the_next_call(call, state, tmp_path, monkeypatch):
  checkpoints = train.Checkpoints(tmp_path)
  checkpoints.save(1, state, {"step": 1})
  assert checkpoints.latest == 1

  async def full(*arguments, **options):
    raise OSError("No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(ocp.type_handlers.NumpyHandler, "serialize", full)
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012
      checkpoints.save(2, state, {"step": 2})
      {
        "save": lambda: checkpoints.save(3, state, {"step": 3}),
        "latest": lambda: checkpoints.latest,
        "restore": lambda: checkpoints.restore(state),
        "close": checkpoints.close,
      }[call]()
  with train.Checkpoints(tmp_path) as checkpoints:
    restored, progress = checkpoints.restore(state)
  assert progress == {"step": 1}


def test_only_the_newest_are_kept_and_a_step_can_be_replaced(state, tmp_path):
  with train.Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(step, _advanced(state, step), {"step": step})
    checkpoints.save(3, _advanced(state, 30), {"step": 3})
    restored, _ = checkpoints.restore(state)
    assert checkpoints.latest == 3
  assert int(restored.step) == 30
  assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3"]


def test_damaged_newest_is_reported_and_the_one_before_is_used(state, tmp_path):
  with train.Checkpoints(tmp_path) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, _advanced(state, step), {"step": step})
  _damage(tmp_path / "2")
  with train.Checkpoints(tmp_path) as checkpoints:
    restored, _ = checkpoints.restore(state)
    assert int(restored.step) == 1
    assert "step 2" in checkpoints.problems[0]
    assert "damaged" in checkpoints.problems[0]
    assert "going on from step 1" in checkpoints.problems[0]
    checkpoints.save(2, _advanced(state, 2), {"step": 2})
    assert int(checkpoints.restore(state)[0].step) == 2


def test_nothing_is_deleted_when_no_checkpoint_can_be_read(state, tmp_path):
  with train.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {"step": 1})
    other = state.replace(params={"x": jnp.zeros(3), "y": jnp.zeros(())})
    with pytest.raises(ValueError, match=r"x is float32\[\] there and float32\[3\] in"):
      checkpoints.restore(other)
    assert checkpoints.latest == 1
  _damage(tmp_path / "1")
  with (
    train.Checkpoints(tmp_path) as checkpoints,
    pytest.raises(ValueError, match="none of the steps .1. can be restored.*work"),
  ):
    checkpoints.restore(state)
  assert (tmp_path / "1").exists()
