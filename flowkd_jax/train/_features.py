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

_MOST_BYTES = 2**30  # memory limit of a batch on each device
_MOST_SHARE = 8  # a batch takes at most this fraction (1 / 8) of device memory
_SMALL = 2**23  # bytes of a batch of images below which no estimate is needed
_UNSEEN = 2  # safety factor: compilers need more memory than the estimate


class Features(NamedTuple):
  """Outputs of a network on a data set, in the order of the examples.

  Attributes:
    logits: Logits, `[examples, classes]`.
    taps: Activations by name, `[examples, ...]`.
    labels: Labels, `[examples]`.
  """

  logits: np.ndarray
  taps: dict[str, np.ndarray]
  labels: np.ndarray

  @property
  def accuracy(self) -> float:
    """Share of labelled examples whose label has the largest logit."""
    # Labels as a NumPy array, so that invalid labels raise an error.
    labels: Any = self.labels
    return float(evaluation.accuracy(jnp.asarray(self.logits), labels))


class Outputs(NamedTuple):
  """Outputs of a network for a data set, on the devices.

  Attributes:
    logits: Logits of each batch, `[rows, classes]`.
    taps: Activations of each batch by name, `[rows, ...]`.
    real: Positions of the examples among all rows, which include padding.
  """

  logits: tuple[jax.Array, ...]
  taps: dict[str, tuple[jax.Array, ...]]
  real: np.ndarray


class PlacedImages:
  """Data set on devices, with the program that prepares its batches.

  Attributes:
    batches: The batches.
    devices: The devices.
    resident: The data on the devices, shared by all objects that read it.
  """

  def __init__(
    self,
    batches: data.Batches,
    *,
    devices: Sequence[Any] | None = None,
    parallelism: parallel.Mode = "pmap",
  ):
    """Place the data; arguments and errors are those of `FeatureExtractor`."""
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
    """Yield the mask of each batch and the prepared batch on the devices.

    Args:
      batches: The same data with another batch size; None for the given batches.
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
    """Labels of all examples, on the host; read in the first epoch."""
    if self._labels is None:
      collections.deque(self.epoch(), maxlen=0)
    return typing.cast("np.ndarray", self._labels)


class FeatureExtractor:
  """Extractor of logits and taps of a model for all examples of a data set.

  The model runs in evaluation mode. It is compiled once, for changing variables.
  Extractors of equal models with equal batch shapes and `taps` share their program.

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
    """Place the data on the devices, unless they are there already.

    Args:
      model: Linen module, or a model made by `capture`.
      batches: Batches in order, with masked padding, as from `data.evaluation_batches`;
        or `PlacedImages` of such batches.
      taps: Names or patterns of taps, as in `capture.apply_with_taps`; `()` for logits
        alone.
      keep: Names of the taps to return; None for all of `taps`, `()` for logits alone.
        Other taps are computed by the shared program and dropped.
      devices: Devices of this process. By default all, but at most one per row of a
        batch.
      parallelism: Mapping of batches over devices, "pmap" or "jit".
      shard: Rule that shards the variables, for "jit". The names that it gets begin
        with "variables".

    Raises:
      ValueError: If a batch cannot be split over the devices.
    """
    parallel.check_mode(parallelism, shard, name="parallelism")
    if not isinstance(batches, PlacedImages):
      batches = PlacedImages(batches, devices=devices, parallelism=parallelism)
    self.images = batches
    self._shard, self._keep = shard, keep
    self._model, self._taps = model, taps
    self._chosen: data.Batches | None = None  # set on the first call
    self._apply = _application.application(model, taps, batches.devices, parallelism)

  def __call__(
    self,
    variables: methods.Variables,
    progress: Callable[[int, int], None] | None = None,
  ) -> Features:
    """Features of all examples.

    The batch size is reduced if a batch would need more than 1 GiB, or more than an
    eighth of the memory of a device.

    Args:
      variables: Variables of the model.
      progress: Function that is called with the steps done and the total of steps.

    Raises:
      ValueError: If the model lacks one of the taps.
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
    """Outputs for all examples, left on the devices, without waiting for them.

    Raises:
      ValueError: If the model lacks one of the taps.
    """
    parts = [*self._batch_outputs(variables)]
    masks, outputs = zip(*parts, strict=True)
    logits, taps = zip(*outputs, strict=True)
    by_name = {name: tuple(each[name] for each in taps) for name in taps[0]}
    real = np.flatnonzero(np.concatenate(masks)).astype(np.int32)
    return Outputs(logits, self._ordered(by_name), real)

  def _ahead(self, variables):
    """Yield outputs on the host; the next batch is computed during each copy."""
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
    """Taps in the order of the network."""
    return {name: taps[name] for name in self._apply.names if name in taps}

  def planned(self, variables: methods.Variables) -> tuple[int, int]:
    """Rows of a batch, and its estimated memory on each device in bytes."""
    rows, devices = self._fitting(variables).batch_size, len(self.images.devices)
    return rows, self._row_bytes(variables) * (rows // devices)

  def _fitting(self, variables: methods.Variables) -> data.Batches:
    """Batches, with fewer rows if a batch would need too much memory."""
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
    """Estimate of the memory in bytes that the network needs per image."""
    image = jax.ShapeDtypeStruct((1, *self.images.batches.image_shape), jnp.float32)

    def apply(variables, images):
      return capture.apply_with_taps(self._model, variables, images, taps=self._taps)

    needed = capture.peak_bytes(apply, dict(variables), image)
    return _UNSEEN * (needed + 2 * image.size * image.dtype.itemsize)


def for_evaluation(model: capture.AnyModel) -> capture.AnyModel:
  """Remove the mapped axis from a model, if the model has one."""
  if isinstance(model, nn.Module) and hasattr(model, "axis_name"):
    return model.clone(axis_name=None)
  module = getattr(model, "module", None)  # wrapped by `capture.pooled` and similar
  if isinstance(module, nn.Module) and hasattr(module, "axis_name"):
    return dataclasses.replace(model, module=module.clone(axis_name=None))  # pyright: ignore
  return model


def _merge(array: np.ndarray) -> np.ndarray:
  return array.reshape(-1, *array.shape[2:])
