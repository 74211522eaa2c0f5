"""Makes the tables and pictures of the results page from finished runs.

    python -m experiments.results --workdir=W      # take in what the driver finished
    python -m experiments.results                  # again from what is kept

What is kept of a run is small, and lies in `experiments/results/STUDY/RUN/SEED/`: its
settings and results, without what names places on a machine, and the metrics of every
epoch, of a comparison only accuracies. In the page, RESULTS.md, whatever stands between
`<!-- table: STUDY -->` and `<!-- end -->` is replaced; beside the runs of a study
`flow.png` shows the information flow of its rows over the epochs, or `curves.png` the
accuracy of the arms of a comparison, and README.md lists every run with its command.
"""

import contextlib
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from experiments import comparison
from experiments import designs
from experiments import launch
from experiments import provenance
from experiments import rows
from experiments import stages
from experiments import studies
from flowkd_jax import report

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings of the page."""

  workdir: str = launch.setting("", "Work directory of the driver, to take runs from.")
  kept: str = launch.setting(str(HERE / "results"), "Where runs are kept.")
  page: str = launch.setting(str(HERE / "RESULTS.md"), "The page to bring up to date.")


def configure(**given: Any) -> Config:
  """Settings, with those that are given.

  Raises:
    FileNotFoundError: If a folder or the page does not exist.
  """
  config = Config(**given)
  for name in ("workdir", "page"):
    path = getattr(config, name)
    if path and not Path(path).exists():
      raise FileNotFoundError(f"--{name}: expected an existing path, got {path}")
  return config


def run(config: Config) -> None:
  """Takes in new runs and rewrites the tables of the page."""
  kept, page = Path(config.kept), Path(config.page)
  if config.workdir:
    take_in(Path(config.workdir), kept)
  text = page.read_text()
  for name, study in studies.STUDIES.items():
    found = comparison.read(study, kept / name)
    text = replace_block(text, f"table: {name}", table(name, study, found))
    if any(found.values()):
      (kept / name / provenance.PAGE).write_text(provenance.page(name, study, found))
    save_picture(study, kept / name)
  page.write_text(text)


def take_in(workdir: Path, kept: Path) -> None:
  """Copies what is kept of every finished run of every study."""
  for name, study in studies.STUDIES.items():
    for each in study.launches:
      for folder in sorted((workdir / name / each.name).glob("*/")):
        if not (folder / stages.RESULTS).exists():
          continue
        keep(study, folder, kept / name / each.name / folder.name)


def keep(study: designs.Study, folder: Path, target: Path) -> None:
  """Copies what is kept of a run, less what names places on this machine."""
  config = json.loads((folder / "config.json").read_text())
  for name in ("auxiliary_weights", "networks_from", "teacher_cache"):
    if config.get(name):
      config[name] = _portable(Path(config[name]), folder.parents[1])
  stages.write_json(target / "config.json", {**config, "workdir": "", "data_dir": None})
  networks = json.loads((folder / stages.RESULTS).read_text())["networks"]
  metrics = report.read_metrics(folder)
  for network in networks:
    if "environment" in network:
      network["environment"]["command"] = ""
    if study.comparison:
      stage = network["name"].partition("/")[0]
      if "epoch_seconds" not in network:  # A kept run has it, and no times of steps.
        network["epoch_seconds"] = comparison.epoch_seconds(metrics, stage)
  stages.write_json(target / stages.RESULTS, {"networks": networks})
  kept = comparison.keep_small(metrics) if study.comparison else metrics
  lines = [json.dumps(entry) + "\n" for entry in kept]
  (target / "metrics.jsonl").write_text("".join(lines))


def _portable(path: Path, root: Path) -> str:
  """A path of a run within its study; of other paths the last part alone."""
  root = root.absolute()
  return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


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


def save_picture(study: designs.Study, folder: Path) -> None:
  """Draws the accuracy of arms, or the flow of rows, as far as it was measured."""
  with contextlib.suppress(report.NothingToDrawError):
    if study.comparison:
      panels = comparison.curves(study, folder)
      figure = report.comparison_picture(panels, x=study.comparison.epochs)
      report.save_figure(figure, folder / "curves.png")
    else:
      report.save_figure(rows.flow_picture(study, folder), folder / "flow.png")


if __name__ == "__main__":
  launch.launch(Config, configure, run)
