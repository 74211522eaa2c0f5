"""Settings that all jobs share."""

import dataclasses
import json
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import sources

pytestmark = pytest.mark.optimizer


@pytest.mark.slow
def test_applied_teacher_computes_in_bfloat16_where_asked():
  model = models.by_name("digits_cnn:2", num_classes=3)
  images = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype(np.float32)
  given = methods.Network(model, capture.init(model, jax.random.key(0), images))
  plain = flow_settings.Config(workdir="W")
  assert settings.applied_teacher(plain, given) is given
  config = dataclasses.replace(plain, teacher_mixed_precision=True)
  found = settings.applied_teacher(config, given)
  assert found.variables is given.variables
  outputs = [
    capture.apply_with_taps(network.model, network.variables, images)
    for network in (given, found)
  ]
  (logits, taps), (rounded, rounded_taps) = outputs
  assert all(tap.dtype == jnp.bfloat16 for tap in rounded_taps.values())
  assert taps.keys() == rounded_taps.keys()
  np.testing.assert_allclose(rounded, logits, rtol=0.1, atol=0.05)
  assert np.abs(rounded - logits).max() > 0


def test_teachers_of_others_are_not_computed_in_bfloat16():
  config = flow_settings.Config(workdir="W", teacher_mixed_precision=True)
  teacher = methods.Network(capture.with_taps(nn.Dense(3), ["__call__"]), {})
  with pytest.raises(ValueError, match="--teacher_mixed_precision: expected a teacher"):
    settings.applied_teacher(config, teacher)


@pytest.mark.eight_devices
def test_split_of_fewer_images_than_devices_is_refused(tmp_path):
  few = settings.Settings(test_split="test[:5]", workdir=str(tmp_path))
  with pytest.raises(ValueError, match=r"split test\[:5\]: .* the 8 devices, got 5"):
    job_run.open_datasets(few, train.Progress())


def test_work_directories_from_before_a_setting_existed_go_on(tmp_path):
  path = tmp_path / "config.json"
  now = settings.TeacherSettings(workdir=str(tmp_path))
  job_run.remember(now, path)
  before = json.loads(path.read_text())
  del before["learning_rate_decay"]
  path.write_text(json.dumps(before))
  job_run.remember(now, path)
  path.write_text(json.dumps(before))
  with pytest.raises(ValueError, match="learning_rate_decay: constant before, cosi"):
    job_run.remember(dataclasses.replace(now, learning_rate_decay="cosine"), path)


class Several(nn.Module):
  """A network of two outputs, whose taps may have wrong names."""

  taps: tuple[str, ...] = ("hidden",)

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Dense(4, name="hidden")(images.reshape(len(images), -1))
    return nn.Dense(10, name="head")(x), x


@pytest.mark.parametrize(
  ("model", "match"),
  [
    (Several(), r"Several to return its logits alone, .*with_logits\(model, 0\)"),
    (capture.with_taps(Several(), ["hiden"]), "no hiden; .* did you mean hidden"),
    (nn.Conv(3, (3, 3, 3, 3)), "Conv cannot be applied to images of shape"),
  ],
)
def test_networks_of_others_are_traced_before_any_work(model, match, monkeypatch):
  module = types.ModuleType("strangers")
  module.make_network = lambda: model
  monkeypatch.setitem(sys.modules, "strangers", module)
  networks._made.cache_clear()
  config = dataclasses.replace(
    flow_settings.Config(workdir="w", stages=("teacher",)),
    teacher_network="strangers:make_network",
  )
  with pytest.raises(ValueError, match=f"--teacher_network: .*{match}"):
    sources.check_networks(config, (8, 8, 1))
  chosen = capture.with_logits(Several(), 0)
  module.make_network = lambda: chosen
  networks._made.cache_clear()
  sources.check_networks(config, (8, 8, 1))
  networks._made.cache_clear()
