"""Plan of the examples of each step, for all kinds of batches."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int32

from flowkd_jax._numerics.checks import check_whole
from flowkd_jax.data._order import permutation


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochPlan:
  """Plan of the rows of each step, for one of several processes.

  Attributes:
    num_examples: Number of examples in the split.
    batch_size: Number of rows in a step, over all processes.
    seed: Seed of the shuffle, in 0..2**32-1.
    shuffle: True for a new order in every epoch, False for the order of the split.
    drop_last: True to leave out the last, short batch in place of padding it.
    process_index: Number of this process, in 0..process_count-1.
    process_count: Number of processes. Each takes an equal, contiguous share of a step.
  """

  num_examples: int
  batch_size: int
  seed: int
  shuffle: bool
  drop_last: bool
  process_index: int
  process_count: int

  def __post_init__(self):
    for name in ("batch_size", "seed", "process_index", "process_count"):
      check_whole(name, getattr(self, name))
    if not 1 <= self.batch_size <= self.num_examples:
      raise ValueError(
        f"batch_size: expected 1..{self.num_examples} (the number of "
        f"examples), got {self.batch_size}; choose another batch_size or a "
        "larger split"
      )
    if not 0 <= self.seed < 2**32:
      raise ValueError(f"seed: expected 0..2**32-1, got {self.seed}")
    if not 0 <= self.process_index < self.process_count:
      raise ValueError(
        f"process_index: expected 0..{self.process_count - 1} (process_count "
        f"is {self.process_count}), got {self.process_index}"
      )
    if self.batch_size % self.process_count:
      raise ValueError(
        f"batch_size: expected a multiple of process_count "
        f"({self.process_count}), got {self.batch_size}"
      )

  @property
  def rows_per_step(self) -> int:
    """Number of rows of this process in a step."""
    return self.batch_size // self.process_count

  @property
  def steps_per_epoch(self) -> int:
    """Number of steps in an epoch, including the padded one."""
    if self.drop_last:
      return self.num_examples // self.batch_size
    return -(-self.num_examples // self.batch_size)

  def order(self, epoch: int) -> Int32[np.ndarray, " examples"]:
    """Order of the examples in an epoch."""
    if self.shuffle:
      return permutation(self.seed, epoch, self.num_examples)
    return np.arange(self.num_examples, dtype=np.int32)

  def step_rows(
    self, order: Int32[np.ndarray, " examples"], epoch: int, step: int
  ) -> dict[str, np.ndarray]:
    """Index, epoch and mask of this process's rows in a step.

    Rows beyond the last example repeat example 0 and are masked, so that all steps have
    one shape and compile once.
    """
    rows = self.rows_per_step
    first = step * self.batch_size + self.process_index * rows
    index = order[first : first + rows]
    real = len(index)
    if real < rows:  # Only if needed: `np.pad` takes most of the time here.
      index = np.pad(index, (0, rows - real))
    mask = np.zeros(rows, bool)
    mask[:real] = True
    return {"index": index, "epoch": np.full(rows, epoch, np.int32), "mask": mask}

  def check_position(self, epoch: int, start_step: int) -> None:
    """Raise ValueError unless an epoch can start at this step."""
    if not 0 <= epoch < 2**31:
      raise ValueError(f"epoch: expected 0..2**31-1, got {epoch}")
    if not 0 <= start_step <= self.steps_per_epoch:
      raise ValueError(
        f"start_step: expected 0..{self.steps_per_epoch} (steps_per_epoch), "
        f"got {start_step}; was the checkpoint written with another batch_size?"
      )

  def epoch_rows(self, epoch: int, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield `step_rows` of each step, from `start_step` on."""
    self.check_position(epoch, start_step)
    order = self.order(epoch)
    return (
      self.step_rows(order, epoch, step)
      for step in range(start_step, self.steps_per_epoch)
    )
