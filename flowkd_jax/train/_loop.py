"""Training loop of all methods.

The loop uses `init`, `update` and `export` of a method and the interface `Batches` of
data, and nothing else of them. Random key, batches and number of epochs determine a
run: if it is interrupted at any point and resumed from a checkpoint, it ends with the
same parameters.
"""

import contextlib
import itertools
import logging
import time
from typing import Any
from typing import NamedTuple

import jax

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import parallel
from flowkd_jax import teacher_cache
from flowkd_jax._numerics import checks
from flowkd_jax.train import _devices
from flowkd_jax.train import _finite
from flowkd_jax.train import _interruption
from flowkd_jax.train import _options
from flowkd_jax.train import _pace
from flowkd_jax.train import _position
from flowkd_jax.train import _prefetch
from flowkd_jax.train import _processes
from flowkd_jax.train import _run_display
from flowkd_jax.train import _times

_LOG = logging.getLogger(__name__)

PyTree = Any

_STREAMED = 2**16  # bytes of a batch from which a thread for reading pays off


class Trained(NamedTuple):
  """Result of `fit`.

  Attributes:
    state: Final state of the method.
    seconds: Total time in seconds, including earlier calls if the run was resumed.
  """

  state: PyTree
  seconds: float


def fit(
  method: methods.Method,
  batches: data.Batches,
  *,
  epochs: int,
  key: jax.Array,
  options: _options.FitOptions | None = None,
) -> Trained:
  """Train a method for a number of epochs.

  Args:
    method: Method to train, made with `axis_name="batch"`, or with None for the
      parallelism "jit".
    batches: Training batches.
    epochs: Total number of passes over the data, including those before a resume. 0
      returns the initial state.
    key: Random key of the run.
    options: Checkpoints, metrics and progress display of the run.

  Raises:
    ValueError: If a batch cannot be split over the devices, or a checkpoint does not
      fit or has more epochs. If a network does not fit the data (another number of
      classes, or a tap whose first axis is not the batch). If the method was made for
      another parallelism. If a BatchNorm layer would use the statistics of only one of
      several devices.
    NonFiniteError: If a metric or a parameter is not finite. The message names the
      step, the metric and the last good checkpoint. Before a state is saved or
      returned, its arrays must be finite, and so must the metrics of one further step,
      whose result is discarded.
    Interrupted: If asked to stop; the state is saved before.
  """
  checks.check_whole("epochs", epochs)
  if epochs < 0:
    raise ValueError(f"epochs: expected 0 or above, got {epochs}")
  run = _Run(method, batches, epochs, options or _options.FitOptions())
  with run.times.spent(_times.STEPS):
    return run.run(key)


