"""Rows of a queue."""

from experiments.studies import launches
from experiments.studies import queue_rows


def test_a_row_is_left_as_long_as_another_needs_its_networks(tmp_path):
  folders = [tmp_path / "study" / name / "0" for name in ("b", "a")]
  flag = f"--networks_from={folders[1]}"
  jobs = [launches.Job(folders[0], ["run", flag]), launches.Job(folders[1], ["run"])]
  rows = queue_rows.rows(jobs, tmp_path)
  assert [row.name for row in rows] == ["study/b/0", "study/a/0"]
  assert rows[0].needs == ("study/a/0",)
  assert rows[0].launch == "study/b"
  # Its results are known, but its networks are not here.
  assert queue_rows.left(rows, {"study/a/0"}) == rows
  assert queue_rows.left(rows, {"study/a/0", "study/b/0"}) == []
  folders[1].mkdir(parents=True)
  assert rows[1].has_begun
  (folders[1] / "results.json").touch()
  assert not rows[1].has_begun
  assert queue_rows.left(rows, set()) == rows[:1]
