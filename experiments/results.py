"""Makes the tables and pictures of the results page from finished runs.

    python -m experiments.results --workdir=W      # take in what the driver finished
    python -m experiments.results                  # again from what is kept

What is kept of a run is small, and lies in `experiments/results/STUDY/RUN/SEED/`: its
settings, its results and the metrics of every epoch. In the page, RESULTS.md, whatever
stands between `<!-- table: STUDY -->` and `<!-- end -->` is replaced; beside the runs
of a study `flow.png` shows the information flow of its rows over the epochs.
"""

import contextlib
import dataclasses
import json
import re
import shutil
import statistics
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import launch
from experiments import stages
from experiments import studies
from flowkd_jax import report

HERE = Path(__file__).parent
KEPT_FILES = ("config.json", stages.RESULTS, "metrics.jsonl")
_DASH = "–"


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
    text = replace_block(text, f"table: {name}", table(study, kept / name))
    save_flow(study, kept / name)
  page.write_text(text)


def take_in(workdir: Path, kept: Path) -> None:
  """Copies what is kept of every finished run of every study."""
  for name, study in studies.STUDIES.items():
    for each in study.runs:
      for folder in sorted((workdir / name / each.name).glob("*/")):
        if not (folder / stages.RESULTS).exists():
          continue
        target = kept / name / each.name / folder.name
        target.mkdir(parents=True, exist_ok=True)
        for file in KEPT_FILES:
          shutil.copyfile(folder / file, target / file)


def replace_block(text: str, name: str, content: str) -> str:
  """The page with another content between the marks of a block, if it has them."""
  pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
  return re.sub(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)


def table(study: studies.Study, folder: Path) -> str:
  """The table of a study in Markdown: mean and standard deviation over seeds."""
  columns = _columns()
  lines = [
    f"| {study.title} | seeds | {' | '.join(columns)} | minutes |",
    f"|---|---|{'---:|' * (len(columns) + 1)}",
  ]
  for title, values in study.published:
    cells = [_percent([values.get(name)]) for name in columns]
    lines.append(f"| *{title}* | | {' | '.join(cells)} | |")
  for each in study.runs:
    found = _networks(each, folder)
    if not found:
      lines.append(f"| {each.title} | not run | {' | '.join('' for _ in columns)} | |")
      continue
    cells = [
      _percent([_scaled(column(network)) for network in found.values()])
      for column in columns.values()
    ]
    minutes = statistics.mean(network["seconds"] for network in found.values()) / 60
    seeds = ", ".join(found)
    lines.append(f"| {each.title} | {seeds} | {' | '.join(cells)} | {minutes:.0f} |")
  return "\n".join([*lines, *_provenance(study, folder)])


def _provenance(study, folder) -> list[str]:
  """Where and by which commits the numbers were made."""
  made = [
    network["environment"]
    for each in study.runs
    for network in _networks(each, folder).values()
    if "environment" in network
  ]
  if not made:
    return []

  def values(*names):
    texts = {", ".join(f"{name} {entry[name]}" for name in names) for entry in made}
    return "; ".join(sorted(texts))

  return [
    "",
    f"Made with {values('device', 'cores')}; {values('python', 'jax', 'flax')}; "
    f"{values('commit')}. Minutes are those of the stage itself.",
  ]


def save_flow(study: studies.Study, folder: Path) -> None:
  """Draws the information flow of the first seed of every row, if there is any."""
  metrics, titles = [], []
  for each in study.runs:
    for seed in [*_networks(each, folder)][:1]:
      entries = report.read_metrics(folder / each.name / seed)
      mine = [entry for entry in entries if entry["stage"] == each.result]
      metrics += [{**entry, "stage": each.name} for entry in mine]
      titles.append({"name": each.name, "title": each.title})
  with contextlib.suppress(report.NothingToDrawError):
    report.save_figure(report.flow_picture(metrics, titles), folder / "flow.png")


def _networks(each: studies.Run, folder: Path) -> dict[str, Mapping[str, Any]]:
  """The network of the row, by seed."""
  found = {}
  for path in sorted((folder / each.name).glob(f"*/{stages.RESULTS}")):
    networks = json.loads(path.read_text())["networks"]
    by_name = {network["name"]: network for network in networks}
    if each.result in by_name:
      found[path.parent.name] = by_name[each.result]
  return found


def _columns() -> dict[str, Callable[[Mapping[str, Any]], float | None]]:
  columns: dict[str, Callable[[Mapping[str, Any]], float | None]] = {}
  for heading, keys in (
    ("mAP", ("authors_mean_average_precision",)),
    ("top-100", ("authors_precision_at", "100")),
    ("area mAP", ("mean_average_precision",)),
    ("P@100", ("precision_at", "100")),
  ):
    for short, metric in (("e", "euclidean"), ("c", "cosine")):
      columns[f"{heading} {short}"] = _look_up("retrieval", metric, *keys)
  for short, metric in (("e", "euclidean"), ("c", "cosine")):
    columns[f"centroid {short}"] = _look_up("centroid", metric)
  columns["accuracy"] = _look_up("accuracy")
  return columns


def _look_up(*keys):
  def look_up(network):
    for key in keys:
      network = network[key]
    return network

  return look_up


def _scaled(value):
  return None if value is None else 100 * value


def _percent(values) -> str:
  """Mean and, of several, standard deviation."""
  if None in values:
    return _DASH
  mean = f"{statistics.mean(values):.2f}"
  return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


if __name__ == "__main__":
  launch.launch(Config, configure, run)
