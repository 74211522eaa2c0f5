"""Update of the tables and figures of the results page from finished runs.

    python -m experiments.tables.update --workdir=W    # add finished runs
    python -m experiments.tables.update --bundles=DIR  # add runs of a queue's --out
    python -m experiments.tables.update                # use only the kept runs

The runs of a study are kept in `experiments/results/STUDY/runs.json` (`kept_runs`).
In the page, RESULTS.md, the lines between `<!-- table: STUDY -->` and `<!-- end -->`
are replaced. `<!-- table: systems -->` has all methods, and
`<!-- table: papers_steps -->` has the sizes of steps that `step_shapes` stores. The
folder of a study also has its pictures, if there are numbers for them
(`study_pictures`): `flow.png`, information flow over the epochs; `curves.png`, accuracy
of the arms of a comparison; `sizes.png`, quality against parameters; `times.png`, time
by part. README.md shows the pictures and lists every run with its command.
"""

import dataclasses
import json
import re
import tempfile
from collections.abc import Collection
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.studies import bundles
from experiments.studies import catalogue
from experiments.studies import spec
from experiments.studies import step_costs
from experiments.tables import kept_runs
from experiments.tables import network_rows
from experiments.tables import overview
from experiments.tables import pair_grid
from experiments.tables import paired_arms
from experiments.tables import run_list
from experiments.tables import step_sizes
from experiments.tables import study_pictures
from flowkd_jax import _files
from flowkd_jax import jobs
from flowkd_jax import report
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import places
from flowkd_jax.jobs import stages

HERE = Path(__file__).parents[1]  # the folder of experiments


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the page."""

  workdir: str = fields.setting(
    "",
    "Work directory of experiments.studies.run, whose finished runs are added.",
    place=places.FOLDER,
  )
  bundles: str = fields.setting(
    "",
    "Folder that experiments.studies.run --out has filled. Finished runs are added.",
    place=places.FOLDER,
  )
  kept: str = fields.setting(
    str(HERE / "results"),
    "Folder in which the runs of each study are kept.",
    place=places.NEW_FOLDER,
  )
  page: str = fields.setting(
    str(HERE / "RESULTS.md"), "Page whose tables are replaced.", place=places.FILE
  )


def configure(**given: Any) -> Config:
  """Make a configuration from the given settings.

  Raises:
    ValueError: If a folder or the page cannot be read, or written to.
  """
  config = fields.configured(Config, given)
  places.check("--page", config.page, places.NEW_FILE)
  return config


def run(config: Config) -> None:
  """Add new runs and rewrite the tables of the page."""
  kept, page = Path(config.kept), Path(config.page)
  if config.workdir:
    take_in(Path(config.workdir), kept)
  if config.bundles:
    with tempfile.TemporaryDirectory() as folder:
      bundles.extract(Path(config.bundles), Path(folder))
      take_in(Path(folder), kept)
  text = page.read_text()
  for name, study in catalogue.STUDIES.items():
    runs = _with_new_settings(study, kept_runs.read(kept / name))
    if runs:
      kept_runs.write(kept / name, runs)
    found = paired_arms.networks(study, runs)
    gone = paired_arms.diverged(runs)
    lines = [table(name, study, found, gone), *run_list.diverged(runs)]
    text = replace_block(text, f"table: {name}", "\n".join(lines))
    if runs:
      pictures = study_pictures.save(study, runs, kept / name)
      text_of_runs = run_list.page(name, study, found, pictures)
      _files.write_text(kept / name / run_list.PAGE, text_of_runs)
  first = overview.table(lambda name: kept_runs.read(kept / name))
  text = replace_block(text, "table: systems", first)
  sizes = step_sizes.table(catalogue.QUEUES["papers"], step_costs.read())
  text = replace_block(text, step_sizes.NAME, sizes)
  _files.write_text(page, text)


def _with_new_settings(
  study: spec.Study, runs: kept_runs.KeptRuns
) -> kept_runs.KeptRuns:
  """Update the settings of runs to the present settings of their launchers.

  If a setting was added after a run, the run gets its present default.
  """
  complete = {}
  for each in study.launches:
    config_class = jobs.load(each.job).Config
    found = dataclasses.fields(config_class)
    defaults = {
      field.name: json.loads(json.dumps(field.default))
      for field in found
      if field.name not in kept_runs.PLACES
    }
    complete[each.name] = {
      seed: run._replace(settings=_updated(run.settings, defaults))
      for seed, run in runs.get(each.name, {}).items()
    }
  return {name: seeds for name, seeds in complete.items() if seeds}


def _updated(
  settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
  """Settings of a run, without settings that its launcher never read."""
  if not defaults:
    return dict(settings)
  return {name: settings.get(name, default) for name, default in defaults.items()}


def take_in(workdir: Path, kept: Path) -> None:
  """Add all finished runs of all studies to the kept runs."""
  for name, study in catalogue.STUDIES.items():
    runs = kept_runs.read(kept / name)
    new = 0
    for each in study.launches:
      for folder in sorted((workdir / name / each.name).glob("*/")):
        if not (folder / stages.RESULTS).exists():
          continue
        run = _finished_run(study, folder, workdir / name)
        runs.setdefault(each.name, {})[folder.name] = run
        new += 1
    if new:
      kept_runs.write(kept / name, runs)


def _finished_run(study: spec.Study, folder: Path, root: Path) -> kept_runs.KeptRun:
  """A finished work directory, with only accuracies as curves in a comparison."""
  metrics = report.read_metrics(folder)
  run = kept_runs.from_workdir(folder, metrics, root)
  if study.grid:
    return run._replace(metrics=paired_arms.accuracies(run.metrics))
  if not study.comparison:
    return run
  for network in run.networks:
    stage = network["name"].partition("/")[0]
    network["epoch_seconds"] = paired_arms.epoch_seconds(metrics, stage)
  return run._replace(metrics=paired_arms.accuracies(run.metrics))


def replace_block(text: str, name: str, content: str) -> str:
  """Replace the content between the marks of a block, if the page has them."""
  pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
  return re.sub(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)


def table(
  name: str,
  study: spec.Study,
  found: paired_arms.Found,
  gone: Collection[tuple[str, str]] = (),
) -> str:
  """Table of a study in Markdown, with its provenance below.

  Args:
    name: Name of the study.
    study: The study.
    found: Networks of its runs.
    gone: Runs and arms that diverged with every seed.
  """
  if study.grid:
    time = "Minutes are those of the launch."
    lines = pair_grid.table(study, found)
  elif study.comparison:
    minutes = paired_arms.launch_minutes(found)
    time = f"A launch trained for {minutes:.1f} minutes, all arms together."
    lines = paired_arms.table(study, found, gone)
  else:
    time = "Minutes are those of the stage itself."
    lines = network_rows.table(study, found)
  return "\n".join([*lines, *run_list.summary(name, found, time)])


if __name__ == "__main__":
  launch.launch(Config, configure, run)
