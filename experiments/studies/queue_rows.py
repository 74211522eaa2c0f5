"""Runs of a queue in order, and the earlier runs whose networks they need."""

from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.studies import launches


class Row(NamedTuple):
  """A run of the queue.

  Attributes:
    name: STUDY/RUN/SEED, its folder below the work directory.
    job: Launch to run.
    needs: Names of the runs whose networks this run starts from.
  """

  name: str
  job: launches.Job
  needs: tuple[str, ...] = ()

  @property
  def launch(self) -> str:
    """STUDY/RUN."""
    return self.name.rpartition("/")[0]

  @property
  def has_begun(self) -> bool:
    """True if its folder has files and the run is not finished."""
    return self.job.folder.exists() and not self.job.is_done


def rows(jobs: Iterable[launches.Job], root: Path) -> list[Row]:
  """The launches as rows of a queue.

  Args:
    jobs: Launches with folders ROOT/STUDY/RUN/SEED.
    root: Work directory of the queue.
  """
  named = {str(job.folder.relative_to(root)): job for job in jobs}

  def needs(name, job):
    values = (Path(flag.partition("=")[2]) for flag in job.command if "=" in flag)
    inside = [str(v.relative_to(root)) for v in values if v.is_relative_to(root)]
    return tuple(other for other in dict.fromkeys(inside) if other in {*named} - {name})

  return [Row(name, job, needs(name, job)) for name, job in named.items()]


def left(wanted: Sequence[Row], finished: set[str]) -> list[Row]:
  """Rows that have to run, in order.

  A finished run is included if its networks are missing here and another run needs
  them.

  Args:
    wanted: All rows.
    finished: Names of rows whose results are known already.
  """
  by_name = {row.name: row for row in wanted}
  needed: set[str] = set()

  def add(name):
    row = by_name[name]
    if name not in needed and not row.job.is_done:
      needed.add(name)
      for other in row.needs:
        add(other)

  for row in wanted:
    if row.name not in finished:
      add(row.name)
  return [row for row in wanted if row.name in needed]
