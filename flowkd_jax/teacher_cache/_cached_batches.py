"""Batches with the outputs of a frozen teacher, read from a cache.

A network of any framework can fill a cache, from which a student then learns:

    cache = teacher_cache.TeacherCache(
      directory,
      key=teacher_cache.cache_key(batches, "ResNet-50, PyTorch"),
      row_shapes={"logits": (10,), "taps/pooled": (2048,)},
      num_examples=batches.num_examples,
    )
    prepare = jax.jit(batches.prepare)
    for epoch in range(epochs):  # one, if images are not augmented
      for rows in batches.epoch(epoch):
        images = np.asarray(prepare(batches.resident, rows)["image"])
        cache.write(epoch, rows["index"], {"logits": ..., "taps/pooled": ...})

`batches` must be the training batches, with equal data, normalisation, augmentation and
seed; for a job, `jobs.job_run.open_datasets` makes them. `recorded_teacher` is the
placeholder for the network. `flowkd train information_flow --learn_from=recorded` and
`flowkd train distill --learn_from=recorded` train from the recorded outputs.
"""

import functools
import hashlib
import re
import shutil
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flowkd_jax import data
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax.teacher_cache import _function_hash
from flowkd_jax.teacher_cache._recorded import RecordedTeacher
from flowkd_jax.teacher_cache._storage import CACHE_DTYPES
from flowkd_jax.teacher_cache._storage import TeacherCache
from flowkd_jax.teacher_cache._storage import describe_cache
from flowkd_jax.teacher_cache._teacher import TEACHER
from flowkd_jax.teacher_cache._teacher import Network
from flowkd_jax.teacher_cache._teacher import Teacher
from flowkd_jax.teacher_cache._teacher import teacher_outputs

CacheableBatches = data.MemoryBatches | data.StreamBatches

_GIB = 2**30
_RESERVE = _GIB  # disk space that is left free, for checkpoints and other files
_SAMPLED = 1024  # number of examples that identify a data set that is streamed


