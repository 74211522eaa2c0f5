"""Sums over classes of terms of log-probabilities, at once or in blocks of classes.

`log p_c = z_c / T - m - log sum_c exp(z_c / T - m)`, where m is the largest `z_c / T`
of the row. These are the same numbers as those of `jax.nn.log_softmax`.

Each statistic of a row is a level of `class_blocks`: the largest score, the mass
`sum_c exp(z_c / T - m)`, and for standardised logits their moments before. Every level
computes the scores of a block again from the logits, so that none of them is stored.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics import class_blocks
from flowkd_jax._numerics import float32
from flowkd_jax.losses import _logits

# `(log-probabilities of each side, options, columns, constants) -> [rows, block]`. Each
# option is `[rows, 1]`, and `columns` holds the classes of the block.
Terms = Callable[
  [Sequence[Float[Array, "rows block"]], Sequence[Any], Int[Array, " block"], Any],
  Float[Array, "rows block"],
]


def term_sums(
  rows: _logits.Rows,
  terms: Terms,
  temperatures: Sequence[Float[Array, " rows"]],
  options: Sequence[Float[Array, "..."]] = (),
  constants: Any = None,
  *,
  standardize: bool = False,
  block_size: int | None = None,
) -> Float[Array, " rows"]:
  """Sums over classes of terms of the log-probabilities of each row.

  Args:
    rows: Logits of one side or of both.
    terms: Function that returns the term of each entry.
    temperatures: Temperatures of each side, one per row `[rows]` or one for all rows
      `[1]`.
    options: Numbers that the terms read, `[]` or `[rows]`. They have a gradient.
    constants: Arrays that the terms read. They have no gradient.
    standardize: Standardise the logits first.
    block_size: Number of classes in a block, chosen automatically if None.
  """

  def entries(blocks, columns, known, fixed):
    logs = [
      scores - largest[:, None] - jnp.log(mass)[:, None]
      for scores, largest, mass in zip(
        _scores(blocks, known, fixed, standardize=standardize),
        known["largest"],
        known["mass"],
        strict=True,
      )
    ]
    options_of_rows = [each[:, None] for each in known["options"]]
    return terms(logs, options_of_rows, columns, fixed[1])

  # The terms are a level of their own, after the levels whose results they read.
  levels = [*_normalizers(standardize), class_blocks.Level("terms", entries)]
  results = _reduced(
    rows, levels, temperatures, options, constants, block_size=block_size
  )
  return results["terms"]


def normalizers(
  rows: _logits.Rows,
  temperature: Float[Array, " rows"],
  *,
  standardize: bool = False,
  block_size: int | None = None,
) -> tuple[Float[Array, " rows"], Float[Array, " rows"]]:
  """Largest `z_c / T` of one side, and the mass `sum_c exp(z_c / T - largest)`.

  The mass is from 1 to the number of classes. The largest score is a constant to the
  gradient, and `largest + log(mass)` has the gradient of log-sum-exp.
  """
  levels = _normalizers(standardize)
  results = _reduced(rows, levels, [temperature], block_size=block_size)
  return results["largest"][0], results["mass"][0]


def bucket_logits(
  rows: _logits.Rows,
  temperature: Float[Array, " rows"],
  ids: Int[Array, "rows k"],
  used: Bool[Array, "rows k"],
  *,
  standardize: bool = False,
  block_size: int | None = None,
) -> Float[Array, "rows buckets"]:
  """Logits of k classes of one side, and one logit for all other classes together.

  Their softmax has the probabilities of the k classes, and in the last bucket the sum
  of all other probabilities.

  Args:
    rows: Logits of one side.
    temperature: Temperature of each row, `[rows]`, or one for all rows, `[1]`.
    ids: Classes to pick. The classes of a row must all differ.
    used: True for picked classes to read. The logits of the others become minus
      infinity.
    standardize: Standardise the logits first.
    block_size: Number of classes in a block, chosen automatically if None.
  """

  def others(blocks, columns, known, fixed):
    (scores,) = _scores(blocks, known, fixed, standardize=standardize)
    ids, used = fixed[1]
    return (jnp.where(_hits(ids, used, columns), -jnp.inf, scores),)

  levels = _with_normalizers(others, standardize)
  results = _reduced(
    rows, levels, [temperature], constants=(ids, used), block_size=block_size, ids=ids
  )
  picked = [results["picked"]]
  known = {"temperature": (jnp.broadcast_to(temperature, ids.shape[:1]),), **results}
  (scores,) = _scores(picked, known, (rows.mask,), standardize=standardize)
  mass = results["mass"][0]
  # The logarithm of a mass of 0 would have an infinite gradient.
  rest = jnp.where(
    mass == 0, -jnp.inf, results["largest"][0] + jnp.log(jnp.where(mass == 0, 1, mass))
  )
  return jnp.concatenate([jnp.where(used, scores, -jnp.inf), rest[:, None]], axis=1)


def _hits(ids, used, columns):
  """Mask `[rows, block]` of the columns that are among the ids of a row."""
  shape = ids.shape[0], columns.shape[0]
  here = used & (ids >= columns[0]) & (ids <= columns[-1])
  places = jnp.where(here, ids - columns[0], shape[1])  # beyond the block: dropped
  # All False. Made from `ids`, it varies over the same axes of `shard_map` as they do.
  none = jnp.broadcast_to(ids[:, :1] < ids[:, :1], shape)
  return none.at[jnp.arange(shape[0])[:, None], places].set(True, mode="drop")


def possible_classes(rows: _logits.Rows) -> Float[Array, " rows"]:
  """Number of classes that the first side does not rule out, at least 1."""
  possible = rows.sides[0] != -jnp.inf
  return jnp.maximum(possible.sum(1, dtype=_logits.float32_dtype(rows)), 1)


def _reduced(
  rows, levels, temperatures, options=(), constants=None, *, block_size, **more
):
  number = rows.sides[0].shape[0]

  def spread(values):
    return jnp.broadcast_to(values, (number,))

  known = {
    "temperature": tuple(map(spread, temperatures)),
    "options": tuple(map(spread, options)),
  }
  fixed = rows.mask, constants
  return class_blocks.reduce_classes(
    levels, rows.sides, known, fixed, block_size=block_size, **more
  )


def _normalizers(standardize):
  """Levels that log-probabilities need: largest scores and masses."""

  def scores(blocks, columns, known, fixed):
    return _scores(blocks, known, fixed, standardize=standardize)

  return _with_normalizers(scores, standardize)


def _with_normalizers(scores, standardize):
  """Levels of the largest score and of the mass, for given scores."""

  def masses(blocks, columns, known, fixed):
    # In a row without a class, -inf less -inf would be NaN.
    return tuple(
      jnp.exp(each - _finite(largest)[:, None])
      for each, largest in zip(
        scores(blocks, columns, known, fixed), known["largest"], strict=True
      )
    )

  return [
    *(_moments() if standardize else ()),
    class_blocks.Level("largest", scores, largest=True),
    class_blocks.Level("mass", masses),
  ]


def _finite(largest):
  """The largest score with 0 for an infinity, which a row without a class has."""
  return jnp.where(jnp.isfinite(largest), largest, 0)


def _scores(blocks, known, fixed, *, standardize):
  """Logits of each side divided by the temperature, after optional standardisation."""
  sides = [_logits.real_logits(block, fixed[0]) for block in blocks]
  if standardize:
    sides = [
      _logits.standard_scores(side, *moments)
      for side, moments in zip(sides, _units_and_moments(known), strict=True)
    ]
  return tuple(
    _logits.divided(side, temperature[:, None])
    for side, temperature in zip(sides, known["temperature"], strict=True)
  )


def _moments():
  """Levels of the moments of standardised logits, as in `_logits.standardized`."""

  def magnitudes(blocks, columns, known, fixed):
    sides = [_logits.real_logits(block, fixed[0]) for block in blocks]
    return tuple(jnp.where(side == -jnp.inf, 0, jnp.abs(side)) for side in sides)

  def first(blocks, columns, known, fixed):
    return tuple(
      {
        "count": (side != -jnp.inf).astype(side.dtype),
        "total": _logits.scaled(side, unit),
      }
      for side, unit in _with_units(blocks, known, fixed)
    )

  def second(blocks, columns, known, fixed):
    return tuple(
      _logits.centred(side, unit, mean) ** 2
      for (side, unit), mean in zip(
        _with_units(blocks, known, fixed), _means(known), strict=True
      )
    )

  return (
    class_blocks.Level("magnitude", magnitudes, largest=True),
    class_blocks.Level("first", first),
    class_blocks.Level("second", second),
  )


def _with_units(blocks, known, fixed):
  for block, magnitude in zip(blocks, known["magnitude"], strict=True):
    yield _logits.real_logits(block, fixed[0]), float32.power_of_two(magnitude[:, None])


def _means(known):
  for moments in known["first"]:
    yield (moments["total"] / jnp.maximum(moments["count"], 1))[:, None]


def _units_and_moments(known):
  for magnitude, mean, first, squares in zip(
    known["magnitude"], _means(known), known["first"], known["second"], strict=True
  ):
    unit = float32.power_of_two(magnitude[:, None])
    yield unit, mean, squares[:, None], first["count"][:, None]
