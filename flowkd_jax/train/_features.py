"""Logits and taps of a network for a whole data set."""

import collections
import dataclasses
import typing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
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
from flowkd_jax.train import _application

_MOST_BYTES = 2**30  # of a batch on each device
_MOST_SHARE = 8  # and the part of its memory
_SMALL = 2**23  # bytes of a batch of images for which no network needs too much
_UNSEEN = 2  # between an estimate of memory and what compilers take


class Features(NamedTuple):
  """Outputs of a network on a data set, in the order of the examples.

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


class Outputs(NamedTuple):
  """Outputs of a network for a data set, on the devices.

  Attributes:
    logits: `[rows, classes]` of each batch.
    taps: Activations by name, `[rows, ...]`, of each batch.
    real: Positions, in all rows one after another, of those that are examples.
  """

  logits: tuple[jax.Array, ...]
  taps: dict[str, tuple[jax.Array, ...]]
  real: np.ndarray


class PlacedImages:
  """A data set on devices, and the program that prepares its batches.

  Attributes:
    batches: The batches.
    devices: The devices.
    resident: The data on the devices, shared with others who read it.
  """

  def __init__(
    self,
    batches: data.Batches,
    *,
    devices: Sequence[Any] | None = None,
    parallelism: parallel.Mode = "pmap",
  ):
    """Puts the data on the devices; arguments and errors as of `FeatureExtractor`."""
    self.devices = list(devices or jax.local_devices()[: batches.batch_size])
    parallel.check_batch_size(batches.batch_size, len(self.devices))
    self.batches = batches
    self._labels: np.ndarray | None = None
    self.resident = parallel.share(
      batches.resident,
      self.devices,
      rows_of=getattr(batches, "row_arrays", ()),
      mode=parallelism,
    )
    self._prepare = parallel.map_step(
      lambda resident, rows: batches.prepare(self.resident.opened(resident), rows),
      (self.resident.in_axes, 0),
      devices=self.devices,
      mode=parallelism,
    )

  def epoch(
    self, batches: data.Batches | None = None
  ) -> Iterator[tuple[np.ndarray, Mapping[str, jax.Array]]]:
    """The mask of each batch, and what `prepare` makes of it, on the devices.

    Args:
      batches: The same batches with another number of rows; by default as given.
    """
    parts = []
    for batch in (batches or self.batches).epoch(0):
      rows = parallel.split_rows(batch, len(self.devices))
      prepared = self._prepare(self.resident.arrays, rows)
      parts.append((batch["mask"], prepared["label"]))
      yield batch["mask"], prepared
    if self._labels is None:
      on_host = jax.device_get(parts)
      self._labels = np.concatenate([_merge(label)[mask] for mask, label in on_host])

  @property
  def labels(self) -> np.ndarray:
    """Labels of all examples, on the host; found in the first epoch."""
    if self._labels is None:
      collections.deque(self.epoch(), maxlen=0)
    return typing.cast("np.ndarray", self._labels)


class FeatureExtractor:
  """Applies a model in evaluation mode to every example of a data set.

  Compiled once, for use with changing variables; extractors of equal models share
  their program if their batches are of one shape and their `taps` are equal.

  Attributes:
    images: The data set on the devices.
  """

  def __init__(
    self,
    model: capture.AnyModel,
    batches: data.Batches | PlacedImages,
    *,
    taps: Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    devices: Sequence[Any] | None = None,
    parallelism: parallel.Mode = "pmap",
    shard: parallel.ShardRule | None = None,
  ):
    """Puts the data on the devices, or shares what others have put there.

    Args:
      model: A Linen module, or what `capture` made of another.
      batches: Unshuffled batches, padded ones masked: `data.evaluation_batches`; or
        what `PlacedImages` made of them.
      taps: Names or patterns of the taps wanted, as in `capture.apply_with_taps`;
        `()` for logits alone.
      keep: Names of the taps that are returned, by default all that are wanted; `()`
        for logits alone. The others are computed, by the shared program, and dropped.
      devices: This process's devices; by default all, or as many as a batch has rows.
      parallelism: Mapping of batches over devices: "pmap" or "jit".
      shard: Rule by which the variables are sharded, for "jit"; their names begin with
        "variables".

    Raises:
      ValueError: If the devices cannot share a batch.
    """
    parallel.check_mode(parallelism, shard, name="parallelism")
    if not isinstance(batches, PlacedImages):
      batches = PlacedImages(batches, devices=devices, parallelism=parallelism)
    self.images = batches
    self._shard, self._keep = shard, keep
    self._model, self._taps = model, taps
    self._chosen: data.Batches | None = None  # on the first call
    self._apply = _application.application(model, taps, batches.devices, parallelism)

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
    parts = []
    total = self._fitting(variables).steps_per_epoch
    for done, (mask, (logits, taps)) in enumerate(self._ahead(variables), start=1):
      parts.append(jax.tree.map(lambda x, m=mask: _merge(x)[m], (logits, taps)))
      if progress is not None:
        progress(done, total)
    logits, taps = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    return Features(logits, self._ordered(taps), self.images.labels)

  def on_devices(self, variables: methods.Variables) -> Outputs:
    """Outputs for all examples, left on the devices and not waited for.

    Raises:
      ValueError: If the model does not sow one of the taps.
    """
    parts = [*self._batch_outputs(variables)]
    masks, outputs = zip(*parts, strict=True)
    logits, taps = zip(*outputs, strict=True)
    by_name = {name: tuple(each[name] for each in taps) for name in taps[0]}
    real = np.flatnonzero(np.concatenate(masks)).astype(np.int32)
    return Outputs(logits, self._ordered(by_name), real)

  def _ahead(self, variables):
    """Outputs on the host; the next batch is computed while one is copied."""
    waiting = None
    for output in self._batch_outputs(variables):
      if waiting is not None:
        yield jax.device_get(waiting)
      waiting = output
    if waiting is not None:
      yield jax.device_get(waiting)

  def _batch_outputs(self, variables):
    batches = self._fitting(variables)
    placed = parallel.place(
      dict(variables), self.images.devices, shard=self._shard, name="variables"
    )
    for mask, batch in self.images.epoch(batches):
      logits, taps = self._apply(placed, batch["image"])
      if self._keep is not None:
        taps = {name: taps[name] for name in self._keep}
      yield mask, (logits, taps)

  def _ordered(self, taps: Mapping[str, Any]) -> dict[str, Any]:
    """The taps in the order of the network."""
    return {name: taps[name] for name in self._apply.names if name in taps}

  def planned(self, variables: methods.Variables) -> tuple[int, int]:
    """Rows of a batch, and an estimate of what it needs on each device."""
    rows, devices = self._fitting(variables).batch_size, len(self.images.devices)
    return rows, self._row_bytes(variables) * (rows // devices)

  def _fitting(self, variables: methods.Variables) -> data.Batches:
    """The batches, with fewer rows if so many would need too much memory."""
    if self._chosen is None:
      self._chosen = self._choose(variables)
    return self._chosen

  def _choose(self, variables):
    batches = self.images.batches
    image_bytes = 4 * int(np.prod(batches.image_shape))
    small = image_bytes * batches.batch_size <= _SMALL
    if small or not isinstance(batches, data.MemoryBatches | data.StreamBatches):
      return batches
    known = parallel.device_bytes(self.images.devices)
    most = _MOST_BYTES if known is None else min(_MOST_BYTES, known // _MOST_SHARE)
    rows = max(1, most // self._row_bytes(variables)) * len(self.images.devices)
    if rows >= batches.batch_size:
      return batches
    return dataclasses.replace(batches, batch_size=rows)

  def _row_bytes(self, variables: methods.Variables) -> int:
    """Estimate of the memory that an image needs in the network."""
    image = jax.ShapeDtypeStruct((1, *self.images.batches.image_shape), jnp.float32)

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
