"""Test that changed bits in stored files are detected.

A network, checkpoints, a teacher cache and the JSON files of a work directory are
written to a temporary folder. In every file, one bit after another is changed, and the
file is read again. A reader may detect the change, or return what was stored, for
example if it does not use the bit. The exit status is 1 if anything else is returned.

    python -m experiments.benchmarks.bit_flips --flips=50

Run it by hand after changes to the storage of states.
"""

import collections
import dataclasses
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax import models
from flowkd_jax import report
from flowkd_jax import train
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import layer_matching
from flowkd_jax.jobs import normalization
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages
from flowkd_jax.teacher_cache import TeacherCache


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the check."""

  flips: int = fields.setting(50, "Changed bits for every file.", least=1)
  seed: int = fields.setting(0, "Seed of the bits that are changed.", least=0)


class Stored(NamedTuple):
  """Object on disk whose files are damaged by a bit flip.

  Attributes:
    name: Name of the object.
    path: File or folder.
    read: Function that returns `(content, True if damage was reported)`.
    expected: Content that is read from undamaged files.
  """

  name: str
  path: Path
  read: Callable[[], tuple[Any, bool]]
  expected: Any


class Outcome(NamedTuple):
  """Numbers of changed bits by outcome, for one stored object."""

  name: str
  noticed: int
  unused: int
  wrong: int


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a setting cannot be right.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Change bits, print the outcomes, and exit with 1 if anything is wrong."""
  # Readers report each damage, and Orbax leaves threads that complain.
  logging.disable(logging.CRITICAL)
  sys.unraisablehook = lambda unraisable: None
  outcomes = []
  with tempfile.TemporaryDirectory() as folder:
    for write in KINDS:
      outcome = examine(write(Path(folder) / write.__name__), config.flips, config.seed)
      print(
        f"{outcome.name:16} noticed {outcome.noticed:5}   unused {outcome.unused:5}   "
        f"wrong {outcome.wrong:5}",
        flush=True,
      )
      outcomes.append(outcome)
  if any(outcome.wrong for outcome in outcomes):
    sys.exit(1)


def examine(stored: Stored, flips: int, seed: int) -> Outcome:
  """Changes bits in all files of an object, one at a time, and reads the object.

  Args:
    stored: Object to damage and to read.
    flips: Changed bits for every file.
    seed: Seed of their places.
  """
  if not _equal(stored.read()[0], stored.expected):
    raise RuntimeError(f"{stored.name} is not read as it was written")
  counts = collections.Counter()
  copy = stored.path.with_name("copy")
  _replace(copy, stored.path)
  for _ in changes(stored.path, flips, seed):
    try:
      found, reported = stored.read()
    except (ValueError, FileNotFoundError):
      counts["noticed"] += 1
    else:
      same = reported or _equal(found, stored.expected)
      counts["noticed" if reported else "unused" if same else "wrong"] += 1
    _replace(stored.path, copy)
  return Outcome(stored.name, counts["noticed"], counts["unused"], counts["wrong"])


def changes(path: Path, flips: int, seed: int) -> Iterator[Path]:
  """Yield every file several times, each time with one changed bit."""
  rng = np.random.default_rng(seed)
  files = [path] if path.is_file() else sorted(path.rglob("*"))
  contents = {file: file.read_bytes() for file in files if file.is_file()}
  for file, content in contents.items():
    for _ in range(flips if content else 0):
      changed = bytearray(content)
      changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
      file.write_bytes(changed)
      yield file


def network(folder: Path) -> Stored:
  """A saved network."""
  kernel = np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30)
  saved = methods.Network(
    models.by_name("digits_cnn:2"), {"params": {"kernel": kernel}}
  )
  train.save_network(folder / "network", saved)

  def read():
    return train.load_network(folder / "network", saved).variables, False

  return Stored("network", folder / "network", read, saved.variables)


