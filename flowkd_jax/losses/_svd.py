"""Distillation of singular vectors of maps and their changes between layers."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Shaped

from flowkd_jax import _taps
from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax.losses import _spatial

Mask = Shaped[Array, " batch"] | None
VECTORS = ("channels", "columns")
# Number of further singular vectors of the student that are candidates for a match with
# those of the teacher.
_SPARE = 3
_BANDWIDTH = 8.0


@meshes.on_any_mesh
def kdsvd(
  student: _taps.Taps,
  teacher: _taps.Taps,
  *,
  rank: int = 1,
  vectors: str = "channels",
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Distillation by singular value decomposition (KDSVD) of maps of several layers.

  `mean_i sum_l sum_cdk (R_ilcdk^s - R_ilcdk^t)^2` with `R_ilcdk = exp(-(v_ilck -
  v_i(l-1)dk)^2 / 8)` (Lee, Kim and Song 2018). Here `v_ilk` is singular vector k over
  the channels of layer l, multiplied by the teacher's singular value. The singular
  values of a layer are divided by their norm. For each teacher vector the student's
  vector is the one with the largest `|cos|` to it among the first `rank + 3`, with the
  sign that makes the cosine positive. The loss does not depend on the batch size. It
  grows with the numbers of layers and channels. It is invariant to the scale of each
  map and to a permutation of the positions of either side.

  The sign of a singular vector is arbitrary, and the loss depends on the signs of the
  teacher's vectors. Here a sign is chosen such that the entries sum to 0 or more, as
  they do for the first vector after a ReLU. The ports take the sign that the library
  returns. They have an infinite gradient at equal singular values and replace values
  that are not finite by zero. Here the differences of eigenvalues in the derivative are
  smoothed at the resolution of the arithmetic, so the gradient is finite.

  `vectors="channels"` is the loss of RepDistiller. `vectors="columns"` is the loss of
  mdistiller: its singular vectors are over the columns of the map, and rows and
  channels are its positions.

  Args:
    student: Student maps of two or more layers, in a sequence from input to output.
    teacher: Teacher map for each student map. The numbers of channels must be equal,
      sizes may differ. With `vectors="columns"` the widths must be equal, channels and
      heights may differ.
    rank: Number of singular vectors to compare.
    vectors: Axis of the singular vectors: "channels", or "columns" of the map.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If a tap is not floating point, taps are in a mapping, or `rank` is not a
      whole number.
    ValueError: If a tap is not a map, batches, layers or channels disagree, there is
      only one layer, or `rank` is above the number of singular values of a map.

  Example:
    >>> import jax.numpy as jnp
    >>> maps = [jnp.ones((2, 8, 8, 4)), jnp.ones((2, 4, 4, 6))]
    >>> float(kdsvd(maps, [3 * layer for layer in maps]))
    0.0

  References:
    Lee, Kim and Song, "Self-supervised knowledge distillation using singular value
    decomposition", ECCV 2018.
  """
  checks.check_count("rank", rank)
  checks.check_choice("vectors", vectors, VECTORS)
  sides = [
    [tap for _, tap in _taps.ordered_taps(name, taps)]
    for name, taps in (("student", student), ("teacher", teacher))
  ]
  _check_layers(sides[0], sides[1], mask)
  rows = jnp.zeros(sides[0][0].shape[0], jnp.float32)
  earlier = None
  for index, (ours, theirs) in enumerate(zip(*sides, strict=True)):
    ours, theirs = (_matrices(maps, vectors, mask) for maps in (ours, theirs))
    _check_rank(index, rank, vectors, ours, theirs)
    later = _scaled_vectors(ours, theirs, rank)
    if earlier is not None:
      gaps = jnp.subtract(*map(_relations, later, earlier))
      rows = (gaps**2).sum((1, 2, 3)) + rows.astype(gaps.dtype)
    earlier = later
  return parallel.global_mean(rows, mask, axis_name, *sides[0], *sides[1])


def _check_layers(student, teacher, mask):
  if len(student) != len(teacher) or len(student) < 2:
    raise ValueError(
      "student, teacher: expected maps of two or more layers, the same number on both "
      f"sides, got {len(student)} of the student and {len(teacher)} of the teacher"
    )
  checks.check_maps(
    **{f"student[{index}]": maps for index, maps in enumerate(student)},
    **{f"teacher[{index}]": maps for index, maps in enumerate(teacher)},
  )
  checks.check_mask(mask, student[0])


