"""Wasserstein distance between Gaussians fitted to the features of two networks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key
from jaxtyping import Shaped

from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _projection
from flowkd_jax.losses import _spatial

Mask = Shaped[Array, " batch"] | None
Parameters = dict[str, Any]
# Values up to this size are squared without a unit.
_LARGE = 2.0**32


def gaussian_wasserstein_init(
  key: Key[Array, ""],
  student_shape: Sequence[int],
  teacher_shape: Sequence[int],
) -> Parameters:
  """Batch-normalised linear map between the channels, for `gaussian_wasserstein`.

  Args:
    key: Random key.
    student_shape: Shape of the student maps. Only the number of channels is used.
    teacher_shape: Shape of the teacher maps.

  Returns:
    `{"kernel": [student_channels, teacher_channels], "scale": [teacher_channels],
    "bias": [teacher_channels]}` in float32.
  """
  return _projection.normalized_init(key, student_shape[-1], teacher_shape[-1])


@meshes.on_any_mesh
def gaussian_wasserstein(
  student: Float[Array, "batch student_height student_width student_channels"],
  teacher: Float[Array, "batch teacher_height teacher_width teacher_channels"],
  *,
  params: Parameters | None = None,
  grid: int | tuple[int, int] = 1,
  mean_weight: float = 4.0,
  epsilon: float = 1e-5,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Gaussian Wasserstein distance (WKD-F): means and deviations in cells of the map.

  `mean_ig sum_c w (m_igc^s - m_igc^t)^2 + (d_igc^s - d_igc^t)^2` over the rows i and
  the cells g of a grid. Here m is the mean of channel c over the positions of the cell,
  and `d = sqrt(variance + epsilon)` is the standard deviation (Lv et al. 2024, for
  diagonal covariances). With w = 1 this is the squared 2-Wasserstein distance between
  Gaussians. The loss depends neither on the batch size nor on the number of cells. It
  grows with the number of channels and the square of the scale. It is invariant to a
  permutation of the positions within a cell, on either side.

  As in the authors' code, the variance is unbiased, and channels are summed. In a cell
  of one position the variance is 0 here, and NaN in their code. The projection of the
  student differs: the authors have a convolution that changes the size of the map to
  that of the teacher. Here it is a 1 x 1 convolution with batch normalisation, by the
  statistics of the batch, and a rectifier. Maps may differ in size, because a cell is a
  fraction of the map. The cells are those of PyTorch's `adaptive_avg_pool2d`. They
  overlap if the grid does not divide the size.

  For ResNet-32x4 and 8x4 the authors use the last map, grid 1, `mean_weight` 4 and a
  weight of 0.08, which falls to 0 as half a cosine from epoch 150 to 240.

  Args:
    student: Student maps.
    teacher: Teacher maps, of any size.
    params: Projection from `gaussian_wasserstein_init`, trained together with the
      student. If None, the maps are compared without a projection.
    grid: Number of cells along both axes, or a pair with the numbers along height and
      width.
    mean_weight: Weight w of the means.
    epsilon: Constant added to the variance.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point, or `grid` is not a whole number or a
      pair of them.
    ValueError: If an input is not a map, batches or channels disagree, `grid` is larger
      than a map, or `grid` or `epsilon` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> maps = jnp.arange(8.0).reshape(1, 2, 2, 2)
    >>> float(gaussian_wasserstein(maps + 1, maps))
    8.0

  References:
    Lv, Yang and Li, "Wasserstein distance rivals Kullback-Leibler divergence for
    knowledge distillation", NeurIPS 2024.
  """
  checks.check_maps(student=student, teacher=teacher)
  checks.check_mask(mask, student)
  checks.check_positive("epsilon", epsilon)
  checks.check_number("mean_weight", mean_weight)
  cells = _checked_grid(grid, student=student, teacher=teacher)
  ours, theirs = (_spatial.zero_masked(side, mask) for side in (student, teacher))
  init = "gaussian_wasserstein_init"
  ours = _projection.projected(
    ours, theirs, params, init, mask=mask, axis_name=axis_name
  )
  if params is not None:
    ours = jax.nn.relu(ours)
  moments = [_moments(side, cells, epsilon) for side in (ours, theirs)]
  means, deviations = (
    ((one - other) ** 2).sum(3).mean((1, 2))
    for one, other in zip(*moments, strict=True)
  )
  rows = float32.like(mean_weight, means) * means + deviations
  return parallel.global_mean(rows, mask, axis_name, student, teacher)


