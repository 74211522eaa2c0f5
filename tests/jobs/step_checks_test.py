"""Checks of the first training steps."""

import numpy as np
import optax
import pytest

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax.jobs import environment
from flowkd_jax.jobs import step_checks
from flowkd_jax.jobs.finding import Level

pytestmark = pytest.mark.optimizer
FINE, WARNING, WRONG = Level.FINE, Level.WARNING, Level.WRONG


def test_losses_that_drown_others_are_a_warning():
  metrics = {"loss/a": 1.0, "weight/a": 100.0, "loss/b": 2.0, "weight/b": 1.0}
  fine = step_checks.magnitudes({**metrics, "gradient_norm": 3.0})
  assert fine.level is FINE
  assert "losses a 100, b 2; norm of the gradient 3." in fine.text
  drowned = step_checks.magnitudes({**metrics, "loss/b": 1e-5, "gradient_norm": 3.0})
  assert drowned.level is WARNING
  broken = step_checks.magnitudes({**metrics, "gradient_norm": np.nan})
  assert broken.level is WRONG


def test_gradients_that_drown_others_are_a_warning():
  norms = {"gradient/dense": 0.2, "gradient/labels": 0.1}
  fine = step_checks.gradients({**norms, "gradient_ratio": 2.0})
  assert fine.level is FINE
  assert "dense 0.2, labels 0.1. The teacher's gradient is 2 times" in fine.text
  for ratio, drowned in ((1e3, "labels"), (1e-3, "teacher")):
    finding = step_checks.gradients({**norms, "gradient_ratio": ratio})
    assert finding.level is WARNING
    assert f"The {drowned} would have almost no effect" in finding.text
  taps = {"gradient/block_1": 1e-6, "gradient/dense": 0.2}
  assert "block_1 would have almost no effect" in step_checks.gradients(taps).text
  assert step_checks.gradients({"gradient/dense": 0.0}).level is WRONG
  assert step_checks.gradients({"gradient/dense": np.nan}).level is WRONG


def test_too_little_memory_is_wrong():
  fine = step_checks.memory(2**30, 2**31)
  assert fine.level is FINE
  assert "needs 1.00 GiB on each device" in fine.text
  assert "there are 2.00 GiB" in fine.text
  assert step_checks.memory(2**31, 2**30).level is WRONG
  assert "does not report" in step_checks.memory(2**31, None).text
  assert environment.device_bytes() > 2**25


def test_sizes_and_times_have_units_that_suit():
  assert "A step needs 5.0 MiB on" in step_checks.memory(5 * 2**20, None).text
  text = step_checks.step_time(0.002, 100, 400).text
  assert "takes 2 ms, an epoch of 100 steps 200 ms, all 400 epochs 80 s," in text
  assert "all 100 epochs 16.7 minutes" in step_checks.step_time(1.0, 10, 100).text
  assert "all 100 epochs 27.8 hours" in step_checks.step_time(1.0, 1000, 100).text


@pytest.mark.slow
def test_rehearsals_leave_the_method_as_it_was():
  split = data.load("digits", "train", limit=64)
  batches = data.training_batches(
    split, batch_size=32, seed=0, mean=(8,), std=(4,), augmentation=data.Augmentation()
  )
  model = models.by_name("digits_cnn:2", num_classes=10, axis_name="batch")
  method = methods.supervised(model, optax.sgd(0.1))
  rehearsal = step_checks.Rehearsal(method, batches)
  assert rehearsal.needed_bytes() > 1000
  first = rehearsal.first_metrics()
  assert 0 < rehearsal.step_seconds() < 60
  assert rehearsal.first_metrics() == first


def test_memory_of_measuring_is_told_and_compared():
  fine = step_checks.measuring(512, 2**28, 2**33)
  assert fine.level is FINE
  assert "takes 512 images at a time and needs about 0.25 GiB on each" in fine.text
  wrong = step_checks.measuring(1, 2**34, 2**33)
  assert wrong.level is WRONG
  assert "there are 8.00 GiB. Use smaller images: --image_size." in wrong.text