class CachedBatches:
  """`Batches` with teacher outputs, which are computed once and kept on disk.

  A method that finds the outputs in its batch does not apply the teacher. Rows that the
  cache lacks are computed together with their batch, and stored: the first run fills
  the cache, and later runs read it, also with other methods. An output depends on the
  teacher, the example and the augmentation, not on the order of the examples.
  """

  def __init__(
    self,
    batches: CacheableBatches,
    teacher: Teacher,
    cache: TeacherCache,
    *,
    max_epochs: int | None = None,
    say: Callable[[str], None] = print,
    devices: Sequence[Any] | None = None,
    parallelism: parallel.Mode = "pmap",
    shard: parallel.ShardRule | None = None,
  ):
    """Store the arguments; nothing is read or computed yet.

    Args:
      batches: Training batches.
      teacher: Teacher of the method, `method.teacher`.
      cache: Cache with the `cache_key` of batches and teacher, and the `output_shapes`
        of the teacher.
      max_epochs: Number of epochs whose outputs are stored; None for all. Outputs of
        later epochs are computed each time.
      say: Function that gets a warning if the disk is full.
      devices: Devices of this process; by default all.
      parallelism: Mapping of batches over devices, "pmap" or "jit".
      shard: Rule that shards the teacher's variables, for "jit". The names that it gets
        begin with "constants", as in a training step.
    """
    parallel.check_mode(parallelism, shard, name="parallelism")
    self._batches, self._teacher, self._cache = batches, teacher, cache
    self._max_epochs, self._say = max_epochs, say
    self._devices = list(devices or jax.local_devices())
    self._parallelism: parallel.Mode = parallelism
    self._shard = shard
    self._dtypes = {
      name: shape.dtype for name, shape in output_shapes(teacher, batches).items()
    }

  @property
  def num_examples(self) -> int:
    """Number of examples of the batches."""
    return self._batches.num_examples

  @property
  def num_classes(self) -> int:
    """Number of classes of the batches."""
    return self._batches.num_classes

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Shape of an image of the batches."""
    return self._batches.image_shape

  @property
  def batch_size(self) -> int:
    """Number of rows of a batch."""
    return self._batches.batch_size

  @property
  def steps_per_epoch(self) -> int:
    """Number of steps in an epoch."""
    return self._batches.steps_per_epoch

  @property
  def resident(self) -> Mapping[str, np.ndarray]:
    """Resident arrays of the batches, shared by teacher and student on the devices."""
    return self._batches.resident

  @property
  def row_arrays(self) -> tuple[str, ...]:
    """Names of resident arrays with one row per example."""
    return getattr(self._batches, "row_arrays", ())

  @functools.cached_property
  def _resident(self):
    return parallel.share(
      self._batches.resident,
      self._devices,
      rows_of=self.row_arrays,
      mode=self._parallelism,
    )

  def epoch(self, epoch: int, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Yield the rows of each batch, with the teacher's outputs."""
    shared = epoch if is_augmented(self._batches) else 0
    for rows in self._batches.epoch(epoch, start_step):
      outputs = self._cache.read(shared, rows["index"])
      if outputs is None:
        outputs = self._computed(rows)
        self._keep(shared, rows["index"], outputs)
      named = {f"{TEACHER}{name}": rows for name, rows in outputs.items()}
      yield {**rows, **named}

  def is_complete(self, epoch: int) -> bool:
    """Returns whether the cache holds the outputs of all examples of an epoch."""
    return self._cache.is_complete(epoch if is_augmented(self._batches) else 0)

  def prepare(
    self, resident: Mapping[str, Array], batch: Mapping[str, Array]
  ) -> dict[str, Array]:
    """Prepare a batch; the teacher's outputs get back their original dtype."""
    outputs = {
      f"{TEACHER}{name}": jnp.asarray(batch[f"{TEACHER}{name}"]).astype(dtype)
      for name, dtype in self._dtypes.items()
    }
    return {**self._batches.prepare(resident, batch), **outputs}

  def _keep(self, epoch, index, outputs):
    if self._max_epochs is not None and epoch >= self._max_epochs:
      return
    try:
      self._cache.write(epoch, index, outputs)
    except OSError as error:
      self._max_epochs = 0
      self._say(
        f"warning: the teacher cache {self._cache.directory} cannot grow ({error}); "
        "missing outputs are computed but not stored"
      )

  @functools.cached_property
  def _apply(self):
    def apply(variables, resident, rows):
      images = self._batches.prepare(self._resident.opened(resident), rows)["image"]
      return teacher_outputs(self._teacher, variables, images)

    return parallel.map_step(
      apply,
      (None, self._resident.in_axes, 0),
      devices=self._devices,
      mode=self._parallelism,
    )

  @functools.cached_property
  def _variables(self):
    variables = dict(self._teacher.network.variables)
    return parallel.place(variables, self._devices, shard=self._shard, name="constants")

  def _computed(self, rows) -> dict[str, np.ndarray]:
    if isinstance(self._teacher.network.model, RecordedTeacher):
      raise ValueError(
        f"{self._cache.directory} lacks outputs for some examples of epoch "
        f"{int(rows['epoch'][0])}, and there is no network to compute them; record "
        "more epochs, or train for fewer epochs"
      )
    split = parallel.split_rows(rows, len(self._devices))
    outputs = jax.device_get(self._apply(self._variables, self._resident.arrays, split))
    # Rounded as on disk, so that the run that fills the cache gives the same results
    # as the runs that read it.
    stored_as = CACHE_DTYPES[self._cache.stored_as]
    return {
      name: array.reshape(-1, *array.shape[2:]).astype(stored_as)
      for name, array in outputs.items()
    }


def without_cache(batches: data.Batches) -> data.Batches:
  """Batches inside `CachedBatches`; other batches are returned unchanged."""
  return batches._batches if isinstance(batches, CachedBatches) else batches


def open_cache(
  directory: Path,
  batches: data.Batches,
  teacher: Teacher | None,
  *,
  epochs: int,
  stored_as: str = "float32",
  max_gib: float = 20.0,
  say: Callable[[str], None] = print,
  parallelism: parallel.Mode = "pmap",
  shard: parallel.ShardRule | None = None,
) -> CachedBatches:
  """Add cached teacher outputs to training batches.

  Each combination of teacher, data set, augmentation and dtype has a folder of its own
  in `directory`, named by a hash. The folder of a recorded teacher is `directory`.

  Args:
    directory: Folder of all caches.
    batches: Training batches.
    teacher: Teacher of the method, `method.teacher`.
    epochs: Number of epochs of the training.
    stored_as: Data type on disk: "float32", "float16" or "bfloat16".
    max_gib: Size limit in GiB for the outputs of this teacher.
    say: Function that gets the expected disk space, and warnings.
    parallelism: See `CachedBatches`.
    shard: See `CachedBatches`.

  Raises:
    ValueError: If there is no teacher, if not even one epoch fits into the limit or on
      the disk, or if the folder holds other outputs.
    TypeError: If the batches are not batches of images.
  """
  checks.check_positive("max_gib", max_gib)
  if teacher is None:
    raise ValueError(
      "teacher: expected a method that reads the outputs of a frozen teacher on the "
      "images of its batch, got a method without such a teacher"
    )
  if not isinstance(batches, CacheableBatches):
    raise TypeError(
      f"teacher cache: expected batches of images, got {type(batches).__name__}"
    )
  shapes = {name: x.shape[1:] for name, x in output_shapes(teacher, batches).items()}
  recorded = isinstance(teacher.network.model, RecordedTeacher)
  if recorded:
    described = describe_cache(directory)
    key = cache_key(batches, described["key"].get("teacher", ""))
    folder, stored_as = directory, described["stored_as"]
  else:
    key = cache_key(batches, teacher)
    named = hashlib.sha256(repr((sorted(key.items()), stored_as)).encode())
    folder = directory / named.hexdigest()[:16]
  cache = TeacherCache(
    folder,
    key=key,
    row_shapes=shapes,
    num_examples=batches.num_examples,
    stored_as=stored_as,
  )
  needed = epochs if is_augmented(batches) else 1
  kept = needed if recorded else _epochs_that_fit(cache, needed, max_gib)
  say(
    f"teacher cache {folder}: {', '.join(shapes)} as {stored_as}, "
    f"{cache.epoch_bytes / _GIB:.2f} GiB an epoch"
    + (f", {needed * cache.epoch_bytes / _GIB:.1f} GiB in all" if needed > 1 else "")
    + (f"; the first {kept} of {needed} epochs are kept" if kept < needed else "")
  )
  return CachedBatches(
    batches,
    teacher,
    cache,
    max_epochs=kept,
    say=say,
    parallelism=parallelism,
    shard=shard,
  )


