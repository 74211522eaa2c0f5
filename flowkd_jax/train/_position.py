"""Position of a run, as checkpoints record it."""

import math
from collections.abc import Mapping
from typing import Any


def check_position(
  position: Mapping[str, Any], *, steps_per_epoch: int, epochs: int
) -> None:
  """Check that a run can resume from the position of a checkpoint.

  Args:
    position: "step" and "steps_per_epoch" of the checkpoint.
    steps_per_epoch: Number of steps in an epoch of this run.
    epochs: Total number of epochs of this run, including those before the checkpoint.

  Raises:
    ValueError: If the number of steps per epoch differs, or the checkpoint has more
      steps than the run.
  """
  if position["steps_per_epoch"] != steps_per_epoch:
    raise ValueError(
      f"the checkpoint was made with {position['steps_per_epoch']} steps an epoch, "
      f"this run has {steps_per_epoch}: the data set or the batch size changed; use "
      "another workdir"
    )
  done = int(position["step"])
  if done > epochs * steps_per_epoch:
    raise ValueError(
      f"epochs: expected {math.ceil(done / steps_per_epoch)} or more, as the "
      f"checkpoint has {done} steps, {steps_per_epoch} an epoch, got {epochs}; use "
      "another workdir to train for fewer"
    )
