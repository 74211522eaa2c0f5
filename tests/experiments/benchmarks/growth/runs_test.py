"""Cases of data sets and reports."""

from experiments.benchmarks.growth import runs
from flowkd_jax import report


def test_runs_of_the_report_differ_in_their_seed(tmp_path):
  for seed in range(2):
    runs._write_run(tmp_path / f"run_{seed}", seed)
  one, other = (report.read_metrics(tmp_path / f"run_{seed}") for seed in range(2))
  assert len(one) == len(other) == 100
  config = (tmp_path / "run_1" / "config.json").read_text()
  assert config == '{"seed": 1}'


def test_normalization_has_a_number_for_each_channel():
  mean, deviation = runs.CASES["normalization"].make(2)()
  assert len(mean) == len(deviation) == 3
