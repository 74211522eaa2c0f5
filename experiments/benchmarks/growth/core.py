"""Cases of the losses, the information, the taps and the comparison of layers."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.growth.case import Case
from flowkd_jax import capture
from flowkd_jax import evaluation
from flowkd_jax import flow
from flowkd_jax import information
from flowkd_jax import losses
from flowkd_jax import models

Work = Callable[[], Any]


def _rows(rows: int, width: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal((rows, width), np.float32)


def _information(size: int) -> Work:
  """Quadratic mutual information with as many classes as rows."""
  rows, labels = _rows(size, 64), np.arange(size, dtype=np.int32)
  measure = jax.jit(information.quadratic_mutual_information, static_argnums=2)
  return lambda: measure(rows, labels, size)


def _information_of_pairs(size: int) -> Work:
  """The same with a kernel that needs all pairs."""
  rows, labels = _rows(size, 64), np.arange(size, dtype=np.int32)

  @jax.jit
  def measure(rows, labels):
    return information.quadratic_mutual_information(
      rows, labels, size, kernel="student_t"
    )

  return lambda: measure(rows, labels)


def _centroids(size: int) -> Work:
  """Two rows of each class in the database, and 1,000 queries."""
  database, labels = _rows(2 * size, 64), np.arange(2 * size) % size
  queries, answers = _rows(1000, 64, seed=1), np.arange(1000) % size
  return lambda: evaluation.nearest_centroid_accuracy(
    database, labels, queries, answers
  )


def _taps_without_jit(blocks: int) -> Work:
  """A residual network of so many blocks a stage, applied operation by operation."""
  model = models.CifarResNet(num_blocks=blocks)
  images = jnp.asarray(_rows(64, 32 * 32 * 3).reshape(64, 32, 32, 3))
  variables = capture.init(model, jax.random.key(0), images[:1])
  return lambda: capture.apply_with_taps(model, variables, images)


def _layers(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Taps of two networks, all of different widths."""
  students = [_rows(500, 32 + 8 * index, seed=index) for index in range(count)]
  teachers = [_rows(500, 36 + 8 * index, seed=index) for index in range(count)]
  return students, teachers


def _alignments(count: int) -> Work:
  taps = _layers(count)
  return lambda: evaluation.cka_matrix(*taps)


def _flow_distances(count: int) -> Work:
  taps = _layers(count)
  labels = np.arange(500, dtype=np.int32) % 10
  return lambda: evaluation.flow_distance_matrix(*taps, labels=labels, num_classes=10)


def _equal_taps(count: int) -> tuple[list[jax.Array], list[jax.Array]]:
  students, teachers = (
    [jnp.asarray(_rows(128, width, seed=index)) for index in range(count)]
    for width in (64, 128)
  )
  return students, teachers


def _flow_loss(count: int) -> Work:
  taps = _equal_taps(count)
  loss = jax.jit(jax.value_and_grad(losses.information_flow))
  return lambda: loss(*taps)


def _flow_vector(count: int) -> Work:
  taps, _ = _equal_taps(count)
  labels = jnp.arange(128, dtype=jnp.int32) % 10
  measure = jax.jit(flow.information_flow, static_argnums=2)
  return lambda: measure(taps, labels, 10)


CASES: Mapping[str, Case] = {
  "quadratic_information": Case(
    _information, (5000, 10_000, 20_000), "rows and classes"
  ),
  "quadratic_information_of_pairs": Case(
    _information_of_pairs, (2000, 4000, 8000), "rows and classes"
  ),
  "nearest_centroids": Case(_centroids, (2500, 5000, 10_000), "classes"),
  "taps_without_jit": Case(_taps_without_jit, (3, 5, 9), "blocks of a stage", tiny=1),
  "cka_matrix": Case(_alignments, (5, 10, 20), "layers of each network", tiny=1),
  "flow_distance_matrix": Case(
    _flow_distances, (5, 10, 20), "layers of each network", tiny=1
  ),
  "information_flow_loss": Case(_flow_loss, (6, 18, 54), "taps", tiny=1),
  "information_flow_vector": Case(_flow_vector, (6, 18, 54), "taps", tiny=1),
}
