"""The benchmark of the teacher cache beside tensorstore, small."""

import re

from experiments.benchmarks import cache_formats


def test_every_format_is_measured_and_holds_what_was_written(capsys):
  cache_formats.run(
    cache_formats.configure(
      num_examples=32, width=8, batch_size=8, shards=(16,), rounds=1
    )
  )
  lines = capsys.readouterr().out.splitlines()
  assert [line.partition(":")[0] for line in lines] == [
    "ours",
    "tensorstore, a file a row",
    "tensorstore, shards of 16 rows",
  ]
  for line in lines:
    assert all(float(number) > 0 for number in re.findall(r"(\d+\.\d+)", line))
  assert lines[1].endswith("33 files")  # one a row, and the description
