"""Means and standard deviations of image channels, kept in the work directory.

For known data sets they are constants. For other data sets, a run measures them on a
sample of the training images when it starts. A resumed run reads them from the work
directory; it needs no second pass over the images, and a new version of the package
cannot change them.
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
    begun: True if the work directory holds a run that is resumed.

  Raises:
    ValueError: If the kept file is damaged, or an image cannot be read.
  """
  path = Path(settings.workdir) / FILE
  if begun and path.exists():
    return _read(path, training.image_shape[-1])
  # Version 0.1 kept no file and measured all images; resuming its runs does the same.
  sample = {"examples": None} if begun else {}
  title = f"measuring {settings.dataset}/{settings.train_split}"
  return data.normalization(
    settings.dataset, training, progress=progress.counter(title), **sample
  )


def keep(settings: Settings, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
  """Write measured values to the work directory; known constants are not written."""
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
