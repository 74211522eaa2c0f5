"""Networks of an earlier run, taken in place of training them again.

A teacher is trained once and many students learn from it, with other seeds or in other
ways, each in a work directory of its own.
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

# What has to be the same for a network to see what it was trained on.
_SAME = ("dataset", "image_size", "image_key", "label_key")


def check(workdir: str, config: settings.Settings, names: tuple[str, ...]) -> None:
  """Raises ValueError unless a run has finished one of those stages, on this data."""
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
        f"--networks_from: expected networks of --{name}={now}, as this run has it; "
        f"those of {workdir} are of {before[name]}"
      )


def imported(
  workdir: str, name: str, model: capture.AnyModel, image_shape: tuple[int, ...]
) -> stages.Imported | None:
  """The network that a finished stage of the run left; None if that is not finished.

  Raises:
    ValueError: If it is the network of another model.
  """
  folder = Path(workdir)
  if not stages.is_done(folder, name):
    return None
  (result,) = stages.read_results(folder, name)
  try:
    network = train.network_in_workdir(folder, name, model, image_shape=image_shape)
  except ValueError as error:
    raise ValueError(f"--networks_from: {name} in {workdir}: {error}") from None
  # Version 0.1 also recorded accuracy after a transfer, which trains no classifier.
  transferred = name == "auxiliary" and result.get("teacher") is not None
  classifies = result.get("accuracy") is not None and not transferred
  title = f"{result['title']}, of an earlier run"
  return stages.Imported(name, title, network, classifies)
