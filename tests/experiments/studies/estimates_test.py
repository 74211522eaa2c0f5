"""Estimated times of launches."""

import pytest

from experiments.studies import estimates

NETWORKS = ("--teacher_network=resnet8x4", "--student_network=resnet8x1")
# Multiply-adds of a forward pass at 32 pixels, as published for these networks.
TEACHER, STUDENT = 2 * 177.07e6, 2 * 12.51e6


def _operations(*flags):
  return estimates.operations(("--dataset=cifar100", *NETWORKS, *flags))


def test_operations_are_those_of_the_stages_that_are_trained():
  own = 50_000 * 3 * STUDENT + 10_000 * STUDENT
  labels = _operations("--stages=student_labels", "--student_epochs=2@0.1,1@0.01")
  assert labels == pytest.approx(3 * own, rel=2e-3)
  flags = ("--stages=teacher,student", "--student_epochs=1@0.1", "--networks_from=W")
  taught = _operations(*flags)
  assert taught == pytest.approx(own + 50_000 * TEACHER, rel=2e-3)


def test_splits_and_sizes_count():
  small = _operations(
    "--stages=student_labels",
    "--student_epochs=1@0.1",
    "--train_split=train[:2000]",
    "--test_split=test[:1000]",
    "--image_size=16",
  )
  assert small == pytest.approx((2000 * 3 + 1000) * STUDENT / 4, rel=1e-2)


def test_data_of_unknown_size_has_no_estimate():
  assert estimates.operations(("--dataset=digits",)) is None


@pytest.mark.parametrize(
  ("seconds", "words"),
  [(30, "30 s"), (600, "10.0 min"), (9000, "2.5 h"), (300_000, "3.5 days")],
)
def test_times_have_the_unit_that_suits_them(seconds, words):
  assert estimates.in_words(seconds) == words


@pytest.mark.slow
def test_the_speed_of_this_device_is_measured():
  assert 1e8 < estimates.measured_speed() < 1e16
  assert " x " in estimates.device()
