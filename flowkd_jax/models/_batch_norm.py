"""Batch normalisation over the valid rows of the global batch."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax._numerics.checks import check_rows
from flowkd_jax.parallel import global_sum


class BatchNorm(nn.Module):
  """Normalises each channel by the statistics of the global batch.

  Flax's own layer averages the means of the devices, which is the mean of the
  global batch only if every device holds the same number of valid rows; at the
  end of an epoch it does not. Here sums and counts are added over the devices,
  so the statistics are those of the valid rows wherever they lie, even if some
  devices hold none. Variables bear Flax's names.

  The running variance takes the unbiased estimate, as in PyTorch, where the
  authors' networks come from; the batch itself is normalised by the biased one.
  Statistics and parameters are float32 whatever `dtype` is.

  Attributes:
    momentum: weight of the old value in the running averages (PyTorch's is
      that of the new one, 1 - momentum).
    epsilon: added to the variance.
    dtype: dtype of the result.
    axis_name: mapped axis over which the batch is split, if any.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: DTypeLike = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch *space channels"],
    *,
    train: bool,
    mask: Bool[Array, "batch ..."] | None = None,
  ) -> Float[Array, "batch *space channels"]:
    """Normalises `x`, and in training updates the running averages.

    Args:
      x: activations.
      train: whether to use the statistics of this batch (and update the
        collection `batch_stats`, which must be mutable) or the running ones.
      mask: in training, the rows that are valid, or with more axes the positions
        that are; none means all. The others come out as `bias`, influence
        nothing and receive no gradient. A batch without any valid ones leaves
        the running averages as they are.
    """
    check_rows("x", x)
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
    x = x.astype(jnp.float32)
    if not train:
      centred = x - _as_channels(running_mean.value, x)
      var = running_var.value
    else:
      # Variables are initialised outside the mapped step: no axis is bound.
      axis_name = None if self.is_initializing() else self.axis_name
      centred, mean, var, count = batch_statistics(x, mask, axis_name)
      if not self.is_initializing():
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        weight = jnp.where(count > 0, 1 - self.momentum, 0.0)
        for running, new in ((running_mean, mean), (running_var, unbiased)):
          running.value += weight * (lax.stop_gradient(new) - running.value)
    factor = scale * lax.rsqrt(var + self.epsilon)
    normalized = centred * _as_channels(factor, x) + _as_channels(bias, x)
    return normalized.astype(self.dtype)


def batch_statistics(
  x: Float[Array, "batch *space channels"],
  mask: Bool[Array, "batch ..."] | None,
  axis_name: str | None,
) -> tuple[
  Float[Array, "batch *space channels"],
  Float[Array, " channels"],
  Float[Array, " channels"],
  Float[Array, ""],
]:
  """Centred values, mean, biased variance and number of values of each channel.

  All but the first are global. Centred values are zero where `x` is not valid. The
  variance is their mean square: the mean square of `x` less the squared mean cancels
  badly where the mean is large.
  """
  axes = tuple(range(x.ndim - 1))
  valid = jnp.ones(x.shape[0], bool) if mask is None else mask.astype(bool)
  values_each = x.size // (valid.size * x.shape[-1])
  count = global_sum(valid.sum(dtype=x.dtype) * values_each, axis_name)
  divisor = jnp.maximum(count, 1)
  mean = global_sum(zero_masked(x, mask).sum(axes), axis_name) / divisor
  centred = zero_masked(x - _as_channels(mean, x), mask)
  var = global_sum(jnp.square(centred).sum(axes), axis_name) / divisor
  return centred, mean, var, count


def zero_masked(
  x: Float[Array, "batch ..."], mask: Bool[Array, "batch ..."] | None
) -> Float[Array, "batch ..."]:
  """Zeros wherever `x` is not valid, whatever it held (even NaN).

  The axes of `mask` are the first ones of `x`.
  """
  if mask is None:
    return x
  valid = mask.astype(bool).reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
  return jnp.where(valid, x, jnp.zeros((), x.dtype))


def _as_channels(
  values: Float[Array, " channels"], x: Float[Array, "*rest channels"]
) -> Float[Array, "*ones channels"]:
  return values.reshape((1,) * (x.ndim - 1) + (-1,))
