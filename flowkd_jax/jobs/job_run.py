"""Run of a job in its work directory.

A run opens the data sets, saves the settings, runs the stages, and summarizes their
results in a table and in pictures.
"""

import dataclasses
import json
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import TypeVar

import jax

from flowkd_jax import _files
from flowkd_jax import data
from flowkd_jax import jobs
from flowkd_jax import parallel
from flowkd_jax import report
from flowkd_jax import train
from flowkd_jax.jobs import environment
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import log_lines
from flowkd_jax.jobs import normalization
from flowkd_jax.jobs import sources
from flowkd_jax.jobs import stages
from flowkd_jax.jobs.settings import Settings
from flowkd_jax.jobs.settings import TeacherSettings

__all__ = [
  "CONFIG",
  "RUN_ONLY",
  "check_config",
  "conclude",
  "has_begun",
  "open_datasets",
  "read_config",
  "remember",
  "run_stages",
  "stage_runner",
]

# Settings that do not change the results; they may differ when a run is resumed.
RUN_ONLY = (
  "workdir",
  "data_dir",
  "stages",
  "diagnostics",
  "teacher_cache",
  "teacher_cache_gib",
  "checkpoint_seconds",
  "steps_per_call",
  "parallelism",
  "memory_gib",
)


_SettingsT = TypeVar("_SettingsT", bound=Settings)

CONFIG = "config.json"

# Settings that may differ between the hosts of a run.
_OF_HOST = ("data_dir",)


def run_stages(
  settings: _SettingsT,
  select: Callable[
    [_SettingsT, stages.StageRunner], Iterable[stages.Stage | stages.Imported]
  ],
  order: Sequence[str],
) -> None:
  """Run the stages of a job and summarize their results in the work directory.

  A stage that diverges ends the run if a later stage learns from it. Otherwise the
  later stages are trained first.

  Args:
    settings: All settings of the job.
    select: Function from the settings and the stage runner to the stages to run.
    order: Names of all stages of the job, in the order of its table.

  Raises:
    NonFiniteError: If a stage diverged.
  """
  progress = train.Progress()
  workdir = train.check_folder(settings.workdir, name="--workdir")
  train.check_same_settings(
    {k: v for k, v in _plain(settings).items() if k not in _OF_HOST}, prefix="--"
  )
  with (
    train.lock_workdir(workdir, name="--workdir", only_existing=True),
    train.stop_on_signals() as should_stop,
  ):
    resumed = has_begun(workdir)
    if resumed:
      check_config(settings, workdir / CONFIG)
    datasets = open_datasets(settings, progress)
    runner = stage_runner(settings, datasets, progress, should_stop)
    chosen = [*select(settings, runner)]
    runner.check(chosen)
    # Up to here nothing is written, so that a refused run leaves no work directory.
    with train.lock_workdir(workdir, name="--workdir"):
      if train.is_first_process():
        if not has_begun(workdir):
          (workdir / CONFIG).unlink(missing_ok=True)  # of a run that never started
        remember(settings, workdir / CONFIG)
        environment.keep(workdir, jobs.name_of(settings))
        normalization.keep(settings, datasets.mean, datasets.std)
      for line in log_lines.opening(settings, runner, chosen, resumed=resumed):
        progress.say(line)
      diverged = _run_all(runner, chosen, progress)
      if train.is_first_process():
        conclude(workdir, order, progress)
      if diverged:
        raise train.NonFiniteError(log_lines.of_diverged(diverged, len(chosen)))


def _run_all(
  runner: stages.StageRunner,
  chosen: Sequence[stages.Stage | stages.Imported],
  progress: train.Progress,
) -> list[str]:
  """Runs the stages in order; returns the errors of those that diverged."""
  errors = []
  for number, stage in enumerate(chosen, start=1):
    progress.say(f"stage {number} of {len(chosen)}: {stage.name}")
    try:
      results = runner.run(stage)
    except train.NonFiniteError as error:
      try:
        runner.check(chosen[number:])
      except ValueError:  # a later stage learns from this one
        raise error from None
      errors.append(str(error))
      progress.say(f"diverged: {error}")
      continue
    for result in results:
      progress.say(log_lines.last_figures(result, runner.workdir))
  return errors


def stage_runner(
  settings: Settings,
  datasets: stages.Datasets,
  progress: train.Progress,
  should_stop: Callable[[], str | None] = lambda: None,
  runner_class: type[stages.StageRunner] = stages.StageRunner,
) -> stages.StageRunner:
  """Stage runner for a job with these settings."""
  return runner_class(
    Path(settings.workdir).absolute(),
    datasets,
    seed=settings.seed,
    measure_every=settings.measure_every,
    measure=settings.measure,
    diagnostics=settings.diagnostics,
    cache_options=_cache_options(settings),
    options=train.FitOptions(
      checkpoint_seconds=settings.checkpoint_seconds,
      steps_per_call=settings.steps_per_call,
      parallelism=_mode(settings),
      shard=_shard_rule(settings),
    ),
    progress=progress,
    should_stop=should_stop,
  )


def _mode(settings: Settings) -> parallel.Mode:
  if settings.mode == "jit" and jax.process_count() > 1:
    raise ValueError(
      "--parallelism: expected pmap with several processes, got "
      f"{settings.parallelism}, which maps over the devices of one process"
    )
  return settings.mode


def _shard_rule(settings: Settings) -> parallel.ShardRule | None:
  if settings.parallelism != "jit_sharded":
    return None
  return parallel.fully_sharded("constants")


