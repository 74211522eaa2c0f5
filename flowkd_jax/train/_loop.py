"""The training loop. There is one, for every method.

It knows a method by `init`, `update` and `export`, data by `Batches`, and nothing of
either. A run is determined by its key, its batches and the number of epochs: stopped
anywhere and resumed from a checkpoint, it ends with the same parameters.
"""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax.train import _checkpoint
from flowkd_jax.train import _devices
from flowkd_jax.train import _finite
from flowkd_jax.train import _interruption
from flowkd_jax.train import _metrics
from flowkd_jax.train import _processes
from flowkd_jax.train import _progress

_LOG = logging.getLogger(__name__)

PyTree = Any
EpochHook = Callable[[int, methods.Method, PyTree], Mapping[str, float]]


class Trained(NamedTuple):
  """What `fit` returns.

  Attributes:
    state: The last state of the method.
    seconds: Time spent in all, in earlier calls too if the run was resumed.
  """

  state: PyTree
  seconds: float


@dataclasses.dataclass(frozen=True)
class FitOptions:
  """How to run, which never changes what comes out.

  Attributes:
    checkpoints: Where to save and resume; None keeps nothing.
    checkpoint_seconds: Time between checkpoints within a run, 0 or above.
    metrics: Where the metrics of each epoch go.
    progress: Bar over the steps.
    title: What the bar is called.
    devices: Devices of this process alone; by default all, of all processes.
    on_epoch: `(epoch, method, state) -> metrics`, measured after every epoch and,
      with epoch -1, before the first; added to the metrics of that epoch. The state
      is a copy, which it may keep.
    check_every: Steps between checks for non-finite metrics. The check waits for the
      devices, so it is not made at every step. So often several processes ask one
      another whether to save or to stop.
    should_stop: Returns the name of the signal that asks to stop, or None.
  """

  checkpoints: _checkpoint.Checkpoints | None = None
  checkpoint_seconds: float = 60.0
  metrics: _metrics.MetricsWriter | None = None
  progress: _progress.Progress | None = None
  title: str = "training"
  devices: Sequence[Any] | None = None
  on_epoch: EpochHook | None = None
  check_every: int = 50
  should_stop: Callable[[], str | None] = lambda: None

  def __post_init__(self):
    # NaN would pass as a bound that no time reaches: a run without checkpoints.
    checks.check_number("checkpoint_seconds", self.checkpoint_seconds)
    if self.checkpoint_seconds < 0:
      raise ValueError(
        f"checkpoint_seconds: expected 0 or above, got {self.checkpoint_seconds}"
      )
    checks.check_count("check_every", self.check_every)


def fit(
  method: methods.Method,
  batches: data.Batches,
  *,
  epochs: int,
  key: jax.Array,
  options: FitOptions | None = None,
) -> Trained:
  """Trains for a number of epochs.

  Args:
    method: What is trained, made with `axis_name="batch"`.
    batches: The data.
    epochs: Passes over the data in all, those before a resume included; 0 returns
      the initial state.
    key: Randomness of the run.
    options: How to run: checkpoints, metrics, bars.

  Raises:
    ValueError: If the devices cannot share a batch, a checkpoint does not fit, more
      epochs than these have been trained, a network does not fit the data (another
      number of classes, a tap whose first axis is not the batch), or a BatchNorm layer
      would take the statistics of one of several devices.
    NonFiniteError: If a metric or a parameter is not finite; names the step, the
      metric and the last good checkpoint. A state is good, and is saved and returned,
      if its arrays are finite and so are the metrics of a step from it, which is
      computed for that purpose and discarded.
    Interrupted: If asked to stop; the state is saved.
  """
  checks.check_whole("epochs", epochs)
  if epochs < 0:
    raise ValueError(f"epochs: expected 0 or above, got {epochs}")
  return _Run(method, batches, epochs, options or FitOptions()).run(key)


