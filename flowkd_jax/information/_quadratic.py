"""Quadratic mutual information between features and labels.

With kernel K, labels y, class shares p_c and N rows (Torkkola 2003; Passalis et al.
2020, section 3.1):

    I = V_IN + V_ALL - 2 V_BTW,    V_IN  = mean_ij [y_i = y_j] K_ij
                                   V_ALL = sum_c p_c^2 mean_ij K_ij
                                   V_BTW = mean_i p_{y_i} mean_j K_ij

These potentials are of order one and I is thousandths, so their sum loses most
digits of float32. With the centred indicators `A_ic = ([y_i = c] - p_c) / N` the
same number is

    I = sum_c A_c' K A_c,

a sum whose terms are as small as the result; adding a constant to K changes nothing.
For the cosine kernel and unit rows u it is `|A' u|^2 / 2`, in O(N D).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import label_rule
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import row_blocks

Scalar = Float[Array, ""]


class InformationPotentials(NamedTuple):
  """The three potentials of quadratic mutual information.

  Attributes:
    within: V_IN, mean similarity of rows that share a class.
    everything: V_ALL, mean similarity of all rows, weighted by squared shares.
    between: V_BTW, mean similarity between the classes and all rows.
  """

  within: Scalar
  everything: Scalar
  between: Scalar


@meshes.on_any_mesh
def quadratic_mutual_information(
  features: Float[Array, "batch ..."],
  labels: Int[Array, " batch"],
  num_classes: int,
  *,
  kernel: kernels.KernelLike | None = None,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Scalar:
  """Quadratic mutual information between features and labels, 0 or above.

  Exact over all rows and pairs, self-pairs included; differentiable in
  `features`. The cosine kernel costs O(N D); others O(N^2 D) time and
  O(N block_size) memory, so a whole data set needs no N x N matrix.

  Args:
    features: One row per example; axes after the first are flattened.
    labels: Class of each row, below `num_classes`; rows with a negative label are left
      out, see `flowkd_jax.losses`.
    num_classes: Number of classes; those without a row count nothing.
    kernel: Pairwise kernel or its name, cosine by default.
    mask: Which rows are real; padding changes nothing.
    axis_name: Mapped axis over which the batch is split; the result is that of
      the global batch, on every device.
    block_size: Rows evaluated at a time; None chooses.

  Raises:
    TypeError: If features are not floating or labels not integers.
    ValueError: If shapes disagree, or a size is below 1.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> float(quadratic_mutual_information(features, jnp.array([0, 1]), 2))
    0.125

  References:
    Torkkola, "Feature extraction by non-parametric mutual information
    maximization", JMLR 2003. Passalis et al., "Heterogeneous knowledge
    distillation using information flow modeling", CVPR 2020, section 3.1.
  """
  kernel = kernels.as_kernel(kernel)
  rows, indicators, mask = _labelled_rows(features, labels, num_classes, mask)
  count = parallel.global_sum(indicators.sum(), axis_name)
  shares = parallel.global_sum(indicators.sum(0), axis_name)
  shares = shares / jnp.maximum(count, 1)
  # Rows left out have an all-zero indicator, and must have an all-zero weight.
  real = indicators.sum(1, keepdims=True)
  weights = (indicators - real * shares[None, :]) / jnp.maximum(count, 1)
  if kernel.log is kernels.cosine().log:
    sums = float32.matmul(weights.T, kernels.unit_rows(rows))
    return (parallel.global_sum(sums, axis_name) ** 2).sum() / 2
  # K - 1 in place of K: the constant cancels, and so does its rounding.
  return _weighted_similarity(
    kernel, rows, weights, mask, axis_name, block_size, jnp.expm1
  )


@meshes.on_any_mesh
def information_potentials(
  features: Float[Array, "batch ..."],
  labels: Int[Array, " batch"],
  num_classes: int,
  *,
  kernel: kernels.KernelLike | None = None,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> InformationPotentials:
  """The potentials V_IN, V_ALL and V_BTW, self-pairs included.

  Their sum `V_IN + V_ALL - 2 V_BTW` is the quadratic mutual information; take it
  from `quadratic_mutual_information`, which keeps its digits. Arguments and
  errors as there; `between` and `everything` are exact for any class shares.
  """
  kernel = kernels.as_kernel(kernel)
  rows, indicators, mask = _labelled_rows(features, labels, num_classes, mask)
  count = parallel.global_sum(indicators.sum(), axis_name)
  shares = parallel.global_sum(indicators.sum(0), axis_name)
  shares = shares / jnp.maximum(count, 1)
  scale = 1 / jnp.maximum(count, 1)
  ones = indicators.sum(1, keepdims=True)

  def similarity(left, right):
    return _weighted_similarity(
      kernel,
      rows,
      left * scale,
      mask,
      axis_name,
      block_size,
      jnp.exp,
      right * scale,
    )

  return InformationPotentials(
    within=similarity(indicators, indicators),
    everything=(shares**2).sum() * similarity(ones, ones),
    between=similarity(
      indicators * shares[None, :], jnp.broadcast_to(ones, indicators.shape)
    ),
  )


def _labelled_rows(features, labels, num_classes, mask):
  """Rows, one-hot labels, and the mask of the rows that have a label."""
  checks.check_features(features=features)
  checks.check_count("num_classes", num_classes)
  checks.check_mask(mask, features)
  read = label_rule.read_labels(
    labels, num_classes, shape=features.shape[:1], mask=mask
  )
  rows = kernels.flatten(features, read.labelled)
  return rows, read.one_hot(num_classes, rows.dtype), read.labelled


def _weighted_similarity(
  kernel, rows, weights, mask, axis_name, block_size, function, others=None
):
  """`sum_c left_c' f(log K) right_c` over all pairs of the global batch."""
  others = weights if others is None else others
  others = parallel.gather_rows(others, axis_name)
  gathered = parallel.gather_rows(rows, axis_name)
  valid = None if mask is None else parallel.gather_rows(jnp.asarray(mask), axis_name)
  points, columns = pairwise.rows_and_columns(rows, gathered, block_size)

  def row_terms(shared, block):
    columns, others, bandwidth = shared
    points, weights, positions = block
    logs = kernel.log(pairwise.pair_geometry(points, columns, positions), bandwidth)
    return (weights * float32.matmul(function(logs), others)).sum(1)

  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    (columns, others, kernel.measure(gathered, valid, block_size)),
    (points, weights, parallel.row_positions(rows.shape[0], axis_name)),
    jnp.where(parallel.finite_rows(rows), 1, jnp.nan).astype(rows.dtype),
  )
  return parallel.global_sum(total, axis_name)
