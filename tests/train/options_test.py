"""Options of the training loop."""

import math
import types

import pytest

from flowkd_jax import train


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"checkpoint_seconds": math.nan}, "checkpoint_seconds: expected a finite number"),
    ({"checkpoint_seconds": -1.0}, "checkpoint_seconds: expected 0 or above, got -1"),
    ({"check_every": 0}, "check_every: expected a number above 0, got 0"),
  ],
)
def test_fit_options_that_would_never_save_or_check_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    train.FitOptions(**options)


@pytest.mark.parametrize(
  ("given", "error", "match"),
  [
    (0, ValueError, "steps_per_call: expected a number above 0, got 0"),
    (1.5, TypeError, "steps_per_call: expected"),
  ],
)
def test_steps_per_call_that_are_no_number_are_refused(given, error, match):
  with pytest.raises(error, match=match):
    train.FitOptions(steps_per_call=given)


@pytest.mark.parametrize(
  ("platform", "given", "expected"),
  [("cpu", None, 1), ("gpu", None, 100), ("tpu", None, 100), ("cpu", 7, 7)],
)
def test_most_steps_per_call_is_the_platforms_unless_given(platform, given, expected):
  device = types.SimpleNamespace(platform=platform)
  options = train.FitOptions(devices=[device], steps_per_call=given)
  assert options.most_steps_per_call == expected
