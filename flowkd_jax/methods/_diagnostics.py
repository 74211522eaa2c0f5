"""Diagnostics of a method on one batch, without an update.

    gradient/TERM            norm of the gradient of the weighted term alone
    gradient_ratio           norm of the gradient of the sum of all terms but "labels",
                             divided by that of "labels"; only if "labels" is a term
    cka/TAP                  linear CKA of the student's tap with its teacher tap; 1 if
                             they are equal up to rotation and scale
    cka_pair/TAP:TEACHER_TAP the same with every teacher tap that the method reads, if
                             these are at most 144 pairs
    batch_qmi/student/TAP    quadratic mutual information of the student's tap and the
                             labels (cosine kernel)
    batch_qmi/teacher/TAP    the same of its teacher tap, on the same rows

The networks run in training mode, as in an update. CKA and QMI are larger on few rows
than on many, so compare only batches of the same size.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax import flow
from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax._numerics import equal_shapes
from flowkd_jax.methods import _layer_likeness

LABELS = "labels"
BATCH_QMI = "batch_qmi"
Rows = Float[Array, "batch ..."]


def weighted_terms(
  metrics: Mapping[str, Float[Array, ""]],
) -> dict[str, Float[Array, ""]]:
  """Weighted terms of a loss, from the metrics of `weighted_loss`."""
  values = {
    name.removeprefix("loss/"): value
    for name, value in metrics.items()
    if name.startswith("loss/")
  }
  return {
    name: value * metrics[f"weight/{name}"]
    for name, value in values.items()
    if f"weight/{name}" in metrics
  }


def gradients(
  terms: Callable[[Any], dict[str, Float[Array, ""]]], params: Any
) -> dict[str, Any]:
  """Gradient of each term, by name, in one vectorised backward pass.

  Networks with grouped convolutions on mapped devices need one pass per term.

  Args:
    terms: `params -> scalars by name`; there may be none.
    params: Parameters at which the gradients are computed.
  """
  values, pull_back = jax.vjp(terms, params)
  basis = jnp.eye(len(values))
  rows = {
    name: basis[i].astype(value.dtype) for i, (name, value) in enumerate(values.items())
  }
  if not rows:
    return {}
  try:
    (stacked,) = jax.vmap(pull_back)(rows)
  except NotImplementedError:
    # JAX cannot batch the backward pass of a grouped convolution over mapped devices.
    (stacked,) = lax.map(pull_back, rows)
  return {
    name: jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
    for i, name in enumerate(rows)
  }


def gradient_norms(gradients: Mapping[str, Any]) -> dict[str, Float[Array, ""]]:
  """Norms of the gradients of the terms, and `gradient_ratio`.

  Args:
    gradients: Gradient of each weighted term, a tree like the parameters.
  """
  metrics = {f"gradient/{name}": optax.tree.norm(x) for name, x in gradients.items()}
  others = [x for name, x in gradients.items() if name != LABELS]
  if others and LABELS in gradients:
    together = jax.tree.map(lambda *leaves: sum(leaves), *others)
    labels = jnp.maximum(metrics[f"gradient/{LABELS}"], jnp.finfo(jnp.float32).tiny)
    metrics["gradient_ratio"] = optax.tree.norm(together) / labels
  return metrics


def likeness(
  pairs: Mapping[str, tuple[Rows, Rows]],
  labels: Int[Array, " batch"],
  num_classes: int,
  *,
  teacher_taps: Sequence[str] = (),
  mask: Shaped[Array, " batch"] | None,
  axis_name: str | None,
) -> dict[str, Float[Array, ""]]:
  """Comparison of student and teacher taps: `cka/`, `cka_pair/` and `batch_qmi/`.

  Args:
    pairs: Activations of student and teacher, by name of the student's tap.
    labels: Class of each row.
    num_classes: Number of classes.
    teacher_taps: Names of the teacher's taps in the pairs; none if these are no taps.
    mask: Mask of valid rows; None if all are valid.
    axis_name: Name of the mapped axis over which the batch is split, or None.
  """
  options = {"mask": mask, "axis_name": axis_name}
  students, teachers = (
    [kernels.flatten(pair[side]) for pair in pairs.values()] for side in (0, 1)
  )
  alignments = equal_shapes.map_by_shape(
    lambda *sides: 1 - losses.linear_cka(*sides, **options), students, teachers
  )
  flows = (
    flow.information_flow(rows, labels, num_classes, **options)
    for rows in (students, teachers)
  )
  metrics = {}
  for name, alignment, *values in zip(pairs, alignments, *flows, strict=True):
    metrics[f"cka/{name}"] = alignment
    for side, value in zip(("student", "teacher"), values, strict=True):
      metrics[f"{BATCH_QMI}/{side}/{name}"] = value
  return metrics | _all_pairs(metrics, pairs, teacher_taps, **options)


def _all_pairs(metrics, pairs, teacher_taps, **options) -> dict[str, Float[Array, ""]]:
  """Linear CKA of all pairs of taps; those that learn have the value of `cka/`."""
  learns_from = dict(zip(pairs, teacher_taps, strict=False))
  theirs = {learns_from[name]: rows for name, (_, rows) in pairs.items() if learns_from}
  if len(theirs) < 2 or len(pairs) * len(theirs) > _layer_likeness.MOST_PAIRS:
    return {}
  matrix = _layer_likeness.cka_of_all_pairs(
    [rows for rows, _ in pairs.values()], [*theirs.values()], **options
  )
  found = {
    f"cka_pair/{name}:{other}": matrix[row, column]
    for row, name in enumerate(pairs)
    for column, other in enumerate(theirs)
  }
  # To the bit, so that a reader of the metrics finds the pairs that learn.
  return found | {
    f"cka_pair/{name}:{other}": metrics[f"cka/{name}"]
    for name, other in learns_from.items()
  }
