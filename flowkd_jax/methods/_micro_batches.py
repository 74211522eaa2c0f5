"""Exact gradients of a batch whose activations do not fit: micro-batches.

A loss over pairs of rows is not a sum over parts of a batch, so that gradients of parts
cannot be added up. What can be computed by parts are the features, and the loss needs
no more than them (Gao et al., "Scaling deep contrastive learning batch size under
memory limited setup", https://arxiv.org/abs/2101.06983):

1. the features of every micro-batch, one after another, keeping no activations;
2. the loss of the features of the whole batch, and its gradient with respect to them;
3. every micro-batch again, with the same keys, and its part of that gradient back to
   the parameters.

The scan below is step 1. Differentiated, it is step 3, as `jax.checkpoint` keeps the
arguments of a micro-batch alone.
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
# Rows that stay together, such as the rotations of an image.
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

    Each array of the features has one row per image: no row may depend on the others
    but through BatchNorm.
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

    The variables are those that were given to the features; what the loss itself
    learns is among their "params". The collections are those that the loss updates
    beside the features, {} if there are none.
    """
    ...


class FeatureLoss(NamedTuple):
  """A loss as features and a function of them, which `micro_batches` needs.

  Attributes:
    features: The features of each row.
    loss: The loss of all features.
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
    """Both in turn: a `LossFunction`."""
    features, updated = self.features(variables, batch, constants, key=key)
    value, (kept, metrics) = self.loss(features, variables, batch, step=step, key=key)
    return value, ({**updated, **kept}, metrics)


def check_number(micro_batches: int) -> None:
  """Raises unless the number of micro-batches is an integer of 1 or more."""
  checks.check_count("micro_batches", micro_batches)


def by_micro_batches(features: Features, number: int) -> Features:
  """The same features, computed by one micro-batch after another.

  Activations are kept of one micro-batch at a time; a gradient computes each of them a
  second time. The rows of a micro-batch are spread over the batch, so that the rows of
  every device are in all of them. Micro-batches draw their dropout by keys of their
  own, the same both times. BatchNorm normalises by the statistics of the micro-batch,
  and its running averages move once for each: what a batch of that size does.

  Args:
    features: The forward pass.
    number: Number of micro-batches, k. Where it does not divide the n rows of a
      device, the smaller ones are filled up with masked rows.
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
  """`[rows, ...]` as `[number, rows of a part, ...]`, filled up with zeros."""
  rows = array.shape[0]
  array = jnp.pad(array, [(0, -rows % number)] + [(0, 0)] * (array.ndim - 1))
  run = _run(array.shape[0], number)
  array = array.reshape(-1, number, run, *array.shape[1:]).swapaxes(0, 1)
  return array.reshape(number, -1, *array.shape[3:])


def _joined(parts, rows):
  """The inverse of `_split`."""
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
