"""What is measured of a network when it has been trained."""

import dataclasses
from typing import Any
from typing import get_args

import jax
import numpy as np

from flowkd_jax import data
from flowkd_jax import evaluation
from flowkd_jax import methods
from flowkd_jax.train import _features
from flowkd_jax.train import _progress

_RANKS = (1, 10, 100)


def evaluate_network(
  network: methods.Network,
  database: data.Batches,
  queries: data.Batches,
  *,
  classifies: bool = True,
  progress: _progress.Progress | None = None,
) -> dict[str, Any]:
  """Size, accuracy, nearest centroid and retrieval of a network, as JSON has it.

  With a "name" added it is what `report.network_table` takes. Retrieval and centroids
  are those of the last tap.

  Args:
    network: The network; its model declares `taps`.
    database: Examples to find, usually the training examples, clean and in order.
    queries: Examples to classify and to look up, usually the test examples.
    classifies: Whether the classifier was trained, so that accuracy means something.
    progress: Shows bars.
  """
  model = network.model.clone(axis_name=None)
  tap = model.taps[-1]
  sides = []
  for what, batches in (("database", database), ("queries", queries)):
    extract = _features.FeatureExtractor(model, batches, taps=(tap,))
    counter = progress and progress.counter(f"  features of the {what}")
    sides.append(extract(network.variables, counter))
  found, asked = sides
  arguments = (found.taps[tap], found.labels, asked.taps[tap], asked.labels)
  centroid, retrieval = {}, {}
  for metric in get_args(evaluation.Metric):
    centroid[metric] = evaluation.nearest_centroid_accuracy(*arguments, metric=metric)
    measured = evaluation.retrieval(
      *arguments,
      metric=metric,
      ranks=[rank for rank in _RANKS if rank <= len(found.labels)],
      progress=progress and progress.counter(f"  retrieval, {metric}"),
    )
    retrieval[metric] = _jsonable(dataclasses.asdict(measured))
    retrieval[metric].pop("authors_raw_precision")
  return {
    "parameters": sum(x.size for x in jax.tree.leaves(network.variables["params"])),
    "accuracy": asked.accuracy if classifies else None,
    "centroid": centroid,
    "retrieval": retrieval,
  }


def _jsonable(value: Any) -> Any:
  if isinstance(value, dict):
    return {str(key): _jsonable(entry) for key, entry in value.items()}
  return value.tolist() if isinstance(value, np.ndarray) else value