class _Run:
  """State of one call of `fit`: position, steps in flight, sums of the epoch."""

  def __init__(self, method, batches, epochs, options):
    self.method, self.batches = method, batches
    self.epochs, self.options = epochs, options
    self.devices = list(options.devices or jax.local_devices())
    parallel.check_batch_size(
      batches.batch_size // jax.process_count(), len(self.devices)
    )
    self._per_epoch = batches.steps_per_epoch
    self.step, self._exchange_at = 0, 1  # the next exchange of several processes
    self.sums: dict[str, float] = {}
    self.seconds = self.earlier_seconds = 0.0
    self.began = self.saved_at = time.monotonic()
    self._last: tuple[Any, bool] | None = None  # batches to try a state on
    self._pace = _pace.Pace(max(options.most_steps_per_call, options.check_every))
    self._in_flight = _pace.InFlight(self._pace, options.check_every)
    self._compiled: set[bool] = set()
    self.times = options.times or _times.Times()
    self._display = _run_display.RunDisplay(
      options.progress, options.title, batches, epochs, self.times
    )

  def run(self, key):
    self._device_step, state = self._start(key)
    per_epoch = self._per_epoch
    with self._display.shown(self.step):
      if self.step == 0:
        self._measure(-1, state, {})
      for epoch in range(self.step // per_epoch, self.epochs):
        state = self._train_epoch(state, epoch)
        last = epoch == self.epochs - 1
        self._check_state(state) if last else self._check_arrays(state)
        means = {name: total / per_epoch for name, total in self.sums.items()}
        self._measure(epoch, state, {**means, "seconds": self.seconds})
        self.sums, self.seconds = {}, 0.0
        self._save_or_stop(state)
      if self.options.checkpoints is not None:
        self._save(state)
      elif self.options.metrics is not None:
        self.options.metrics.flush()
    return Trained(state, self._total_seconds())

  def _train_epoch(self, state, epoch):
    began = time.monotonic() - self.seconds
    with self._batches_of(epoch) as (batches, block, most):
      while True:
        left = self._per_epoch - self.step % self._per_epoch
        steps, many = self._pace.next_call(left, block, most)
        with self.times.spent(_times.DATA):
          chunk = list(itertools.islice(batches, steps))
        if not chunk:
          self._check()
          # Only now: devices run behind the host.
          self.seconds = time.monotonic() - began
          return state
        state = self._call(state, chunk, many)
        self.seconds = time.monotonic() - began
        if self.step % self._per_epoch:
          self._save_or_stop(state)

  @contextlib.contextmanager
  def _batches_of(self, epoch):
    """Context: remaining batches of an epoch, steps per block, steps per call."""
    batches = iter(self.batches.epoch(epoch, self.step - epoch * self._per_epoch))
    cached = isinstance(self.batches, teacher_cache.CachedBatches)
    with contextlib.ExitStack() as stack:
      first = next(batches, None)
      # While a teacher cache fills, each batch waits for the teacher on the devices. A
      # call of several steps would have to wait for all of its batches first.
      if first is None or (cached and not self.batches.is_complete(epoch)):
        block = most = 1
      else:
        block = self._device_step.block_size(first)
        most = self._device_step.most_steps(first)
        if most > 1 and _devices.batch_bytes(first) > _STREAMED:
          reading = _prefetch.reading_ahead(batches, most)
          batches = stack.enter_context(reading)
      yield itertools.chain([] if first is None else [first], batches), block, most

  def _call(self, state, chunk, many):
    """Dispatch the steps of some batches; return the new state."""
    began = time.monotonic()
    state, metrics = self._dispatch(state, chunk, many)
    if many not in self._compiled:  # The time of compiling is not the time of steps.
      began = time.monotonic()
    self._compiled.add(many)
    self._in_flight.add(self.step, len(chunk), metrics, began)
    self.step += len(chunk)
    last = chunk[-(self._device_step.block_size(chunk[0]) if many else 1) :]
    self._last = last, many
    self._collect(self._in_flight.overdue())
    return state

  def _dispatch(self, state, chunk, many):
    if many:
      return self._device_step.run(state, chunk)
    return self._device_step(state, *chunk)

  def _total_seconds(self):
    return self.earlier_seconds + time.monotonic() - self.began

  def _start(self, key):
    """Make the step, and place the state on the devices."""
    state, options = self._initial_state(key), self.options
    step = _devices.DeviceStep(
      self.method,
      self.batches.prepare,
      self.batches.resident,
      devices=options.devices,
      steps_per_call=options.most_steps_per_call,
      steps_per_epoch=self._per_epoch,
      parallelism=options.parallelism,
      shard=options.shard,
      row_arrays=getattr(self.batches, "row_arrays", ()),
    )
    return step, step.place_state(state)

  def _initial_state(self, key):
    example = jax.numpy.zeros((2, *self.batches.image_shape))
    if self.method.check is not None:
      self.method.check(example, self.batches.num_classes)
    state = self.method.init(key, example)
    checkpoints = self.options.checkpoints
    if checkpoints is None:
      return state
    restored = checkpoints.restore(state)
    self._warn(checkpoints.problems)
    if restored is None:
      return state
    state, at = restored
    _position.check_position(at, steps_per_epoch=self._per_epoch, epochs=self.epochs)
    self.step, self.sums = int(at["step"]), dict(at["sums"])
    self.seconds = float(at["seconds"])
    self.earlier_seconds = float(at["total_seconds"])
    return state

  def _warn(self, problems):
    """Show problems of checkpoints, or log them if there is no display."""
    for problem in problems:
      if self.options.progress is None:
        _LOG.warning("%s", problem)
      else:
        self.options.progress.say(f"warning: {problem}")

  def _save_or_stop(self, state):
    options = self.options
    several = jax.process_count() > 1
    if several and self.step < self._exchange_at and self.step % self._per_epoch:
      return
    name = options.should_stop()
    # All processes must save and stop at the same step, and exchange the signal so that
    # they end with the same exit status.
    due, number, microseconds = _processes.largest_of_processes(
      int(time.monotonic() - self.saved_at >= options.checkpoint_seconds),
      _interruption.signal_number(name),
      self._pace.microseconds,
    )
    self._pace.agree(microseconds)
    self._exchange_at = self.step + self._pace.steps
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
    """Wait for all steps; raise for the first one that is not finite."""
    self._collect(self._in_flight.all())
    self._display.step(self.step, now=True)

  def _collect(self, read: tuple[int, _pace.HostMetrics] | None):
    """Add metrics to the sums of the epoch, in the order of the steps."""
    if read is None:
      return
    first, metrics = read
    offset, bad = _finite.first_non_finite(metrics)
    self._raise_if_bad(bad, f"in step {first + offset}", first + offset)
    for name, values in metrics.items():
      # One by one: the rounding of the sum must not depend on the steps per call.
      total = self.sums.get(name, 0.0)
      for value in values:
        total += value
      self.sums[name] = total
    latest = {name: values[-1] for name, values in metrics.items()}
    self._display.step(first + offset, latest)

  def _check_state(self, state):
    """Check that training can continue from a state, by one discarded step.

    The metrics of a step belong to the parameters before its update, so they say
    nothing about the state that the step returns.
    """
    self._check_arrays(state)
    if self._last is not None:
      copy = self._device_step.place_state(state)
      _, metrics = self._dispatch(copy, *self._last)
      _, bad = _finite.first_non_finite(_pace.read_metrics([(metrics, 1)]))
      self._raise_if_bad(bad, f"after step {self.step - 1}", self.step - 1)

  def _check_arrays(self, state):
    bad = _finite.non_finite_arrays(state)
    self._raise_if_bad(bad[:3], f"after step {self.step - 1}", self.step - 1)

  def _raise_if_bad(self, bad, when, step):
    if bad:
      checkpoints = self.options.checkpoints
      latest = None if checkpoints is None else checkpoints.latest
      kept = None
      if checkpoints is not None and latest is not None:
        kept = f"step {latest} in {checkpoints.directory}"
      # Counted from 1, as in the log.
      when = f"{when} (epoch {step // self._per_epoch + 1} of {self.epochs})"
      message = _finite.describe(bad, when, kept)
      raise _finite.NonFiniteError(f"{self.options.title}: {message}")

  def _save(self, state):
    position = {
      "step": self.step,
      "steps_per_epoch": self._per_epoch,
      "sums": self.sums,
      "seconds": self.seconds,
      "total_seconds": self._total_seconds(),
      "times": self.times.seconds(),
    }
    with self.times.spent(_times.OTHER):
      # Metrics first: a run that is killed after the save resumes after these epochs
      # and never writes their metrics again.
      if self.options.metrics is not None:
        self.options.metrics.flush()
      self.options.checkpoints.save(self.step, state, position)
    self.saved_at = time.monotonic()

  def _measure(self, epoch, state, means):
    measured = {}
    if self.options.on_epoch is not None:
      # A copy: the next step donates the state, and the hook may keep a network.
      copy = self._device_step.place_state(state)
      with self.times.spent(_times.MEASURING):
        measured = self.options.on_epoch(epoch, self.method, copy)
    if self.options.metrics is not None and (means or measured):
      self.options.metrics.write(epoch, self.step, {**means, **measured})
    self._display.epoch(epoch, means, measured)
