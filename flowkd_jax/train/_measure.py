"""What is measured of networks while they learn."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

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
    probe: data.Batches | None,
    *,
    accuracies: Mapping[str, data.Batches] | None = None,
    dead_units: bool = False,
    every: int = 1,
    last: int | None = None,
    parallelism: parallel.Mode = "pmap",
    shard: parallel.ShardRule | None = None,
  ):
    """Computes nothing yet.

    Args:
      probe: Examples on which information flow is measured, some 2,000 training
        examples for instance: `data.evaluation_batches`. None to measure none.
      accuracies: Examples on which accuracy is measured, by the name of the metric,
        such as "test_accuracy".
      dead_units: Whether to look, on the probe, for units that never move.
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
  ) -> dict[str, float]:
    """Metrics of the networks that the method exports; none between measurements."""
    if not self._every or (epoch != self._last and (epoch + 1) % self._every):
      return {}
    return self.of(method.export(state))

  def of(self, networks: Mapping[str, methods.Network]) -> dict[str, float]:
    """Metrics of these networks, at any time."""
    measured = {}
    for name, network in networks.items():
      prefix = "" if len(networks) == 1 else f"{name}/"
      values = self._measure(network)
      measured |= {f"{prefix}{key}": value for key, value in values.items()}
    return measured

  def _measure(self, network):
    model = _features.for_evaluation(network.model)
    if model not in self._extractors:  # compiled once
      self._extractors[model] = (
        None if self._probe is None else self._extractor(model, self._probe),
        {
          metric: self._extractor(model, batches, taps=())
          for metric, batches in self._accuracies.items()
        },
      )
    extract_probe, extractors = self._extractors[model]
    measured = {}
    if extract_probe is not None:
      probed = extract_probe(network.variables)
      measured |= _flow_metrics(probed, self._probe)
      if self._dead_units:
        shares = {tap: evaluation.dead_share(x) for tap, x in probed.taps.items()}
        measured |= {f"dead/{tap}": share for tap, share in shares.items()}
    for metric, extract in extractors.items():
      measured[metric] = extract(network.variables).accuracy
    return measured


def _flow_metrics(features, probe):
  taps = list(features.taps.values())
  labels = checked_labels(
    features.labels, probe.num_classes, shape=features.labels.shape
  )
  measured = {}
  for kernel in _FLOW_KERNELS:
    values = _information_flow(taps, labels, probe.num_classes, kernel)
    names = [f"qmi/{kernel}/{tap}" for tap in features.taps]
    measured |= dict(zip(names, np.asarray(values).tolist(), strict=True))
  return measured


@functools.partial(jax.jit, static_argnames=("num_classes", "kernel"))
def _information_flow(taps, labels, num_classes, kernel):
  return flow.information_flow(
    taps,
    labels,
    num_classes,
    kernel=kernels.by_name(kernel),
    block_size=_FLOW_BLOCK,
  )
