"""Files of a work directory that are damaged: named, with what to do."""

import json

import pytest

from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import layer_matching
from flowkd_jax.jobs import stages

DAMAGED = ["", "{", '{"a": 1', "\x00"]


@pytest.mark.parametrize("text", [*DAMAGED, "[1]"])
def test_read_config_names_the_file(text, tmp_path):
  path = tmp_path / "config.json"
  path.write_text(text)
  with pytest.raises(ValueError, match=r"config\.json.*; restore a copy, or use"):
    job_run.read_config(path)


@pytest.mark.parametrize("text", [*DAMAGED, '{"networks": 1}'])
def test_read_results_names_the_file(text, tmp_path):
  path = tmp_path / "teacher" / stages.RESULTS
  path.parent.mkdir()
  path.write_text(text)
  with pytest.raises(ValueError, match=r"teacher/results\.json.*delete .*/teacher to"):
    stages.read_results(tmp_path, "teacher")


@pytest.mark.parametrize("text", [*DAMAGED, "[1]", '{"error": "x"}'])
def test_read_diverged_names_the_file(text, tmp_path):
  path = tmp_path / "teacher" / stages.DIVERGED
  path.parent.mkdir()
  path.write_text(text)
  with pytest.raises(ValueError, match=r"teacher/diverged\.json.*; delete it, and run"):
    stages.read_diverged(tmp_path, "teacher")


def test_a_finished_stage_has_not_diverged(tmp_path):
  record = {"name": "teacher", "title": "teacher", "error": "loss not finite"}
  stages.write_json(tmp_path / "teacher" / stages.DIVERGED, record)
  assert stages.read_diverged(tmp_path, "teacher") == record
  stages.write_json(tmp_path / "teacher" / stages.RESULTS, [])
  assert stages.read_diverged(tmp_path, "teacher") is None


def test_read_results_notices_changed_numbers(tmp_path):
  results = [{"name": "teacher", "accuracy": 0.93}]
  path = tmp_path / "teacher" / stages.RESULTS
  stages.write_json(path, results)
  assert stages.read_results(tmp_path, "teacher") == results
  path.write_text(path.read_text().replace("0.93", "0.97"))
  with pytest.raises(ValueError, match=r"results\.json is damaged: its entries do not"):
    stages.read_results(tmp_path, "teacher")


@pytest.mark.parametrize("text", DAMAGED)
def test_given_layers_names_the_damaged_file(text, tmp_path):
  path = tmp_path / layer_matching.FILE
  path.write_text(text)
  with pytest.raises(ValueError, match=r"layer_map\.json is damaged: .*delete it"):
    layer_matching.given_layers(str(path), ("dense",), ("pooled",))


def test_results_have_null_in_place_of_nan(tmp_path):
  result = {"name": "a", "accuracy": float("nan"), "curve": [1.0, float("inf")]}
  stages.write_json(tmp_path / "a" / stages.RESULTS, [result])
  text = (tmp_path / "a" / stages.RESULTS).read_text()
  assert json.loads(text, parse_constant=pytest.fail)[0]["accuracy"] is None
  assert stages.read_results(tmp_path, "a")[0]["curve"] == [1.0, None]