class _Run:
  """One call of `fit`: position, metrics since the last check, sums of the epoch."""

  def __init__(self, method, batches, epochs, options):
    self.method, self.batches, self.epochs = method, batches, epochs
    self.options = options
    self.devices = list(options.devices or jax.local_devices())
    parallel.check_batch_size(
      batches.batch_size // jax.process_count(), len(self.devices)
    )
    self._per_epoch = batches.steps_per_epoch
    self.step = 0
    self.sums: dict[str, float] = {}
    self.seconds = 0.0
    self.earlier_seconds = 0.0
    self.began = time.monotonic()
    self.pending: list[tuple[int, methods.Metrics]] = []
    self.saved_at = time.monotonic()
    self.last_batch: Any = None

  def run(self, key):
    state = self._initial_state(key)
    per_epoch = self._per_epoch
    self._device_step = device_step = _devices.DeviceStep(
      self.method,
      self.batches.prepare,
      self.batches.resident,
      devices=self.options.devices,
    )
    with self._bar(self.epochs * per_epoch):
      if self.step == 0:
        self._measure(-1, state, {})
      for epoch in range(self.step // per_epoch, self.epochs):
        began = time.monotonic() - self.seconds
        for batch in self.batches.epoch(epoch, self.step - epoch * per_epoch):
          state, metrics = device_step(state, batch)
          self.pending.append((self.step, metrics))
          self.last_batch = batch
          self.step += 1
          self.seconds = time.monotonic() - began
          if len(self.pending) >= self.options.check_every:
            self._check()
          if self.step % per_epoch:
            self._save_or_stop(state)
        self._check()
        last = epoch == self.epochs - 1
        self._check_state(state) if last else self._check_arrays(state)
        means = {name: total / per_epoch for name, total in self.sums.items()}
        self._measure(epoch, state, {**means, "seconds": self.seconds})
        self.sums, self.seconds = {}, 0.0
        self._save_or_stop(state)
      if self.options.checkpoints is not None:
        self._save(state)
    return Trained(state, self._total_seconds())

  def _total_seconds(self):
    return self.earlier_seconds + time.monotonic() - self.began

  def _initial_state(self, key):
    height_width_channels = self.batches.image_shape
    example = jax.numpy.zeros((2, *height_width_channels))
    if self.method.check is not None:
      self.method.check(example, self.batches.num_classes)
    state = self.method.init(key, example)
    checkpoints = self.options.checkpoints
    restored = None if checkpoints is None else checkpoints.restore(state)
    if checkpoints is not None:
      self._warn(checkpoints.problems)
    if restored is not None:
      state, position = restored
      self._check_position(position)
      self.step = int(position["step"])
      self.sums = dict(position["sums"])
      self.seconds = float(position["seconds"])
      self.earlier_seconds = float(position["total_seconds"])
    return _devices.replicate(state, self.devices)

  def _check_position(self, position):
    expected = self._per_epoch
    if position["steps_per_epoch"] != expected:
      raise ValueError(
        f"the checkpoint was made with {position['steps_per_epoch']} steps an epoch, "
        f"this run has {expected}: data set or batch size changed; use another workdir"
      )
    done = int(position["step"])
    if done > self.epochs * expected:
      raise ValueError(
        f"epochs: expected {math.ceil(done / expected)} or more, as the checkpoint is "
        f"of {done} steps, {expected} an epoch, got {self.epochs}; use another workdir "
        "to train for fewer"
      )

  def _warn(self, problems):
    """Shows the problems that checkpoints had; in the log if there is no bar."""
    for problem in problems:
      if self.options.progress is None:
        _LOG.warning("%s", problem)
      else:
        self.options.progress.say(f"warning: {problem}")

  def _save_or_stop(self, state):
    options = self.options
    at_check = self.step % options.check_every == 0
    if jax.process_count() > 1 and not at_check and self.step % self._per_epoch:
      return
    name = options.should_stop()
    # The signal itself, so that all processes end with the same exit status.
    due, number = _processes.largest_of_processes(
      int(time.monotonic() - self.saved_at >= options.checkpoint_seconds),
      _interruption.signal_number(name),
    )
    stop = number > 0
    if options.checkpoints is not None and (due or stop):
      self._check()
      self._check_state(state)
      self._save(state)
    if stop:
      if name is None or _interruption.signal_number(name) != number:
        name = _interruption.signal_name(number)  # of another process
      raise _interruption.Interrupted(name, self.step)

  def _check(self):
    """Adds pending metrics to the sums; the first that is not finite stops the run."""
    shown = {}
    for step, metrics in jax.device_get(self.pending):
      self._raise_if_bad(_finite.non_finite_metrics(metrics), f"in step {step}", step)
      for name, value in metrics.items():
        self.sums[name] = self.sums.get(name, 0.0) + float(value)
      shown = {name: metrics[name] for name in ("loss", "accuracy") if name in metrics}
    self.pending = []
    if self.options.progress is not None:
      self.options.progress.update(self.step, shown)

  def _check_state(self, state):
    """Proves that training can go on from a state: one step from it, discarded.

    The metrics of a step are those of the parameters before its update, so they say
    nothing of the state that the step returns.
    """
    self._check_arrays(state)
    if self.last_batch is not None:
      copy = _devices.replicate(state, self.devices)
      _, metrics = self._device_step(copy, self.last_batch)
      bad = _finite.non_finite_metrics(jax.device_get(metrics))
      self._raise_if_bad(bad, f"after step {self.step - 1}", self.step - 1)

  def _check_arrays(self, state):
    bad = _finite.non_finite_arrays(state)
    self._raise_if_bad(bad[:3], f"after step {self.step - 1}", self.step - 1)

  def _raise_if_bad(self, bad, when, step):
    if bad:
      raise _finite.NonFiniteError(self._describe(bad, when, step))

  def _describe(self, bad, when, step):
    taps = [name.removeprefix("loss/") for name in bad if name.startswith("loss/")]
    where = f" at tap {', '.join(taps)}" if taps else ""
    checkpoints = self.options.checkpoints
    latest = None if checkpoints is None else checkpoints.latest
    kept = "no checkpoint was saved before"
    if checkpoints is not None and latest is not None:
      kept = f"last good checkpoint: step {latest} in {checkpoints.directory}"
    return (
      f"{self.options.title}: {', '.join(bad)} not finite {when} (epoch "
      f"{step // self._per_epoch}){where}; {kept}. Lower the learning "
      "rate or the weights, or look at the input of that step"
    )

  def _save(self, state):
    position = {
      "step": self.step,
      "steps_per_epoch": self._per_epoch,
      "sums": self.sums,
      "seconds": self.seconds,
      "total_seconds": self._total_seconds(),
    }
    self.options.checkpoints.save(self.step, state, position)
    self.saved_at = time.monotonic()

  def _measure(self, epoch, state, means):
    measured = {}
    if self.options.on_epoch is not None:
      # A copy: the next step donates the state, and the hook may keep a network.
      copy = _devices.replicate(state, self.devices)
      measured = self.options.on_epoch(epoch, self.method, copy)
    if self.options.metrics is not None and (means or measured):
      self.options.metrics.write(epoch, self.step, {**means, **measured})

  @contextlib.contextmanager
  def _bar(self, total):
    progress = self.options.progress
    if progress is None:
      yield
      return
    progress.start(self.options.title, total, self.step)
    try:
      yield
      progress.update(self.step)
    finally:
      progress.stop()
