"""Many steps in one call: the results of single steps, bit for bit when resumed."""

import dataclasses
import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import teacher_cache
from flowkd_jax import train
from flowkd_jax.train import _devices
from flowkd_jax.train import _loop
from flowkd_jax.train import _pace

pytestmark = pytest.mark.optimizer

EPOCHS = 3


def _fit(method, batches, epochs=EPOCHS, **options):
  return train.fit(
    method,
    batches,
    epochs=epochs,
    key=jax.random.key(0),
    options=train.FitOptions(**options),
  ).state


def _assert_equal(actual, expected, **tolerance):
  actual, expected = jax.device_get((actual, expected))
  for one, other in zip(
    jax.tree.leaves((actual.params, actual.collections, actual.opt_state)),
    jax.tree.leaves((expected.params, expected.collections, expected.opt_state)),
    strict=True,
  ):
    if tolerance:
      np.testing.assert_allclose(one, other, **tolerance)
    else:
      np.testing.assert_array_equal(one, other)


@pytest.fixture
def calls(monkeypatch):
  """Numbers of steps that were dispatched together, in order."""
  taken = []
  run, one = train.DeviceStep.run, train.DeviceStep.__call__

  def counted_run(self, state, batches):
    taken.append(len(batches))
    return run(self, state, batches)

  def counted_one(self, state, batch):
    taken.append("one")
    return one(self, state, batch)

  monkeypatch.setattr(train.DeviceStep, "run", counted_run)
  monkeypatch.setattr(train.DeviceStep, "__call__", counted_one)
  return taken


