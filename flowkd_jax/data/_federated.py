"""Batches of federated learning: communication rounds with clients as rows."""

import dataclasses
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Int
from jaxtyping import Int32

from flowkd_jax._numerics.checks import check_count
from flowkd_jax._numerics.checks import check_integer
from flowkd_jax.data._memory_batches import MemoryBatches
from flowkd_jax.data._order import random_ranks

# Streams of random numbers from this number on choose clients; lower ones minibatches.
_SELECTION = 2**63
_ROWS = ("index", "epoch", "mask")


@dataclasses.dataclass(frozen=True, eq=False)
class FederatedBatches:
  """`Batches` whose steps are communication rounds and whose rows are clients.

  In each round, clients are drawn without replacement. Each client gets `local_steps`
  minibatches: its examples in a random order, cut into minibatches, as often as needed.
  Examples that do not fill a minibatch are left out of this pass. A client with fewer
  examples than a minibatch has all of them in each minibatch, padded and masked.

      rounds = FederatedBatches(
        training_batches, clients=dirichlet_split(...), clients_per_round=10, ...)

  A round depends only on the seed and its number, so a run can be resumed at any round.

  Attributes:
    images: Batches of the examples of all clients; also defines preparation and seed.
    clients: Indices of the examples of each client.
    clients_per_round: Number of clients in a round.
    local_steps: Number of minibatches of a client in a round.
    minibatch_size: Number of rows in a minibatch.
    rounds_per_epoch: Number of rounds that the training loop counts as an epoch.

  Raises:
    ValueError: If a client has no examples, or a number is out of range.
    TypeError: If `images` are not `MemoryBatches`.
  """

  images: MemoryBatches
  _: dataclasses.KW_ONLY
  clients: Sequence[Int[np.ndarray, " share"]]
  clients_per_round: int
  local_steps: int
  minibatch_size: int
  rounds_per_epoch: int = 1

  def __post_init__(self):
    if not isinstance(self.images, MemoryBatches):
      raise TypeError(
        f"images: expected MemoryBatches, got {type(self.images).__name__}: clients "
        "read their examples in any order; load the data set into memory"
      )
    for name in ("local_steps", "minibatch_size", "rounds_per_epoch"):
      check_count(name, getattr(self, name))
    _check_clients(self.clients, self.images.num_examples)
    if not 1 <= self.clients_per_round <= len(self.clients):
      raise ValueError(
        f"clients_per_round: expected 1..{len(self.clients)} (the number of clients), "
        f"got {self.clients_per_round}"
      )
    if self.clients_per_round % self.images.process_count:
      raise ValueError(
        "clients_per_round: expected a multiple of process_count "
        f"({self.images.process_count}), got {self.clients_per_round}"
      )

  @property
  def num_examples(self) -> int:
    """Number of examples in the split."""
    return self.images.num_examples

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return self.images.num_classes

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of a prepared image."""
    return self.images.image_shape

  @property
  def batch_size(self) -> int:
    """Number of clients in a round, over all processes."""
    return self.clients_per_round

  @property
  def steps_per_epoch(self) -> int:
    """Number of rounds in an epoch."""
    return self.rounds_per_epoch

  @property
  def resident(self) -> dict[str, np.ndarray]:
    """All images and labels of the split, and its seed."""
    return self.images.resident

  @property
  def row_arrays(self) -> tuple[str, ...]:
    """Arrays of `resident` that may be split over devices."""
    return self.images.row_arrays

  def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Yield the rounds of an epoch, from `start_step` on.

    A round has "client" and "size" (int32 `[clients]`, numbers of the clients and of
    their examples), and the arrays "index", "epoch" (int32, different for each
    minibatch of a client) and "mask" of shape `[clients, local_steps, minibatch_size]`.
    """
    if not 0 <= epoch < 2**31 // (self.rounds_per_epoch * self.local_steps):
      raise ValueError(f"epoch: expected 0 or above, within 31 bits, got {epoch}")
    if not 0 <= start_step <= self.rounds_per_epoch:
      raise ValueError(
        f"start_step: expected 0..{self.rounds_per_epoch} (rounds_per_epoch), got "
        f"{start_step}"
      )
    first = epoch * self.rounds_per_epoch
    return map(self._round, range(first + start_step, first + self.rounds_per_epoch))

  def _round(self, number: int) -> dict[str, np.ndarray]:
    ranks = random_ranks(self.images.seed, _SELECTION + number, len(self.clients))
    share = self.clients_per_round // self.images.process_count
    first = share * self.images.process_index
    chosen = np.argsort(ranks, kind="stable")[first : first + share]
    drawn = [self._minibatches(number, client) for client in chosen.tolist()]
    index, mask = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
    steps = number * self.local_steps + np.arange(self.local_steps, dtype=np.int32)
    return {
      "client": chosen.astype(np.int32),
      "size": np.array([len(self.clients[i]) for i in chosen], np.int32),
      "index": index,
      "epoch": np.broadcast_to(steps[None, :, None], index.shape).astype(np.int32),
      "mask": mask,
    }

  def _minibatches(
    self, number: int, client: int
  ) -> tuple[Int32[np.ndarray, "steps rows"], Bool[np.ndarray, "steps rows"]]:
    """Examples of a client in a round, and the mask of valid rows."""
    members = np.asarray(self.clients[client])
    rows = min(self.minibatch_size, len(members))
    per_pass = len(members) // rows
    passes = -(-self.local_steps // per_pass)
    stream = number * len(self.clients) + client
    ranks = random_ranks(self.images.seed, stream, passes * len(members))
    orders = np.argsort(ranks.reshape(passes, -1), axis=1, kind="stable")
    index = members[orders[:, : per_pass * rows]].reshape(-1, rows)
    padding = ((0, 0), (0, self.minibatch_size - rows))
    index = np.pad(index[: self.local_steps], padding).astype(np.int32)
    return index, np.broadcast_to(np.arange(self.minibatch_size) < rows, index.shape)

  def prepare(
    self, resident: Mapping[str, Array], batch: Mapping[str, Array]
  ) -> dict[str, Array]:
    """Prepare the minibatches of some clients; pure, can be jitted.

    Returns:
      "image" `[clients, local_steps, minibatch_size, height, width, channels]`,
      "label" and "mask" `[clients, local_steps, minibatch_size]`, "client" and "size"
      `[clients]`.
    """
    shape = jnp.shape(batch["index"])
    flat = {name: jnp.reshape(batch[name], -1) for name in _ROWS}
    prepared = self.images.prepare(resident, flat)
    arrays = {
      name: rows.reshape(*shape, *rows.shape[1:]) for name, rows in prepared.items()
    }
    return arrays | {name: jnp.asarray(batch[name]) for name in ("client", "size")}


def _check_clients(clients, num_examples):
  for number, members in enumerate(clients):
    if len(members) == 0:
      raise ValueError(
        f"clients: client {number} of {len(clients)} has no examples; every client "
        "needs one: split with a minimum of 1 or more, fewer clients or a larger alpha"
      )
    check_integer(f"clients[{number}]", members)
    if not 0 <= np.min(members) <= np.max(members) < num_examples:
      raise ValueError(
        f"clients: expected indices in 0..{num_examples - 1}, got those of client "
        f"{number} in {np.min(members)}..{np.max(members)}"
      )
