"""Measurements of networks during training."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import evaluation
from flowkd_jax import flow
from flowkd_jax import kernels
from flowkd_jax import methods
from flowkd_jax import parallel
from flowkd_jax._numerics.label_rule import checked_labels
from flowkd_jax.train import _features

_FLOW_KERNELS = ("cosine", "student_t")
_FLOW_BLOCK = 512
_Extractor = _features.FeatureExtractor


class EpochMeasures:
  """Measurement of information flow, dead units and accuracy every few epochs.

  Use it as `FitOptions.on_epoch`. The metrics are `qmi/KERNEL/TAP`, the quadratic
  mutual information of a tap with the labels; `dead/TAP`, the share of units that are
  constant; and the names in `accuracies`. If a method exports several networks, the
  names begin with `NETWORK/`.
  """

  def __init__(
    self,
    probe: data.Batches | _features.PlacedImages | None,
    *,
    accuracies: Mapping[str, data.Batches | _features.PlacedImages] | None = None,
    dead_units: bool = False,
    every: int = 1,
    last: int | None = None,
    parallelism: parallel.Mode = "pmap",
    shard: parallel.ShardRule | None = None,
  ):
    """Store the options; nothing is computed yet.

    Args:
      probe: Examples on which information flow is measured, such as 2,000 training
        examples from `data.evaluation_batches`, or `PlacedImages` of them. None for no
        information flow.
      accuracies: Examples on which accuracy is measured, by the name of the metric,
        such as "test_accuracy".
      dead_units: True to measure the share of constant units on the probe.
      every: Number of epochs between measurements; 0 for no measurements.
      last: Epoch that is always measured, usually the last one.
      parallelism: See `FeatureExtractor`.
      shard: See `FeatureExtractor`.

    Raises:
      ValueError: If `every` is negative.
    """
    if every < 0:
      raise ValueError(f"every: expected 0 or more epochs, got {every}")
    self._probe, self._every, self._last = probe, every, last
    self._dead_units = dead_units
    self._extractor = functools.partial(
      _features.FeatureExtractor, parallelism=parallelism, shard=shard
    )
    self._accuracies = dict(accuracies or {})
    self._extractors: dict[capture.AnyModel, tuple[_Extractor | None, dict]] = {}

  def __call__(
    self, epoch: int, method: methods.Method, state: Any
  ) -> dict[str, jax.Array]:
    """Metrics of the networks that the method exports; {} between measurements.

    The values stay on a device, so that training does not wait for them. `float` waits.
    """
    if not self._every or (epoch != self._last and (epoch + 1) % self._every):
      return {}
    return self._of(method.export(state))

  def of(self, networks: Mapping[str, methods.Network]) -> dict[str, float]:
    """Metrics of given networks, as Python numbers."""
    measured = jax.device_get(self._of(networks))
    return {name: float(value) for name, value in measured.items()}

  def _of(self, networks):
    measured = {}
    for name, network in networks.items():
      prefix = "" if len(networks) == 1 else f"{name}/"
      values = self._measure(network)
      measured |= {f"{prefix}{key}": value for key, value in values.items()}
    return measured

  def _measure(self, network):
    model = _features.for_evaluation(network.model)
    if model not in self._extractors:
      self._extractors[model] = self._extractors_of(model)
    extract_probe, extractors = self._extractors[model]
    measured = {}
    if extract_probe is not None:
      outputs = extract_probe.on_devices(network.variables)
      measured |= _probe_metrics(outputs, extract_probe, self._dead_units)
    for metric, extract in extractors.items():
      outputs = extract.on_devices(network.variables)
      measured[metric] = _accuracy_of(outputs, extract)
    return measured

  def _extractors_of(self, model):
    probe, taps = None, ()
    if self._probe is not None:
      # With the same taps, accuracy reuses the compiled program of the probe.
      probe, taps = self._extractor(model, self._probe), None
    accuracies = {
      metric: self._extractor(model, batches, taps=taps, keep=())
      for metric, batches in self._accuracies.items()
    }
    return probe, accuracies


def _probe_metrics(outputs, extractor, dead_units):
  num_classes = extractor.images.batches.num_classes
  labels = _checked_labels(extractor, num_classes)
  kinds = [f"qmi/{kernel}" for kernel in _FLOW_KERNELS]
  kinds += ["dead"] if dead_units else []
  values = _probe_values(
    *_on_one_device(tuple(outputs.taps.values()), extractor),
    outputs.real,
    labels,
    num_classes=num_classes,
    dead_units=dead_units,
  )
  names = [f"{kind}/{tap}" for kind in kinds for tap in outputs.taps]
  return dict(zip(names, values, strict=True))


def _accuracy_of(outputs, extractor):
  labels = _checked_labels(extractor, outputs.logits[0].shape[-1])
  (logits,) = _on_one_device(outputs.logits, extractor)
  return _accuracy(logits, outputs.real, labels)


def _checked_labels(extractor, num_classes):
  """Labels on the host; invalid labels raise an error there."""
  labels = extractor.images.labels
  return checked_labels(labels, num_classes, shape=labels.shape)


def _on_one_device(arrays, extractor):
  """Arrays on the first device, so that sums do not depend on the number of devices."""
  devices = extractor.images.devices
  return (jax.device_put(arrays, devices[0]) if len(devices) > 1 else arrays,)


@functools.partial(jax.jit, static_argnames=("num_classes", "dead_units"))
def _probe_values(taps, real, labels, *, num_classes, dead_units):
  """Metrics of all taps: information flow for each kernel, then dead units."""
  rows = [_examples(batches, real) for batches in taps]
  values = []
  for kernel in _FLOW_KERNELS:
    flows = flow.information_flow(
      rows,
      labels,
      num_classes,
      kernel=kernels.by_name(kernel),
      block_size=_FLOW_BLOCK,
    )
    values += [*flows]
  if dead_units:
    values += [(x == x[:1]).all(axis=0).mean(dtype=jnp.float32) for x in rows]
  return values


@jax.jit
def _accuracy(logits, real, labels):
  return evaluation.accuracy(_examples(logits, real), labels)


def _examples(batches, real):
  """Concatenate batches `[devices, rows, ...]` and take the rows that are examples."""
  rows = [batch.reshape(-1, *batch.shape[2:]) for batch in batches]
  return jnp.concatenate(rows)[real]
