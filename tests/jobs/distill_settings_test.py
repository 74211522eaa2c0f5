"""Settings of the job that combines losses."""

import json

import pytest

from flowkd_jax.jobs import distill
from flowkd_jax.jobs import distill_settings

GIVEN = {"dataset": "digits", "workdir": "W"}


def test_the_resolved_losses_are_tables_wherever_they_were_given(tmp_path):
  path = tmp_path / "losses.toml"
  path.write_text("[[losses]]\nloss = 'kd'\nweight = 0.9\n")
  of_file = distill.configure(**GIVEN, losses_file=str(path)).resolved()
  of_flag = distill.configure(**GIVEN, losses="kd:0.9").resolved()
  assert of_file == of_flag
  assert json.loads(json.dumps(of_flag))["losses"] == [
    {"loss": "kd", "weight": 0.9, "options": {}, "taps": ""}
  ]


@pytest.mark.parametrize(
  ("given", "match"),
  [
    ({"losses": "kx"}, "--losses: kx: expected names of losses"),
    (
      {"losses": "pkt[dens:dense]"},
      "--losses: pkt: expected taps of the student, of block_1, block_2, dense, got d",
    ),
    ({"losses": "pkt[dense:x]"}, "pkt: expected taps of the teacher, .*posterior.* x"),
    ({"losses_file": "no.toml"}, "--losses_file: .*no.toml"),
    ({"teacher_checkpoint": "no.npz"}, "--teacher_checkpoint: .*no.npz"),
    ({"label_smoothing": 1.5}, r"--label_smoothing: expected a number in \[0, 1\]"),
    ({"momentum": 1.0}, r"--momentum: expected a number in \[0, 1\)"),
    ({"warmup_epochs": -1.0}, "--warmup_epochs: expected 0 or above"),
    ({"student_epochs": "3"}, "--student_epochs: expected EPOCHS@LEARNING_RATE"),
    (
      {"stages": ("student_simkd",), "learn_from": "recorded"},
      "--stages: expected no student_simkd with --learn_from=recorded",
    ),
    ({"learn_from": "recorded"}, "--learn_from=recorded: expected --teacher_cache"),
    (
      {"learn_from": "recorded", "teacher_cache": "empty"},
      "--teacher_cache: ",
    ),
  ],
)
def test_impossible_settings_are_refused(given, match):
  with pytest.raises(ValueError, match=match):
    distill.configure(**GIVEN, **given)


def test_losses_come_from_one_place(tmp_path):
  path = tmp_path / "losses.toml"
  path.write_text("[[losses]]\nloss = 'kd'\n")
  with pytest.raises(ValueError, match="--losses: expected without --losses_file"):
    distill.configure(**GIVEN, losses="kd", losses_file=str(path))


def test_networks_of_the_stages_to_run_are_used():
  def used(**given):
    return distill.configure(**GIVEN, **given).used_networks

  assert used() == ("teacher_network", "student_network")
  assert used(stages=("student_labels",)) == ("student_network",)
  assert used(stages=("student",)) == ("teacher_network", "student_network")


def test_the_default_training_is_that_of_the_benchmark():
  config = distill_settings.Config()
  assert config.batch_size == 64
  assert (config.momentum, config.nesterov, config.weight_decay) == (0.9, False, 5e-4)
  assert config.student_epochs == "150@0.05,30@5e-3,30@5e-4,30@5e-5"
