"""Positions that a run can go on from, and those that it cannot."""

import pytest

from flowkd_jax.train import _position


def test_check_position_takes_any_step_of_the_run():
  for step in (0, 5, 12):
    position = {"step": step, "steps_per_epoch": 4}
    _position.check_position(position, steps_per_epoch=4, epochs=3)


@pytest.mark.parametrize(
  ("steps_per_epoch", "epochs", "match"),
  [
    (
      5,
      3,
      "made with 4 steps an epoch, this run has 5: the data set or the batch size",
    ),
    (4, 2, "epochs: expected 3 or more, as the checkpoint has 9 steps, 4 an epoch"),
  ],
)
def test_check_position_refuses_another_run(steps_per_epoch, epochs, match):
  position = {"step": 9, "steps_per_epoch": 4}
  with pytest.raises(ValueError, match=match):
    _position.check_position(position, steps_per_epoch=steps_per_epoch, epochs=epochs)
