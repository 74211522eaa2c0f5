"""Time and memory of nearest-row retrieval, against faiss and scikit-learn.

    python -m experiments.benchmarks.retrieval
    python -m experiments.benchmarks.retrieval --database=1000000 --queries=2000

Embeddings of the database and of the queries are random and lie in `.npy` files, which
`evaluation.nearest_retrieval` reads in blocks and the others read as a whole. It also
computes the metrics, which the others do not. faiss (an exact index, `IndexFlatL2`) and
scikit-learn (`NearestNeighbors`, brute force) take part if they are installed; faiss is
`pip install faiss-cpu`. Programs take turns on the same machine.

Prints the seconds of each, ratios round by round, and the most memory that each took in
a process of its own, beside pages of files and as far as Linux tells. The time for
100,000 queries against 1,000,000 rows is an estimate: that of the largest database here
times the ratio of the numbers of pairs.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import multiprocessing
import pathlib
import statistics
import tempfile
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import numpy as np

from experiments.benchmarks import measurement
from flowkd_jax import evaluation
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields

OURS = "flowkd_jax"
# Rows of each class in the database.
ROWS_OF_A_CLASS = 50
ESTIMATED_QUERIES, ESTIMATED_ROWS = 100_000, 1_000_000
_SECONDS_BETWEEN_SAMPLES = 0.005


@dataclasses.dataclass(frozen=True)
class Config(measurement.Config):
  """Settings of the benchmark."""

  database: tuple[int, ...] = fields.setting(
    (50_000, 200_000), "Numbers of database rows.", least=ROWS_OF_A_CLASS
  )
  queries: int = fields.setting(2_000, "Number of queries.", least=1)
  width: int = fields.setting(128, "Width of the embeddings.", least=1)
  neighbours: int = fields.setting(
    100, "Nearest rows that are found for each query.", least=ROWS_OF_A_CLASS
  )
  rounds: int = fields.setting(3, "Turns that each program gets.", least=1)
  seed: int = fields.setting(0, "Seed of the embeddings.", least=0)


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a number is too small, or there are more neighbours than rows.
  """
  config = fields.configured(Config, given)
  if config.neighbours > min(config.database):
    raise ValueError(
      f"--neighbours: expected at most the {min(config.database)} rows of the smallest "
      f"--database, got {config.neighbours}"
    )
  return config


def run(config: Config) -> None:
  """Measures and prints."""
  measurement.use_device(config.device)
  environment = measurement.environment()
  print(measurement.heading(environment, f"{config.rounds} rounds, median (range)"))
  records = []
  with tempfile.TemporaryDirectory() as folder:
    for rows in config.database:
      paths = stored(pathlib.Path(folder), rows, config)
      seconds = measured(programs(paths, config), config)
      mebibytes = {name: peak_of(name, paths, config) for name in seconds}
      records.append({"rows": rows, "seconds": seconds, "mebibytes": mebibytes})
  print(_table(records, config), flush=True)
  for line in _estimates(records[-1], config):
    print(line)
  measurement.write(config, environment, {"retrieval": records})


def stored(folder: pathlib.Path, rows: int, config: Config) -> list[pathlib.Path]:
  """Files of embeddings and labels, of the database and of the queries."""
  rng = np.random.default_rng(config.seed)
  paths = []
  for name, count in (("database", rows), ("queries", config.queries)):
    arrays = {
      name: rng.standard_normal((count, config.width), np.float32),
      f"{name}_labels": rng.integers(0, rows // ROWS_OF_A_CLASS, count),
    }
    for each, array in arrays.items():
      paths.append(folder / f"{each}_{rows}.npy")
      np.save(paths[-1], array)
  return paths


def programs(
  paths: list[pathlib.Path], config: Config
) -> dict[str, Callable[[], object]]:
  """Our function and those of the libraries that are installed."""
  database, _, queries, _ = paths
  found: dict[str, Callable[[], object]] = {
    OURS: lambda: evaluation.nearest_retrieval(*paths, ranks=(1, config.neighbours))
  }
  if importlib.util.find_spec("faiss"):
    faiss: Any = importlib.import_module("faiss")

    def search():
      index = faiss.IndexFlatL2(config.width)
      index.add(np.load(database))
      return index.search(np.load(queries), config.neighbours)

    found["faiss"] = search
  if importlib.util.find_spec("sklearn"):
    neighbours: Any = importlib.import_module("sklearn.neighbors")

    def look_up():
      index = neighbours.NearestNeighbors(
        n_neighbors=config.neighbours, algorithm="brute"
      )
      return index.fit(np.load(database)).kneighbors(np.load(queries))

    found["scikit-learn"] = look_up
  return found


def measured(
  programs: Mapping[str, Callable[[], object]], config: Config
) -> dict[str, list[float]]:
  """Seconds of every round of each program."""
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(config.rounds):
    for name, program in programs.items():
      seconds[name].append(measurement.timed(program))
  return seconds


def peak_of(name: str, paths: list[pathlib.Path], config: Config) -> float:
  """The most MiB of one of the programs.

  In a new process: what a program before it freed would be used again, unseen.
  """
  spawned = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(1, mp_context=spawned) as pool:
    return pool.submit(_peak_here, name, paths, config).result()


def _peak_here(name, paths, config):
  program = programs(paths, config)[name]
  with peak_memory() as peak:
    program()
  return peak[0]


@contextlib.contextmanager
def peak_memory() -> Iterator[list[float]]:
  """The most anonymous memory of this process above that at the start, in MiB.

  Pages of files that are mapped into memory do not count. Sampled by a thread. The list
  is filled in the end: `[MiB]`, NaN where the system does not tell.
  """
  start = _anonymous_mebibytes()
  most, ended, result = [start], threading.Event(), []

  def sample():
    while not ended.wait(_SECONDS_BETWEEN_SAMPLES):
      most[0] = max(most[0], _anonymous_mebibytes())

  thread = threading.Thread(target=sample)
  thread.start()
  try:
    yield result
  finally:
    ended.set()
    thread.join()
    result.append(most[0] - start)


def _anonymous_mebibytes() -> float:
  try:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  except OSError:
    return float("nan")
  (line,) = (line for line in lines if line.startswith("RssAnon:"))
  return int(line.split()[1]) / 1024


def _table(records: list[dict[str, Any]], config: Config) -> str:
  names = [*records[0]["seconds"]]
  headings = ["rows", "queries", *(f"{name} s" for name in names)]
  headings += [f"{OURS} / {name}" for name in names[1:]]
  headings += [f"{name} MiB" for name in names]
  cells = []
  for record in records:
    seconds = record["seconds"]
    ratios = [measurement.ratios(seconds[OURS], seconds[name]) for name in names[1:]]
    cells.append(
      [
        str(record["rows"]),
        str(config.queries),
        *(measurement.spread(seconds[name]) for name in names),
        *map(measurement.spread, ratios),
        *(f"{record['mebibytes'][name]:.0f}" for name in names),
      ]
    )
  return measurement.table(headings, cells)


def _estimates(record: dict[str, Any], config: Config) -> Iterator[str]:
  pairs = record["rows"] * config.queries
  factor = ESTIMATED_QUERIES * ESTIMATED_ROWS / pairs
  for name, seconds in record["seconds"].items():
    hours = factor * statistics.median(seconds) / 3600
    yield (
      f"{name}: {hours:.2g} hours for {ESTIMATED_QUERIES:,} queries against "
      f"{ESTIMATED_ROWS:,} rows, an estimate from {config.queries:,} against "
      f"{record['rows']:,}"
    )


if __name__ == "__main__":
  launch.launch(Config, configure, run)
