"""Lines of a training run in a log: one an epoch, with what was measured."""

import io
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich import console as rich_console

from flowkd_jax import data
from flowkd_jax import train
from flowkd_jax.train import _run_display


class _Times:
  """Times of a run whose first epoch compiles for as long as tests say."""

  compiling = 0.0

  def seconds(self):
    return {"compiling": self.compiling}


class _Clock:
  """Time that tests move."""

  def __init__(self, monkeypatch):
    self.now = 100.0
    fake = types.SimpleNamespace(monotonic=lambda: self.now)
    monkeypatch.setattr(_run_display, "time", fake)


@pytest.fixture
def clock(monkeypatch):
  return _Clock(monkeypatch)


def _display(batches, epochs=3, *, terminal=False, quiet_seconds=60.0):
  out = io.StringIO()
  console = rich_console.Console(file=out, force_terminal=terminal, width=40)
  progress = train.Progress(console, quiet_seconds=quiet_seconds)
  display = _run_display.RunDisplay(progress, "student", batches, epochs, _Times())
  return out, display


def test_line_of_an_epoch_has_loss_accuracy_speed_and_time(batches, clock):
  out, display = _display(batches)
  with display.shown(0):
    display.epoch(-1, {}, {"test_accuracy": 0.1})
    clock.now += 30
    display._times.compiling = 18.0
    display.step(3, now=True)
    clock.now += 2
    display._times.compiling = 20.0  # with what measuring compiles
    measured = {"qmi/cosine/dense": 0.1, "test_accuracy": jnp.float32(0.875)}
    display.epoch(0, {"loss": 0.25, "seconds": 20.0}, measured)
    clock.now += 10
    display.epoch(1, {"loss": 0.125, "seconds": 2.0}, {})
    clock.now += 10
    display.epoch(2, {"loss": 0.0625, "seconds": 2.0}, {"validation_accuracy": 1.0})
  assert out.getvalue().splitlines() == [
    "student: 3 epochs of 3 steps",
    "student: epoch 1 of 3, loss 0.2500, test accuracy 87.50 %, 22 images/s, 24 s left",
    "student: epoch 2 of 3, loss 0.1250, 22 images/s, 10 s left",
    "student: epoch 3 of 3, loss 0.06250, validation accuracy 100.00 %, 22 images/s",
  ]


@pytest.mark.parametrize(
  ("measured", "text"),
  [
    (
      {"qmi/cosine/a": 1.0, "qmi/cosine/b": 0.5, "qmi/student_t/b": 0.1},
      "information flow of b 0.5000",
    ),
    (
      {"one/test_accuracy": 0.5, "two/test_accuracy": 0.25, "one/qmi/cosine/a": 1.0},
      "test accuracy of one 50.00 %, test accuracy of two 25.00 %",
    ),
    (
      {"one/qmi/cosine/a": 1.0, "two/qmi/cosine/a": 2.0},
      "information flow of one/a 1.000, information flow of two/a 2.000",
    ),
    ({"dead/a": 0.0}, ""),
  ],
)
def test_line_has_accuracies_or_else_the_flow_of_the_last_taps(
  measured, text, batches, clock
):
  out, display = _display(batches, epochs=1)
  with display.shown(0):
    display.epoch(0, {"loss": float("nan")}, measured)
  line = out.getvalue().splitlines()[1]
  assert line == ", ".join(filter(None, ("student: epoch 1 of 1, loss nan", text)))


def test_line_waits_for_no_device(batches, clock, monkeypatch):
  ready = []
  monkeypatch.setattr(_run_display, "_is_ready", lambda value: bool(ready))
  out, display = _display(batches)
  with display.shown(0):
    display.epoch(0, {}, {"test_accuracy": 0.5})
    display.epoch(1, {}, {"test_accuracy": 0.5})
    display.step(7, now=True)
    assert "epoch" not in out.getvalue().split("\n", 1)[1]
    ready.append(True)
    display.step(8)  # too soon after the last
    assert "epoch 1 of 3" not in out.getvalue()
    clock.now += 1
    display.step(8)
    assert "epoch 2 of 3" in out.getvalue()
    ready.clear()
    display.epoch(2, {}, {"test_accuracy": 0.5})
  assert "epoch 3 of 3" in out.getvalue()  # the end of the run waits


def test_array_of_a_device_is_ready_once_computed():
  value = jax.block_until_ready(jnp.ones(()))
  assert _run_display._is_ready(value)
  assert _run_display._is_ready(0.5)


def test_long_epoch_says_now_and_then_where_it_is(batches, clock):
  out, display = _display(batches)
  with display.shown(3):
    for step in (4, 5):
      clock.now += 45
      display.step(step, {"loss": 0.5, "other": 1.0})
  assert out.getvalue().splitlines() == [
    "student: 3 epochs of 3 steps, resumed in epoch 2, after step 3",
    "student: epoch 2 of 3, step 2 of 3, loss 0.5000, 3 min left",
  ]


def test_run_that_is_finished_before_says_so(batches):
  out, display = _display(batches)
  with display.shown(9):
    pass
  assert out.getvalue() == "student: 3 epochs of 3 steps, all trained before\n"


def test_rounds_of_federated_learning_are_named_so(batches, clock):
  rounds = data.FederatedBatches(
    batches,
    clients=np.split(np.arange(44), 2),
    clients_per_round=2,
    local_steps=3,
    minibatch_size=5,
  )
  out, display = _display(rounds, epochs=2)
  with display.shown(0):
    display.epoch(0, {"seconds": 0.01}, {})
  assert out.getvalue().splitlines() == [
    "student: 2 rounds",
    "student: round 1 of 2, 3,000 images/s, 1 s left",
  ]


def test_terminal_has_a_bar_and_no_lines(batches):
  out, display = _display(batches, terminal=True)
  with display.shown(0):
    display.step(3, {"loss": 0.5}, now=True)
    display.epoch(0, {"loss": 0.5}, {"test_accuracy": 0.5})
  text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
  assert "epoch" not in text
  assert "9/9" in text


def test_run_without_a_progress_shows_nothing(batches):
  display = _run_display.RunDisplay(None, "student", batches, 3, _Times())
  with display.shown(0):
    display.step(1, {"loss": 0.5}, now=True)
    display.epoch(0, {"loss": 0.5}, {"test_accuracy": 0.5})


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0.2, "1 s"), (99, "99 s"), (99.6, "2 min"), (5940, "99 min"), (7200, "2 h 0 min")],
)
def test_duration_is_told_in_two_digits_or_so(seconds, text):
  assert _run_display._duration(seconds) == text
