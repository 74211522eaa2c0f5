"""Quadratic mutual information between features and labels.

For a kernel K, labels y, shares p_c of the classes and N rows (Torkkola 2003; Passalis
et al. 2020, section 3.1):

    I = V_IN + V_ALL - 2 V_BTW,    V_IN  = mean_ij [y_i = y_j] K_ij
                                   V_ALL = sum_c p_c^2 mean_ij K_ij
                                   V_BTW = mean_i p_{y_i} mean_j K_ij

These potentials are of order one and I is of order 1e-3, so the sum loses most digits
of float32. With the centred indicators `A_ic = ([y_i = c] - p_c) / N` the same number
is

    I = sum_c A_c' K A_c = mean_ij W_ij K_ij,
    W_ij = [y_i = y_j] - p_{y_i} - p_{y_j} + sum_c p_c^2,

a sum whose terms are as small as the result. Adding a constant to K changes nothing. W
is computed without a matrix of indicators. For the cosine kernel and unit rows u the
sum is `|A' u|^2 / 2`, where `A' u` holds sums over the rows of each class. It takes
O(N D) time.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
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

# Largest matrix `[rows, classes]` of indicators that is made: half a MiB in float32.
_MOST_INDICATORS = 2**17


class InformationPotentials(NamedTuple):
  """The three potentials of quadratic mutual information.

  Attributes:
    within: V_IN, the sum of similarities of rows of the same class, divided by N^2.
    everything: V_ALL, the mean similarity of all rows, times the sum of squared shares
      of the classes.
    between: V_BTW, the mean similarity of each row to all rows, weighted by the share
      of its class and averaged over the rows.
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

  It is exact over all pairs of rows, pairs of a row with itself included, and
  differentiable in `features`. For N rows, C classes and width D the cosine kernel
  takes O(N D + C D) time and memory. Other kernels take O(N^2 D + C) time and
  O(N D + N block_size + C) memory, so a whole data set needs no N x N matrix.

  Args:
    features: One row per example. Axes after the first are flattened.
    labels: Class of each row, below `num_classes`. Rows with a negative label have no
      label and are left out. `flowkd_jax.losses` states the rule.
    num_classes: Number of classes. Classes without a row do not count.
    kernel: Pairwise kernel or its name, cosine by default.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any. Every
      device returns the result of the global batch.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If `features` are not floating point, or `labels` are not integers.
    ValueError: If shapes disagree, or `num_classes` or `block_size` is below 1.

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
  batch = _labelled_batch(features, labels, num_classes, mask, axis_name)
  if kernel.log is kernels.cosine().log:
    sums = _centred_class_sums(kernels.unit_rows(batch.rows), batch, axis_name)
    return ((sums / batch.number) ** 2).sum() / 2

  def weigh(same, own_shares, gaps):
    return same + (gaps - own_shares)

  def excesses(logs):
    # The weights of a row sum to 0 up to rounding, so a constant may be subtracted from
    # its similarities. Minus the first similarity, the entries are small, and so is the
    # error from the rounding of the weights.
    excesses = jnp.expm1(logs)
    return excesses - lax.stop_gradient(excesses[:, :1])

  return _mean_similarity(
    kernel, batch, weigh, axis_name, block_size, function=excesses
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

  The sum `V_IN + V_ALL - 2 V_BTW` is the quadratic mutual information. For this sum
  call `quadratic_mutual_information`, which keeps its digits. Arguments and errors are
  those of `quadratic_mutual_information`. `between` and `everything` are exact for any
  shares of the classes. Every kernel takes O(N^2 D + C) time and
  O(N D + N block_size + C) memory.
  """
  kernel = kernels.as_kernel(kernel)
  batch = _labelled_batch(features, labels, num_classes, mask, axis_name)

  def mean(weigh):
    return _mean_similarity(kernel, batch, weigh, axis_name, block_size)

  return InformationPotentials(
    within=mean(lambda same, own_shares, gaps: same),
    everything=(batch.shares**2).sum()
    * mean(lambda same, own_shares, gaps: jnp.ones_like(same)),
    between=mean(lambda same, own_shares, gaps: own_shares),
  )


class _Batch(NamedTuple):
  """Labelled rows of this device.

  Attributes:
    rows: The rows. A row without a label is zero.
    classes: Class of each row. It is the number of classes for a row without a label.
    labelled: True for rows that have a label.
    number: Number of labelled rows on all devices, at least 1. It is NaN if a label is
      beyond the classes.
    shares: Share of each class among the labelled rows.
  """

  rows: Float[Array, "batch dim"]
  classes: Int[Array, " batch"]
  labelled: Bool[Array, " batch"]
  number: Scalar
  shares: Float[Array, " classes"]


def _labelled_batch(features, labels, num_classes, mask, axis_name) -> _Batch:
  checks.check_features(features=features)
  checks.check_count("num_classes", num_classes)
  checks.check_mask(mask, features)
  read = label_rule.read_labels(
    labels, num_classes, shape=features.shape[:1], mask=mask
  )
  rows = kernels.flatten(features, read.labelled)
  # `segment_sum` drops rows whose class is the number of classes.
  classes = jnp.where(read.labelled, read.classes, num_classes)
  ones = read.invalidate(read.labelled.astype(rows.dtype))
  counts = jax.ops.segment_sum(ones, classes, num_classes)
  counts = parallel.global_sum(counts, axis_name)
  count = jnp.maximum(counts.sum(), 1)
  return _Batch(rows, classes, read.labelled, count, counts / count)


def _centred_class_sums(rows, batch, axis_name) -> Float[Array, "classes dim"]:
  """The product `N A' rows`: sums per class, minus the share of each in the total.

  The mean of the rows is subtracted first. It cancels in the result, but a sum that
  contains it would lose digits.
  """
  # The mean cancels, so it needs no gradient.
  total = parallel.global_sum(lax.stop_gradient(rows).sum(0), axis_name)
  centred = rows - total[None, :] / batch.number
  sums = _class_sums(centred, batch.classes, batch.shares.shape[0])
  sums = parallel.global_sum(sums, axis_name)
  return sums - batch.shares[:, None] * sums.sum(0, keepdims=True)


def _class_sums(rows, classes, num_classes) -> Float[Array, "classes dim"]:
  """Sum of the rows of each class."""
  if rows.shape[0] * num_classes > _MOST_INDICATORS:
    return jax.ops.segment_sum(rows, classes, num_classes)
  # On a GPU a segment sum adds rows in any order, so results differ between runs in
  # the last bits. On a TPU it adds rows one after the other, which is slow. A matrix
  # product has neither problem.
  names = jnp.arange(num_classes, dtype=classes.dtype)
  indicators = (classes[:, None] == names[None, :]).astype(rows.dtype)
  return float32.matmul(indicators.T, rows)


def _mean_similarity(
  kernel: kernels.Kernel,
  batch: _Batch,
  weigh: Callable[[Array, Array, Array], Array],
  axis_name: str | None,
  block_size: int | None,
  *,
  function: Callable[[Array], Array] = jnp.exp,
) -> Scalar:
  """Mean of `W_ij f(log K_ij)` over all pairs of labelled rows of all devices.

  Args:
    kernel: The kernel K.
    batch: Rows of this device.
    weigh: Function that returns W from arrays that broadcast: `[y_i = y_j]`, `p_{y_i}`
      and `sum_c p_c^2 - p_{y_j}`.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of rows evaluated at a time, chosen automatically if None.
    function: The function f of log similarities.
  """
  shares = batch.shares.at[batch.classes].get(mode="clip")
  gaps = (batch.shares**2).sum() - shares
  gathered, *others = (
    parallel.gather_rows(each, axis_name)
    for each in (batch.rows, batch.classes, batch.labelled, gaps)
  )
  points, columns = pairwise.rows_and_columns(batch.rows, gathered, block_size)

  def row_terms(shared, block):
    columns, (classes, labelled, gaps), bandwidth = shared
    points, own_classes, own_shares, positions = block
    logs = kernel.log(pairwise.pair_geometry(points, columns, positions), bandwidth)
    same = (own_classes[:, None] == classes[None, :]).astype(logs.dtype)
    weights = weigh(same, own_shares[:, None], gaps[None, :])
    return jnp.where(labelled[None, :], weights * function(logs), 0).sum(1)

  real = batch.labelled.astype(batch.rows.dtype) / batch.number
  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    (columns, tuple(others), kernel.measure(gathered, others[1], block_size)),
    (
      points,
      batch.classes,
      shares,
      parallel.row_positions(batch.rows.shape[0], axis_name),
    ),
    jnp.where(parallel.finite_rows(batch.rows), real, jnp.nan),
  )
  return parallel.global_sum(total, axis_name) / batch.number
