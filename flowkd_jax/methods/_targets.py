"""Outputs of a network by name: its taps and its class probabilities."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics import label_rule

POSTERIOR = "posterior"
LABELLED_POSTERIOR = "labelled_posterior"
POSTERIORS = (POSTERIOR, LABELLED_POSTERIOR)


def output(
  outputs: Any, labels: Int[Array, " batch"], name: str
) -> Float[Array, "batch ..."]:
  """Tap or class probabilities of a network.

  Args:
    outputs: Logits and taps of the network.
    labels: Label of each row; negative for rows without a label.
    name: Name of a tap; "posterior" for the softmax of the logits; or
      "labelled_posterior" for the mean of the softmax and the one-hot labels. In rows
      without a label, "labelled_posterior" is the softmax alone.
  """
  if name not in POSTERIORS:
    return outputs.taps[name]
  posterior = jax.nn.softmax(outputs.logits)
  if name == POSTERIOR:
    return posterior
  read = label_rule.read_labels(
    labels, posterior.shape[1], shape=posterior.shape[:1], name="label"
  )
  one_hot = read.one_hot(posterior.shape[1], posterior.dtype)
  return jnp.where(read.labelled[:, None], (posterior + one_hot) / 2, posterior)