def _checked_grid(grid, **sides):
  cells = grid if isinstance(grid, tuple | list) else (grid, grid)
  if len(cells) != 2:
    raise ValueError(
      f"grid: expected a number, or one for height and one for width, got {grid}"
    )
  for count in cells:
    checks.check_count("grid", count)
  for name, maps in sides.items():
    if cells[0] > maps.shape[1] or cells[1] > maps.shape[2]:
      raise ValueError(
        f"grid: expected no more cells than {name} has positions, {maps.shape[1]} x "
        f"{maps.shape[2]}, got {cells[0]} x {cells[1]}"
      )
  return tuple(cells)


def _moments(maps, cells, epsilon):
  """Mean and deviation of each cell and channel, `[batch, *cells, channels]`.

  Each channel is computed in a unit in which no square overflows. The unit is 1 for all
  but huge values. For these, epsilon would be lost in rounding anyway.
  """
  largest = jnp.abs(lax.stop_gradient(maps)).max((1, 2), keepdims=True)
  unit = _projection.units_of_large(largest / _LARGE)
  mean, variance = _in_unit(maps, 1 / unit), jnp.zeros_like(maps)
  counts = []
  for axis, number in enumerate(cells, start=1):
    mean, variance, count = _merged(mean, variance, axis, number)
    counts.append(count)
  total = counts[0][:, None] * counts[1][None, :]
  # The unbiased variance, or 0 for a cell of one position.
  factor = jnp.asarray(total / np.maximum(total - 1, 1), maps.dtype)[None, :, :, None]
  # In a large unit the offset only keeps the root away from 0.
  offset = jnp.where(unit > 1, 1, jnp.asarray(epsilon).astype(maps.dtype))
  deviation = jnp.sqrt(variance * factor + offset)
  return _in_unit(mean, unit), _in_unit(deviation, unit)


@jax.custom_jvp
def _in_unit(values, factor):
  """Values times a factor that the derivative leaves out.

  Means and deviations are homogeneous of degree 1. In a derivative the factors into a
  unit and out of it therefore cancel, but the product could overflow before it does.
  """
  return values * factor


@_in_unit.defjvp
def _in_unit_jvp(primals, tangents):
  values, factor = primals
  return values * factor, jnp.broadcast_to(tangents[0], jnp.shape(values * factor))


def _merged(mean, variance, axis, number):
  """Means and biased variances of windows along an axis, from those of positions.

  The variance is computed around the mean of the window. A difference of mean squares
  would lose its digits. The windows are the cells of `pooling.average_pool`.
  """
  size = mean.shape[axis]
  starts = np.arange(number) * size // number
  ends = -(-np.arange(1, number + 1) * size // number)
  counts = ends - starts
  offsets = np.arange(counts.max())
  positions = np.minimum(starts[:, None] + offsets[None, :], size - 1)
  shares = (offsets[None, :] < counts[:, None]) / counts[:, None]
  shape = [1] * (mean.ndim + 1)
  shape[axis : axis + 2] = positions.shape
  weights = jnp.asarray(shares.reshape(shape), mean.dtype)

  def windows(values):
    # Windows that do not overlap need a reshape only, which is faster than a gather.
    if counts.min() * number == size:
      divided = (number, counts[0])
      return values.reshape(*values.shape[:axis], *divided, *values.shape[axis + 1 :])
    return jnp.take(values, positions, axis=axis)

  parts = windows(mean)
  merged = (weights * parts).sum(axis + 1)
  centred = parts - jnp.expand_dims(merged, axis + 1)
  spread = (weights * (windows(variance) + centred**2)).sum(axis + 1)
  return merged, lax.max(spread, jnp.zeros_like(spread)), counts
