"""Makes the tables and figures of the results page from finished runs.

    python -m experiments.results --workdir=W      # take in what the driver finished
    python -m experiments.results                  # again from what is kept

The runs of a study are kept in `experiments/results/STUDY/runs.json` (`kept_runs`).
In the page, RESULTS.md, whatever stands between `<!-- table: STUDY -->` and
`<!-- end -->` is replaced. Beside the runs of a study, `flow.png` shows the information
flow of its rows over the epochs, or `curves.png` the accuracy of the arms of a
comparison, and README.md lists every run with its command.
"""

import contextlib
import dataclasses
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from experiments import comparison
from experiments import designs
from experiments import kept_runs
from experiments import provenance
from experiments import rows
from experiments import studies
from flowkd_jax import _files
from flowkd_jax import report
from flowkd_jax.cli import launch
from flowkd_jax.jobs import fields
from flowkd_jax.jobs import places
from flowkd_jax.jobs import stages

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the page."""

  workdir: str = fields.setting(
    "", "Work directory of the driver, to take runs from.", place=places.FOLDER
  )
  kept: str = fields.setting(
    str(HERE / "results"), "Where runs are kept.", place=places.NEW_FOLDER
  )
  page: str = fields.setting(
    str(HERE / "RESULTS.md"), "The page to bring up to date.", place=places.FILE
  )


def configure(**given: Any) -> Config:
  """Settings, with those that are given.

  Raises:
    ValueError: If a folder or the page cannot be read, or written to.
  """
  config = fields.configured(Config, given)
  places.check("--page", config.page, places.NEW_FILE)
  return config


def run(config: Config) -> None:
  """Takes in new runs and rewrites the tables of the page."""
  kept, page = Path(config.kept), Path(config.page)
  if config.workdir:
    take_in(Path(config.workdir), kept)
  text = page.read_text()
  for name, study in studies.STUDIES.items():
    runs = _with_new_settings(study, kept_runs.read(kept / name))
    if runs:
      kept_runs.write(kept / name, runs)
    found = comparison.networks(study, runs)
    text = replace_block(text, f"table: {name}", table(name, study, found))
    if runs:
      text_of_runs = provenance.page(name, study, found)
      _files.write_text(kept / name / provenance.PAGE, text_of_runs)
    save_picture(study, runs, kept / name)
  _files.write_text(page, text)


def _with_new_settings(
  study: designs.Study, runs: kept_runs.KeptRuns
) -> kept_runs.KeptRuns:
  """The runs with every setting that their launcher has now, and no other.

  A setting that came after a run had, in that run, what is its default now.
  """
  complete = {}
  for each in study.launches:
    config_class = getattr(importlib.import_module(each.module), "Config", None)
    fields = dataclasses.fields(config_class) if config_class else ()
    defaults = {
      field.name: json.loads(json.dumps(field.default))
      for field in fields
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
  """Settings of a run; those that its launcher never read were dropped since."""
  if not defaults:
    return dict(settings)
  return {name: settings.get(name, default) for name, default in defaults.items()}


def take_in(workdir: Path, kept: Path) -> None:
  """Adds every finished run of every study to what is kept."""
  for name, study in studies.STUDIES.items():
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


def _finished_run(study: designs.Study, folder: Path, root: Path) -> kept_runs.KeptRun:
  """A finished work directory, with only accuracies as curves in a comparison."""
  metrics = report.read_metrics(folder)
  run = kept_runs.from_workdir(folder, metrics, root)
  if not study.comparison:
    return run
  for network in run.networks:
    stage = network["name"].partition("/")[0]
    network["epoch_seconds"] = comparison.epoch_seconds(metrics, stage)
  return run._replace(metrics=comparison.accuracies(run.metrics))


def replace_block(text: str, name: str, content: str) -> str:
  """The page with another content between the marks of a block, if it has them."""
  pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
  return re.sub(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)


def table(name: str, study: designs.Study, found: comparison.Found) -> str:
  """The table of a study in Markdown, and below it what it was made with."""
  if study.comparison:
    minutes = comparison.launch_minutes(found)
    time = f"A launch trained for {minutes:.1f} minutes, all arms together."
    lines = comparison.table(study, found)
  else:
    time = "Minutes are those of the stage itself."
    lines = rows.table(study, found)
  return "\n".join([*lines, *provenance.summary(name, found, time)])


def save_picture(study: designs.Study, runs: kept_runs.KeptRuns, folder: Path) -> None:
  """Draws the accuracy of arms, or the flow of rows, as far as it was measured."""
  with contextlib.suppress(report.NothingToDrawError):
    if study.comparison:
      panels = comparison.curves(study, runs)
      figure = report.comparison_picture(panels, x=study.comparison.epochs)
      path = folder / "curves.png"
    else:
      figure, path = rows.flow_picture(study, runs), folder / "flow.png"
    report.save_figure(figure, path)
    _shrink(path)


def _shrink(path: Path) -> None:
  """Stores a figure with 64 colours, a third of the bytes and the same to the eye."""
  with Image.open(path) as picture:
    small = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE)
  small.save(path, optimize=True)


if __name__ == "__main__":
  launch.launch(Config, configure, run)
