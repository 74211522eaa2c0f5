"""Signals that stop a run."""

import os
import signal

import pytest

from flowkd_jax import train
from flowkd_jax.train import _interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_only_sets_a_flag(number):
  before = signal.getsignal(number)
  with train.stop_on_signals() as asked:
    assert asked() is None
    os.kill(os.getpid(), number)
    assert asked() == number.name
    assert signal.getsignal(number) == before  # A second one acts at once.
  assert signal.getsignal(number) == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signals_are_numbers_that_processes_can_compare(name):
  assert _interruption.signal_name(_interruption.signal_number(name)) == name
  assert _interruption.signal_number(None) == 0
  assert _interruption.signal_number("SIGTERM") > _interruption.signal_number("SIGINT")
  assert _interruption.signal_number("time is up") > 0
