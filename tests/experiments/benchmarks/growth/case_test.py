"""Measurement of one case at one size."""

import mmap

import pytest

from experiments.benchmarks.growth import case


@pytest.mark.slow
def test_measurement_counts_calls_and_their_memory():
  calls = []

  def make(size):
    def work():
      calls.append(size)
      # New pages, however much freed memory this process has kept.
      with mmap.mmap(-1, size * 2**20) as pages:
        for start in range(0, len(pages), mmap.PAGESIZE):
          pages[start] = 1

    return work

  found = case.measure(case.Case(make, (32,), "MiB"), 32)
  assert calls == [32, 32]
  assert found["first"] > 0
  assert found["again"] > 0
  assert 30 < found["mib"] < 200
