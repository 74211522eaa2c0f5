"""The run of a job: what is checked before anything is written."""

import json
import sys

import pytest

from flowkd_jax import data
from flowkd_jax import jobs
from flowkd_jax import methods
from flowkd_jax import train
from flowkd_jax.jobs import information_flow
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import similarity_preserving
from flowkd_jax.jobs import stages

pytestmark = pytest.mark.optimizer

TINY = {
  "dataset": "digits",
  "teacher_network": "digits_cnn:2",
  "student_network": "digits_cnn:2",
  "batch_size": 200,
}


@pytest.fixture
def ran(monkeypatch):
  """Names of the stages that would have been trained."""
  names = []

  def run(self, stage):
    names.append(stage.name)
    return []

  monkeypatch.setattr(stages.StageRunner, "run", run)
  monkeypatch.setattr(job_run, "conclude", lambda *args: None)
  return names


def _run(workdir, experiment=similarity_preserving, **options):
  config = experiment.configure(workdir=str(workdir), **{**TINY, **options})
  experiment.run(config)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"layer_map": "block_1:stage_9"}, "--layer_map"),
    ({"stages": ("student",)}, "stage teacher has not been run"),
    pytest.param(
      {"batch_size": 100},
      "8 devices cannot share 100 rows",
      marks=pytest.mark.eight_devices,
    ),
    pytest.param(
      {"test_split": "test[:5]"}, "split test", marks=pytest.mark.eight_devices
    ),
  ],
)
def test_refused_run_writes_nothing(options, match, ran, tmp_path):
  with pytest.raises(ValueError, match=match):
    _run(tmp_path / "run", **options)
  assert not ran
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_methods_of_all_stages_are_checked_before_the_first_runs(
  ran, tmp_path, monkeypatch
):
  def refuse(*args, **options):
    raise ValueError("weight: expected less")

  monkeypatch.setattr(similarity_preserving.methods, "similarity_preserving", refuse)
  with pytest.raises(ValueError, match="weight: expected less"):
    _run(tmp_path / "run", stages=("teacher", "student"))
  assert not ran
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stages_that_need_others_are_checked_as_if_these_had_run(ran, tmp_path):
  _run(tmp_path / "sp", stages=("teacher", "student_kd", "student"))
  options = {"auxiliary_network": "digits_cnn:2", "layer_map": "auto"}
  names = ("teacher", "auxiliary_labels", "auxiliary", "student", "student_hint")
  _run(tmp_path / "flow", information_flow, stages=names, **options)
  assert ran == ["teacher", "student_kd", "student", *names]
  assert not (tmp_path / "flow" / "student").exists()


@pytest.mark.slow
def test_refused_run_has_no_claim_on_its_work_directory(ran, tmp_path):
  _run(tmp_path, batch_size=80)
  (tmp_path / "teacher" / "checkpoints").mkdir(parents=True)
  (tmp_path / "metrics.jsonl").touch()
  _run(tmp_path, batch_size=160)
  assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 160
  (tmp_path / "config.json").write_text("")
  _run(tmp_path, batch_size=80)
  (tmp_path / "teacher" / "checkpoints" / "3").mkdir()
  ran.clear()
  with pytest.raises(ValueError, match="--batch_size: 80 before, 160 now"):
    _run(tmp_path, batch_size=160)
  (tmp_path / "config.json").write_text("")
  with pytest.raises(ValueError, match=r"config.json is damaged: .*use another --work"):
    _run(tmp_path, batch_size=80)
  assert not ran


@pytest.mark.slow
def test_measured_normalization_is_kept_and_resumed(ran, tmp_path, monkeypatch):
  monkeypatch.setattr("flowkd_jax.data._normalization._KNOWN", {})
  options = {"train_split": "train[:200]", "stages": ("teacher",)}
  _run(tmp_path, **options)
  kept = json.loads((tmp_path / "normalization.json").read_text())
  assert 70 < kept["mean"][0] < 85
  (tmp_path / "teacher" / "checkpoints" / "3").mkdir(parents=True)
  monkeypatch.setattr(data, "normalization", None)  # cannot be called
  _run(tmp_path, **options)
  assert json.loads((tmp_path / "normalization.json").read_text()) == kept