def _cache_options(settings: Settings) -> stages.CacheOptions | None:
  if not isinstance(settings, TeacherSettings) or settings.teacher_cache is None:
    return None
  if jax.process_count() > 1:
    raise ValueError(
      "--teacher_cache: expected one process, as each would write the rows of all, got "
      f"{jax.process_count()}"
    )
  return stages.CacheOptions(
    Path(settings.teacher_cache),
    settings.teacher_cache_dtype,
    settings.teacher_cache_gib,
  )


def conclude(workdir: Path, order: Sequence[str], progress: train.Progress) -> None:
  """Write results and pictures of all finished stages and print the table."""
  results = [
    result
    for name in order
    if stages.is_done(workdir, name)
    for result in stages.read_results(workdir, name)
  ]
  found = (stages.read_diverged(workdir, name) for name in order)
  diverged = [each for each in found if each is not None]
  content = {"networks": results} | ({"diverged": diverged} if diverged else {})
  stages.write_json(workdir / stages.RESULTS, content)
  missing = "".join(f"\nDiverged: {each['error']}.\n" for each in diverged)
  _files.write_text(workdir / "results.md", report.network_markdown(results) + missing)
  pictures = report.save_pictures(workdir)
  if results:
    progress.print_table(report.network_table(results))
  progress.say(f"results: {workdir / stages.RESULTS}")
  if pictures:
    names = ", ".join(path.name for path in pictures)
    progress.say(f"pictures: {pictures[0].parent} ({names})")


def open_datasets(
  settings: Settings,
  progress: train.Progress,
  load: Callable[..., data.Split] = data.load,
) -> stages.Datasets:
  """Open the data sets of a job; settings are checked before images are decoded.

  Args:
    settings: The settings of the job.
    progress: Display of the images that are decoded.
    load: Function with the arguments of `data.load`, such as one that keeps splits.
  """
  opened = sources.open_sources(settings)
  where = sources.where(settings)
  found = [*opened.values()]
  if sum(source.num_bytes for source in found) <= settings.memory_gib * 2**30:
    found = [
      load(
        settings.dataset,
        split,
        **where,
        progress=progress.counter(f"decoding {settings.dataset}/{split}"),
      )
      for split in sources.splits_of(settings).values()
    ]
  training, test, *validation = found
  begun = has_begun(Path(settings.workdir))
  mean, std = normalization.of_run(settings, training, progress, begun=begun)
  limit = min(settings.flow_examples, training.num_examples)
  probe = load(settings.dataset, settings.train_split, **where, limit=limit)

  def clean(source: data.Source) -> data.Batches:
    devices = jax.local_device_count()
    size = min(stages.EVALUATION_BATCH, source.num_examples) // devices * devices
    return data.evaluation_batches(source, batch_size=size, mean=mean, std=std)

  return stages.Datasets(
    training=data.training_batches(
      training,
      batch_size=settings.batch_size,
      seed=settings.seed,
      mean=mean,
      std=std,
      augmentation=settings.augmentation,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    ),
    database=clean(training),
    queries=clean(test),
    probe=clean(probe),
    mean=mean,
    std=std,
    validation=clean(validation[0]) if validation else None,
  )


def read_config(path: Path) -> dict[str, Any]:
  """Read the settings of an earlier run.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the file is damaged.
  """
  remedy = "restore a copy, or use another --workdir"
  config = _files.read_json(path, remedy)
  if not isinstance(config, dict):
    raise ValueError(f"{path}: expected settings, got {str(config)[:60]!r}; {remedy}")
  return fields.with_new_names(config)


def check_config(settings: Settings, path: Path) -> None:
  """Check that a work directory, if it holds a configuration, holds this one.

  Raises:
    ValueError: If the work directory belongs to a run with other settings.
  """
  if not path.exists():
    return
  now = _plain(settings)
  # Settings that are missing in an older file had their present defaults.
  defaults = {field.name: field.default for field in dataclasses.fields(settings)}
  before = json.loads(json.dumps(defaults)) | read_config(path)
  different = [
    f"--{name}: {before.get(name)} before, {now[name]} now"
    for name in now
    if name not in RUN_ONLY and before.get(name) != now[name]
  ]
  if different:
    raise ValueError(
      f"{path.parent} belongs to a run with other settings ({'; '.join(different)}). "
      "Use another --workdir, or the earlier settings to resume the run"
    )


def has_begun(workdir: Path) -> bool:
  """Returns whether the folder holds metrics, checkpoints or results of a run."""
  metrics = workdir / "metrics.jsonl"
  if metrics.exists() and metrics.stat().st_size:
    return True
  left = (f"*/{stages.RESULTS}", "*/checkpoints/[0-9]*", stages.RESULTS)
  return any(any(workdir.glob(pattern)) for pattern in left)


def remember(settings: Settings, path: Path) -> None:
  """Write the resolved configuration, after checking it against an earlier one.

  Raises:
    ValueError: If the work directory belongs to a run with other settings.
  """
  check_config(settings, path)
  # No checksum is needed: the comparison notices every changed setting.
  content = json.dumps(_plain(settings), indent=2, allow_nan=False)
  _files.write_text(path, f"{content}\n")


def _plain(settings: Settings) -> dict[str, Any]:
  """Settings after a round trip through JSON, which turns tuples into lists."""
  return json.loads(json.dumps(settings.resolved()))
