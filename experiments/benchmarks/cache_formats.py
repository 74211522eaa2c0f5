"""Teacher cache against tensorstore: rows written and read in random order.

    python -m experiments.benchmarks.cache_formats

Each round writes the outputs of one epoch in batches of random examples, as in
training, and reads them in another order. tensorstore stores them as zarr 3 with
checksums and one chunk per row, either in one file per chunk or in shards.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from experiments.benchmarks import measurement
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.teacher_cache import TeacherCache

_NAME = "logits"
_BYTES = [
  {"name": "bytes", "configuration": {"endian": "little"}},
  {"name": "crc32c"},
]


@dataclasses.dataclass(frozen=True)
class Config(measurement.Config):
  """Settings of the benchmark."""

  num_examples: int = fields.setting(4096, "Number of examples.", least=1)
  width: int = fields.setting(2048, "Numbers a row.", least=1)
  batch_size: int = fields.setting(128, "Rows of a batch.", least=1)
  shards: tuple[int, ...] = fields.setting((128, 1024), "Rows of a shard.", least=1)
  rounds: int = fields.setting(3, "Number of rounds.", least=1)


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a count is below 1.
  """
  return fields.configured(Config, given)


def run(config: Config) -> None:
  """Measure in turns and print medians and ranges."""
  measurement.use_device(config.device)
  formats: dict[str, Callable[..., Any]] = {"ours": _ours}
  formats["tensorstore, a file a row"] = lambda *args: _tensorstore(*args, shard=None)
  for shard in config.shards:
    name = f"tensorstore, shards of {shard} rows"
    formats[name] = lambda *args, shard=shard: _tensorstore(*args, shard=shard)
  times: dict[str, list[tuple[float, float]]] = {name: [] for name in formats}
  files = {}
  for number in range(config.rounds):
    for name, opened in formats.items():
      with tempfile.TemporaryDirectory() as folder:
        times[name].append(_timed(config, number, *opened(config, folder)))
        files[name] = sum(path.is_file() for path in Path(folder).rglob("*"))
  environment = measurement.environment()
  print(measurement.heading(environment, f"batch {config.batch_size}"))
  rows, seconds = [], {}
  for name, rounds in times.items():
    write, read = (list(part) for part in zip(*rounds, strict=True))
    seconds |= {f"{name}: write": write, f"{name}: read": read}
    cells = [measurement.spread(part, factor=1000) for part in (write, read)]
    rows.append([name, *cells, str(files[name])])
  headings = ["format", "write, ms a batch", "read, ms a batch", "files"]
  print(measurement.table(headings, rows))
  measurement.write(config, environment, {"seconds": measurement.summary(seconds)})


def _ours(config, folder):
  cache = TeacherCache(
    folder,
    key={},
    row_shapes={_NAME: (config.width,)},
    num_examples=config.num_examples,
  )
  return (
    lambda index, rows: cache.write(0, index, {_NAME: rows}),
    lambda index: (cache.read(0, index) or {})[_NAME],
  )


def _tensorstore(config, folder, *, shard):
  row, codecs = [1, config.width], _BYTES
  chunk = row if shard is None else [shard, config.width]
  if shard is not None:
    inner = {"chunk_shape": row, "codecs": _BYTES, "index_codecs": _BYTES}
    codecs = [{"name": "sharding_indexed", "configuration": inner}]
  spec = {
    "driver": "zarr3",
    "kvstore": {"driver": "file", "path": folder},
    "metadata": {
      "shape": [config.num_examples, config.width],
      "data_type": "float32",
      "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
      "codecs": codecs,
    },
  }
  store = tensorstore.open(spec, create=True).result()
  return (
    lambda index, rows: store[index].write(rows).result(),
    lambda index: store[index].read().result(),
  )


def _timed(config, number, write, read) -> tuple[float, float]:
  """Seconds per batch of writing and reading; also checks the rows that are read."""
  rng = np.random.default_rng(number)
  rows = rng.standard_normal((config.num_examples, config.width)).astype(np.float32)
  batches = -(-config.num_examples // config.batch_size)
  seconds = []
  for call in (lambda index: write(index, rows[index]), read):
    order = np.array_split(rng.permutation(config.num_examples), batches)
    began = time.perf_counter()
    found = [call(index) for index in order]
    seconds.append((time.perf_counter() - began) / batches)
  if not all(np.array_equal(x, rows[i]) for x, i in zip(found, order, strict=True)):
    raise ValueError("what was read is not what was written")
  return seconds[0], seconds[1]


if __name__ == "__main__":
  launch.launch(Config, configure, run)
