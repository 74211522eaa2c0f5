"""The example of the documentation, in two processes and in one."""

import pathlib
import re

import jax
import numpy as np
import pytest

from flowkd_jax import models
from flowkd_jax import train

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "_several_hosts.py"


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path, run_in_processes):
  def run(name, processes, devices):
    def arguments(address, number):
      return [EXAMPLE, address, str(processes), str(number), tmp_path / name]

    said = run_in_processes(arguments, processes, devices)
    return [re.findall(r"(\d+) devices, loss ([\d.]+)", out)[0] for out in said]

  (one,) = run("one", 1, 4)
  two = run("two", 2, 2)
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
