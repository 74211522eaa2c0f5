"""Losses on logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax import _checks
from flowkd_jax import _global_batch
from flowkd_jax import _precision


def cross_entropy(
  logits: Float[Array, "batch classes"],
  labels: Int[Array, " batch"],
  *,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Mean cross-entropy of the rows with their labels.

  Computed in float32 from log-softmax. Not a distillation loss, but the one that
  every method of this library stands beside.

  Args:
    logits: Unnormalised log-probabilities.
    labels: Class of each row.
    mask: Which rows are real; the mean is over those.
    axis_name: Mapped axis over which the batch is split.

  Raises:
    TypeError: If logits are not floating or labels not integers.
    ValueError: If shapes disagree.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))), 4)
    1.3863
  """
  _checks.check_features(logits=logits)
  _checks.check_integer("labels", labels)
  _checks.check_shape("labels", labels, logits.shape[:1])
  log_probabilities = jax.nn.log_softmax(_precision.at_least_float32(logits))
  rows = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
  return _global_batch.global_mean(rows, mask, axis_name)
