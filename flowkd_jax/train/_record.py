"""Record of data, batches and random key of a run in a work directory."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flowkd_jax import _files
from flowkd_jax import data
from flowkd_jax import teacher_cache
from flowkd_jax.train import _checkpoint
from flowkd_jax.train import _processes
from flowkd_jax.train import _structure

FILE = "run.json"

Record = dict[str, Any]

_SHAPE = ("num_examples", "num_classes", "image_shape", "batch_size", "steps_per_epoch")
_PLAN = ("seed", "shuffle", "drop_last")
_ROUNDS = ("local_steps", "minibatch_size", "rounds_per_epoch")
_SAMPLED = 256  # number of examples that are compared if not all can be
_CHUNK = 1024
_WHOLE = 2**30  # size in bytes up to which all examples are compared


def describe_run(batches: data.Batches, key: jax.Array) -> Record:
  """Record of a run: sizes, order, augmentation, and hashes of examples and key.

  It does not depend on the number of processes, on whether images are in memory or
  streamed, or on a teacher cache.

  Args:
    batches: The training batches.
    key: Random key of the run.
  """
  batches = teacher_cache.without_cache(batches)
  record = {name: getattr(batches, name) for name in _SHAPE}
  record["image_shape"] = [*batches.image_shape]
  record["key"] = _hash([_checkpoint.to_host(key)])
  if isinstance(batches, data.FederatedBatches):
    record |= {name: getattr(batches, name) for name in _ROUNDS}
    record["clients"] = _hash(batches.clients)
    batches = batches.images
  if isinstance(batches, data.MemoryBatches | data.StreamBatches):
    return record | _describe_planned(batches)
  record["resident"] = _structure.checksum(_checkpoint.to_host(dict(batches.resident)))
  if jax.process_count() == 1:  # With several processes, each has its own rows.
    record["first batch"] = _structure.checksum(
      _checkpoint.to_host(dict(next(iter(batches.epoch(0)))))
    )
  return record


def check_record(folder: Path, now: Record) -> None:
  """Check a run against the record in a folder.

  Without a record, as in version 0.1, nothing is checked.

  Raises:
    ValueError: If the file is damaged, or the record differs. The message gives both
      values.
  """
  path = folder / FILE
  if not path.exists():
    return
  before = _files.read_json(
    path, f"restore a copy, or delete the file if {folder} belongs to this run"
  )
  different = [
    f"{name}: {before[name]} before, {value} now"
    for name, value in now.items()
    # Not all examples are compared if one of the runs streams them.
    if before.get(name) is not None and value is not None and before[name] != value
  ]
  if different:
    raise ValueError(
      f"{folder} belongs to a run with other data, batches or key "
      f"({'; '.join(different)}). Use another work directory, or the earlier ones to "
      "resume the run"
    )


def write_record(folder: Path, now: Record) -> None:
  """Write the record; only the first process writes."""
  if _processes.is_first_process():
    _files.write_json(folder / FILE, now)


def _describe_planned(batches: data.MemoryBatches | data.StreamBatches) -> Record:
  source = batches.source
  count = source.num_examples
  numbers = np.unique(np.linspace(0, count - 1, _SAMPLED).astype(int))
  whole = isinstance(source, data.Split) and source.num_bytes <= _WHOLE
  return {
    **{name: getattr(batches, name) for name in _PLAN},
    "augmentation": batches.augmentation.recorded(),
    "mean": [float(value) for value in batches.mean],
    "std": [float(value) for value in batches.std],
    "dtype": np.dtype(batches.dtype).name,
    f"hash of {_SAMPLED} examples": _examples_hash(source, numbers),
    "hash of all examples": _examples_hash(source, np.arange(count)) if whole else None,
  }


def _examples_hash(source: data.Source, numbers: np.ndarray) -> str:
  chunks = (
    source.read(numbers[start : start + _CHUNK])
    for start in range(0, len(numbers), _CHUNK)
  )
  return _hash(array for chunk in chunks for array in chunk)


def _hash(arrays: Iterable[np.ndarray]) -> str:
  digest = hashlib.sha256()
  for array in arrays:
    array = np.ascontiguousarray(array)
    digest.update(f"{array.dtype} {array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()[:16]
