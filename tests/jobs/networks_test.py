"""Networks by the names that flags take."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from flowkd_jax import capture
from flowkd_jax import models
from flowkd_jax.jobs import networks


def test_ours_have_names_and_others_a_function():
  ours = networks.by_name("cnn1:16", num_classes=7)
  assert ours == models.CNN(width=16, num_classes=7)
  assert networks.by_name("flowkd_jax.models:CNN") == models.CNN()


@pytest.mark.parametrize(
  ("name", "match"),
  [
    ("vgg", "network: expected one of cnn1, .*MODULE:FUNCTION .* got 'vgg'"),
    ("flowkd_jax.models:AlexNet", "network: .*got 'flowkd_jax.models:AlexNet'"),
    ("cnn1:0", "expected cnn1:WIDTH with a positive integer"),
    ("builtins:dict", "builtins:dict did not return a network; model: .* got a dict"),
  ],
)
def test_networks_that_are_not_there_are_refused(name, match):
  with pytest.raises(ValueError, match=match):
    networks.by_name(name)


def test_networks_have_to_name_their_taps():
  networks.check_declares_taps(models.CNN())
  networks.check_declares_taps(capture.with_taps(nn.Dense(3), ["here"]))
  for model, found in (
    (nn.Dense(3), "none"),
    (capture.with_taps(nn.Dense(3), ["here", "**"]), r"here, \*\*"),
  ):
    with pytest.raises(ValueError, match=rf"taps: expected .* got {found}; list them"):
      networks.check_declares_taps(model)


def test_parameters_are_counted_without_statistics():
  model = models.by_name("digits_cnn:2", num_classes=10)
  variables = capture.init(model, jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
  expected = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert networks.number_of_parameters(model, (8, 8, 1)) == expected
  assert expected < sum(leaf.size for leaf in jax.tree.leaves(variables))
