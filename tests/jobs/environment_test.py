"""What a number depends on besides its settings."""

import platform
import sys

import jax

from flowkd_jax.jobs import environment


def test_environment_says_what_a_number_was_made_with():
  made = environment.environment()
  assert made["command"].startswith("python ")
  assert made["python"] == ".".join(map(str, sys.version_info[:3]))
  assert made["jax"] == jax.__version__
  assert made["device"] == "8 x cpu"
  assert made["cores"] >= 1


def test_processor_is_named_as_it_names_itself(monkeypatch, tmp_path):
  told = tmp_path / "cpuinfo"
  monkeypatch.setattr(environment, "CPU_INFO", told)
  assert environment.environment()["processor"] == platform.processor()
  told.write_text("processor\t: 0\nmodel name\t: Abacus 3: fast\nprocessor\t: 1\n")
  assert environment.environment()["processor"] == "Abacus 3: fast"
