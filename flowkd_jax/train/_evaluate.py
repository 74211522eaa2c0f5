"""Evaluation of a trained network."""

import dataclasses
from typing import Any
from typing import get_args

import jax
import numpy as np

from flowkd_jax import data
from flowkd_jax import evaluation
from flowkd_jax import methods
from flowkd_jax import parallel
from flowkd_jax.train import _features
from flowkd_jax.train import _progress

_RANKS = (1, 10, 100)


def evaluate_network(
  network: methods.Network,
  database: data.Batches | _features.PlacedImages | None,
  queries: data.Batches | _features.PlacedImages,
  *,
  classifies: bool = True,
  all_taps: bool = False,
  progress: _progress.Progress | None = None,
  parallelism: parallel.Mode = "pmap",
  shard: parallel.ShardRule | None = None,
) -> dict[str, Any]:
  """Size, accuracy, nearest-centroid accuracy and retrieval of a network.

  The result holds values that JSON can hold. With an entry "name" added, it can be
  passed to `report.network_table`. Centroids and retrieval use the last tap.

  Args:
    network: The network. Its model must declare `taps` if there is a database.
    database: Examples to retrieve, usually the training examples without augmentation.
      None skips centroids and retrieval.
    queries: Examples to classify and to look up, usually the test examples.
    classifies: True if the classifier was trained, so that accuracy is meaningful. If
      not, or if no example has a label, accuracy is None.
    all_taps: True to compute all taps, although at most one is used. This reuses the
      program that `EpochMeasures` with a probe has compiled.
    progress: Progress display, or None.
    parallelism: See `FeatureExtractor`.
    shard: See `FeatureExtractor`.
  """
  model = _features.for_evaluation(network.model)
  taps = () if database is None else (model.taps[-1],)

  def extract(batches, what):
    counter = progress and progress.counter(f"  features of the {what}")
    extractor = _features.FeatureExtractor(
      model,
      batches,
      taps=None if all_taps else taps,
      keep=taps,
      parallelism=parallelism,
      shard=shard,
    )
    return extractor(network.variables, counter)

  asked = extract(queries, "queries")
  labelled = bool((asked.labels >= 0).any())
  measured = {
    "parameters": sum(x.size for x in jax.tree.leaves(network.variables["params"])),
    "accuracy": asked.accuracy if classifies and labelled else None,
  }
  if database is not None:
    found = extract(database, "database")
    measured |= _retrieval(found, asked, *taps, progress=progress)
  return measured


def _retrieval(database, queries, tap, *, progress):
  """Nearest-centroid accuracy and retrieval for each metric."""
  arguments = (
    _rows(database.taps[tap]),
    database.labels,
    _rows(queries.taps[tap]),
    queries.labels,
  )
  centroid, retrieval = {}, {}
  for metric in get_args(evaluation.Metric):
    centroid[metric] = evaluation.nearest_centroid_accuracy(*arguments, metric=metric)
    measured = evaluation.retrieval(
      *arguments,
      metric=metric,
      ranks=[rank for rank in _RANKS if rank <= len(database.labels)],
      progress=progress and progress.counter(f"  retrieval, {metric}"),
    )
    retrieval[metric] = _jsonable(dataclasses.asdict(measured))
    retrieval[metric].pop("authors_raw_precision")
  return {"centroid": centroid, "retrieval": retrieval}


def _rows(tap: np.ndarray) -> np.ndarray:
  return tap.reshape(len(tap), -1)


def _jsonable(value: Any) -> Any:
  if isinstance(value, dict):
    return {str(key): _jsonable(entry) for key, entry in value.items()}
  return value.tolist() if isinstance(value, np.ndarray) else value
