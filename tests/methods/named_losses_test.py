"""Names of losses."""

import inspect

import pytest

from flowkd_jax import losses
from flowkd_jax import methods
from flowkd_jax.methods import _named_losses


def test_every_public_loss_has_a_name_or_a_reason():
  functions = {entry.function for entry in _named_losses.LOSSES.values()}
  named = {name for name in losses.__all__ if getattr(losses, name) in functions}
  named |= {*_named_losses.LOSSES} & {*losses.__all__}
  named |= {f"{name}_init" for name in named if hasattr(losses, f"{name}_init")}
  without = {*_named_losses.WITHOUT_A_NAME}
  assert not named & without
  assert named | without == {
    name for name in losses.__all__ if inspect.isroutine(getattr(losses, name))
  }


def test_a_name_and_its_short_name_are_one_loss():
  assert methods.loss_by_name("kd") is methods.loss_by_name("knowledge_distillation")
  aliases = [a for loss in _named_losses.LOSSES.values() for a in loss.aliases]
  assert len({*aliases}) == len(aliases)
  assert not {*aliases} & {*_named_losses.LOSSES}


def test_options_are_those_of_the_loss_and_of_its_learnt_parameters():
  vid = methods.loss_by_name("vid")
  assert vid.options == {
    "epsilon": 1e-5,
    "reduction": "rows",
    "hidden": None,
    "variance": 5.0,
  }
  own, first, _ = vid.split_options({"epsilon": 1e-3, "variance": 2.0})
  assert own == {"epsilon": 1e-3}
  assert first == {"epsilon": 1e-3, "variance": 2.0}


def test_unknown_options_list_the_known():
  with pytest.raises(ValueError, match="expected options of temperature.*got tau"):
    methods.loss_by_name("kd").check_options({"tau": 2})
