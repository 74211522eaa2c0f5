"""Networks that are saved and loaded."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from flowkd_jax import capture
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from flowkd_jax.train import _checkpoint


@pytest.fixture
def network():
  kernel = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
  return methods.Network(lambda: None, {"params": {"kernel": kernel}})


def _equal(one, other):
  leaves = [jax.tree.leaves(_checkpoint.to_host(tree)) for tree in (one, other)]
  return all(
    np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(*leaves, strict=True)
  )


def test_network_of_other_dtypes_or_names_is_refused(network, tmp_path):
  train.save_network(tmp_path, network)
  for other, match in (
    (
      {"kernel": np.zeros((4, 6), np.int32)},
      r"float32\[4, 6\] there and int32\[4, 6\]",
    ),
    ({"weight": np.zeros((4, 6), np.float32)}, "kernel is float32.* there and absent"),
  ):
    with pytest.raises(ValueError, match=f"holds another model: .*{match}"):
      train.load_network(tmp_path, network._replace(variables={"params": other}))


def test_network_of_version_0_1_is_read_with_a_warning(network, tmp_path, caplog):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "network", dict(network.variables))
  with caplog.at_level(logging.WARNING):
    loaded = train.load_network(tmp_path / "network", network)
  assert _equal(loaded.variables, network.variables)
  assert "network was saved by version 0.1" in caplog.text
  narrow = {"params": {"kernel": np.zeros((4, 5), np.float32)}}
  with pytest.raises(ValueError, match=r"float32\[4, 6\] there and float32\[4, 5\] in"):
    train.load_network(tmp_path / "network", network._replace(variables=narrow))


def test_network_of_a_later_version_is_refused(network, tmp_path):
  train.save_network(tmp_path, network)
  path = tmp_path / "_CHECKPOINT_METADATA"
  metadata = json.loads(path.read_text())
  entries = metadata["custom_metadata"]["flowkd_jax"]
  entries.pop("sha256")
  later = _checkpoint._files.seal({**entries, "format": "flowkd_jax checkpoint 4"})
  metadata["custom_metadata"]["flowkd_jax"] = later
  path.write_text(json.dumps(metadata))
  with pytest.raises(ValueError, match="expected the format .*got .*4'; use"):
    train.load_network(tmp_path, network)


def test_network_that_is_not_finite_is_refused(network, tmp_path):
  network.variables["params"]["kernel"][2, 3] = np.nan
  train.save_network(tmp_path, network)
  with pytest.raises(ValueError, match=r"expected finite .* in params/kernel;"):
    train.load_network(tmp_path, network)


def test_network_moved_to_a_name_that_orbax_cannot_read_is_not_called_damaged(
  network, tmp_path
):
  train.save_network(tmp_path / "run" / "network", network)
  (tmp_path / "run").rename(tmp_path / "back\\slash")
  with pytest.raises(ValueError, match="directory: expected a path without"):
    train.load_network(tmp_path / "back\\slash" / "network", network)


@pytest.mark.slow
def test_network_is_saved_and_loaded(tmp_path):
  model = models.by_name("digits_cnn:2", num_classes=3)
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  train.save_network(tmp_path / "network", methods.Network(model, variables))
  blank = jax.tree.map(np.zeros_like, variables)
  template = methods.Network(model, blank)
  loaded = train.load_network(tmp_path / "network", template)
  jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
  with pytest.raises(FileNotFoundError, match="expected a saved network in"):
    train.load_network(tmp_path / "nothing", template)
  wider = models.by_name("digits_cnn:4", num_classes=3)
  variables = capture.init(wider, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  with pytest.raises(ValueError, match=r"another model: \S+ is float32\["):
    train.load_network(tmp_path / "network", methods.Network(wider, variables))
