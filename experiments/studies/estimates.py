"""Estimated time of distillation launches on the device in use.

The estimate counts the operations of both networks over all epochs: the teacher's
forward pass, three times the student's forward pass, and the test images. It divides
them by the measured speed of a stack of convolutions of the benchmark's size. Losses,
data and compilation are not counted.
"""

import functools
import re
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from flowkd_jax import capture
from flowkd_jax.jobs import distill_settings
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import optimizers

JOB = "distill"
_IMAGES = {"cifar10": (50_000, 10_000, 32), "cifar100": (50_000, 10_000, 32)}
_FIRST = re.compile(r"\w+\[:(\d+)\]")
_BATCH, _SIZE, _CHANNELS, _LAYERS, _CALLS = 64, 16, 64, 4, 3
_BACKWARD = 3  # forward and backward pass, in forward passes


def in_words(seconds: float) -> str:
  """Seconds as text, in a suitable unit."""
  for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
    if seconds >= 2 * size:
      return f"{seconds / size:.1f} {unit}"
  return f"{seconds:.0f} s"


def operations(flags: Sequence[str]) -> float | None:
  """Operations of a launch; a multiply-add counts as two.

  Args:
    flags: Flags of the launch, as `--name=value`.

  Returns:
    The number, or None if the size of the data set is not known here.
  """
  defaults = distill_settings.Config()
  given: dict[str, str] = {}
  for flag in flags:
    name, _, value = flag.removeprefix("--").partition("=")
    given[name] = value

  def of(name: str) -> str:
    return given.get(name) or getattr(defaults, name) or ""

  if of("dataset") not in _IMAGES:
    return None
  *images, size = _IMAGES[of("dataset")]
  training, test = (
    _count(of(f"{split}_split"), number)
    for split, number in zip(("train", "test"), images, strict=True)
  )
  size = int(of("image_size") or size)
  teacher, student = (
    _forward(of(f"{role}_network"), size) for role in ("teacher", "student")
  )
  trained = {"student_labels": (student, 0.0), "student": (student, teacher)}
  if not (of("networks_from") or of("teacher_checkpoint")):
    trained["teacher"] = (teacher, 0.0)
  stages = given.get("stages", ",".join(distill_settings.STAGES)).split(",")
  total = 0.0
  for stage in stages:
    own, frozen = trained.get(stage, (0.0, 0.0))
    phases = of("teacher_epochs" if stage == "teacher" else "student_epochs")
    each = training * (_BACKWARD * own + frozen) + test * own
    total += optimizers.number_of_epochs(phases) * each
  return total


def _count(split: str, whole: int) -> int:
  first = _FIRST.fullmatch(split)
  return min(int(first[1]), whole) if first else whole


@functools.cache
def _forward(name: str, size: int) -> float:
  """Operations of a forward pass on one image. The pass is traced, not run."""
  model = networks.by_name(name, num_classes=100)
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  variables = jax.eval_shape(
    lambda x: capture.init(model, jax.random.key(0), x), images
  )
  taps = capture.list_taps(model, variables, images)
  return float(max(tap.row_flops for tap in taps))


@functools.cache
def measured_speed() -> float:
  """Operations per second of a stack of convolutions and its gradient."""
  shape = (_BATCH, _SIZE, _SIZE, _CHANNELS)
  kernels = [jnp.full((3, 3, _CHANNELS, _CHANNELS), 1e-2)] * _LAYERS
  numbers = ("NHWC", "HWIO", "NHWC")

  def loss(kernels, x):
    for kernel in kernels:  # a loop in the program takes 10 times as long on CPUs
      x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
      x = jax.nn.relu(x)
    return x.mean()

  step = jax.jit(jax.value_and_grad(loss))
  x = jnp.ones(shape)
  jax.block_until_ready(step(kernels, x))
  began = time.perf_counter()
  jax.block_until_ready([step(kernels, x) for _ in range(_CALLS)])
  seconds = (time.perf_counter() - began) / _CALLS
  positions = _BATCH * _SIZE**2
  return 2 * 9 * _CHANNELS**2 * positions * _LAYERS * _BACKWARD / seconds


def device() -> str:
  """Number and kind of the devices in use."""
  found = jax.local_devices()
  return f"{len(found)} x {found[0].device_kind}"
