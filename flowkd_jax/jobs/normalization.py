"""Means and deviations that a run normalises its images by, kept in its work directory.

Those of a data set that is not known are measured on a sample of its training images
when a run starts. A resumed run reads them, so that it needs no second pass over the
images and gets the same numbers with every version.
"""

from pathlib import Path
from typing import Any

from flowkd_jax import _files
from flowkd_jax import data
from flowkd_jax.jobs.settings import Settings
from flowkd_jax.train import Progress

__all__ = ["FILE", "keep", "of_run"]

FILE = "normalization.json"
_REMEDY = "restore a copy, or use another --workdir"


def of_run(
  settings: Settings, training: data.Source, progress: Progress, *, begun: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation per channel, in units of 0..255.

  Args:
    settings: The settings of the run.
    training: The training images.
    progress: Shows how many images have been read.
    begun: True if the work directory holds a run, which is resumed.

  Raises:
    ValueError: If the kept numbers are damaged, or an image cannot be read.
  """
  path = Path(settings.workdir) / FILE
  if begun and path.exists():
    return _read(path, training.image_shape[-1])
  # Version 0.1 kept nothing and measured all images: a run of it goes on with those.
  sample = {"examples": None} if begun else {}
  title = f"measuring {settings.dataset}/{settings.train_split}"
  return data.normalization(
    settings.dataset, training, progress=progress.counter(title), **sample
  )


def keep(settings: Settings, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
  """Writes measured numbers into the work directory; known ones are left out."""
  if data.known_normalization(settings.dataset) is None:
    content = {"mean": [*mean], "std": [*std]}
    _files.write_json(Path(settings.workdir) / FILE, content)


def _read(path: Path, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
  found = _files.read_json(path, _REMEDY)
  mean, std = (_numbers(found, name, channels) for name in ("mean", "std"))
  if mean is None or std is None or min(std) <= 0:
    raise ValueError(
      f'{path}: expected "mean" and a positive "std" for each of {channels} channels, '
      f"got {str(found)[:80]!r}; {_REMEDY}"
    )
  return mean, std


def _numbers(found: Any, name: str, channels: int) -> tuple[float, ...] | None:
  values = found.get(name) if isinstance(found, dict) else None
  if not isinstance(values, list) or len(values) != channels:
    return None
  if not all(isinstance(value, int | float) for value in values):
    return None
  return tuple(map(float, values))
