"""Logits and taps of a network for a whole data set."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import evaluation
from flowkd_jax import methods
from flowkd_jax import parallel

_MOST_BYTES = 2**30  # of a batch on each device
_MOST_SHARE = 8  # and the part of its memory
_SMALL = 2**23  # bytes of a batch of images for which no network needs too much
_UNSEEN = 2  # between an estimate of memory and what compilers take


class Features(NamedTuple):
  """What a network makes of a data set, in the order of the examples.

  Attributes:
    logits: `[examples, classes]`.
    taps: Activations by name, `[examples, ...]`.
    labels: `[examples]`.
  """

  logits: np.ndarray
  taps: dict[str, np.ndarray]
  labels: np.ndarray

  @property
  def accuracy(self) -> float:
    """Share of labelled examples whose label has the largest logit."""
    # On the host, where labels that are no class are refused.
    labels: Any = self.labels
    return float(evaluation.accuracy(jnp.asarray(self.logits), labels))


class FeatureExtractor:
  """Applies a model in evaluation mode to every example of a data set.

  Compiled once, for use with changing variables.

  Attributes:
    resident: The data on the devices, shared with others who read it.
  """

  def __init__(
    self,
    model: capture.AnyModel,
    batches: data.Batches,
    *,
    taps: Sequence[str] | None = None,
    devices: Sequence[Any] | None = None,
    parallelism: parallel.Mode = "pmap",
    shard: parallel.ShardRule | None = None,
  ):
    """Puts the data on the devices, or shares what others have put there.

    Args:
      model: A Linen module, or what `capture` made of another.
      batches: Unshuffled batches, padded ones masked: `data.evaluation_batches`.
      taps: Names or patterns of the taps wanted, as in `capture.apply_with_taps`;
        `()` for logits alone.
      devices: This process's devices; by default all, or as many as a batch has rows.
      parallelism: How batches are mapped over devices: "pmap" or "jit".
      shard: Rule by which the variables are sharded, for "jit"; their names begin with
        "variables".

    Raises:
      ValueError: If the devices cannot share a batch.
    """
    self._devices = list(devices or jax.local_devices()[: batches.batch_size])
    parallel.check_batch_size(batches.batch_size, len(self._devices))
    parallel.check_mode(parallelism, shard, name="parallelism")
    self._shard, self._model, self._taps = shard, model, taps
    self._batches = batches
    self._chosen: data.Batches | None = None  # on the first call
    self.resident = parallel.share(
      batches.resident,
      self._devices,
      rows_of=getattr(batches, "row_arrays", ()),
      mode=parallelism,
    )
    # A dictionary that crosses a compiled function comes back sorted.
    self._names: tuple[str, ...] = ()

    def apply(variables, resident, batch):
      batch = batches.prepare(self.resident.opened(resident), batch)
      logits, activations = capture.apply_with_taps(
        model, variables, batch["image"], taps=taps
      )
      capture.check_logits(model, logits)
      self._names = tuple(activations)
      return logits, activations, batch["label"]

    self._apply = parallel.map_step(
      apply,
      (None, self.resident.in_axes, 0),
      devices=self._devices,
      mode=parallelism,
    )

  def __call__(
    self,
    variables: methods.Variables,
    progress: Callable[[int, int], None] | None = None,
  ) -> Features:
    """Features of all examples; `progress` is called with (steps done, in all).

    A batch has fewer rows than asked for if it would need more than 1 GiB of a device,
    or an eighth of its memory.

    Raises:
      ValueError: If the model does not sow one of the taps.
    """
    batches = self._fitting(variables)
    variables = parallel.place(
      dict(variables), self._devices, shard=self._shard, name="variables"
    )
    parts = []
    for done, batch in enumerate(batches.epoch(0), start=1):
      rows = parallel.split_rows(batch, len(self._devices))
      output = jax.device_get(self._apply(variables, self.resident.arrays, rows))
      parts.append(jax.tree.map(lambda x, m=batch["mask"]: _merge(x)[m], output))
      if progress is not None:
        progress(done, batches.steps_per_epoch)
    logits, activations, labels = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    taps = {name: activations[name] for name in self._names}
    return Features(logits, taps, labels)

  def planned(self, variables: methods.Variables) -> tuple[int, int]:
    """Rows of a batch, and an estimate of what it needs on each device."""
    rows, devices = self._fitting(variables).batch_size, len(self._devices)
    return rows, self._row_bytes(variables) * (rows // devices)

  def _fitting(self, variables: methods.Variables) -> data.Batches:
    """The batches, with fewer rows if so many would need too much memory."""
    if self._chosen is None:
      self._chosen = self._choose(variables)
    return self._chosen

  def _choose(self, variables):
    batches = self._batches
    image_bytes = 4 * int(np.prod(batches.image_shape))
    small = image_bytes * batches.batch_size <= _SMALL
    if small or not isinstance(batches, data.MemoryBatches | data.StreamBatches):
      return batches
    known = parallel.device_bytes(self._devices)
    most = _MOST_BYTES if known is None else min(_MOST_BYTES, known // _MOST_SHARE)
    rows = max(1, most // self._row_bytes(variables)) * len(self._devices)
    if rows >= batches.batch_size:
      return batches
    return dataclasses.replace(batches, batch_size=rows)

  def _row_bytes(self, variables: methods.Variables) -> int:
    """Estimate of the memory that an image needs in the network."""
    image = jax.ShapeDtypeStruct((1, *self._batches.image_shape), jnp.float32)

    def apply(variables, images):
      return capture.apply_with_taps(self._model, variables, images, taps=self._taps)

    needed = capture.peak_bytes(apply, dict(variables), image)
    return _UNSEEN * (needed + 2 * image.size * image.dtype.itemsize)


def for_evaluation(model: capture.AnyModel) -> capture.AnyModel:
  """The model, bound to no mapped axis; as it is if it knows of none."""
  if isinstance(model, nn.Module) and hasattr(model, "axis_name"):
    return model.clone(axis_name=None)
  module = getattr(model, "module", None)  # of `capture.pooled` and the like
  if isinstance(module, nn.Module) and hasattr(module, "axis_name"):
    return dataclasses.replace(model, module=module.clone(axis_name=None))  # pyright: ignore
  return model


def _merge(array: np.ndarray) -> np.ndarray:
  return array.reshape(-1, *array.shape[2:])
