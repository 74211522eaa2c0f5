"""Memory that is freed stays with the process."""

import pathlib
import platform
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Pages that the system has to bring again for memory that was freed just before.
PROGRAM = """
import resource, sys
import numpy as np
from flowkd_jax import train

if sys.argv[1] == "keep":
  assert train.keep_freed_memory()
for _ in range(2):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  block = np.ones(2**24)
  again = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
  del block
print(again)
"""


def _pages_fetched_again(how):
  run = subprocess.run(
    [sys.executable, "-c", PROGRAM, how],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
  )
  return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's setting")
def test_freed_memory_is_not_fetched_again():
  assert _pages_fetched_again("keep") < 8
  # 128 MiB, in pages of 2 MiB or less.
  assert _pages_fetched_again("leave") >= 64
