"""Training a network under a name in a work directory."""

import dataclasses
from pathlib import Path

import jax

from flowkd_jax import data
from flowkd_jax import methods
from flowkd_jax.train import _checkpoint
from flowkd_jax.train import _loop
from flowkd_jax.train import _metrics


def fit_in_workdir(
  workdir: str | Path,
  name: str,
  method: methods.Method,
  batches: data.Batches,
  *,
  epochs: int,
  key: jax.Array,
  options: _loop.FitOptions | None = None,
) -> _loop.Trained:
  """`fit`, with checkpoints and metrics in a work directory.

  Call it again after any interruption, and it goes on where it was; after the last
  epoch it only reads the last state. Checkpoints are in `WORKDIR/NAME/checkpoints`,
  metrics of each epoch in `WORKDIR/metrics.jsonl` and `WORKDIR/tensorboard/NAME`:
  what the functions of `flowkd_jax.report` read.

  Args:
    workdir: The work directory; made if it does not exist.
    name: What the networks of the method are called there.
    method: As in `fit`.
    batches: As in `fit`.
    epochs: As in `fit`.
    key: As in `fit`.
    options: As in `fit`, except for checkpoints and metrics, which are given here.

  Raises:
    ValueError, NonFiniteError, Interrupted: As `fit` does.
  """
  workdir = Path(workdir)
  with (
    _checkpoint.Checkpoints(workdir / name / "checkpoints") as checkpoints,
    _metrics.MetricsWriter(workdir, name) as metrics,
  ):
    options = dataclasses.replace(
      options or _loop.FitOptions(title=name), checkpoints=checkpoints, metrics=metrics
    )
    return _loop.fit(method, batches, epochs=epochs, key=key, options=options)
