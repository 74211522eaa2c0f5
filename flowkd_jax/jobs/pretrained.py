"""Networks of an earlier run, used instead of training them again.

A teacher is trained once. Many students can then learn from it, with different seeds or
methods, each in its own work directory.
"""

from pathlib import Path

from flowkd_jax import capture
from flowkd_jax import train
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import settings
from flowkd_jax.jobs import stages

__all__ = [
  "check",
  "imported",
]

# Settings that must agree, so that a network sees the data that it was trained on.
_SAME = ("dataset", "image_size", "image_key", "label_key")


def check(workdir: str, config: settings.Settings, names: tuple[str, ...]) -> None:
  """Raise ValueError unless a run has finished one of the stages on the same data."""
  folder = Path(workdir)
  if not any(stages.is_done(folder, name) for name in names):
    raise ValueError(
      f"--networks_from: expected the work directory of a run that has finished one of "
      f"the stages {', '.join(names)}, got {workdir}"
    )
  before = job_run.read_config(folder / "config.json")
  for name in _SAME:
    now = getattr(config, name)
    if before.get(name, now) != now:
      raise ValueError(
        f"--networks_from: expected networks trained with --{name}={now}, as in this "
        f"run, got {workdir}, which has --{name}={before[name]}"
      )


def imported(
  workdir: str, name: str, model: capture.AnyModel, image_shape: tuple[int, ...]
) -> stages.Imported | None:
  """Network of a finished stage of the earlier run; None if it is not finished.

  Raises:
    ValueError: If the stored variables belong to another network.
  """
  folder = Path(workdir)
  if not stages.is_done(folder, name):
    return None
  (result,) = stages.read_results(folder, name)
  try:
    network = train.network_in_workdir(folder, name, model, image_shape=image_shape)
  except ValueError as error:
    raise ValueError(f"--networks_from: {name} in {workdir}: {error}") from None
  # Version 0.1 recorded accuracy even after stages that train no classifier.
  transferred = name == "auxiliary" and result.get("teacher") is not None
  classifies = result.get("accuracy") is not None and not transferred
  title = f"{result['title']}, of an earlier run"
  return stages.Imported(name, title, network, classifies)
