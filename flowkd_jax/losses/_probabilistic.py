"""Losses that match conditional probabilities that rows are neighbours.

Under a kernel, every row of a batch has a distribution: the probabilities that the
other rows are its neighbours. A divergence compares the distributions of student and
teacher. Their widths may differ. These are losses of the whole batch: do not `vmap`
over examples, and pass `axis_name` under data parallelism.
"""

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Shaped

from flowkd_jax import information
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import renamed
from flowkd_jax._numerics import row_blocks
from flowkd_jax.information import _direct
from flowkd_jax.kernels import KernelsLike
from flowkd_jax.kernels import as_kernels
from flowkd_jax.kernels import authors_kernel
from flowkd_jax.losses import _batch

Mask = Shaped[Array, " batch"] | None


@renamed.renamed_arguments(kernel="kernels")
@meshes.on_any_mesh
def conditional_divergence(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  kernels: KernelsLike = "cosine",
  divergence: str | information.Divergence = "jeffreys",
  self_pairs: bool = False,
  reduction: str = "rows",
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Divergence between the neighbour probabilities of student and teacher.

  `mean_i sum_{j != i} d(p^t_{j|i}, p^s_{j|i})` with `p = K_ij / sum_{k != i} K_ik`
  (Passalis et al. 2020, Eq. 5-8). By its reduction the loss depends neither on the
  batch size nor on the widths.

  It is invariant to rotation of either side and to permutation of the rows. With the
  kernels "cosine" and "von_mises_fisher" it is also invariant to the scale of each row,
  and with all others to a shift. With "adaptive_rbf" it is invariant to one scale for
  all rows too.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width.
    kernels: A pairwise kernel or its name, or several of them. The divergences under
      all kernels are summed.
    divergence: A divergence of `flowkd_jax.information`, a function of your own with
      the same signature, or a name in `information.DIVERGENCES`.
    self_pairs: Count a row as its own neighbour, as the authors' code does.
    reduction: "rows" is the mean over rows of the sum over columns. "matrix" is the
      mean over all pairs, as in the authors' code, which is smaller by the batch size.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any. Every
      device returns the loss of the global batch.
    block_size: Number of rows evaluated at a time, also in the backward pass. Memory is
      O(N (D + block_size)) for N rows, where D is the sum of both widths. If None, a
      fast size is chosen.

  Returns:
    The loss, in float32 or wider. It is 0 for a batch of one row.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree, an array is empty or has no feature axis,
      `reduction` is unknown, or a kernel or divergence is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> features = jnp.eye(4)
    >>> float(conditional_divergence(2 * features, features))
    0.0
  """
  checks.check_choice("reduction", reduction, ("rows", "matrix"))
  kernel_list, divergence = as_kernels(kernels), information.as_divergence(divergence)
  batch = _batch.gathered_batch(student, teacher, mask, axis_name)
  bandwidths = [
    [each.measure(side, batch.real, block_size) for each in kernel_list]
    for side in batch.columns
  ]

  def row_terms(shared, block):
    columns, bandwidths, real, count = shared
    points, means, positions = block
    pairs = [
      pairwise.pair_geometry(*each, positions)
      for each in zip(points, columns, strict=True)
    ]
    valid = pairwise.valid_pairs(pairs[0].same, real, self_pairs=self_pairs)
    terms = jnp.zeros_like(points[0].squares)
    similarities = []
    for each, *widths in zip(kernel_list, *bandwidths, strict=True):
      sides = list(zip(pairs, widths, means, strict=True))
      # All kernels on the fast path are evaluated together below: the terms of several
      # kernels are then added in one pass.
      if _direct.is_direct(each, divergence):
        similarities.append(tuple(each.direct(*side) for side in sides))
        continue
      log_probabilities = [
        information.conditional_log_probabilities(
          each.log(geometry, width), valid, count
        )
        for geometry, width, _ in sides
      ]
      terms += jnp.where(valid, divergence(*log_probabilities), 0).sum(1)
    if similarities:
      terms += _direct.row_divergences(divergence, similarities, valid, count)
    return terms

  points, columns = _batch.pair_sides(batch, block_size)
  means = [None, None]
  if any(_direct.is_direct(each, divergence) for each in kernel_list):
    real = None if mask is None else batch.real
    means = [
      pairwise.pair_means(*side, real) for side in zip(points, columns, strict=True)
    ]
  # Probabilities are multiplied by their number, which keeps the digits of small
  # differences. A homogeneous divergence is divided by the power of this factor at the
  # end. Others are evaluated on the probabilities themselves: degree 0 and factor 1.
  degree = information.HOMOGENEITY.get(divergence, 0)
  count = jnp.maximum(batch.number - (0 if self_pairs else 1), 1) ** min(degree, 1)
  total = row_blocks.sum_over_rows(
    row_terms,
    block_size,
    (columns, bandwidths, None if mask is None else batch.real, count),
    (points, means, batch.positions),
    parallel.mean_weights(mask, axis_name, *batch.rows),
  )
  loss = parallel.global_sum(total, axis_name) / count**degree
  return loss / jnp.maximum(batch.number, 1) if reduction == "matrix" else loss


@meshes.on_any_mesh
def pkt(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  authors: bool = False,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Probabilistic knowledge transfer: KL of neighbour probabilities, cosine kernel.

  Differs from the authors' code, which `authors=True` reproduces exactly:

  - A row is not its own neighbour.
  - The loss is the mean over rows of KL. The authors take the mean over all pairs,
    which is smaller by the batch size. The published weight of 30000 needs
    `authors=True`; without it, 30000 divided by the batch size is as much.
  - There is no epsilon. The authors add 1e-7 in norms and logarithms.

  By its reduction the loss depends neither on the batch size nor on the widths. It is
  invariant to rotation of either side, to the scale of each row and to permutation of
  the rows, but not to a shift.

  If all features share a mean that is 1000 times their deviation, value and gradient
  still have 5 correct digits in float32. With `authors=True` both are lost.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width.
    authors: Reproduce the published code exactly.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If batch sizes disagree or an array is empty.

  Example:
    >>> import jax.numpy as jnp
    >>> float(pkt(jnp.eye(4), 3 * jnp.eye(4)))
    0.0

  References:
    Passalis and Tefas, "Learning deep representations with probabilistic
    knowledge transfer", ECCV 2018.
  """
  options = {"mask": mask, "axis_name": axis_name, "block_size": block_size}
  if not authors:
    return conditional_divergence(
      student, teacher, divergence=information.kullback_leibler, **options
    )
  return conditional_divergence(
    student,
    teacher,
    kernels=authors_kernel("cosine", epsilon=1e-7),
    divergence=information.smoothed_kullback_leibler(1e-7),
    self_pairs=True,
    reduction="matrix",
    **options,
  )
