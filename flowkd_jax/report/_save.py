"""Writes the pictures of a work directory."""

import functools
import logging
import os
from pathlib import Path

from flowkd_jax.report import _canvas
from flowkd_jax.report._diagnostics import diagnostics_picture
from flowkd_jax.report._flow import flow_picture
from flowkd_jax.report._pictures import loss_picture
from flowkd_jax.report._pictures import precision_recall_picture
from flowkd_jax.report._pictures import training_picture
from flowkd_jax.report._read import read_run

_LOG = logging.getLogger(__name__)


def save_pictures(workdir: str | os.PathLike[str]) -> list[Path]:
  """Writes every picture that there is data for into `workdir/pictures`.

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
  pictures = {
    "training": functools.partial(training_picture, metrics, results),
    "flow": functools.partial(flow_picture, metrics, results),
    "loss": functools.partial(loss_picture, metrics, results),
    "diagnostics": functools.partial(diagnostics_picture, metrics, results),
    "precision_recall": functools.partial(precision_recall_picture, results),
  }
  folder = workdir / "pictures"
  folder.mkdir(exist_ok=True)
  written = []
  for name, draw in pictures.items():
    path = folder / f"{name}.png"
    try:
      _canvas.save_figure(draw(), path)
    except _canvas.NothingToDrawError as error:
      _LOG.info("skipped %s: %s", path, error)
    else:
      written.append(path)
  return written
