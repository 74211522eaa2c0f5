"""Trace of a method's first step, which finds errors before training."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import parallel
from flowkd_jax import teacher_cache
from flowkd_jax.train import _parallelism

PyTree = Any


def check_method(
  method: methods.Method,
  batches: data.Batches,
  *,
  parallelism: parallel.Mode = "pmap",
) -> None:
  """Trace initialisation and one step of a method, without running them.

  Args:
    method: The method. The values of its constants do not matter, so the teacher may be
      a `blank_network`.
    batches: Training batches; the first one is read.
    parallelism: Mapping of the step.

  Raises:
    ValueError: If tracing fails, a batch cannot be split over the devices, or the
      method was made for another parallelism.
    TypeError: If tracing fails.
  """
  devices = jax.local_devices()
  num_devices = len(devices) * jax.process_count()
  _parallelism.check_method_fits(method, parallelism, num_devices)
  if method.check is not None:
    example = jnp.zeros((2, *batches.image_shape))
    method.check(example, batches.num_classes)
  images = jax.ShapeDtypeStruct((2, *batches.image_shape), np.float32)
  state = jax.eval_shape(method.init, jax.random.key(0), images)
  rows = parallel.split_rows(next(iter(batches.epoch(0))), len(devices))

  def step(state, constants, resident, rows):
    batch = batches.prepare(resident, rows)
    recorded = _recorded_outputs(method, batches, batch)
    with _parallelism.statistics_of_all_rows(parallelism, num_devices):
      return method.update(state, {**batch, **recorded}, constants)

  mapped = parallel.map_step(
    step, (None, None, None, 0), out_axes=None, devices=devices, mode=parallelism
  )
  jax.eval_shape(mapped, state, *_shapes((method.constants, batches.resident, rows)))


def _recorded_outputs(
  method: methods.Method, batches: data.Batches, batch: Mapping[str, Any]
) -> dict[str, jax.Array]:
  """Zeros for the outputs of a recorded teacher, which a cache adds to the batch."""
  teacher, recorded = method.teacher, teacher_cache.RecordedTeacher
  if teacher is None or not isinstance(teacher.network.model, recorded):
    return {}
  rows = batch["image"].shape[0]
  return {
    f"{teacher_cache.TEACHER}{name}": jnp.zeros((rows, *shape.shape[1:]), shape.dtype)
    for name, shape in teacher_cache.output_shapes(teacher, batches).items()
  }


def _shapes(tree: PyTree) -> PyTree:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)
