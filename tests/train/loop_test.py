"""The training loop: resuming, stopping, guarding, recording."""

import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import train
from flowkd_jax.train import _pace

pytestmark = pytest.mark.optimizer

EPOCHS = 3


def _fit(method, batches, **options):
  return train.fit(
    method,
    batches,
    epochs=EPOCHS,
    key=jax.random.key(0),
    options=train.FitOptions(**options),
  ).state


class _StopAfter:
  """Asks to stop when it has been asked `calls` times."""

  def __init__(self, calls):
    self.calls = calls

  def __call__(self):
    self.calls -= 1
    return "SIGTERM" if self.calls <= 0 else None


def _records(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.cpu("a GPU need not repeat an update to the bit")
@pytest.mark.slow
@pytest.mark.parametrize("stops", [[1], [3], [4, 1, 2]])
def test_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
  stops, method, batches, tmp_path
):
  expected = _fit(method, batches)
  for calls in stops:
    with (
      train.Checkpoints(tmp_path / "checkpoints") as checkpoints,
      pytest.raises(train.Interrupted, match="stopped by SIGTERM after step"),
    ):
      _fit(method, batches, checkpoints=checkpoints, should_stop=_StopAfter(calls))
  with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
    actual = _fit(method, batches, checkpoints=checkpoints)
  equal = lambda a, b: np.testing.assert_array_equal(a, b)
  jax.tree.map(equal, actual.params, expected.params)
  jax.tree.map(equal, actual.collections, expected.collections)
  jax.tree.map(equal, actual.opt_state, expected.opt_state)


@pytest.mark.slow
def test_metrics_of_an_epoch_do_not_depend_on_interruptions(method, batches, tmp_path):
  with train.MetricsWriter(tmp_path / "whole", "stage") as metrics:
    _fit(method, batches, metrics=metrics)
  with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
    for calls in (2, 99):
      with train.MetricsWriter(tmp_path / "parts", "stage") as metrics:
        options = {"checkpoints": checkpoints, "metrics": metrics}
        try:
          _fit(method, batches, should_stop=_StopAfter(calls), **options)
        except train.Interrupted:
          assert calls == 2
  whole, parts = _records(tmp_path / "whole"), _records(tmp_path / "parts")
  assert [r["epoch"] for r in parts] == [0, 1, 2]
  for one, other in zip(whole, parts, strict=True):
    assert one["loss"] == other["loss"]


@pytest.mark.slow
def test_finished_run_is_not_repeated(method, batches, tmp_path):
  with train.Checkpoints(tmp_path) as checkpoints:
    first = _fit(method, batches, checkpoints=checkpoints)
    calls = []
    again = _fit(
      method, batches, checkpoints=checkpoints, on_epoch=lambda *a: calls.append(a)
    )
  assert not calls
  assert int(again.step) == int(first.step) == 9


@pytest.mark.slow
def test_epochs_are_recorded_with_what_is_measured(toy, batches, tmp_path):
  measured = []

  def on_epoch(epoch, method, state):
    measured.append(epoch)
    return {"x": float(state.params["x"])}

  with train.MetricsWriter(tmp_path, "toy") as metrics:
    _fit(toy(), batches, metrics=metrics, on_epoch=on_epoch)
  records = _records(tmp_path)
  assert measured == [-1, 0, 1, 2]
  assert [r["epoch"] for r in records] == measured
  assert [r["step"] for r in records] == [0, 3, 6, 9]
  assert records[0]["x"] == 0
  # Mean over the three steps: (x - 1)^2 with x going from 0 to 1 by factors 0.8.
  np.testing.assert_allclose(records[1]["loss"], (1 + 0.8**2 + 0.8**4) / 3, rtol=1e-5)
  assert list(tmp_path.glob("tensorboard/toy/events*"))


@pytest.mark.slow
def test_seconds_of_an_epoch_include_the_wait_for_its_last_steps(
  toy, batches, tmp_path, monkeypatch
):
  read, waited, by_epoch = _pace.read_metrics, [], []

  def slowly(calls):
    time.sleep(0.1)
    waited.append(0.1)
    return read(calls)

  def on_epoch(epoch, method, state):
    by_epoch.append(sum(waited))
    waited.clear()
    return {}

  monkeypatch.setattr(_pace, "read_metrics", slowly)
  with train.MetricsWriter(tmp_path, "toy") as metrics:
    _fit(toy(), batches, metrics=metrics, on_epoch=on_epoch)
  seconds = [record["seconds"] for record in _records(tmp_path)]
  # Each epoch has read at least once; the last also tries the state, after its end.
  assert all(s >= w >= 0.1 for s, w in zip(seconds[:-1], by_epoch[1:-1], strict=True))


