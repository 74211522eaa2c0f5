"""Steps of a call by measured time, and steps in flight."""

import numpy as np
import pytest

from flowkd_jax.train import _pace


def test_pace_doubles_up_to_half_a_second_or_the_limit():
  pace = _pace.Pace(100)
  assert pace.steps == 1
  seen = []
  for _ in range(8):
    pace.measured(10, 0.1)
    pace.agree(pace.microseconds)
    seen.append(pace.steps)
  assert seen == [2, 4, 8, 16, 32, 50, 50, 50]
  pace.agree(1000)
  assert pace.steps == 100


def test_pace_slows_down_at_once_and_takes_one_slow_step():
  pace = _pace.Pace(100)
  pace.agree(0)
  assert pace.steps == 1
  for _ in range(5):
    pace.agree(10)
  pace.agree(100_000)
  assert pace.steps == 5
  pace.agree(20_000_000)
  assert pace.steps == 1


def _in_flight(ahead, check_every=50):
  pace = _pace.Pace(100)
  pace.steps = ahead
  return _pace.InFlight(pace, check_every)


def test_host_waits_for_the_oldest_and_leaves_the_newest():
  calls = _in_flight(ahead=4)
  for step in range(4):
    calls.add(step, 1, {"loss": np.float32(step)}, 0.0)
    assert calls.overdue() is None
  calls.add(4, 1, {"loss": np.float32(4)}, 0.0)
  assert calls.overdue() == (0, {"loss": [0, 1, 2]})
  assert calls.all() == (3, {"loss": [3, 4]})
  assert calls.all() is None


def test_steps_of_a_call_are_read_without_those_not_taken():
  calls = _in_flight(ahead=1)
  calls.add(7, 3, {"loss": np.arange(5.0), "other": np.ones(5)}, 0.0)
  assert calls.overdue() is None
  calls.add(10, 2, {"loss": np.arange(5.0), "other": np.ones(5)}, 0.0)
  assert calls.overdue() == (7, {"loss": [0, 1, 2], "other": [1, 1, 1]})


def test_check_every_bounds_the_steps_ahead():
  calls = _in_flight(ahead=100, check_every=2)
  for step in range(3):
    calls.add(step, 1, {"loss": np.float32(step)}, 0.0)
  assert calls.overdue() == (0, {"loss": [0, 1]})


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ({"left": 96, "block": 12, "most": 60}, (12, True)),
    ({"left": 7, "block": 12, "most": 60}, (1, False)),
    ({"left": 96, "block": 1, "most": 1}, (1, False)),
    ({"left": 3, "block": 1, "most": 60}, (1, True)),
  ],
)
def test_next_call_takes_whole_blocks_of_what_is_left(given, expected):
  assert _pace.Pace(100).next_call(**given) == expected
