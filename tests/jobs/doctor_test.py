"""What the doctor sees and says."""

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
from flowkd_jax.jobs import doctor
from flowkd_jax.jobs import environment
from flowkd_jax.jobs import information_flow

pytestmark = pytest.mark.optimizer
FINE, WARNING, WRONG = doctor.Level.FINE, doctor.Level.WARNING, doctor.Level.WRONG
LABELS = np.arange(60, dtype=np.int32) % 3


def _features(logits, embedded=None):
  embedded = np.eye(3, dtype=np.float32)[LABELS] if embedded is None else embedded
  return train.Features(logits, {"dense": embedded}, LABELS)


def _only(findings):
  (finding,) = findings
  return finding


def test_doctor_finds_a_good_teacher_good():
  finding = _only(doctor.classifier(_features(np.eye(3)[LABELS]), 3))
  assert finding.level is FINE
  assert "classifies 100.0 % of 60 training images" in finding.text


class Obstinate(nnx.Module):
  """Normalises by the batch, whatever mode it is in."""

  def __init__(self):
    self.norm = nnx.BatchNorm(64, rngs=nnx.Rngs(0))

  def __call__(self, images):
    x = images.reshape(images.shape[0], -1)
    return self.norm(x, use_running_average=False)


def test_doctor_finds_a_teacher_that_is_always_in_training():
  split = data.load("digits", "train", limit=32)
  probe = data.evaluation_batches(split, batch_size=32, mean=(8,), std=(4,))
  teacher = methods.Network(*capture.from_nnx(Obstinate(), taps=["norm"]))
  finding = doctor.evaluation_mode(teacher, probe)
  assert finding.level is WRONG
  assert "model: Obstinate is not in evaluation mode" in finding.text


def test_doctor_finds_another_order_of_labels():
  finding = _only(doctor.classifier(_features(np.eye(3)[(LABELS + 1) % 3]), 3))
  assert finding.level is WRONG
  assert "in another order it would be 100.0 %" in finding.text
  assert "0->2, 1->0, 2->1" in finding.text


def test_doctor_finds_a_teacher_of_other_images_and_of_other_classes():
  rng = np.random.default_rng(0)
  noise = rng.standard_normal((60, 3)).astype(np.float32)
  finding = _only(doctor.classifier(_features(noise, noise), 3))
  assert finding.level is WRONG
  assert "hardly more than chance" in finding.text
  finding = _only(doctor.classifier(_features(np.zeros((60, 4))), 3))
  assert finding.text == "The teacher has 4 classes, the data 3."


def test_doctor_finds_a_stale_classifier():
  guesses = np.where(np.arange(60) < 24, LABELS, 0)
  finding = _only(doctor.classifier(_features(np.eye(3)[guesses]), 3))
  assert finding.level is WARNING
  assert "do not distil its logits" in finding.text


def test_doctor_finds_dead_and_broken_taps():
  alive = np.random.default_rng(0).standard_normal((10, 4))
  half = np.concatenate([alive, np.zeros((10, 6))], axis=1)
  broken = np.where(np.arange(10)[:, None] == 3, np.nan, alive)
  taps = {"alive": alive, "half": half, "dead": np.zeros((10, 2)), "broken": broken}
  findings = list(doctor.taps(taps))
  assert [finding.level for finding in findings] == [FINE, WARNING, WRONG, WRONG]
  assert "Tap half of the teacher: 10, 60 % of its units" in findings[1].text
  assert "not finite" in findings[3].text


def test_doctor_finds_losses_that_drown_others():
  metrics = {"loss/a": 1.0, "weight/a": 100.0, "loss/b": 2.0, "weight/b": 1.0}
  fine = doctor.magnitudes({**metrics, "gradient_norm": 3.0})
  assert fine.level is FINE
  assert "losses a 100, b 2; norm of the gradient 3." in fine.text
  drowned = doctor.magnitudes({**metrics, "loss/b": 1e-5, "gradient_norm": 3.0})
  assert drowned.level is WARNING
  broken = doctor.magnitudes({**metrics, "gradient_norm": np.nan})
  assert broken.level is WRONG


def test_doctor_finds_taps_of_shapes_that_do_not_suit():
  rng = np.random.default_rng(0)
  taps = {"narrow": rng.standard_normal((3, 1)), "wide": rng.random((3, 400, 400))}
  narrow, wide = doctor.taps(taps)
  assert narrow.level is wide.level is WARNING
  assert "single unit" in narrow.text
  assert "Tap wide of the teacher: 400 x 400" in wide.text
  assert "take a pooled tap" in wide.text


def test_doctor_finds_gradients_that_drown_others():
  norms = {"gradient/dense": 0.2, "gradient/labels": 0.1}
  fine = doctor.gradients({**norms, "gradient_ratio": 2.0})
  assert fine.level is FINE
  assert "dense 0.2, labels 0.1. The teacher's pull is 2 times" in fine.text
  for ratio, drowned in ((1e3, "labels"), (1e-3, "teacher")):
    finding = doctor.gradients({**norms, "gradient_ratio": ratio})
    assert finding.level is WARNING
    assert f"The {drowned} would hardly be heard" in finding.text
  taps = {"gradient/block_1": 1e-6, "gradient/dense": 0.2}
  assert "block_1 would hardly be heard" in doctor.gradients(taps).text
  assert doctor.gradients({"gradient/dense": 0.0}).level is WRONG
  assert doctor.gradients({"gradient/dense": np.nan}).level is WRONG


def test_doctor_finds_too_little_memory():
  fine = doctor.memory(2**30, 2**31)
  assert fine.level is FINE
  assert "needs 1.00 GiB on each device" in fine.text
  assert "there are 2.0 GiB" in fine.text
  assert doctor.memory(2**31, 2**30).level is WRONG
  assert "does not tell" in doctor.memory(2**31, None).text
  assert environment.device_bytes() > 2**25


def test_doctor_finds_statistics_of_other_data():
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
  finding = doctor.evaluation_mode(teacher, probe)
  assert finding.level is WARNING
  assert "statistics of other data" in finding.text


def test_doctor_looks_at_rows_a_device():
  assert doctor.batch_scope(128, 8).level is FINE
  assert doctor.batch_scope(32, 8).level is WARNING
  assert doctor.batch_scope(16, 1).level is WARNING


def test_doctor_examines_a_work_directory(tmp_path, capsys):
  settings = {
    "dataset": "digits",
    "workdir": str(tmp_path),
    "auxiliary_network": "digits_cnn:4",
    "student_network": "digits_cnn:2",
    "flow_examples": 200,
    "batch_size": 200,
    "auxiliary_labels_epochs": "3@1e-2",
    "learn_from": "auxiliary",
  }
  with pytest.raises(ValueError, match="stage auxiliary has not been run"):
    doctor.run(information_flow.configure(**settings))
  labelled = information_flow.configure(**settings, stages=("auxiliary_labels",))
  information_flow.run(labelled)
  (tmp_path / "auxiliary_labels").rename(tmp_path / "auxiliary")
  capsys.readouterr()
  doctor.run(information_flow.configure(**settings))
  output = " ".join(capsys.readouterr().out.split())
  for sentence in (
    "A step has 200 rows, 25 on each of 8 devices",
    "The teacher classifies",
    "it is used in evaluation mode",
    "Tap block_1 of the teacher: 4 x 4 x 4,",
    "A step needs 0.0",
    "First step: weighted losses block_1",
    "First step: norms of the gradients of the weighted losses block_1",
  ):
    assert sentence in output, output
  assert "wrong" not in output