@pytest.mark.slow
def test_non_finite_metric_stops_and_names_step_tap_and_checkpoint(
  toy, batches, tmp_path
):
  with train.Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(
      train.NonFiniteError,
      match=r"loss/conv not finite after step 3 \(epoch 2 of \d+\) at tap conv; "
      r"last good checkpoint: step 3 in .*Lower the learning rate",
    ):
      _fit(toy(4), batches, checkpoints=checkpoints, checkpoint_seconds=0)
    assert checkpoints.latest == 3
  with pytest.raises(train.NonFiniteError, match="no checkpoint was saved before"):
    _fit(toy(0), batches)


def test_state_after_a_bad_step_is_not_saved(toy, batches, tmp_path):
  with train.Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(train.NonFiniteError):
      _fit(toy(1), batches, checkpoints=checkpoints, should_stop=_StopAfter(2))
    assert checkpoints.latest is None


def _diverging(rate, start=1.0, **params):
  """Trains `x` on `x^4`, which overflows after three updates at a rate of 30."""

  def loss(variables, batch, constants, *, step, key):
    return variables["params"]["x"] ** 4, ({}, {})

  return methods.gradient_method(
    init_variables=lambda *_: {"params": {"x": jnp.asarray(start), **params}},
    loss=loss,
    optimizer=optax.sgd(rate),
    export=lambda variables: {},
    axis_name="batch",
  )


@pytest.mark.slow
@pytest.mark.eight_devices
@pytest.mark.parametrize("check_every", [1, 50])
def test_last_good_checkpoint_can_be_trained_on(check_every, batches, tmp_path):
  options = {"checkpoint_seconds": 0, "check_every": check_every}
  with train.Checkpoints(tmp_path) as checkpoints:
    options["checkpoints"] = checkpoints
    with pytest.raises(
      train.NonFiniteError,
      match=r"gradient_norm not finite after step 1 .* checkpoint: step 1 in",
    ):
      _fit(_diverging(30.0), batches, **options)
    state = _fit(_diverging(1e-20), batches, **options)
  assert int(state.step) == EPOCHS * batches.steps_per_epoch
  assert np.isfinite(state.params["x"])


@pytest.mark.parametrize(("start", "rate"), [(1e5, 1e-3), (3.0, 1e38)])
def test_bad_last_update_is_neither_returned_nor_measured(start, rate, split):
  """The parameter is finite and its loss overflows, or the parameter overflows."""
  split = dataclasses.replace(split, images=split.images[:8], labels=split.labels[:8])
  one_step = data.training_batches(split, batch_size=8, seed=0, mean=(9,), std=(9,))
  measured = []
  options = train.FitOptions(on_epoch=lambda epoch, *_: measured.append(epoch) or {})
  with pytest.raises(train.NonFiniteError, match="not finite after step 0"):
    train.fit(
      _diverging(rate, start),
      one_step,
      epochs=1,
      key=jax.random.key(0),
      options=options,
    )
  assert measured == [-1]


def test_parameter_that_the_loss_does_not_read_is_checked_too(batches):
  with pytest.raises(train.NonFiniteError, match="params/other not finite after"):
    _fit(_diverging(0.0, other=jnp.full(2, jnp.inf)), batches)


def test_checkpoint_of_another_data_set_is_refused(toy, split, batches, tmp_path):
  with train.Checkpoints(tmp_path) as checkpoints:
    _fit(toy(), batches, checkpoints=checkpoints)
    other = dataclasses.replace(batches, batch_size=8)
    with pytest.raises(ValueError, match="3 steps an epoch, this run has 6"):
      _fit(toy(), other, checkpoints=checkpoints)


@pytest.mark.eight_devices
def test_batch_that_devices_cannot_share_is_refused_at_once(toy, batches):
  with pytest.raises(ValueError, match="8 devices cannot share 12 rows"):
    _fit(toy(), dataclasses.replace(batches, batch_size=12))


@pytest.mark.parametrize(
  ("epochs", "error", "match"),
  [
    (-1, ValueError, "epochs: expected 0 or above, got -1"),
    (1.5, TypeError, "epochs: expected a whole number"),
  ],
)
def test_epochs_that_are_no_number_of_passes_are_refused(
  epochs, error, match, toy, batches
):
  with pytest.raises(error, match=match):
    train.fit(toy(4), batches, epochs=epochs, key=jax.random.key(0))