def _check_rank(index, rank, vectors, ours, theirs):
  sizes = ours.shape[2], theirs.shape[2]
  if sizes[0] != sizes[1]:
    raise ValueError(
      f"expected the same number of {vectors} in map {index} of student and teacher, "
      f"got {sizes[0]} and {sizes[1]}; project one side first"
    )
  least = min(*ours.shape[1:], *theirs.shape[1:])
  if rank > least:
    raise ValueError(
      f"rank: expected at most {least}, the number of singular values of map {index}, "
      f"got {rank}"
    )


def _matrices(maps, vectors, mask):
  """Matrices `[batch, positions, entries of a singular vector]`, up to a scale."""
  batch, _, width, channels = maps.shape
  maps = _spatial.zero_masked(maps, mask)
  maps = _spatial.rescaled(maps.reshape(batch, -1)).reshape(maps.shape)
  if vectors == "channels":
    return maps.reshape(batch, -1, channels)
  return jnp.moveaxis(maps, 2, 3).reshape(batch, -1, width)


def _scaled_vectors(student, teacher, rank):
  """Singular vectors of both sides `[batch, entries, rank]`, times the shares.

  The shares are the teacher's singular values divided by their norm.
  """
  values, theirs = _right_vectors(teacher, rank)
  ours = _right_vectors(student, min(rank + _SPARE, *student.shape[1:]))[1]
  theirs = _signed(theirs)
  cosines = jnp.einsum("bcj,bck->bjk", ours, theirs, precision=lax.Precision.HIGHEST)
  cosines = lax.stop_gradient(cosines)
  nearest = jnp.abs(cosines).argmax(1, keepdims=True)
  chosen = jnp.take_along_axis(ours, nearest, axis=2)
  signs = jnp.sign(jnp.take_along_axis(cosines, nearest, axis=1))
  shares = kernels.unit_rows(values)[:, None, :]
  return chosen * signs * shares, theirs * shares


def _signed(vectors):
  """Vectors with signs such that their entries sum to 0 or more."""
  sums = lax.stop_gradient(vectors.sum(1, keepdims=True))
  return jnp.where(sums < 0, -vectors, vectors)


def _relations(later, earlier):
  gaps = later[:, :, None, :] - earlier[:, None, :, :]
  return jnp.exp(-(gaps**2) / _BANDWIDTH)


def _right_vectors(matrices, number):
  """The largest singular values `[batch, number]` and their right singular vectors."""
  # From the Gram matrix: eigenvectors are needed on one side only, and its size does
  # not depend on the number of positions.
  gram = jnp.einsum("bpc,bpd->bcd", matrices, matrices, precision=lax.Precision.HIGHEST)
  values, vectors = _eigen(gram)
  values = pairwise.safe_power(jax.nn.relu(values[:, :number]), 0.5)
  return values, vectors[:, :, :number]


@jax.custom_jvp
def _eigen(matrices):
  """Eigenvalues and eigenvectors of symmetric matrices, in descending order."""
  values, vectors = jnp.linalg.eigh(matrices)
  return values[:, ::-1], vectors[:, :, ::-1]


@_eigen.defjvp
def _eigen_jvp(primals, tangents):
  """Derivative that is smoothed where eigenvalues are equal up to rounding.

  The exact derivative of an eigenvector has factors `1 / gap` of differences of
  eigenvalues. Here they are `gap / (gap^2 + noise^2)`.
  """
  values, vectors = _eigen(*primals)
  change = jnp.einsum(
    "bci,bcd,bdj->bij", vectors, tangents[0], vectors, precision=lax.Precision.HIGHEST
  )
  gaps = values[:, None, :] - values[:, :, None]
  largest = jnp.abs(values).max(1)[:, None, None]
  noise = 8 * jnp.finfo(values.dtype).eps * jnp.where(largest == 0, 1, largest)
  # In units of the noise, because the square of the noise may underflow.
  gaps = gaps / noise
  factors = gaps / (gaps**2 + 1) / noise
  turned = jnp.einsum(
    "bci,bij->bcj", vectors, factors * change, precision=lax.Precision.HIGHEST
  )
  slopes = jnp.diagonal(change, axis1=1, axis2=2)
  return (values, vectors), (slopes, turned)
