"""Checks of a trained teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.jobs import teacher_checks
from flowkd_jax.jobs.finding import Level

pytestmark = pytest.mark.optimizer
FINE, WARNING, WRONG = Level.FINE, Level.WARNING, Level.WRONG
LABELS = np.arange(60, dtype=np.int32) % 3


def _features(logits, embedded=None):
  embedded = np.eye(3, dtype=np.float32)[LABELS] if embedded is None else embedded
  return train.Features(logits, {"dense": embedded}, LABELS)


def _only(findings):
  (finding,) = findings
  return finding


@pytest.mark.slow
def test_good_teacher_is_fine():
  finding = _only(teacher_checks.classifier(_features(np.eye(3)[LABELS]), 3))
  assert finding.level is FINE
  assert "classifies 100.0 % of 60 training images correctly" in finding.text


class Obstinate(nnx.Module):
  """Normalises by the batch, whatever mode it is in."""

  def __init__(self):
    self.norm = nnx.BatchNorm(64, rngs=nnx.Rngs(0))

  def __call__(self, images):
    x = images.reshape(images.shape[0], -1)
    return self.norm(x, use_running_average=False)


@pytest.mark.slow
def test_teacher_that_is_always_in_training_is_wrong():
  split = data.load("digits", "train", limit=32)
  probe = data.evaluation_batches(split, batch_size=32, mean=(8,), std=(4,))
  teacher = methods.Network(*capture.from_nnx(Obstinate(), taps=["norm"]))
  finding = teacher_checks.evaluation_mode(teacher, probe)
  assert finding.level is WRONG
  assert "model: Obstinate is not in evaluation mode" in finding.text


@pytest.mark.slow
def test_other_order_of_labels_is_wrong():
  finding = _only(teacher_checks.classifier(_features(np.eye(3)[(LABELS + 1) % 3]), 3))
  assert finding.level is WRONG
  assert "in another order it would be 100.0 %" in finding.text
  assert "0->2, 1->0, 2->1" in finding.text


def test_teacher_of_other_images_or_classes_is_wrong():
  rng = np.random.default_rng(0)
  noise = rng.standard_normal((60, 3)).astype(np.float32)
  finding = _only(teacher_checks.classifier(_features(noise, noise), 3))
  assert finding.level is WRONG
  assert "hardly more than chance" in finding.text
  finding = _only(teacher_checks.classifier(_features(np.zeros((60, 4))), 3))
  assert finding.text == "The teacher has 4 classes, the data 3."


def test_stale_classifier_is_a_warning_unless_logits_are_used():
  guesses = np.where(np.arange(60) < 24, LABELS, 0)
  features = _features(np.eye(3)[guesses])
  finding = _only(teacher_checks.classifier(features, 3))
  assert finding.level is WARNING
  assert "is much worse than its features: learn from its taps" in finding.text
  finding = _only(teacher_checks.classifier(features, 3, logits_are_used=True))
  assert finding.level is WRONG
  assert "--last_tap_from=tap" in finding.text


def test_dead_and_broken_taps_are_found():
  alive = np.random.default_rng(0).standard_normal((10, 4))
  half = np.concatenate([alive, np.zeros((10, 6))], axis=1)
  broken = np.where(np.arange(10)[:, None] == 3, np.nan, alive)
  taps = {"alive": alive, "half": half, "dead": np.zeros((10, 2)), "broken": broken}
  findings = list(teacher_checks.taps(taps))
  assert [finding.level for finding in findings] == [FINE, WARNING, WRONG, WRONG]
  assert "Tap half of the teacher: 10, 60 % of its units" in findings[1].text
  assert "not finite" in findings[3].text


def test_taps_of_shapes_that_do_not_suit_are_warnings():
  rng = np.random.default_rng(0)
  taps = {"narrow": rng.standard_normal((3, 1)), "wide": rng.random((3, 400, 400))}
  narrow, wide = teacher_checks.taps(taps)
  assert narrow.level is wide.level is WARNING
  assert "single unit" in narrow.text
  assert "Tap wide of the teacher: 400 x 400" in wide.text
  assert "use a pooled tap" in wide.text


@pytest.mark.slow
def test_statistics_of_other_data_are_a_warning():
  model = models.by_name("digits_cnn:2", num_classes=3)
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  rng = np.random.default_rng(0)
  split = data.Split(
    name="noise",
    split="train",
    images=rng.integers(0, 256, (32, 8, 8, 1), dtype=np.uint8),
    labels=LABELS[:32],
    class_names=("a", "b", "c"),
  )
  options = {"batch_size": 32, "mean": (128,), "std": (64,)}
  probe = data.evaluation_batches(split, **options)
  stale = jax.tree.map(lambda x: 100 * x, variables["batch_stats"])
  teacher = methods.Network(model, {**variables, "batch_stats": stale})
  finding = teacher_checks.evaluation_mode(teacher, probe)
  assert finding.level is WARNING
  assert "statistics may come from other data" in finding.text


@pytest.mark.slow
def test_weak_teachers_are_never_fine():
  """A fifth of 1,000 images right, by logits and by taps alike."""
  rng = np.random.default_rng(0)
  labels = np.arange(1000, dtype=np.int32) % 10
  levels = {}
  for share in (0.1, 0.22, 0.5, 0.7, 1.0):
    right = np.arange(1000) < 1000 * (share - 0.1) / 0.9
    guesses = np.where(right, labels, rng.permutation(labels))
    outputs = np.eye(10, dtype=np.float32)[guesses]
    features = train.Features(outputs, {"dense": outputs}, labels)
    finding = _only(teacher_checks.classifier(features, 10))
    assert "chance is 10.0 %" in finding.text
    levels[share] = finding.level
  assert levels == {0.1: WRONG, 0.22: WRONG, 0.5: WARNING, 0.7: FINE, 1.0: FINE}


@pytest.mark.slow
def test_chance_is_the_most_frequent_class():
  labels = np.where(np.arange(100) < 90, 0, 1).astype(np.int32)
  outputs = np.tile(np.float32([1, 0]), (100, 1))
  features = train.Features(outputs, {"dense": outputs}, labels)
  finding = _only(teacher_checks.classifier(features, 2))
  assert "classifies 90.0 %" in finding.text
  assert finding.level is WRONG


@pytest.mark.parametrize("broken", ["logits", "tap"])
def test_outputs_that_are_not_finite_are_wrong(broken):
  fine = np.eye(3, dtype=np.float32)[LABELS]
  bad = np.where(np.arange(60)[:, None] == 7, np.nan, fine)
  logits, tap = (bad, fine) if broken == "logits" else (fine, bad)
  finding = _only(teacher_checks.classifier(_features(logits, tap), 3))
  assert finding.level is WRONG
  assert "not finite" in finding.text


def test_images_without_labels_tell_no_accuracy():
  outputs = np.zeros((4, 3), np.float32)
  features = train.Features(outputs, {"dense": outputs}, np.full(4, -1, np.int32))
  finding = _only(teacher_checks.classifier(features, 3))
  assert finding.level is Level.SKIPPED
