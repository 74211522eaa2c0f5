"""Functions that make the stages of jobs, by the names of the stages."""

import dataclasses
import pathlib

import pytest

from flowkd_jax import jobs
from flowkd_jax.jobs import distill
from flowkd_jax.jobs import distill_settings
from flowkd_jax.jobs import domain_generalization
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import hierarchical_self_supervised
from flowkd_jax.jobs import information_flow
from flowkd_jax.jobs import online_ensemble
from flowkd_jax.jobs import similarity_preserving

FOLDER = pathlib.Path(jobs.__file__).parent


@pytest.mark.parametrize(
  ("job", "order"),
  [
    (information_flow, flow_settings.ORDER),
    (distill, distill_settings.ORDER),
    (similarity_preserving, similarity_preserving.STAGES),
    (hierarchical_self_supervised, hierarchical_self_supervised.ORDER),
    (domain_generalization, domain_generalization.STAGES),
  ],
)
def test_every_stage_has_a_function_in_the_order_of_the_table(job, order):
  assert tuple(job._STAGES) == order
  (field,) = (f for f in dataclasses.fields(job.Config) if f.name == "stages")
  assert field.metadata["limits"].choices == order


def test_every_student_of_an_ensemble_has_a_stage():
  config = online_ensemble.Config(num_students=3)
  made = online_ensemble._Stages.__new__(online_ensemble._Stages)
  made.config = config
  names = (*online_ensemble.alone(config), *online_ensemble.STAGES[1:])
  assert tuple(made.by_name()) == names


@pytest.mark.parametrize("job", jobs.JOBS)
def test_unknown_stages_are_refused_by_every_job(job, tmp_path):
  with pytest.raises(ValueError, match="--stages: expected one of .*, got 'selected'"):
    jobs.load(job).configure(stages=("selected",), workdir=str(tmp_path))


def test_no_stage_is_found_by_the_name_of_a_method():
  for path in FOLDER.glob("*.py"):
    text = path.read_text()
    assert "getattr(self, " not in text, path
    assert "getattr(arms, " not in text, path
