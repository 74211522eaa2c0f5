"""Stages of a job: results that are kept, and what is checked before they run."""

import math
import re

import numpy as np
import pytest

from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.jobs import stages
from tests.train.conftest import batches
from tests.train.conftest import split

__all__ = ["batches", "split"]


@pytest.fixture
def runner(batches, tmp_path):
  return stages.StageRunner(
    tmp_path,
    stages.Datasets(batches, batches, batches, batches),
    seed=0,
    measure_every=1,
    measure=(),
    diagnostics=False,
    options=train.FitOptions(),
    progress=train.Progress(),
    should_stop=lambda: None,
  )


def test_results_are_read_as_written_with_null_for_nan(tmp_path):
  assert not stages.is_done(tmp_path, "student")
  path = tmp_path / "student" / stages.RESULTS
  written = [{"name": "student", "loss": math.nan, "at": {"1": (0.5, -math.inf)}}]
  stages.write_json(path, written)
  assert stages.is_done(tmp_path, "student")
  (found,) = stages.read_results(tmp_path, "student")
  assert found == {"name": "student", "loss": None, "at": {"1": [0.5, None]}}


def test_results_of_another_form_and_damage_are_named(tmp_path):
  path = tmp_path / "student" / stages.RESULTS
  stages.write_json(path, {"networks": 3})
  with pytest.raises(ValueError, match="expected the results of a stage, .*networks"):
    stages.read_results(tmp_path, "student")
  stages.write_json(path, [{"accuracy": 0.5}])
  path.write_text(path.read_text().replace("0.5", "0.6"))
  with pytest.raises(ValueError, match="is damaged: .*delete .*student to train"):
    stages.read_results(tmp_path, "student")


@pytest.mark.slow
def test_stage_says_where_its_time_went(runner, tmp_path, capsys):
  model = models.by_name("digits_cnn:1", num_classes=3)
  network = train.blank_network(model, image_shape=(8, 8, 1))
  runner.run(stages.Imported("given", "given network", network))
  said = capsys.readouterr().out
  (line,) = [line for line in said.splitlines() if "compiling" in line]
  assert re.match(r"given network: [0-9.]+ s: steps 0\.0, compiling [0-9.]+, ", line)
  (found,) = stages.read_results(tmp_path, "given")
  assert [*found["times"]] == [
    *("steps", "compiling", "measuring", "waiting for data", "other")
  ]
  assert found["times"]["measuring"] > 0


def test_network_of_a_stage_that_has_not_run_is_refused(runner):
  model = models.by_name("digits_cnn:1", num_classes=3)
  with pytest.raises(ValueError, match="stage teacher has not been run in .*--stages"):
    runner.network("teacher", model)


def test_stages_expect_the_networks_of_those_before_them(runner, tmp_path):
  model = models.by_name("digits_cnn:1", num_classes=3)
  seen = []

  def make_method():
    seen.append((runner.is_checking, runner.is_expected("given")))
    weights = runner.network("given", model).variables["params"]
    seen.append(float(np.max(weights["classifier"]["kernel"])))
    raise ValueError("weight: expected less")

  given = stages.Imported(
    "given", "given", train.blank_network(model, image_shape=(8, 8, 1))
  )
  student = stages.Stage("student", "student", make_method, epochs=1)
  with pytest.raises(ValueError, match="weight: expected less"):
    runner.check([given, student])
  assert seen == [(True, True), 0.0]
  assert not runner.is_checking
  assert [*tmp_path.iterdir()] == []