@pytest.fixture
def fast_pace(monkeypatch):
  """Calls grow to their limit, however slow this machine is."""
  monkeypatch.setattr(_pace, "_SECONDS", 1e4)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_run_equals_single_calls(devices, method, batches):
  chosen = jax.local_devices()[:devices]
  state = method.init(jax.random.key(0), np.zeros((2, 8, 8, 1), np.float32))
  step = train.DeviceStep(
    method, batches.prepare, batches.resident, devices=chosen, steps_per_call=4
  )
  one, many = train.replicate(state, chosen), train.replicate(state, chosen)
  for epoch in range(2):
    rows = list(batches.epoch(epoch))
    expected = []
    for batch in rows:
      one, metrics = step(one, batch)
      expected.append(jax.device_get(metrics))
    many, metrics = step.run(many, rows)
    for name, values in jax.device_get(metrics).items():
      assert values.shape == (4,)
      np.testing.assert_allclose(
        values, [*[m[name] for m in expected], 0], rtol=1e-6, err_msg=name
      )
  assert int(many.step) == 6
  _assert_equal(many, one, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_fewer_steps_do_not_compile_again(toy, batches):
  traced = []
  method = toy()

  def update(*arguments):
    traced.append(1)
    return method.update(*arguments)

  counted = method._replace(update=update)
  step = train.DeviceStep(counted, batches.prepare, batches.resident, steps_per_call=3)
  state = train.replicate(method.init(jax.random.key(0), np.zeros((2, 8, 8, 1))))
  rows = list(batches.epoch(0))
  for taken in (1, 3, 2):
    state, _ = step.run(state, rows[:taken])
  assert int(state.step) == 6
  assert len(traced) == 1


def test_run_refuses_batches_that_make_no_whole_blocks(toy, batches):
  step = train.DeviceStep(
    toy(), batches.prepare, batches.resident, steps_per_call=5, steps_per_epoch=8
  )
  rows = 2 * list(batches.epoch(0))
  for wrong in (rows[:3], rows):
    message = f"batches: expected a multiple of 4, 4 at most, got {len(wrong)}"
    with pytest.raises(ValueError, match=message):
      step.run(None, wrong)
  with pytest.raises(ValueError, match="batches: expected one or more, got none"):
    step.run(None, [])


@pytest.mark.parametrize(
  ("steps_per_epoch", "steps_per_call", "block", "most"),
  [(391, 100, 23, 92), (390, 100, 30, 90), (389, 100, 1, 100), (12, 100, 12, 96)]
  + [(391, 20, 17, 17), (391, 1, 1, 1)],
)
def test_an_epoch_is_made_of_whole_blocks(
  steps_per_epoch, steps_per_call, block, most, toy, batches
):
  step = train.DeviceStep(
    toy(),
    batches.prepare,
    {},
    steps_per_call=steps_per_call,
    steps_per_epoch=steps_per_epoch,
  )
  batch = {"index": np.zeros(128, np.int32)}
  assert step.block_size(batch) == block
  assert step.most_steps(batch) == most


def test_batches_of_a_call_are_bounded_in_bytes(toy, batches):
  step = train.DeviceStep(toy(), batches.prepare, {}, steps_per_call=100)
  images = {"image": np.broadcast_to(np.uint8(0), (128, 224, 224, 3))}
  assert step.most_steps(images) == 6
  assert step.most_steps({"index": np.zeros(128, np.int32)}) == 100
  assert step.most_steps({"index": np.broadcast_to(np.uint8(0), (2**28,))}) == 1


@pytest.mark.eight_devices
def test_memory_of_many_steps_grows_by_the_stacked_batches_alone(toy, batches):
  devices = jax.local_devices()[:2]
  # Rows that the toy reads through its mask, as wide as small images.
  wide = {"mask": np.ones((16, 64, 64), bool)}
  method = toy()._replace(
    update=lambda state, batch, constants: (
      {"x": state["x"] + batch["mask"].sum(dtype=jnp.float32)},
      {"loss": state["x"].sum()},
    )
  )
  state = train.replicate({"x": jnp.zeros(2**16)}, devices)
  taken, batch = [], wide["mask"].nbytes // 2
  for most in (4, 16):
    step = train.DeviceStep(
      method,
      lambda resident, batch: batch,
      {},
      devices=devices,
      steps_per_call=most,
      steps_per_epoch=16,
    )
    rows = _devices._stacked([wide], most, 2)
    program = step._blocks(most).lower(
      state, step.constants, step._resident.arrays, rows, np.int32(1)
    )
    sizes = program.compile().memory_analysis()
    taken.append(sizes.argument_size_in_bytes + sizes.temp_size_in_bytes)
    assert most * batch < step.needed_bytes(state, wide) <= taken[-1] + 2**10
  assert 12 * batch <= taken[1] - taken[0] < 12 * batch + 2**10


@pytest.mark.slow
def test_signal_is_answered_within_a_call(toy, batches, fast_pace):
  """A signal lets at most one more call run: the call that was dispatched before."""
  method, taken = toy(), []

  def update(state, batch, constants):
    state, metrics = method.update(state, batch, constants)
    loss = jax.pure_callback(signalled, metrics["loss"], metrics["loss"])
    return state, {**metrics, "loss": loss}

  def signalled(value):
    time.sleep(0.02)
    taken.append(1)
    if len(taken) == 5:
      os.kill(os.getpid(), signal.SIGTERM)
    return np.asarray(value)

  with (
    train.stop_on_signals() as should_stop,
    pytest.raises(train.Interrupted, match="stopped by SIGTERM") as stopped,
  ):
    _fit(
      method._replace(update=update),
      _Repeated(batches, 32),  # 96 steps: blocks of 12
      epochs=1,
      devices=jax.local_devices()[:1],
      steps_per_call=12,
      should_stop=should_stop,
    )
  assert stopped.value.step in (12, 24)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_fit_with_many_steps_a_call_equals_single_steps(
  devices, method, batches, calls, fast_pace, tmp_path
):
  chosen = jax.local_devices()[:devices]
  results = []
  for number in (1, 100):
    with train.MetricsWriter(tmp_path / str(number), "stage") as metrics:
      options = {"devices": chosen, "steps_per_call": number, "metrics": metrics}
      results.append(_fit(method, batches, **options))
    lines = (tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()
    results.append([json.loads(line)["loss"] for line in lines])
  _assert_equal(results[2], results[0], rtol=0, atol=1e-6)
  np.testing.assert_allclose(results[3], results[1], rtol=1e-6)
  assert max(taken for taken in calls if taken != "one") == 3


@pytest.mark.slow
@pytest.mark.cpu("a GPU need not repeat an update to the bit")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("stops", [[1], [3, 2]])
def test_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
  stops, streamed, method, batches, split, calls, fast_pace, tmp_path, monkeypatch
):
  batches = dataclasses.replace(batches, batch_size=8)  # six steps: two calls
  if streamed:
    monkeypatch.setattr(_loop, "_STREAMED", 0)
    given = {f: getattr(batches, f) for f in ("mean", "std", "augmentation")}
    batches = data.StreamBatches(split, batch_size=8, seed=0, **given)
  expected = _fit(method, batches, steps_per_call=4)
  assert set(calls) == {3}
  for asked in stops:
    answers = iter([None] * (asked - 1) + ["SIGTERM"])
    with (
      train.Checkpoints(tmp_path / "checkpoints") as checkpoints,
      pytest.raises(train.Interrupted, match="stopped by SIGTERM after step"),
    ):
      _fit(
        method,
        batches,
        checkpoints=checkpoints,
        should_stop=lambda answers=answers: next(answers),
        steps_per_call=4,
      )
  with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
    actual = _fit(method, batches, checkpoints=checkpoints, steps_per_call=4)
  _assert_equal(actual, expected)


@pytest.mark.slow
def test_bad_step_within_a_call_is_named(toy, batches, fast_pace):
  long = _Repeated(batches, 20)
  with pytest.raises(train.NonFiniteError, match=r"loss/conv not finite in step 37 "):
    _fit(toy(37), long, epochs=1, steps_per_call=16, check_every=100)


class _Repeated:
  """Batches with one long epoch."""

  def __init__(self, batches, times):
    self._batches, self._times = batches, times
    self.steps_per_epoch = times * batches.steps_per_epoch

  def __getattr__(self, name):
    return getattr(self._batches, name)

  def epoch(self, epoch, start_step=0):
    rows = [*self._batches.epoch(epoch)]
    return iter((self._times * rows)[start_step:])


@pytest.mark.slow
def test_calls_grow_with_measured_time_and_are_asked_after_each(
  toy, batches, calls, fast_pace
):
  asked = []
  _fit(
    toy(),
    _Repeated(batches, 48),  # 144 steps: blocks of 24
    epochs=1,
    steps_per_call=72,
    should_stop=lambda: asked.append(len(calls)),
  )
  *steps, again = calls  # the last proves that training can go on
  assert again == 24
  assert sum(steps) == 144
  assert steps[0] == 24
  assert max(steps) <= 72
  # The last call ends the epoch, after which the question is asked once more.
  assert asked == [*range(1, len(steps) + 1)][:-1] + [len(calls)]


@pytest.mark.slow
def test_slow_steps_are_taken_alone(toy, batches, calls, monkeypatch):
  monkeypatch.setattr(_pace, "_SECONDS", 1e-6)
  expected = _fit(toy(), _Repeated(batches, 8), epochs=1)
  calls.clear()
  state = _fit(toy(), _Repeated(batches, 8), epochs=1, steps_per_call=8)
  assert calls[0] == 8
  assert calls.count("one") >= 8
  np.testing.assert_allclose(state.params["x"], expected.params["x"], rtol=1e-6)


@pytest.mark.slow
def test_run_goes_on_with_another_number_of_steps_a_call(
  method, batches, calls, fast_pace, tmp_path
):
  expected = _fit(method, batches)
  answers = iter([None] * 3 + ["SIGTERM"])
  with train.Checkpoints(tmp_path) as checkpoints:
    options = {"checkpoints": checkpoints}
    with pytest.raises(train.Interrupted):
      _fit(method, batches, should_stop=lambda: next(answers), **options)
    calls.clear()
    actual = _fit(method, batches, steps_per_call=4, **options)
  assert calls == ["one", "one", 3, 3]  # step 4 is within a block
  _assert_equal(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_host_does_not_run_far_ahead_of_slow_steps(toy, batches):
  """Stopping would take 5 s if 50 steps of 0.1 s were dispatched."""
  executed = []
  method = toy()

  def update(state, batch, constants):
    state, metrics = method.update(state, batch, constants)
    slept = jax.pure_callback(_sleep(executed), metrics["loss"], metrics["loss"])
    return state, {**metrics, "loss": slept}

  dispatched = []

  def should_stop():
    dispatched.append(len(executed) // 2)
    return "SIGTERM" if len(dispatched) == 20 else None

  with pytest.raises(train.Interrupted):
    _fit(
      method._replace(update=update),
      _Repeated(batches, 20),
      epochs=1,
      devices=jax.local_devices()[:2],
      should_stop=should_stop,
    )
  ahead = [number - done for number, done in enumerate(dispatched, start=1)]
  assert max(ahead) <= 12, ahead


def _sleep(executed):
  def sleep(value):
    time.sleep(0.1)
    executed.append(1)
    return np.asarray(value)

  return sleep


@pytest.mark.slow
def test_steps_that_fill_a_teacher_cache_are_single_calls(
  batches, calls, fast_pace, tmp_path
):
  student, teacher = (
    models.by_name(f"digits_cnn:{width}", num_classes=3, axis_name=axis)
    for width, axis in ((2, "batch"), (4, None))
  )
  variables = capture.init(teacher, jax.random.key(1), jnp.zeros((2, 8, 8, 1)))
  method = methods.knowledge_distillation(
    student, methods.Network(teacher, variables), optax.adam(1e-2)
  )

  def fit():
    calls.clear()
    cached = teacher_cache.open_cache(
      tmp_path, batches, method.teacher, epochs=EPOCHS, say=lambda _: None
    )
    return _fit(method, cached, steps_per_call=4)

  filling = fit()
  assert set(calls) == {"one"}
  reading = fit()
  assert "one" not in calls
  _assert_equal(reading, filling, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_cpu_takes_one_step_a_call_unless_told(toy, batches, calls):
  assert train.FitOptions().most_steps_per_call == 1
  assert train.FitOptions(steps_per_call=7).most_steps_per_call == 7
  _fit(toy(), batches, epochs=1)
  assert set(calls) == {"one"}
