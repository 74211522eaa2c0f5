"""Description of a study: launches, and the table that shows them.

A run is a launcher and its flags. A study repeats every run with several seeds. If a
flag depends on the machine, its value is a placeholder: `{data_dir}`,
`{auxiliary_checkpoint}`, `{workdir}` (the folder of the study) or `{all_studies}` (the
folder of all studies).
"""

from collections.abc import Mapping
from typing import NamedTuple

PLACEHOLDERS = ("data_dir", "auxiliary_checkpoint", "workdir", "all_studies")


class Run(NamedTuple):
  """One row of a table.

  Attributes:
    name: Name in the study, which is also the name of the folder.
    title: Description for readers.
    flags: Flags of the launch, besides `--workdir` and `--seed`.
    result: Name in `results.json` of the network that the row shows.
    job: The training job.
    seeds: Number of the study's seeds that the run uses, all if None.
    of: Another row whose launch trains this network too, "" for none. If given, the row
      has no launch of its own and uses the folder of the other row.
  """

  name: str
  title: str
  flags: tuple[str, ...] = ()
  result: str = "student"
  job: str = "information_flow"
  seeds: int | None = None
  of: str = ""

  @property
  def folder(self) -> str:
    """The folder of the launch that trains this network."""
    return self.of or self.name


class Arm(NamedTuple):
  """One row of a comparison: a network that every run trains.

  Attributes:
    name: The network, by its name in `results.json`.
    title: Description for readers.
    baselines: Networks of the same run as baselines of this one, seed by seed; one for
      each heading of the comparison, "" for none.
  """

  name: str
  title: str
  baselines: tuple[str, ...] = ()


class Column(NamedTuple):
  """One number of every arm.

  Attributes:
    heading: Heading above the column.
    metric: Name of the metric among the results of a network. "epoch_seconds" is the
      time of the shortest epoch without measurements.
    runs: Runs whose mean is shown, seed by seed; empty for all runs with results.
    form: "percent"; "number"; "times", as a multiple of the first baseline.
    paired: True to show the difference to the baselines too.
  """

  heading: str
  metric: str = "accuracy"
  runs: tuple[str, ...] = ()
  form: str = "percent"
  paired: bool = False


class Comparison(NamedTuple):
  """A table whose rows come from one launch and share seed, data and teacher.

  Attributes:
    arms: Rows of the table.
    columns: Columns of the table.
    baselines: Names of the baselines of the arms, for the headings.
    epochs: Name of the axis of epochs in the figure.
  """

  arms: tuple[Arm, ...]
  columns: tuple[Column, ...]
  baselines: tuple[str, ...] = ()
  epochs: str = "epochs trained"


class Grid(NamedTuple):
  """A table of accuracies: methods as rows, pairs of networks as columns.

  Attributes:
    rows: Name and title of each method. The row "teacher" is the teacher of the pair.
    columns: Heading of each pair by its name; the run PAIR_METHOD is the cell.
    teachers: Run that trains the teacher of each pair.
    families: Pairs of each table.
    published: Protocol and published percent of a method and a pair.
    protocols: Meaning of the letters of protocols.
  """

  rows: tuple[tuple[str, str], ...]
  columns: Mapping[str, str]
  teachers: Mapping[str, str]
  families: tuple[tuple[str, ...], ...]
  published: Mapping[tuple[str, str], tuple[str, float]] = {}
  protocols: Mapping[str, str] = {}

  def run(self, method: str, pair: str) -> str:
    """Name of the run of a cell."""
    return self.teachers[pair] if method == "teacher" else f"{pair}_{method}"


class Study(NamedTuple):
  """Runs that are compared with one another.

  Attributes:
    title: Title of the section.
    runs: Launches of the study. Without a comparison they are the rows of the table
      too.
    published: Rows of published numbers of other authors, `(title, {column: percent})`.
    comparison: The table, if one launch trains several of its rows.
    grid: The table, if its cells are runs of methods on pairs of networks.
    baseline: Run that is the baseline of the other rows, seed by seed; "" for none.
    compared: The column whose difference from the baseline is shown.
    pictured: Runs whose information flow is drawn; empty for all.
    waits: Reason why a queue does not start its runs yet; "" for none.
  """

  title: str
  runs: tuple[Run, ...]
  published: tuple[tuple[str, dict[str, float]], ...] = ()
  comparison: Comparison | None = None
  grid: Grid | None = None
  baseline: str = ""
  compared: str = "mAP c"
  pictured: tuple[str, ...] = ()
  waits: str = ""

  @property
  def launches(self) -> tuple[Run, ...]:
    """Runs that have their own launch."""
    return tuple(run for run in self.runs if not run.of)


class Part(NamedTuple):
  """Runs of a study at a place in a queue.

  Attributes:
    study: Name of the study.
    runs: Names of the launches, all by default.
    seeds: Seeds of each launch, one after another; empty for the driver's seeds.
  """

  study: str
  runs: tuple[str, ...] = ()
  seeds: tuple[str, ...] = ()
