"""Uneven distribution of the examples of a data set to clients."""

import numpy as np
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Int32
from scipy import special

from flowkd_jax._numerics.checks import check_count
from flowkd_jax._numerics.checks import check_positive
from flowkd_jax.data._order import permutation
from flowkd_jax.data._order import random_ranks

_ATTEMPTS = 200


def dirichlet_split(
  labels: Int[np.ndarray, " examples"],
  num_clients: int,
  alpha: float,
  *,
  seed: int,
  minimum: int = 10,
) -> tuple[Int32[np.ndarray, " share"], ...]:
  """Distribute examples to clients, by shares from a Dirichlet distribution.

  This is the usual way to make clients with different labels (Hsu et al., "Measuring
  the effects of non-identical data distribution", 2019; here as in the code published
  with FedGen, ICML 2021). The examples of each label are distributed in proportions
  drawn from a symmetric Dirichlet distribution. A client that already has its equal
  share of all examples gets none. The draw is repeated until every client has `minimum`
  examples. With a small `alpha` each client has few labels; with a large one, all
  clients are similar.

  Args:
    labels: Labels of all examples, 0 or above.
    num_clients: Number of clients that share the examples.
    alpha: Concentration of the Dirichlet distribution, above 0.
    seed: Seed of the draw, in 0..2**32-1.
    minimum: Examples that every client gets at least.

  Returns:
    Indices of the examples of each client, ascending. Each example belongs to exactly
    one client.

  Raises:
    ValueError: If a number is out of range, or no draw gives every client enough
      examples.

  Example:
    >>> labels = np.arange(60) % 3
    >>> clients = dirichlet_split(labels, 4, 0.5, seed=0, minimum=2)
    >>> sum(len(client) for client in clients)
    60
  """
  labels = np.asarray(labels)
  check_count("num_clients", num_clients)
  check_positive("alpha", alpha)
  if not 0 <= minimum * num_clients <= len(labels):
    raise ValueError(
      f"minimum: {num_clients} clients cannot have {minimum} each of {len(labels)} "
      "examples; lower it or the number of clients"
    )
  for attempt in range(_ATTEMPTS):
    clients = _draw(labels, num_clients, alpha, seed, attempt)
    if min(map(len, clients)) >= minimum:
      return tuple(np.sort(client).astype(np.int32) for client in clients)
  raise ValueError(
    f"minimum: in {_ATTEMPTS} draws with alpha {alpha} some of {num_clients} clients "
    f"always had fewer than {minimum} of {len(labels)} examples; lower it or the "
    "number of clients, or raise alpha"
  )


def _draw(labels, num_clients, alpha, seed, attempt):
  classes = np.unique(labels)
  proportions = _dirichlet(seed, 2 * attempt, len(classes), num_clients, alpha)
  order = permutation(seed, 2 * attempt + 1, len(labels))
  parts = [[] for _ in range(num_clients)]
  sizes = np.zeros(num_clients, int)
  for label, shares in zip(classes, proportions, strict=True):
    members = order[labels[order] == label]
    room = sizes * num_clients < len(labels)
    shares = np.where(room, shares, 0)
    # With a tiny alpha, all clients with room may have drawn 0.
    shares = shares if shares.sum() > 0 else room
    ends = np.cumsum(shares / shares.sum())[:-1] * len(members)
    for client, part in enumerate(np.split(members, ends.round().astype(int))):
      parts[client].append(part)
      sizes[client] += len(part)
  return [np.concatenate(client) for client in parts]


def _dirichlet(
  seed: int, stream: int, draws: int, size: int, alpha: float
) -> Float[np.ndarray, "draws size"]:
  """Draws of a symmetric Dirichlet distribution, by the inverse gamma distribution.

  They are made from raw random numbers, because NumPy's samplers may change between
  releases.
  """
  raw = random_ranks(seed, stream, draws * size).reshape(draws, size)
  gammas = special.gammaincinv(alpha, (raw >> np.uint64(11)) * 2.0**-53)
  totals = gammas.sum(axis=1, keepdims=True)
  return np.divide(gammas, totals, out=np.zeros_like(gammas), where=totals > 0)
