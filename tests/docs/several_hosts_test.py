"""The example of the documentation, in two processes and in one."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from flowkd_jax import models
from flowkd_jax import train

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "_several_hosts.py"


def _run(processes, devices, folder):
  """What the processes print; the devices are those of each."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  environment = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "JAX_NUM_CPU_DEVICES": str(devices),
  }
  running = [
    subprocess.Popen(
      [sys.executable, EXAMPLE, address, str(processes), str(i), folder],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(processes)
  ]
  said = [process.communicate(timeout=250) for process in running]
  assert [process.returncode for process in running] == [0] * processes, said
  return [re.findall(r"(\d+) devices, loss ([\d.]+)", out)[0] for out, _ in said]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
  (one,) = _run(1, 4, tmp_path / "one")
  two = _run(2, 2, tmp_path / "two")
  assert [devices for devices, _ in (one, *two)] == ["4"] * 3
  losses = [float(loss) for _, loss in (one, *two)]
  np.testing.assert_allclose(losses, losses[0], rtol=1e-4)
  model = models.by_name("digits_cnn:2")
  variables = [
    train.network_in_workdir(
      tmp_path, "", model, image_shape=(8, 8, 1), exported=name
    ).variables
    for name in ("one", "two")
  ]
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-3), *variables)
