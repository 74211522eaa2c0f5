"""Networks of an earlier run, taken in place of training."""

import jax
import numpy as np
import pytest

from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.jobs import pretrained
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages

SHAPE = (8, 8, 1)


@pytest.fixture
def model():
  return models.by_name("digits_cnn:1")


@pytest.fixture
def network(model):
  blank = train.blank_network(model, image_shape=SHAPE)
  filled = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), blank.variables)
  return methods.Network(model, filled)


def _finish(workdir, name, network, **changes):
  train.save_network(workdir / name / "network", network)
  results = {"name": name, "title": f"the {name}", "accuracy": 0.9, "teacher": None}
  stages.write_json(workdir / name / stages.RESULTS, [{**results, **changes}])


def test_imported_network_is_that_of_the_finished_stage(model, network, tmp_path):
  assert pretrained.imported(str(tmp_path), "teacher", model, SHAPE) is None
  _finish(tmp_path, "teacher", network)
  found = pretrained.imported(str(tmp_path), "teacher", model, SHAPE)
  assert (found.name, found.title) == ("teacher", "the teacher, of an earlier run")
  assert found.classifies
  jax.tree.map(
    np.testing.assert_array_equal, found.network.variables, network.variables
  )


@pytest.mark.parametrize(
  ("name", "changes", "classifies"),
  [
    ("auxiliary", {}, True),
    ("auxiliary", {"teacher": "teacher"}, False),  # as version 0.1 recorded it
    ("teacher", {"accuracy": None}, False),
  ],
)
def test_imported_network_classifies_if_its_classifier_was_trained(
  name, changes, classifies, model, network, tmp_path
):
  _finish(tmp_path, name, network, **changes)
  found = pretrained.imported(str(tmp_path), name, model, SHAPE)
  assert found.classifies is classifies


def test_imported_refuses_the_network_of_another_model(network, tmp_path):
  _finish(tmp_path, "teacher", network)
  wider = models.by_name("digits_cnn:2")
  with pytest.raises(ValueError, match=r"^--networks_from: teacher in .*another model"):
    pretrained.imported(str(tmp_path), "teacher", wider, SHAPE)


def test_check_wants_a_finished_stage_of_the_same_data(tmp_path):
  config = settings.Settings(dataset="digits")
  with pytest.raises(ValueError, match="--networks_from: .* stages teacher, aux, got"):
    pretrained.check(str(tmp_path), config, ("teacher", "aux"))
  stages.write_json(tmp_path / "aux" / stages.RESULTS, [])
  stages.write_json(tmp_path / "config.json", {"dataset": "digits", "seed": 3})
  pretrained.check(str(tmp_path), config, ("teacher", "aux"))
  stages.write_json(tmp_path / "config.json", {"dataset": "mnist"})
  with pytest.raises(ValueError, match="with --dataset=digits, .* has --dataset=mnist"):
    pretrained.check(str(tmp_path), config, ("teacher", "aux"))
