"""Micro-batches: exact gradients of a batch whose activations do not fit in memory.

A loss over pairs of rows is not a sum over parts of the batch, so the gradients of
parts cannot be added. But the loss depends on the batch only through the features, and
these can be computed part by part (Gao et al., "Scaling deep contrastive learning batch
size under memory limited setup", https://arxiv.org/abs/2101.06983):

1. Compute the features of one micro-batch after another. Keep no activations.
2. Compute the loss of the features of the whole batch, and its gradient with respect to
   the features.
3. Compute each micro-batch again, with the same random keys, and propagate its part of
   that gradient to the parameters.

The scan below is step 1. Its derivative is step 3, because `jax.checkpoint` stores only
the arguments of a micro-batch and computes its activations again.
"""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key

from flowkd_jax._numerics import checks

PyTree = Any
# Number of successive rows that stay in one part, such as the rotations of an image.
_RUN = 4


class Features(Protocol):
  """Forward pass of the networks of a method, on a batch or a part of it."""

  def __call__(
    self,
    variables: dict[str, Any],
    batch: Mapping[str, Array],
    constants: PyTree,
    *,
    key: Key[Array, ""],
  ) -> tuple[PyTree, PyTree]:
    """Returns `(features, updated collections)`.

    Each array of the features has one row per image. Rows may depend on one another
    only through BatchNorm.
    """
    ...


class LossOfFeatures(Protocol):
  """Loss of the global batch from the features of its rows."""

  def __call__(
    self,
    features: PyTree,
    /,
    variables: dict[str, Any],
    batch: Mapping[str, Array],
    *,
    step: Int[Array, ""],
    key: Key[Array, ""],
  ) -> tuple[Float[Array, ""], tuple[PyTree, dict[str, Float[Array, ""]]]]:
    """Returns `(loss, (updated collections, metrics))`.

    `variables` are the variables that the features were computed with; parameters of
    the loss are part of "params". The collections are those that the loss itself
    updates, {} if there are none.
    """
    ...


class FeatureLoss(NamedTuple):
  """Loss split into features and a function of the features.

  Micro-batches need this split.

  Attributes:
    features: Function that computes the features of each row.
    loss: Function that computes the loss from all features.
  """

  features: Features
  loss: LossOfFeatures

  def __call__(
    self,
    variables: dict[str, Any],
    batch: Mapping[str, Array],
    constants: PyTree,
    *,
    step: Int[Array, ""],
    key: Key[Array, ""],
  ) -> tuple[Float[Array, ""], tuple[PyTree, dict[str, Float[Array, ""]]]]:
    """Compute features and loss, as a `LossFunction`."""
    features, updated = self.features(variables, batch, constants, key=key)
    value, (kept, metrics) = self.loss(features, variables, batch, step=step, key=key)
    return value, ({**updated, **kept}, metrics)


def check_number(micro_batches: int) -> None:
  """Raise an error unless the number of micro-batches is a positive integer."""
  checks.check_count("micro_batches", micro_batches)


def by_micro_batches(features: Features, number: int) -> Features:
  """Compute features one micro-batch after another.

  Only the activations of one micro-batch are in memory; a gradient computes them a
  second time. The rows of a micro-batch are spread over the batch, so that each
  micro-batch has rows of every device. Each micro-batch has its own dropout key, which
  is the same in both passes. BatchNorm behaves as for a batch of that size: it
  normalises by the statistics of the micro-batch and updates its running averages once
  per micro-batch.

  Args:
    features: Forward pass of the networks.
    number: Number of micro-batches. If it does not divide the rows of a device, masked
      rows are appended.
  """
  if number == 1:
    return features

  def in_turn(variables, batch, constants, *, key):
    rows = batch["mask"].shape[0]
    if number > rows:
      raise ValueError(
        f"micro_batches: expected at most as many as a device has rows, {rows}, got "
        f"{number}"
      )
    params = variables["params"]
    collections = {name: v for name, v in variables.items() if name != "params"}

    @jax.checkpoint
    def replayed(params, collections, part, number_key):
      return features(
        {"params": params, **collections}, part, constants, key=number_key
      )

    def body(collections, part):
      found, updated = replayed(params, collections, *part)
      _check_rows(found, part[0]["mask"].shape[0])
      # No gradient flows through running averages.
      return {**collections, **lax.stop_gradient(updated)}, found

    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(number))
    parts = jax.tree.map(lambda array: _split(array, number), dict(batch))
    updated, found = lax.scan(body, collections, (parts, keys))
    return jax.tree.map(lambda array: _joined(array, rows), found), updated

  return in_turn


def _split(array, number):
  """Reshape `[rows, ...]` to `[number, rows of a part, ...]`, padded with zeros."""
  rows = array.shape[0]
  array = jnp.pad(array, [(0, -rows % number)] + [(0, 0)] * (array.ndim - 1))
  run = _run(array.shape[0], number)
  array = array.reshape(-1, number, run, *array.shape[1:]).swapaxes(0, 1)
  return array.reshape(number, -1, *array.shape[3:])


def _joined(parts, rows):
  """Inverse of `_split`."""
  number = parts.shape[0]
  run = _run(number * parts.shape[1], number)
  parts = parts.reshape(number, -1, run, *parts.shape[2:]).swapaxes(0, 1)
  return parts.reshape(-1, *parts.shape[3:])[:rows]


def _run(rows, number):
  return _RUN if rows % (_RUN * number) == 0 else 1


def _check_rows(features, rows):
  for leaf in jax.tree.leaves(features):
    if jnp.shape(leaf)[:1] != (rows,):
      raise ValueError(
        f"features: expected arrays of one row per image, {rows}, got shape "
        f"{jnp.shape(leaf)}"
      )
