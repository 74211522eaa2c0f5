"""The trace of a method's first step, before anything runs."""

import dataclasses

import pytest

from flowkd_jax.train import _rehearsal


@pytest.mark.eight_devices
def test_check_method_traces_without_running(toy, batches):
  traced = []
  method = toy()

  def update(state, batch, constants):
    traced.append(batch["image"].shape)
    return method.update(state, batch, constants)

  _rehearsal.check_method(method._replace(update=update), batches)
  assert traced == [(2, 8, 8, 1)]


def test_check_method_raises_what_the_update_raises(toy, batches):
  def update(state, batch, constants):
    raise ValueError("weight: expected less")

  with pytest.raises(ValueError, match="weight: expected less"):
    _rehearsal.check_method(toy()._replace(update=update), batches)


def test_check_method_asks_the_method_with_an_example_and_the_classes(toy, batches):
  asked = []
  method = toy()._replace(check=lambda *given: asked.append(given))
  _rehearsal.check_method(method, batches)
  ((example, num_classes),) = asked
  assert (example.shape, num_classes) == ((2, 8, 8, 1), 3)


@pytest.mark.eight_devices
def test_check_method_refuses_rows_that_devices_cannot_share(toy, batches):
  odd = dataclasses.replace(batches, batch_size=15)
  with pytest.raises(ValueError, match="8 devices cannot share 15 rows"):
    _rehearsal.check_method(toy(), odd)
