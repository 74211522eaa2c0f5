"""Measurements of networks during training and after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowkd_jax import capture
from flowkd_jax import information
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import train
from tests.train.conftest import applied

pytestmark = pytest.mark.optimizer


@pytest.mark.slow
def test_epoch_measures_are_those_of_the_examples(split, clean, network):
  measure = train.EpochMeasures(clean, accuracies={"test_accuracy": clean})
  measured = measure.of({"network": network})
  logits, taps = applied(network, split)
  right = np.mean(np.argmax(logits, axis=1) == split.labels)
  assert measured["test_accuracy"] == pytest.approx(right)
  kernels = ("cosine", "student_t")
  names = [f"qmi/{kernel}/{tap}" for kernel in kernels for tap in taps]
  assert list(measured) == [*names, "test_accuracy"]
  expected = jax.jit(information.quadratic_mutual_information, static_argnums=2)(
    taps["dense"], jnp.asarray(split.labels), 3
  )
  np.testing.assert_allclose(measured["qmi/cosine/dense"], expected, rtol=1e-4)


@pytest.mark.slow
def test_epoch_measures_count_units_that_never_move(split, clean, network):
  measured = train.EpochMeasures(clean, dead_units=True).of({"network": network})
  _, taps = applied(network, split)
  still = np.ptp(np.asarray(taps["dense"]), axis=0) == 0
  assert measured["dead/dense"] == pytest.approx(still.mean())


@pytest.mark.slow
def test_epoch_measures_tell_several_networks_apart(clean, network):
  measured = train.EpochMeasures(clean).of({"one": network, "two": network})
  assert measured["one/qmi/cosine/dense"] == measured["two/qmi/cosine/dense"]
  assert all(name.startswith(("one/qmi/", "two/qmi/")) for name in measured)


def test_epoch_measures_skip_epochs_but_not_the_last(clean, network):
  method = methods.Method(
    init=lambda key, images: (),
    update=lambda state, batch, constants: (state, {}),
    export=lambda state: {"network": network},
  )
  measure = train.EpochMeasures(clean, every=3, last=3)
  measured = [epoch for epoch in range(-1, 5) if measure(epoch, method, ())]
  assert measured == [-1, 2, 3]
  never = train.EpochMeasures(clean, every=0, last=3)
  assert not any(never(epoch, method, ()) for epoch in range(4))
  with pytest.raises(ValueError, match="every: expected 0 or more epochs, got -1"):
    train.EpochMeasures(clean, every=-1)


@pytest.mark.slow
def test_epoch_measures_serve_networks_of_several_kinds(clean, network):
  model = models.by_name("digits_cnn:1", num_classes=3)
  images = jnp.zeros((2, 8, 8, 1))
  other = methods.Network(model, capture.init(model, jax.random.key(0), images))
  measure = train.EpochMeasures(clean)
  first, second = (measure.of({"network": each}) for each in (network, other))
  assert first.keys() == second.keys()
  assert first != second


@pytest.mark.slow
def test_what_is_not_asked_for_is_not_measured(clean, network):
  measure = train.EpochMeasures(None, accuracies={"test_accuracy": clean})
  assert list(measure.of({"network": network})) == ["test_accuracy"]
  assert list(train.evaluate_network(network, None, clean)) == [
    "parameters",
    "accuracy",
  ]
