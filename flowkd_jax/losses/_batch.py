"""Arguments of a pairwise loss: checks, and rows gathered from all devices."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import pairwise

Mask = Shaped[Array, " batch"] | None
PAIR_REDUCTIONS = ("mean", "rows", "matrix")


class Batch(NamedTuple):
  """Rows of both sides on this device and on all devices. Masked rows are zero.

  Attributes:
    rows: Student and teacher rows of this device, in float32 or wider.
    columns: Student and teacher rows of the global batch.
    positions: Index in the global batch of each row of this device.
    real: True for rows of the global batch that are not masked.
    number: Number of real rows in the global batch. It is NaN if one of them holds NaN
      or infinity.
  """

  rows: tuple[Float[Array, "batch ..."], Float[Array, "batch ..."]]
  columns: tuple[Float[Array, "global ..."], Float[Array, "global ..."]]
  positions: Int[Array, " batch"]
  real: Bool[Array, " global"]
  number: Float[Array, ""]


def gathered_batch(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  mask: Mask,
  axis_name: str | None,
) -> Batch:
  """Checks the arguments of a pairwise loss and gathers its columns."""
  checks.check_features(student=student, teacher=teacher)
  checks.check_mask(mask, student)
  real = parallel.real_rows(student, mask)
  rows = kernels.flatten(student, mask), kernels.flatten(teacher, mask)
  finite = parallel.finite_rows(*rows)
  # With a row that is not finite the count is NaN, and so is what is divided by it,
  # even where a comparison would drop the NaN of the row.
  counted = jnp.where(finite, real.astype(rows[0].dtype), jnp.nan)
  columns = (
    parallel.gather_rows(rows[0], axis_name),
    parallel.gather_rows(rows[1], axis_name),
  )
  return Batch(
    rows,
    columns,
    parallel.row_positions(student.shape[0], axis_name),
    parallel.gather_rows(real, axis_name),
    parallel.global_sum(counted.sum(), axis_name),
  )


def pair_sides(
  batch: Batch, block_size: int | None
) -> tuple[list[pairwise.Points], list[pairwise.Columns | pairwise.Points]]:
  """Student and teacher as rows and as columns of `pairwise.pair_geometry`."""
  sides = [
    pairwise.rows_and_columns(*side, block_size)
    for side in zip(batch.rows, batch.columns, strict=True)
  ]
  return [rows for rows, _ in sides], [columns for _, columns in sides]
