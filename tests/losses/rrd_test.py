"""Relational representation distillation: golden values, and the queue of rows."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import losses

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "rrd_0.npz"


@pytest.mark.slow
def test_rrd_has_the_golden_values_gradients_and_queue(x64):
  golden = np.load(GOLDEN)
  heads = {
    side: {
      "kernel": golden[f"param.embed_{side[0]}.weight"].T,
      "bias": golden[f"param.embed_{side[0]}.bias"],
    }
    for side in ("student", "teacher")
  }
  queue = {"rows": golden["queue"], "position": jnp.int32(golden["queue_ptr"])}

  def loss(student, params):
    return losses.rrd(
      student,
      golden["teacher"],
      params=params,
      queue=queue,
      temperature=float(golden["temperature_student"]),
      teacher_temperature=float(golden["temperature_teacher"]),
    )

  step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  value, (gradient, slopes) = step(golden["student"], heads)
  np.testing.assert_allclose(value, golden["value"], rtol=1e-12)
  np.testing.assert_allclose(gradient, golden["grad_student"], atol=1e-12)
  expected = golden["grad.embed_s.weight"].T
  np.testing.assert_allclose(slopes["student"]["kernel"], expected, atol=1e-12)
  assert not slopes["teacher"]["kernel"].any()
  updated = losses.rrd_queue_update(
    golden["student"], golden["teacher"], params=heads, queue=queue
  )
  np.testing.assert_allclose(updated["rows"], golden["queue_after"], atol=1e-15)
  assert updated["position"] == int(golden["queue_ptr_after"])


def _features(rows=4):
  return np.random.default_rng(0).standard_normal((2, rows, 3)).astype(np.float32)


def _queue(size=6):
  return losses.rrd_queue_init(jax.random.key(0), size, width=3)


@pytest.mark.slow
def test_queue_goes_round_whatever_the_batch_and_skips_padding():
  sides, mask = _features(), np.array([True, False, True, True])
  queue = _queue()
  np.testing.assert_allclose(np.linalg.norm(queue["rows"], axis=1), 1, rtol=1e-6)
  update = jax.jit(losses.rrd_queue_update)
  once = update(*sides, params=None, queue=queue, mask=mask)
  units = sides[1] / np.linalg.norm(sides[1], axis=1, keepdims=True)
  np.testing.assert_allclose(once["rows"][:3], units[mask], rtol=1e-5)
  assert (once["rows"][3:] == queue["rows"][3:]).all()
  twice = update(*sides, params=None, queue=once)
  assert (once["position"], twice["position"]) == (3, 1)
  np.testing.assert_allclose(twice["rows"][3:], units[:3], rtol=1e-5)
  np.testing.assert_allclose(twice["rows"][0], units[3], rtol=1e-5)
  assert (twice["rows"][1:3] == once["rows"][1:3]).all()


@pytest.mark.slow
@pytest.mark.eight_devices
def test_queue_gets_the_rows_of_all_devices():
  sides = _features(16)
  mask = np.arange(16) % 3 > 0
  queue = _queue(20)
  expected = losses.rrd_queue_update(*sides, params=None, queue=queue, mask=mask)
  update = jax.pmap(
    lambda s, t, m: losses.rrd_queue_update(
      s, t, params=None, queue=queue, mask=m, axis_name="batch"
    ),
    axis_name="batch",
  )
  found = update(*(x.reshape(8, 2, *x.shape[1:]) for x in (*sides, mask)))
  for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(one, np.stack([other] * 8), rtol=1e-5)


@pytest.mark.slow
def test_gradient_steps_approach_the_entropy_of_the_teacher():
  student, teacher = _features()
  queue = _queue()
  least = losses.rrd(teacher, teacher, params=None, queue=queue, temperature=0.02)
  step = jax.jit(
    jax.value_and_grad(
      lambda s: losses.rrd(s, teacher, params=None, queue=queue, temperature=0.02)
    )
  )
  first = step(student)[0]
  for _ in range(200):
    student -= 0.01 * step(student)[1]
  assert least - 1e-5 < step(student)[0] < least + 0.1 * (first - least)


def test_queues_that_do_not_fit_are_refused():
  student, teacher = _features()
  with pytest.raises(ValueError, match="queue: expected at least the 4 rows.* got 3"):
    losses.rrd(student, teacher, params=None, queue=_queue(3))
  with pytest.raises(ValueError, match=r"queue, rows: expected shape \(6, 2\)"):
    losses.rrd(student[:, :2], teacher[:, :2], params=None, queue=_queue())
  with pytest.raises(ValueError, match=r"pass params, from rrd_init\("):
    losses.rrd(student[:, :2], teacher, params=None, queue=_queue())
  with pytest.raises(ValueError, match="teacher_temperature: expected"):
    losses.rrd(student, teacher, params=None, queue=_queue(), teacher_temperature=0.0)
  with pytest.raises(ValueError, match="size: expected a number above 0, got 0"):
    losses.rrd_queue_init(jax.random.key(0), 0)
