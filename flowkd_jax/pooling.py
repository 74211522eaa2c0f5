"""Taps with positions, such as tokens or the pixels of a map, as one row each.

A transformer's tap is `[batch, tokens, dim]`, a convolutional network's `[batch,
height, width, channels]`. Losses flatten what follows the batch axis, so that position
by position is compared; what is pooled here is compared whatever the positions are.
Arithmetic is float32 (float64 stays float64), whatever the dtype of the tap.

Where a mask leaves no position, the row is zero, and so is its gradient; what stands in
a masked position, be it NaN, changes nothing.
"""

from collections.abc import Callable
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Shaped

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32

__all__ = [
  "POOLINGS",
  "attention",
  "average_pool",
  "class_token",
  "mean",
]


def mean(
  tap: Float[Array, "batch *positions dim"],
  *,
  mask: Shaped[Array, "batch *positions"] | None = None,
) -> Float[Array, "batch dim"]:
  """The mean over all positions.

  Args:
    tap: Tokens, a map, or anything with positions between the batch and the width.
    mask: True for real positions, all by default.

  Raises:
    TypeError: If `tap` is not floating.
    ValueError: If `tap` has no position, or the mask another shape.
  """
  _check_tap(tap)
  return attention(tap, jnp.ones(jnp.shape(tap)[:-1]), mask=mask)


def attention(
  tap: Float[Array, "batch *positions dim"],
  weights: Float[Array, "batch *positions"],
  *,
  mask: Shaped[Array, "batch *positions"] | None = None,
) -> Float[Array, "batch dim"]:
  """The mean over all positions by given weights, such as a class token's attention.

  `sum_p weight_p tap_p / sum_p weight_p`, with sums over the positions that are real.
  Invariant to the scale of a row's weights; differentiable in them too.

  Args:
    tap: As in `mean`.
    weights: Weight of each position, 0 or above. For scores take their softmax.
    mask: True for real positions, all by default.

  Returns:
    The weighted means; zero where the weights add up to zero.

  Raises:
    TypeError: If `tap` or `weights` are not floating.
    ValueError: If `tap` has no position, or weights or mask another shape.
  """
  _check_tap(tap)
  checks.check_floating("weights", weights)
  positions = jnp.shape(tap)[:-1]
  checks.check_shape("weights", weights, positions)
  values = float32.at_least_float32(jnp.asarray(tap))
  shares = jnp.asarray(weights).astype(values.dtype)
  if mask is not None:
    checks.check_shape("mask", mask, positions)
    real = jnp.asarray(mask).astype(bool)
    values = jnp.where(real[..., None], values, 0)
    shares = jnp.where(real, shares, 0)
  axes = tuple(range(1, len(positions)))
  total = shares.sum(axes)[:, None]
  # Twice where: the gradient of a quotient by zero is not finite, taken or not.
  weighted = (shares[..., None] * values).sum(axes)
  # Compared so that a weight of NaN passes.
  empty = total <= 0
  return jnp.where(empty, 0, weighted / jnp.where(empty, 1, total))


def class_token(
  tokens: Float[Array, "batch tokens dim"],
  *,
  index: int = 0,
  mask: Shaped[Array, "batch tokens"] | None = None,
) -> Float[Array, "batch dim"]:
  """The token that stands for the whole image, the first by custom.

  Args:
    tokens: The tokens.
    index: Index of the token; -1 is the last.
    mask: True for real tokens, all by default; a row without its class token is zero.

  Raises:
    TypeError: If `tokens` are not floating.
    ValueError: If they are of another rank, there is no such token, or the mask is of
      another shape.
  """
  checks.check_floating("tokens", tokens)
  shape = jnp.shape(tokens)
  if len(shape) != 3 or 0 in shape:
    raise ValueError(
      "tokens: expected a non-empty array of shape [batch, tokens, dim], got shape "
      f"{shape}; a map has no class token, take its mean"
    )
  if not -shape[1] <= index < shape[1]:
    raise ValueError(f"index: expected one of {shape[1]} tokens, got {index}")
  token = float32.at_least_float32(jnp.asarray(tokens)[:, index])
  if mask is None:
    return token
  checks.check_shape("mask", mask, shape[:2])
  return jnp.where(jnp.asarray(mask).astype(bool)[:, index, None], token, 0)


# What needs no weights, by name.
POOLINGS: Mapping[str, Callable[..., Float[Array, "batch dim"]]] = {
  "mean": mean,
  "class_token": class_token,
}


def average_pool(
  maps: Float[Array, "batch height width channels"], height: int, width: int
) -> Float[Array, "batch new_height new_width channels"]:
  """Adaptive average pooling: cell i averages rows `floor(i n / m)` on.

  Up to `ceil((i + 1) n / m)`, as PyTorch's `adaptive_avg_pool2d`, so that cells
  overlap where the target does not divide the size. The dtype stays.

  Args:
    maps: Maps of a convolutional network.
    height: Height of the result.
    width: Width of the result.
  """
  for axis, size in ((1, height), (2, width)):
    maps = _averaged(maps, axis, size)
  return maps


def _averaged(maps, axis, size):
  side = maps.shape[axis]
  if side == size:
    return maps
  if side % size == 0:
    windows = (*maps.shape[:axis], size, side // size, *maps.shape[axis + 1 :])
    return maps.reshape(windows).mean(axis + 1)
  starts = np.arange(size) * side // size
  ends = -(-np.arange(1, size + 1) * side // size)
  positions = np.arange(side)[None, :]
  inside = (positions >= starts[:, None]) & (positions < ends[:, None])
  shares = jnp.asarray(inside / inside.sum(1, keepdims=True), maps.dtype)
  axes = "yh,bhwc->bywc" if axis == 1 else "xw,bhwc->bhxc"
  return jnp.einsum(axes, shares, maps, precision=lax.Precision.HIGHEST)


def _check_tap(tap) -> None:
  checks.check_floating("tap", tap)
  shape = jnp.shape(tap)
  if len(shape) < 3 or 0 in shape:
    raise ValueError(
      "tap: expected a non-empty array of shape [batch, positions, ..., dim], got "
      f"shape {shape}; what has no positions needs no pooling"
    )
