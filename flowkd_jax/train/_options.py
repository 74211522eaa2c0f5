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

_STEPS_PER_CALL = 100  # on accelerators


@dataclasses.dataclass(frozen=True)
class FitOptions:
  """Options that change how a run is executed, never its result.

  Attributes:
    checkpoints: Place to save and resume; None keeps nothing.
    checkpoint_seconds: Time between checkpoints within a run, 0 or above.
    metrics: Writer of the metrics of each epoch.
    progress: Bar over the steps, on a terminal; elsewhere a line for each epoch with
      loss, accuracy or information flow, images per second and the time left.
    title: Name of the run beside the bar and in the lines.
    devices: Devices of this process alone; by default all, of all processes.
    on_epoch: `(epoch, method, state) -> metrics`, measured after every epoch and,
      with epoch -1, before the first; added to the metrics of that epoch. The state
      is a copy, which it may keep. Metrics may be numbers on a device: training does
      not wait for them.
    check_every: Maximum number of steps that the host runs ahead of the step whose
      metrics it has checked, and between two exchanges of several processes on
      whether to save or to stop. It is fewer steps if these would take longer than
      half a second. A call is not cut: if `steps_per_call` is larger, it counts.
    should_stop: Returns the name of the signal that asks to stop, or None.
    steps_per_call: Maximum number of steps in one call of the compiled program. A
      call also ends where an epoch does, is limited to about half a second, and to
      128 MiB of batches. None: 100 on accelerators, where the host would limit the
      speed otherwise; 1 on CPU, where XLA runs convolutions within loops on one
      thread. Steps whose teacher outputs are computed for a cache are single calls.
    parallelism: Mapping of steps over devices. "pmap": a program for one device,
      with collectives, on each; the method is made with `axis_name="batch"`. "jit": one
      program for the whole batch; the method is made with `axis_name=None`, in one
      process. Results are equal up to rounding, unless dropout is drawn.
    shard: Rule by which state and constants are sharded over the devices, for "jit":
      see `parallel.fully_sharded`. None keeps them whole on every device.
    times: Where it is added up what the time was spent on, with that of the runs before
      a resume.
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
    # NaN would pass as a bound that no time reaches: a run without checkpoints.
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
    """`steps_per_call`, or its default for these devices."""
    if self.steps_per_call is not None:
      return self.steps_per_call
    devices = self.devices or jax.local_devices()
    return 1 if devices[0].platform == "cpu" else _STEPS_PER_CALL
