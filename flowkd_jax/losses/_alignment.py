"""Centred kernel alignment (CKA) between student and teacher, as losses.

`1 - CKA` is half the squared distance between the two centred matrices of similarities,
each divided by its norm. Computed in this form it keeps its digits near 0. Widths may
differ. If matrices of all pairs are needed, means are constants to the gradient. This
does not change the first derivative, but second derivatives would be wrong and raise an
error.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax.losses import _batch
from flowkd_jax.losses import _kernel_alignment


@meshes.on_any_mesh
def linear_cka(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  debiased: bool = False,
  mask: _batch.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """One minus the linear centred kernel alignment.

  `1 - |S'T|^2 / (|S'S| |T'T|)`, where S and T have centred columns (Kornblith et al.
  2019, section 3). The loss is between 0 and 1, whatever the batch size and the widths.
  The CKA of unrelated features falls with the number of rows per dimension, so compare
  values for one batch size only. The loss is invariant to rotation, shift and scale of
  either side, and to permutation of the rows. If all rows of one side are equal, the
  loss is 1. If they are equal on both sides, it is 0. The gradient is 0 in both cases.

  With `debiased=True` the loss uses the unbiased estimates HSIC1 (Song et al. 2012, Eq.
  5): `1 - HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L))`. The diagonals do not count. The
  alignment of unrelated features is 0 on average, for any number of rows and any width.
  The alignment may be negative, so the loss is between 0 and 2. At least 4 rows are
  needed: a smaller batch raises ValueError, and if a mask leaves fewer real rows, the
  loss is 0. A side counts as a side with equal rows if its matrix without the diagonal
  is constant, or constant but for one row and its column. Several ports centre the
  matrices before they remove the diagonals, which is biased.

  For N rows in the global batch, let D be the sum of both widths. If both widths are
  below N (debiased: below N / 2), the loss takes O(N D^2) time and O(N D + D^2) memory.
  Otherwise it takes O(N^2 D) time and O(N (D + block_size)) memory. Many ports of the
  authors' code multiply by an N x N centring matrix. Here the features are centred
  instead.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width.
    debiased: Use the unbiased estimates of all three terms.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, an array is empty or has no feature axis, or
      `debiased` and the global batch has fewer than 4 rows.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> abs(float(linear_cka(3 * features + 1, features))) < 1e-6
    True

  References:
    Kornblith et al., "Similarity of neural network representations revisited",
    ICML 2019.
    Song et al., "Feature selection via dependence maximization", JMLR 2012.
  """
  if block_size is not None:
    checks.check_count("block_size", block_size)
  batch = _gathered_batch(student, teacher, mask, axis_name, debiased=debiased)
  columns = [_centred(side, batch) for side in batch.columns]
  rows = [_own_rows(side, batch, axis_name) for side in columns]
  # The debiased form subtracts the diagonals from products of features. The subtraction
  # loses more digits the wider the features are, so the limit of the width is lower.
  widest = max(side.shape[1] for side in columns) * (2 if debiased else 1)
  if widest < batch.real.shape[0]:
    return _kernel_alignment.alignment_of_features(
      rows, batch.number, axis_name, debiased=debiased
    )

  def similarities(rows, columns, positions):
    del positions
    return float32.matmul(rows, columns)

  columns = [side.T for side in columns]
  return _kernel_alignment.alignment_of_kernels(
    similarities, rows, columns, batch, mask, axis_name, block_size, debiased=debiased
  )


@meshes.on_any_mesh
def rbf_cka(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  bandwidth: float = 1.0,
  debiased: bool = False,
  mask: _batch.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """One minus the centred kernel alignment of Gaussian kernels.

  `1 - <K, L> / (|K| |L|)`, where K and L are the doubly centred matrices
  `exp(-|x_i - x_j|^2 / (2 w^2))` (Kornblith et al. 2019, sections 2.3 and 3). The loss
  is between 0 and 1, whatever the batch size and the widths. It is invariant to
  rotation, shift and scale of either side, and to permutation of the rows. For equal
  rows it behaves like `linear_cka`.

  Differs from the paper: `w` is `bandwidth` times the root mean squared distance
  between different rows, and the paper has the median distance. The root mean square
  takes O(N D) time, has the same invariances and is differentiable.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width.
    bandwidth: Bandwidth of the kernel, in units of the root mean squared distance. The
      larger it is, the closer the loss is to `linear_cka`.
    debiased: Use the unbiased estimates of all three terms, as in `linear_cka`.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, an array is empty or has no feature axis,
      `bandwidth` is not positive, or `debiased` and the global batch has fewer than 4
      rows.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> abs(float(rbf_cka(3 * features + 1, features))) < 1e-6
    True

  References:
    Kornblith et al., "Similarity of neural network representations revisited",
    ICML 2019.
    Song et al., "Feature selection via dependence maximization", JMLR 2012.
  """
  checks.check_positive("bandwidth", bandwidth)
  batch = _gathered_batch(student, teacher, mask, axis_name, debiased=debiased)
  spreads = [_mean_squared_distance(side, batch) for side in batch.columns]

  def similarities(rows, columns, positions):
    columns, spread, alike, bandwidth = columns
    squared = pairwise.pair_geometry(rows, columns, positions).squared_distances
    # Alignment is invariant to a factor and, by centring, to a constant: the entries
    # are `exp(shift) K - 1`. With this shift they scatter around 0, so kernels with a
    # large bandwidth keep their digits.
    typical = jnp.minimum(1 / (2 * lax.stop_gradient(bandwidth) ** 2), 1)
    shift = jnp.where(alike, 0, typical)
    return jnp.expm1(shift - squared / (2 * bandwidth**2 * spread))

  rows, columns = _batch.pair_sides(batch, block_size)
  width = jnp.asarray(float32.like(bandwidth, batch.rows[0]), batch.rows[0].dtype)
  columns = [
    (side, jnp.where(spread == 0, 1, spread), spread == 0, width)
    for side, spread in zip(columns, spreads, strict=True)
  ]
  return _kernel_alignment.alignment_of_kernels(
    similarities, rows, columns, batch, mask, axis_name, block_size, debiased=debiased
  )


def _gathered_batch(student, teacher, mask, axis_name, *, debiased):
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  if debiased:
    _kernel_alignment.check_debiased_rows(batch.real.shape[0])
  return batch


def _own_rows(columns, batch, axis_name):
  return columns if axis_name is None else columns[batch.positions]


def _centred(columns, batch):
  """Rows minus their mean, divided by their spread. Zero if the spread is rounding."""
  centred, variance = _deviations(columns, batch)
  scale = lax.stop_gradient(jnp.sqrt(jnp.where(variance == 0, 1, variance)))
  return jnp.where(variance == 0, 0, centred / scale)


def _mean_squared_distance(columns, batch):
  """Mean squared distance of different rows, in squared units of the batch."""
  _, variance = _deviations(columns, batch)
  mean = 2 * variance * batch.number / _kernel_alignment.at_least_one(batch.number - 1)
  return jnp.where(mean == 0, 1, mean)


def _deviations(columns, batch):
  """Rows minus their mean, and the mean of their squared norms, in units of the batch.

  The second is 0 if the rows differ by no more than rounding errors.
  """
  columns = columns / pairwise.unit_of(columns)
  count = _kernel_alignment.at_least_one(batch.number)
  valid = batch.real[:, None]
  centred = jnp.where(valid, columns - columns.sum(0, keepdims=True) / count, 0)
  variance = (centred**2).sum() / count
  size = lax.stop_gradient((columns**2).sum() / count)
  noise = (8 * jnp.finfo(columns.dtype).eps) ** 2 * size
  return centred, jnp.where(variance <= noise, 0, variance)
