"""On-disk cache of teacher outputs, one row per example; any framework can fill it.

`open_cache` wraps the training batches. The first run that needs an example fills the
cache, and later runs read it. If a network of another framework has filled the cache,
`recorded_teacher` is the placeholder for it.
"""

from flowkd_jax import _extra

_extra.require("teacher_cache")

from flowkd_jax.teacher_cache._cached_batches import CachedBatches
from flowkd_jax.teacher_cache._cached_batches import cache_key
from flowkd_jax.teacher_cache._cached_batches import open_cache
from flowkd_jax.teacher_cache._cached_batches import output_shapes
from flowkd_jax.teacher_cache._cached_batches import without_cache
from flowkd_jax.teacher_cache._recorded import RecordedTeacher
from flowkd_jax.teacher_cache._recorded import recorded_teacher
from flowkd_jax.teacher_cache._storage import CACHE_DTYPES
from flowkd_jax.teacher_cache._storage import TeacherCache
from flowkd_jax.teacher_cache._storage import describe_cache
from flowkd_jax.teacher_cache._teacher import TEACHER
from flowkd_jax.teacher_cache._teacher import Network
from flowkd_jax.teacher_cache._teacher import Teacher
from flowkd_jax.teacher_cache._teacher import teacher_outputs

__all__ = [
  "CACHE_DTYPES",
  "TEACHER",
  "CachedBatches",
  "Network",
  "RecordedTeacher",
  "Teacher",
  "TeacherCache",
  "cache_key",
  "describe_cache",
  "open_cache",
  "output_shapes",
  "recorded_teacher",
  "teacher_outputs",
  "without_cache",
]
