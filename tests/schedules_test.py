"""The critical-period schedule and the optimizer that forgets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import schedules


def test_critical_period_decays_by_epoch_as_in_the_paper():
  weight = schedules.critical_period(steps_per_epoch=391)
  for epoch in (0, 1, 10, 11, 26, 49):
    for step in (391 * epoch, 391 * epoch + 390):
      np.testing.assert_allclose(weight(step), 100 * 0.7**epoch, rtol=1e-5)
  assert 1.9 < weight(391 * 11) < 2.0 < weight(391 * 10)
  assert weight(391 * 26) < 0.01


def test_critical_period_decays_by_step():
  weight = schedules.critical_period(10.0, 0.5, steps_per_epoch=4, by_step=True)
  np.testing.assert_allclose(weight(2), 10 * 0.5**0.5, rtol=1e-6)
  np.testing.assert_allclose(jax.jit(weight)(jnp.int32(8)), 2.5, rtol=1e-6)


def test_critical_period_is_an_optax_schedule():
  optimizer = optax.sgd(schedules.critical_period(1.0, 0.5))
  state = optimizer.init(jnp.ones(()))
  updates = []
  for _ in range(3):
    update, state = optimizer.update(jnp.ones(()), state)
    updates.append(float(update))
  assert updates == [-1.0, -0.5, -0.25]


@pytest.mark.parametrize(
  ("arguments", "match"),
  [
    ({"initial_weight": -1}, "initial_weight: expected 0 or above"),
    ({"decay": 0}, r"decay: expected a factor in \(0, 1\], got 0"),
    ({"decay": 1.5}, "decay"),
    ({"steps_per_epoch": 0}, "steps_per_epoch"),
  ],
)
def test_critical_period_refuses_impossible_values(arguments, match):
  with pytest.raises(ValueError, match=match):
    schedules.critical_period(**arguments)


def test_warmup_counts_epochs_from_one_as_the_published_code():
  weight = schedules.warmup(8.0, 20, steps_per_epoch=5)
  for epoch in (0, 1, 18, 19, 20, 100):
    for step in (5 * epoch, 5 * epoch + 4):
      np.testing.assert_allclose(weight(step), 8 * min((epoch + 1) / 20, 1), rtol=1e-6)
  by_step = schedules.warmup(8.0, 2, steps_per_epoch=4, by_step=True)
  np.testing.assert_allclose([by_step(step) for step in (0, 2, 8, 9)], [0, 2, 8, 8])


def test_cosine_stays_and_then_falls_to_zero():
  weight = schedules.cosine(4.0, 2, 4, steps_per_epoch=10)
  expected = [4, 4, 4, 2, 2, 0, 0]
  found = [weight(step) for step in (0, 19, 20, 30, 39, 40, 400)]
  np.testing.assert_allclose(found, expected, atol=1e-6)
  by_step = schedules.cosine(4.0, 0, 4, by_step=True)
  np.testing.assert_allclose(by_step(2.0), 2.0, rtol=1e-6)


@pytest.mark.parametrize(
  ("schedule", "arguments", "match"),
  [
    ("warmup", {"value": -1}, "value: expected 0 or above, got -1"),
    ("warmup", {"epochs": 0}, "epochs: expected a number above 0, got 0"),
    ("warmup", {"steps_per_epoch": 0}, "steps_per_epoch: expected"),
    ("cosine", {"value": np.nan}, "value: expected a finite number"),
    ("cosine", {"start": -1}, "start: expected 0 or above, got -1"),
    ("cosine", {"start": 9, "end": 9}, "end: expected an epoch after start, 9, got 9"),
  ],
)
def test_warmup_and_cosine_refuse_impossible_values(schedule, arguments, match):
  with pytest.raises(ValueError, match=match):
    getattr(schedules, schedule)(**arguments)


@pytest.mark.parametrize("schedule", ["critical_period", "warmup", "cosine"])
def test_schedules_take_only_whole_numbers_of_steps(schedule):
  with pytest.raises(TypeError, match=r"steps_per_epoch: expected a whole .* 0\.5"):
    getattr(schedules, schedule)(steps_per_epoch=0.5)


@pytest.mark.slow
@pytest.mark.optimizer
def test_reset_every_equals_a_new_optimizer_each_period():
  gradients = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
  optimizer = schedules.reset_every(optax.adam(0.1), 3)
  params = expected = jnp.ones(3)
  state = optimizer.init(params)
  for step, gradient in enumerate(jnp.asarray(gradients)):
    updates, state = jax.jit(optimizer.update)(gradient, state, params)
    params = optax.apply_updates(params, updates)
    if step % 3 == 0:
      fresh = optax.adam(0.1).init(expected)
    updates, fresh = optax.adam(0.1).update(gradient, fresh, expected)
    expected = optax.apply_updates(expected, updates)
  np.testing.assert_allclose(params, expected, rtol=1e-6)
  with pytest.raises(ValueError, match="period"):
    schedules.reset_every(optax.adam(0.1), 0)


def test_normalized_weights_keep_their_ratios_and_add_up_to_one():
  period = schedules.critical_period(100.0, 0.7, steps_per_epoch=2)
  weights = {"first": period, "second": period, "last": 1.0}
  shares = schedules.normalized(weights)
  assert list(shares) == list(weights)
  for step in (0, 1, 2, 21, 100):
    values = {name: float(share(step)) for name, share in shares.items()}
    np.testing.assert_allclose(sum(values.values()), 1, rtol=1e-6)
    ratio = 100 * 0.7 ** (step // 2)
    np.testing.assert_allclose(values["first"] / values["last"], ratio, rtol=1e-5)
    assert values["first"] == values["second"]
  with pytest.raises(ValueError, match="weights: expected at least one, got none"):
    schedules.normalized({})


def test_critical_period_differentiates_in_weight_and_decay():
  def weight(initial_weight, decay):
    return schedules.critical_period(initial_weight, decay)(3)

  value, slopes = jax.jit(jax.value_and_grad(weight, argnums=(0, 1)))(100.0, 0.5)
  np.testing.assert_allclose(value, 12.5)
  np.testing.assert_allclose(slopes, (0.125, 75.0))


@pytest.mark.parametrize("name", ["initial_weight", "decay"])
def test_critical_period_refuses_nan(name):
  with pytest.raises(ValueError, match=name):
    schedules.critical_period(**{name: np.nan})
