"""Lines of the log of a job: what will happen, and what each network ended with."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import flowkd_jax
from flowkd_jax import jobs
from flowkd_jax import train
from flowkd_jax.jobs import networks
from flowkd_jax.jobs import settings as all_settings
from flowkd_jax.jobs import stages
from flowkd_jax.jobs.settings import Settings

__all__ = [
  "last_figures",
  "of_diverged",
  "opening",
]


def opening(
  settings: Settings,
  runner: stages.StageRunner,
  chosen: Sequence[stages.Stage | stages.Imported],
  *,
  resumed: bool,
) -> Iterator[str]:
  """Lines that say what will happen: job, data, networks, devices and stages.

  Args:
    settings: The settings of the job.
    runner: The runner of its stages.
    chosen: The stages to run.
    resumed: True if the work directory holds a run that is resumed.
  """
  version = flowkd_jax.__version__
  yield (f"job: {jobs.name_of(settings)} of flowkd_jax {version}, seed {settings.seed}")
  yield f"data: {_data(settings, runner.datasets)}"
  yield f"networks: {_networks(settings, runner.datasets.training)}"
  yield f"devices: {_devices()}"
  ending = ", which holds a run to resume" if resumed else ""
  yield f"work directory: {runner.workdir}{ending}"
  yield "stages (each compiles its programs in its first epoch):"
  for number, stage in enumerate(chosen, start=1):
    yield f"  {number} {stage.name}: {_stage(stage, runner)}"


def last_figures(result: Mapping[str, Any], workdir: Path) -> str:
  """The last figures of a network, and the folder in which it is kept.

  Args:
    result: Entry of the network in the results.
    workdir: The work directory.
  """
  stage, _, exported = result["name"].partition("/")
  figures = [f"{result['parameters']:,} parameters"]
  for key, name in (
    ("accuracy", "test accuracy"),
    ("validation_accuracy", "validation accuracy"),
  ):
    if result.get(key) is not None:
      figures.append(f"{name} {100 * result[key]:.2f} %")
  retrieval = (result.get("retrieval") or {}).get("cosine") or {}
  precision = retrieval.get("mean_average_precision")
  if precision is not None:
    figures.append(f"mean average precision {100 * precision:.2f} % (cosine)")
  folder = workdir / stage / (exported or "network")
  return (
    f"{result.get('title') or result['name']}: {', '.join(figures)}; kept in {folder}"
  )


def of_diverged(errors: Sequence[str], number: int) -> str:
  """Error message of a run whose other stages are finished.

  Args:
    errors: Error messages of the stages that diverged.
    number: Number of stages of the run.
  """
  if number == 1:
    return errors[0]
  found = "; ".join(error.partition("; ")[0] for error in errors)
  return (
    f"{len(errors)} of {number} stages diverged: {found}. Lower the learning rate or "
    "the weights, or check the input of these steps"
  )


def _data(settings: Settings, datasets: stages.Datasets) -> str:
  training = datasets.training
  shape = " x ".join(map(str, training.image_shape))
  counts = f"{training.num_examples:,} training"
  if datasets.validation is not None:
    counts += f", {datasets.validation.num_examples:,} validation"
  return (
    f"{settings.dataset}, {counts} and {datasets.queries.num_examples:,} test images "
    f"of {shape}, {training.num_classes} classes"
  )


def _networks(settings: Settings, training: Any) -> str:
  """Networks that the settings name, each once, with the number of parameters."""
  found: dict[str, list[str]] = {}
  for flag in settings.used_networks:
    role = flag.removesuffix("network").rstrip("_")
    found.setdefault(getattr(settings, flag), []).append(role)
  texts = []
  for name, roles in found.items():
    model = all_settings.network(settings, name, training.num_classes)
    size = networks.number_of_parameters(model, training.image_shape)
    words = [*filter(None, [" and ".join(filter(None, roles)), name])]
    texts.append(f"{' '.join(words)} ({size:,} parameters)")
  return ", ".join(texts)


def _devices() -> str:
  devices = jax.devices()
  kinds = dict.fromkeys(device.device_kind for device in devices)
  processes = jax.process_count()
  of = f" of {processes} processes" if processes > 1 else ""
  platform = devices[0].platform
  # Devices of a CPU name their kind "cpu" too.
  on = "" if platform in kinds else f" ({platform})"
  return f"{len(devices)} x {', '.join(kinds)}{on}{of}"


def _stage(stage: stages.Stage | stages.Imported, runner: stages.StageRunner) -> str:
  """Title of a stage, its epochs and steps, and whether it is finished already."""
  parts = [stage.title]
  if isinstance(stage, stages.Stage):
    training = stage.training or runner.datasets.training
    parts.append(train.length_in_words(training, stage.epochs))
  else:
    parts.append("only measured")
  if runner.is_done(stage.name):
    parts.append("done before")
  return ", ".join(parts)
