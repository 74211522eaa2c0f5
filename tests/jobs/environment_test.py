"""Versions, machine and commit that are kept with a result."""

import json
import platform
import sys

import jax
import pytest

import flowkd_jax
from flowkd_jax.jobs import environment


@pytest.mark.eight_devices
def test_environment_says_what_a_number_was_made_with():
  made = environment.environment()
  assert made["command"].startswith("python ")
  assert made["python"] == ".".join(map(str, sys.version_info[:3]))
  assert made["jax"] == jax.__version__
  assert made["flowkd_jax"] == flowkd_jax.__version__
  assert made["device"] == "8 x cpu"
  assert made["cores"] >= 1


def test_environment_of_a_start_is_kept_with_the_job(tmp_path):
  environment.keep(tmp_path / "run", "distill")
  kept = json.loads((tmp_path / "run" / environment.FILE).read_text())
  assert kept["job"] == "distill"
  assert kept["python"] == platform.python_version()


def test_processor_is_named_as_it_names_itself(monkeypatch, tmp_path):
  told = tmp_path / "cpuinfo"
  monkeypatch.setattr(environment, "CPU_INFO", told)
  assert environment.environment()["processor"] == platform.processor()
  told.write_text("processor\t: 0\nmodel name\t: Abacus 3: fast\nprocessor\t: 1\n")
  assert environment.environment()["processor"] == "Abacus 3: fast"


@pytest.mark.parametrize(
  ("arguments", "command"),
  [
    (["/env/bin/flowkd", "train", "federated", "--x=a b"], "flowkd train federated"),
    (["C:/env/flowkd.exe", "train", "federated", "--x=a b"], "flowkd train federated"),
    (["/a/flowkd_jax/__main__.py", "train", "federated", "--x=a b"], "flowkd train fe"),
    (["/a/other/__main__.py", "--x=a b"], "python /a/other/__main__.py"),
    (["experiments/federated.py", "--x=a b"], "python experiments/federated.py"),
  ],
)
def test_command_is_the_one_that_is_typed(arguments, command):
  found = environment._command(arguments)
  assert found.startswith(command)
  assert found.endswith(" '--x=a b'")
