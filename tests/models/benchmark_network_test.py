"""Names under which the networks of the benchmark sow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax.models import _benchmark_network
from tests.models import network_contract
from tests.models.tiny import TINY
from tests.models.tiny import images_of
from tests.models.tiny import variables_of


def test_names_run_from_input_to_output():
  assert _benchmark_network.tap_names(2) == ("stage_1", "stage_2", "pooled")
  assert _benchmark_network.map_names(2) == ("f0", "f1", "f2")
  assert _benchmark_network.preactivation_names(2) == ("f1_preact", "f2_preact")


@pytest.mark.slow
def test_maps_are_whole_and_end_in_a_relu():
  images = images_of((2, 16, 16, 1))
  variables = variables_of(TINY, images)
  taps = ("stem", "body/stage_1_block_1", *TINY.maps, *TINY.preactivations, *TINY.taps)
  _, found = jax.jit(lambda v, x: capture.apply_with_taps(TINY, v, x, taps=taps))(
    variables, images
  )
  np.testing.assert_array_equal(found["f0"], jax.nn.relu(found["stem"]))
  np.testing.assert_array_equal(found["f1"], found["body/stage_1_block_1"])
  for i in (1, 2):
    np.testing.assert_array_equal(found[f"f{i}"], jax.nn.relu(found[f"f{i}_preact"]))
    side = found[f"f{i}"].shape[1] // 4
    small = found[f"f{i}"].reshape(2, 4, side, 4, side, -1).mean((2, 4))
    np.testing.assert_allclose(found[f"stage_{i}"], small, rtol=1e-6)
  np.testing.assert_allclose(found["pooled"], found["f2"].mean((1, 2)), rtol=1e-6)


def test_maps_that_nobody_reads_are_not_computed():
  images = images_of((2, 16, 16, 1))
  variables = variables_of(TINY, images)
  text = jax.jit(TINY.apply).lower(variables, images).as_text()
  assert text.count("2x16x16x2xf32") > 0
  assert "4x4" not in text


def test_networks_that_share_a_stem_have_maps_of_their_own_names():
  assert models.shrinking_ensemble(TINY, 2).maps == ()
  assert models.shrinking_ensemble(TINY, 2).preactivations == ()
  branched = models.with_branches(TINY, 4)
  shapes = jax.eval_shape(branched.init, jax.random.key(0), images_of())
  found = capture.tap_shapes(branched, shapes, images_of(), taps=branched.maps)
  assert found == {"f0": (4, 8, 8, 2), "f1": (4, 8, 8, 2), "f2": (4, 4, 4, 3)}


def test_base_computes_nothing():
  model = _benchmark_network.BenchmarkNetwork()
  with pytest.raises(NotImplementedError):
    model.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))


@pytest.mark.slow
def test_residual_networks_keep_the_promises_of_the_others():
  thin = models.cifar_resnet(8, width=4, stem_width=2, initializer="fan_out")
  network_contract.check_devices_and_mask(thin)
  network_contract.check_precision_and_batch_of_one(thin)
