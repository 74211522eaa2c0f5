"""Memory that is freed stays with the process."""

import pathlib
import platform
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Pages that the system has to bring again for memory that was freed just before.
PROGRAM = """
import resource
import numpy as np
from flowkd_jax import train

def fetched_again():
  for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = np.ones(2**24)
    again = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del block
  return again

left = fetched_again()
assert train.keep_freed_memory()
print(left, fetched_again())
"""


def _pages_fetched_again():
  run = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
  )
  return map(int, run.stdout.split())


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's setting")
def test_freed_memory_is_not_fetched_again():
  left, kept = _pages_fetched_again()
  # 128 MiB, in pages of 2 MiB or less.
  assert left >= 64
  assert kept < 8
