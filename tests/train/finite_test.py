"""Checks that metrics and states are finite."""

import collections
import math

import jax.numpy as jnp
import optax
import pytest

from flowkd_jax.train import _finite


@pytest.mark.parametrize(
  ("metrics", "expected"),
  [
    ({}, (0, [])),
    ({"a": [1.0, 2.0]}, (2, [])),
    ({"a": [1.0, math.nan], "b": [1.0, math.inf]}, (1, ["a", "b"])),
    ({"a": [1.0, math.nan], "b": [-math.inf, 1.0]}, (0, ["b"])),
  ],
)
def test_first_step_that_is_not_finite_is_found(metrics, expected):
  assert _finite.first_non_finite(metrics) == expected


@pytest.mark.parametrize("on_cpu", [True, False])
def test_both_ways_find_arrays_that_are_not_finite(on_cpu, monkeypatch):
  monkeypatch.setattr(_finite, "_is_on_cpu", lambda _: on_cpu)
  state = {
    "a": jnp.array([1.0, jnp.nan]),
    "b": jnp.ones(3, jnp.bfloat16),
    "c": jnp.array([jnp.inf], jnp.bfloat16),
    "d": jnp.zeros((0, 2)),
  }
  assert _finite.non_finite_arrays(state) == ["a", "c"]


def test_arrays_that_are_not_finite_are_named_but_not_those_of_the_optimizer():
  state_of = collections.namedtuple("State", ["params", "opt_state", "count"])
  bad = jnp.array([1.0, jnp.inf])
  state = state_of(
    {"good": jnp.ones(2), "bad": bad}, optax.TraceState(bad), jnp.array(3)
  )
  assert _finite.non_finite_arrays(state) == ["params/bad"]
  assert _finite.non_finite_arrays({"count": jnp.array(3)}) == []