def checkpoint(folder: Path) -> Stored:
  """The newest of two checkpoints; damage is reported by falling back to the other."""
  state = {
    "kernel": jnp.linspace(-1, 1, 600),
    "step": jnp.int32(20),
    "key": jax.random.key(1),
  }
  progress = {"step": 20, "sums": {"loss": 0.125}}
  with train.Checkpoints(folder) as checkpoints:
    checkpoints.save(10, state, {"step": 10})
    checkpoints.save(20, state, progress)

  def read():
    with train.Checkpoints(folder) as checkpoints:
      restored = checkpoints.restore(state)
      return restored, bool(checkpoints.problems)

  return Stored("checkpoint", folder / "20", read, (state, progress))


def teacher_cache(folder: Path) -> Stored:
  """The description and the rows of a teacher cache."""
  rows = np.arange(8)
  outputs = {"logits": np.linspace(-1, 1, 80, dtype=np.float32).reshape(8, 10)}

  def cache():
    key = {"teacher": "a", "data": "b", "augmentation": None}
    shapes = {"logits": (10,)}
    return TeacherCache(folder / "cache", key=key, row_shapes=shapes, num_examples=8)

  cache().write(0, rows, outputs)

  def read():
    found = cache().read(0, rows)
    return found, found is None  # Rows that are not there are computed again.

  return Stored("teacher cache", folder / "cache", read, outputs)


def stage_results(folder: Path) -> Stored:
  """Results of a stage."""
  networks = [{"name": "teacher", "accuracy": 0.9375, "epochs": 80}]
  path = folder / "teacher" / stages.RESULTS
  stages.write_json(path, networks)

  def read():
    return stages.read_results(folder, "teacher"), False

  return Stored("stage results", path, read, networks)


def run_results(folder: Path) -> Stored:
  """Results of a run."""
  networks = [{"name": "teacher", "accuracy": 0.9375, "epochs": 80}]
  path = folder / stages.RESULTS
  stages.write_json(path, {"networks": networks})

  def read():
    return report.read_results(path), False

  return Stored("run results", path, read, networks)


def layer_map(folder: Path) -> Stored:
  """A layer map that was found."""
  taps = ("block_1", "block_2", "dense"), ("stage_1", "stage_2", "pooled")
  pairs = dict(zip(*taps, strict=True))
  path = folder / layer_matching.FILE
  stages.write_json(path, {"how": "auto", "layer_map": pairs})

  def read():
    return layer_matching.given_layers(str(path), *taps), False

  return Stored("layer map", path, read, pairs)


def configuration(folder: Path) -> Stored:
  """Settings of a run: a run with the same settings must resume or be refused."""
  config = settings.Settings(workdir=str(folder))
  path = folder / job_run.CONFIG
  job_run.remember(config, path)

  def read():
    job_run.check_config(config, path)
    return config, False

  return Stored("config", path, read, config)


def kept_normalization(folder: Path) -> Stored:
  """Mean and standard deviation that a run has measured."""
  config = settings.Settings(workdir=str(folder), dataset="made")
  shape, found = (1, 1, 1, 1), ((77.5,), (95.25,))
  images, labels = np.zeros(shape, np.uint8), np.zeros(1, np.int32)
  split = data.Split("made", "train", images, labels, ("a",))
  normalization.keep(config, *found)

  def read():
    kept = normalization.of_run(config, split, train.Progress(), begun=True)
    return kept, False

  return Stored("normalization", folder / normalization.FILE, read, found)


KINDS: tuple[Callable[[Path], Stored], ...] = (
  network,
  checkpoint,
  teacher_cache,
  stage_results,
  run_results,
  layer_map,
  configuration,
  kept_normalization,
)


def _replace(path: Path, copy: Path) -> None:
  if copy.is_file():
    shutil.copyfile(copy, path)
    return
  shutil.rmtree(path, ignore_errors=True)
  shutil.copytree(copy, path)


def _equal(found: Any, expected: Any) -> bool:
  one, other = (jax.tree.leaves(tree) for tree in (found, expected))
  same = jax.tree.structure(found) == jax.tree.structure(expected)
  return same and all(map(_equal_leaves, one, other))


def _equal_leaves(one: Any, other: Any) -> bool:
  if isinstance(other, jax.Array) and jnp.issubdtype(other.dtype, jax.dtypes.prng_key):
    one, other = jax.random.key_data(one), jax.random.key_data(other)
  return np.asarray(one).tobytes() == np.asarray(other).tobytes()


if __name__ == "__main__":
  launch.launch(Config, configure, run)
