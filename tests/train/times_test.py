"""Time of a run by part."""

import time

import jax
import jax.numpy as jnp
import pytest

from flowkd_jax.train import _times


def test_every_second_counts_once():
  began = time.monotonic()
  times = _times.Times({"steps": 2.0, "of a later version": 0.5})
  with times.spent(_times.STEPS):
    time.sleep(0.02)
    with times.spent(_times.DATA):
      time.sleep(0.03)
    time.sleep(0.01)
  time.sleep(0.01)
  seconds = times.seconds()
  assert [*seconds] == [*_times.NAMES]
  assert seconds["steps"] >= 2.03
  assert 0.03 <= seconds["waiting for data"] < 2
  assert seconds["other"] >= 0.51
  assert sum(seconds.values()) == pytest.approx(
    2.5 + time.monotonic() - began, abs=0.02
  )


def test_compiling_counts_once_wherever_it_happens():
  times = _times.Times()
  with times.spent(_times.MEASURING):
    began = time.monotonic()
    jax.jit(lambda x: jax.jit(jnp.sort)(x) * 12.5)(jnp.ones(7))
    whole = time.monotonic() - began
  seconds = times.seconds()
  assert 0 < seconds["compiling"] <= whole
  assert seconds["measuring"] + seconds["compiling"] == pytest.approx(whole, abs=0.02)


def test_parts_of_an_event_are_not_added_to_it():
  compiled = _times._Compiled()
  time.sleep(0.02)
  compiled.add(0.005)
  compiled.add(0.001)
  compiled.add(0.02)  # It began before the others.
  assert compiled.seconds == pytest.approx(0.02)
