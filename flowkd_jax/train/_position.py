"""Position of a run, as its checkpoints record it."""

import math
from collections.abc import Mapping
from typing import Any


def check_position(
  position: Mapping[str, Any], *, steps_per_epoch: int, epochs: int
) -> None:
  """Checks that a run can go on from the position of a checkpoint.

  Args:
    position: "step" and "steps_per_epoch" of the checkpoint.
    steps_per_epoch: Steps of an epoch of this run.
    epochs: Epochs of this run, those before the checkpoint included.

  Raises:
    ValueError: If epochs have another number of steps, or more were trained.
  """
  if position["steps_per_epoch"] != steps_per_epoch:
    raise ValueError(
      f"the checkpoint was made with {position['steps_per_epoch']} steps an epoch, "
      f"this run has {steps_per_epoch}: data set or batch size changed; use another "
      "workdir"
    )
  done = int(position["step"])
  if done > epochs * steps_per_epoch:
    raise ValueError(
      f"epochs: expected {math.ceil(done / steps_per_epoch)} or more, as the "
      f"checkpoint is of {done} steps, {steps_per_epoch} an epoch, got {epochs}; use "
      "another workdir to train for fewer"
    )
