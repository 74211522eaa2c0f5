"""The benchmark of retrieval, tiny."""

import json

import numpy as np
import pytest

from experiments.benchmarks import retrieval

QUICK = {"queries": 20, "width": 4, "neighbours": 50, "rounds": 1}


@pytest.mark.slow
def test_table_has_seconds_memory_and_an_estimate(capsys, tmp_path):
  path = tmp_path / "retrieval.json"
  config = retrieval.configure(database=("100",), json=str(path), **QUICK)
  retrieval.run(config)
  printed = capsys.readouterr().out
  assert "flowkd_jax s" in printed
  assert "hours for 100,000 queries against 1,000,000 rows, an estimate" in printed
  found = json.loads(path.read_text())["retrieval"]
  assert [record["rows"] for record in found] == [100]
  assert found[0]["mebibytes"].keys() == found[0]["seconds"].keys()


def test_peak_memory_is_that_of_the_block():
  with retrieval.peak_memory() as peak:
    kept = np.ones(2**23)
  del kept
  assert 50 < peak[0] < 100 or np.isnan(peak[0])


def test_impossible_settings_are_refused():
  with pytest.raises(ValueError, match="--neighbours: expected at most the 60 rows"):
    retrieval.configure(database=("60",), neighbours=61)
  with pytest.raises(ValueError, match="--queries: expected 1 or more, got 0"):
    retrieval.configure(queries=0)
