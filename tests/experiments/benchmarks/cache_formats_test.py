"""The benchmark of the teacher cache beside tensorstore, small."""

from experiments.benchmarks import cache_formats


def test_every_format_is_measured_and_holds_what_was_written(capsys):
  cache_formats.run(
    cache_formats.configure(
      num_examples=32, width=8, batch_size=8, shards=(16,), rounds=1
    )
  )
  _, _, _, *lines = capsys.readouterr().out.splitlines()  # below the headings
  rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
  assert [row[0] for row in rows] == [
    "ours",
    "tensorstore, a file a row",
    "tensorstore, shards of 16 rows",
  ]
  for row in rows:
    assert all(float(cell.split()[0]) > 0 for cell in row[1:3])
  assert rows[1][-1] == "33"  # one a row, and the description
