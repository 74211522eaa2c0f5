"""The table of precision."""

import json
import pathlib

import pytest

from experiments.benchmarks import precision
from flowkd_jax import losses
from tests.losses.contract_rows import NOT_LOSSES

TABLE = pathlib.Path(precision.__file__).parents[1] / "LOSSES.md"


def test_table_has_a_row_for_every_public_loss():
  names = {name.split(",")[0] for name in precision.LOSSES}
  assert names | set(NOT_LOSSES) == set(losses.__all__)
  table = TABLE.read_text()
  for name in precision.LOSSES:
    assert f"\n| {name} | " in table


@pytest.mark.slow
def test_errors_are_relative_to_float64():
  value, gradient = precision.errors(*precision.LOSSES["hint"], 0.0)
  assert 0 <= value < 1e-6
  assert 0 < gradient < 1e-5
  _, one_sided = precision.errors(*precision.LOSSES["cross_entropy"], 0.0)
  assert 0 < one_sided < 1e-5


@pytest.mark.slow
def test_table_is_printed_and_written(capsys, tmp_path):
  path = tmp_path / "precision.json"
  precision.run(precision.configure(losses=("hint",), json=str(path)))
  row = capsys.readouterr().out.splitlines()[-1]
  assert row.startswith("| hint")
  assert len(json.loads(path.read_text())["errors"]["hint"]) == 4