def test_work_directory_that_is_locked_or_a_pattern_is_refused(
  ran, tmp_path, monkeypatch
):
  with pytest.raises(ValueError, match="--workdir: expected a path without"):
    _run(tmp_path / "[bold]y")
  assert not [*tmp_path.iterdir()]
  said = []

  def locked(*args, **options):
    said.append(options)
    raise ValueError("--workdir: in use")

  monkeypatch.setattr(train, "lock_workdir", locked)
  with pytest.raises(ValueError, match="--workdir: in use"):
    _run(tmp_path)
  assert said == [{"name": "--workdir", "only_existing": True}]


def test_finished_stage_of_other_data_is_refused(ran, tmp_path):
  stages.write_json(tmp_path / "teacher" / stages.RESULTS, [])
  _run(tmp_path, stages=("teacher",))
  record = {"num_examples": 1000, "hash of all examples": "0"}
  stages.write_json(tmp_path / "teacher" / "run.json", record)
  with pytest.raises(ValueError, match="other data, .*hash of all examples: 0 before"):
    _run(tmp_path, stages=("teacher",))


_OF_JOB = {
  "domain_generalization": {
    "held_out": "test",
    "teacher_network": "digits_cnn:2",
    "student_network": "digits_cnn:2",
  },
  "federated": {"network": "latent_cnn", "clients_per_round": 8, "batch_size": 16},
}


@pytest.mark.parametrize("name", jobs.JOBS)
@pytest.mark.parametrize("parallelism", ["pmap", "jit_sharded"])
def test_methods_of_all_jobs_are_made_for_the_parallelism(
  parallelism, name, ran, tmp_path, monkeypatch
):
  """Networks included: each is bound to the axis of its method."""
  mapped = []

  def check(method, batches, *, parallelism):
    mapped.append((method.axis_name, parallelism))

  made = networks.by_name
  axes = set()

  def conclude(*args):
    raise StopIteration  # some jobs would read the results

  def by_name(*args, **options):
    axes.add(options.get("axis_name"))
    return made(*args, **options)

  monkeypatch.setattr(train, "check_method", check)
  job = jobs.load(name)
  config = job.configure(
    dataset="digits",
    workdir=str(tmp_path / "run"),
    parallelism=parallelism,
    **{"batch_size": 200, **_OF_JOB.get(name, {})},
  )
  monkeypatch.setattr(networks, "by_name", by_name)
  monkeypatch.setattr(job_run, "conclude", conclude)
  with pytest.raises(StopIteration):
    job.run(config)
  axis, mode = {"pmap": ("batch", "pmap"), "jit_sharded": (None, "jit")}[parallelism]
  assert {*mapped} == {(axis, mode)}
  assert len(mapped) == len(ran)
  assert axes <= {axis, None}
  assert axis in axes


@pytest.mark.parametrize("name", [name for name in jobs.JOBS if name != "federated"])
def test_methods_of_all_jobs_are_made_with_the_micro_batches(
  name, ran, tmp_path, monkeypatch
):
  numbers = []
  original = methods.gradient_method

  def gradient_method(*, micro_batches=1, **options):
    numbers.append(micro_batches)
    return original(micro_batches=micro_batches, **options)

  def conclude(*args):
    raise StopIteration  # some jobs would read the results

  module = sys.modules[original.__module__]
  monkeypatch.setattr(module, "gradient_method", gradient_method)
  monkeypatch.setattr(train, "check_method", lambda *args, **options: None)
  monkeypatch.setattr(job_run, "conclude", conclude)
  job = jobs.load(name)
  config = job.configure(
    dataset="digits",
    workdir=str(tmp_path / "run"),
    micro_batches=2,
    **{"batch_size": 200, **_OF_JOB.get(name, {})},
  )
  with pytest.raises(StopIteration):
    job.run(config)
  assert {*numbers} == {2}
  assert len(numbers) >= len(ran)
