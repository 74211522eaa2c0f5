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
  """Size, accuracy, nearest centroid and retrieval of a network, as JSON has it.

  With a "name" added it is what `report.network_table` takes. Retrieval and centroids
  are those of the last tap.

  Args:
    network: The network; its model declares `taps` if there is a database.
    database: Examples to find, usually the training examples, clean and in order. None
      to leave out centroids and retrieval.
    queries: Examples to classify and to look up, usually the test examples.
    classifies: True if the classifier was trained, so that accuracy has a meaning.
      Accuracy is None without, and without a labelled example.
    all_taps: Whether the network is applied with all its taps, although one at most is
      read: by the program that `EpochMeasures` with a probe has compiled already.
    progress: Shows bars.
    parallelism: As for `FeatureExtractor`.
    shard: As for `FeatureExtractor`.
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
  """Centroids and retrieval by both distances."""
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
