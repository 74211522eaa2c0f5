"""Saving of the pictures of a work directory."""

import logging
import os
from pathlib import Path

from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _gallery
from flowkd_jax.report._read import read_run

_LOG = logging.getLogger(__name__)


def save_pictures(workdir: str | os.PathLike[str]) -> list[Path]:
  """Save all pictures for which there is data in `workdir/pictures`.

  Works while the job still runs. A picture without data is skipped, and the log
  says why.

  Returns:
    The PNG files written.

  Raises:
    FileNotFoundError: If the work directory has neither metrics nor results.
    ValueError: If one of them is not what a job writes.
  """
  workdir = Path(workdir)
  metrics, results = read_run(workdir)
  styles = _colors.styles_of_run(metrics, results)
  folder = workdir / "pictures"
  folder.mkdir(exist_ok=True)
  written = []
  for picture in _gallery.PICTURES:
    path = folder / f"{picture.file}.png"
    try:
      _canvas.save_figure(picture.draw(metrics, results, styles), path)
    except _canvas.NothingToDrawError as error:
      _LOG.info("skipped %s: %s", path, error)
    else:
      written.append(path)
  return written
