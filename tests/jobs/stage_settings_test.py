"""Settings that only some stages read: declared as such, and warned about."""

import dataclasses
import logging

import pytest

from flowkd_jax import jobs
from flowkd_jax import train
from flowkd_jax.jobs import distill_settings
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import hierarchical_self_supervised
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import stages

STAGES = {
  "information_flow": flow_settings.ORDER,
  "distill": distill_settings.ORDER,
  "hierarchical_self_supervised": hierarchical_self_supervised.ORDER,
  "online_ensemble": ("alone_1", "alone_2", "shared_base", "ensemble"),
}
GIVEN = {
  "distill": {"student_network": "resnet8:4", "teacher_network": "resnet8:8"},
  "domain_generalization": {"domain_images": 40},
  "federated": {"clients_per_round": 8},
  "online_ensemble": {"num_students": 2},
}
# Settings that a stage reads, though they do not change what it computes there.
WITHOUT_EFFECT = {
  "information_flow": {"learn_from": ("auxiliary",)},
  # Pairs are checked before any stage runs.
  "similarity_preserving": {"layer_map": ("teacher", "student_labels", "student_kd")},
  # Its weight is 0 there.
  "online_ensemble": {"temperature": ("shared_base",)},
  # Thresholds of other filters.
  "domain_generalization": {
    "confidence": ("kd", "kd_saturated", "kd_small", "kd_random"),
    "smallest": ("kd", "kd_saturated", "kd_confident", "kd_random"),
  },
  "federated": {
    "generator_steps": ("fedgen_untrained",),
    "generator_learning_rate": ("fedgen_untrained",),
  },
}


def _is_for_the_run(name):
  """True for settings of the run as a whole: which networks there are, and how."""
  return name.endswith("_network") or name in (
    "networks_from",
    "teacher_checkpoint",
    "teacher_mixed_precision",
    "adam_beta2",
  )


class _Expecting(stages.StageRunner):
  """Runner for which every earlier stage is finished, with blank networks."""

  writes = False

  def is_expected(self, name):
    del name
    return True


def _order(job_name):
  return STAGES.get(job_name) or jobs.load(job_name).Config.stages


def _reading(config):
  """The configuration, and the set of the settings that have been read from it."""
  names, read = {field.name for field in dataclasses.fields(config)}, set()

  class Recording(type(config)):
    def __getattribute__(self, name):
      if name in names:
        read.add(name)
      return super().__getattribute__(name)

  return Recording(**{name: getattr(config, name) for name in names}), read


@pytest.mark.parametrize("job_name", jobs.JOBS)
def test_settings_of_some_stages_say_which_stages_read_them(job_name, tmp_path):
  job = jobs.load(job_name)
  given = {"workdir": str(tmp_path), **GIVEN.get(job_name, {})}
  order, readers = _order(job_name), {}
  datasets = job_run.open_datasets(job.configure(**given), train.Progress())
  for stage_name in order:
    config = job.configure(**given, stages=(stage_name,))
    config, read = _reading(config)
    runner = job_run.stage_runner(
      config, datasets, train.Progress(), runner_class=_Expecting
    )
    read.clear()
    (stage,) = job.select(config, runner)
    stage.make_method()
    for name in read:
      readers.setdefault(name, []).append(stage_name)
  for field in dataclasses.fields(job.Config):
    declared = field.metadata["stages"]
    found = readers.get(field.name, [])
    unused = WITHOUT_EFFECT.get(job_name, {}).get(field.name, ())
    assert {*found} - {*unused} == {*(declared or found)}, field.name
    if found and not (declared or unused or _is_for_the_run(field.name)):
      assert found == [*order], field.name


@pytest.mark.parametrize(
  ("job_name", "given", "message"),
  [
    (
      "information_flow",
      {"kd_temperature": 4.0},
      "--kd_temperature has no effect with --stages=teacher,student_labels,"
      "auxiliary_labels,auxiliary,student, as it is for the stage student_kd",
    ),
    (
      "distill",
      {"student_epochs": "1@0.1", "stages": ("teacher",)},
      "--student_epochs has no effect with --stages=teacher, as it is for the stages "
      "student_labels, student, student_simkd",
    ),
    (
      "federated",
      {"proximal_weight": 1.0, "stages": ("fedavg",)},
      "--proximal_weight has no effect with --stages=fedavg, as it is for the stage "
      "fedprox",
    ),
  ],
)
def test_a_setting_without_effect_is_warned_about(
  job_name, given, message, tmp_path, caplog
):
  with caplog.at_level(logging.WARNING):
    jobs.load(job_name).configure(workdir=str(tmp_path), **given)
  assert caplog.messages == [message]


@pytest.mark.parametrize("job_name", jobs.JOBS)
def test_settings_with_effect_cause_no_warning(job_name, tmp_path, caplog):
  job = jobs.load(job_name)
  given = {"workdir": str(tmp_path), **GIVEN.get(job_name, {})}
  config = job.configure(**given)
  given |= {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(job.Config)
    if field.metadata["stages"]
  }
  with caplog.at_level(logging.WARNING):
    job.configure(**given, stages=_order(job_name))
  assert not caplog.messages