def cache_key(batches: CacheableBatches, teacher: Teacher | str) -> dict[str, Any]:
  """Key of a cache: hashes of teacher and data, and the augmentation.

  Args:
    batches: The training batches.
    teacher: The teacher, or a name for a network of another framework.
  """
  augmentation = None
  if is_augmented(batches):
    options = batches.augmentation.recorded()
    flip, padding = options.pop("flip"), options.pop("padding")
    augmentation = [batches.seed, flip, padding, *([options] if options else [])]
  return {
    "teacher": teacher if isinstance(teacher, str) else _network_hash(teacher.network),
    "data": data_hash(batches),
    "augmentation": augmentation,
  }


def is_augmented(batches: CacheableBatches) -> bool:
  """Returns whether images are augmented, so that they differ in every epoch."""
  return batches.augmentation != data.Augmentation()


def data_hash(batches: CacheableBatches) -> str:
  """Hash of images, labels and normalisation; of a sample if data is streamed."""
  source = batches.source
  count = source.num_examples
  whole = isinstance(source, data.Split)
  numbers = np.arange(count)
  if not whole:
    numbers = np.unique(np.linspace(0, count - 1, _SAMPLED).astype(int))
  digest = hashlib.sha256(repr((count, whole)).encode())
  for start in range(0, len(numbers), _SAMPLED):
    for array in source.read(numbers[start : start + _SAMPLED]):
      digest.update(array.tobytes())
  about = tuple(map(float, batches.mean)), tuple(map(float, batches.std))
  digest.update(repr((about, np.dtype(batches.dtype).name)).encode())
  return digest.hexdigest()[:32]


def _network_hash(network: Network) -> str:
  """Hash of weights, description and functions of a network."""
  description = re.sub(r" at 0x[0-9a-f]+", "", repr(network.model))
  digest = hashlib.sha256(description.encode())
  digest.update(_function_hash.hash_functions(network.model).encode())
  for path, leaf in jax.tree.leaves_with_path(dict(network.variables)):
    array = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:32]


def output_shapes(
  teacher: Teacher, batches: data.Batches
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a teacher's outputs for one example of the batches, by name."""
  images = jax.ShapeDtypeStruct((1, *batches.image_shape), jnp.float32)
  variables = dict(teacher.network.variables)
  shapes = jax.eval_shape(
    lambda v, x: teacher_outputs(teacher, v, x), variables, images
  )
  # Tracing sorts the keys of a dictionary: restore the order of the taps.
  return {
    name: shapes[name] for name in ("logits", *(f"taps/{t}" for t in teacher.taps))
  }


def _epochs_that_fit(cache: TeacherCache, needed: int, max_gib: float) -> int:
  """Number of epochs, from the first on, that fit the limit and this disk."""
  existing = sum(cache.has_epoch(epoch) for epoch in range(needed))
  free = shutil.disk_usage(cache.directory).free
  on_disk = existing + int(max(free - _RESERVE, 0) // cache.epoch_bytes)
  allowed = min(int(max_gib * _GIB // cache.epoch_bytes), on_disk)
  if allowed < 1:
    raise ValueError(
      f"teacher cache {cache.directory}: one epoch takes "
      f"{cache.epoch_bytes / _GIB:.3f} GiB, allowed are {max_gib} and "
      f"{free / _GIB:.1f} are free; allow more, store float16 or bfloat16, learn from "
      "fewer taps, or train without a cache"
    )
  return min(allowed, needed)
