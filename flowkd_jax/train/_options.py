"""Options of the training loop."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import ArrayLike

from flowkd_jax import methods
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax.train import _checkpoint
from flowkd_jax.train import _metrics
from flowkd_jax.train import _parallelism
from flowkd_jax.train import _progress
from flowkd_jax.train import _times

PyTree = Any
EpochHook = Callable[[int, methods.Method, PyTree], Mapping[str, ArrayLike]]

_STEPS_PER_CALL = 100  # default on accelerators


@dataclasses.dataclass(frozen=True)
class FitOptions:
  """Options that change how a run is executed, never its result.

  Attributes:
    checkpoints: Checkpoints to save and to resume from; None for no checkpoints.
    checkpoint_seconds: Seconds between checkpoints, 0 or above.
    metrics: Writer of the metrics of each epoch.
    progress: Bar over the steps, on a terminal; elsewhere a line for each epoch with
      loss, accuracy or information flow, images per second and the time left.
    title: Name of the run beside the bar and in the lines.
    devices: Devices of this process, if it trains alone. By default all devices of all
      processes.
    on_epoch: Function `(epoch, method, state) -> metrics` that is called after every
      epoch, and with epoch -1 before the first. Its metrics are added to those of the
      epoch. The state is a copy, which the function may keep. Metrics may be numbers on
      a device; training does not wait for them.
    check_every: Maximum number of steps between checks. The host runs at most so many
      steps ahead of the last step with checked metrics, and several processes exchange
      at least so often whether to save or to stop. The number is reduced if the steps
      would take longer than half a second. A call is not split, so a larger
      `steps_per_call` wins.
    should_stop: Function that returns the name of the signal that asks to stop, or
      None.
    steps_per_call: Maximum number of steps in one call of the compiled program. A call
      never spans two epochs, and takes at most about half a second and 128 MiB of
      batches. None means 100 on accelerators, where dispatching single steps would
      limit the speed, and 1 on CPU, where XLA runs convolutions inside loops on a
      single thread. Steps that compute teacher outputs for a cache are single calls.
    parallelism: Mapping of steps over devices. "pmap": a program for one device, with
      collectives, runs on each; the method needs `axis_name="batch"`. "jit": one
      program for the whole batch, in one process; the method needs `axis_name=None`.
      Results are equal up to rounding, except with dropout.
    shard: Rule that shards state and constants over the devices, for "jit"; see
      `parallel.fully_sharded`. None keeps whole copies on every device.
    times: Record of the time spent on each part of the run, including the time before a
      resume.
  """

  checkpoints: _checkpoint.Checkpoints | None = None
  checkpoint_seconds: float = 60.0
  metrics: _metrics.MetricsWriter | None = None
  times: _times.Times | None = None
  progress: _progress.Progress | None = None
  title: str = "training"
  devices: Sequence[Any] | None = None
  on_epoch: EpochHook | None = None
  check_every: int = 50
  should_stop: Callable[[], str | None] = lambda: None
  steps_per_call: int | None = None
  parallelism: parallel.Mode = "pmap"
  shard: parallel.ShardRule | None = None

  def __post_init__(self):
    # NaN would pass the comparison below, and no checkpoint would ever be due.
    checks.check_number("checkpoint_seconds", self.checkpoint_seconds)
    if self.checkpoint_seconds < 0:
      raise ValueError(
        f"checkpoint_seconds: expected 0 or above, got {self.checkpoint_seconds}"
      )
    checks.check_count("check_every", self.check_every)
    if self.steps_per_call is not None:
      checks.check_count("steps_per_call", self.steps_per_call)
    _parallelism.check_parallelism(self.parallelism, self.shard)

  @property
  def most_steps_per_call(self) -> int:
    """Value of `steps_per_call`, or its default for these devices."""
    if self.steps_per_call is not None:
      return self.steps_per_call
    devices = self.devices or jax.local_devices()
    return 1 if devices[0].platform == "cpu" else _STEPS_PER_CALL
