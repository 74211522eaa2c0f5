"""Measurements of networks while they learn."""

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
  """Information flow, dead units and accuracy of the networks, every few epochs.

  For `FitOptions.on_epoch`. Its metrics are `qmi/KERNEL/TAP`, the quadratic mutual
  information of a tap with the labels, `dead/TAP`, the share of its units that never
  move, and those of `accuracies`; a method of several networks has them as
  `NETWORK/...`.
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
    """Computes nothing yet.

    Args:
      probe: Examples on which information flow is measured, some 2,000 training
        examples for instance: `data.evaluation_batches`, or what `PlacedImages` made
        of them. None to measure none.
      accuracies: Examples on which accuracy is measured, by the name of the metric,
        such as "test_accuracy".
      dead_units: True to look for units that never change, on the probe.
      every: Epochs between measurements; 0 for none at all.
      last: An epoch that is measured in any case.
      parallelism: As for `FeatureExtractor`.
      shard: As for `FeatureExtractor`.

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
    """Metrics of the networks that the method exports; none between measurements.

    They are numbers on a device, and nothing waits for them: `float` does.
    """
    if not self._every or (epoch != self._last and (epoch + 1) % self._every):
      return {}
    return self._of(method.export(state))

  def of(self, networks: Mapping[str, methods.Network]) -> dict[str, float]:
    """Metrics of these networks, at any time."""
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
      # Accuracy takes the program of the probe, which gives logits too.
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
  """Labels on the host, where those that are no class are refused."""
  labels = extractor.images.labels
  return checked_labels(labels, num_classes, shape=labels.shape)


def _on_one_device(arrays, extractor):
  """The arrays on the first device, so that sums do not depend on the number."""
  devices = extractor.images.devices
  return (jax.device_put(arrays, devices[0]) if len(devices) > 1 else arrays,)


@functools.partial(jax.jit, static_argnames=("num_classes", "dead_units"))
def _probe_values(taps, real, labels, *, num_classes, dead_units):
  """Metrics of all taps: by kernel the information flow, then the dead units."""
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
  """Rows of batches `[devices, rows, ...]` that are examples, one after another."""
  rows = [batch.reshape(-1, *batch.shape[2:]) for batch in batches]
  return jnp.concatenate(rows)[real]
