"""One self-contained HTML page of one or several work directories.

Pictures of up to six runs are side by side. For more runs, means and ranges are drawn,
by groups of runs that differ only in their seed, or over all runs.
"""

import base64
import importlib.resources
import io
import itertools
import json
import logging
import os
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowkd_jax import _files
from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _facts
from flowkd_jax.report import _gallery
from flowkd_jax.report._average import mean_metrics
from flowkd_jax.report._average import mean_results
from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results
from flowkd_jax.report._read import diverged
from flowkd_jax.report._read import read_run
from flowkd_jax.report._table import network_cells

_LOG = logging.getLogger(__name__)
_CONFIG_FILE = "config.json"
_TEMPLATE = "page.html"
# Pictures of more runs would be too many to compare, and take too long to draw.
_SIDE_BY_SIDE = 6
# Settings that do not distinguish runs of one experiment: the seed, and paths.
_OF_A_RUN = ("seed", "workdir", "data_dir", "networks_from", "teacher_cache")


def report_page(workdirs: Sequence[str | os.PathLike[str]]) -> str:
  """The page: facts and results of all runs, settings, pictures side by side.

  The facts are job, data set, seed, command, commit, versions and machine. The page
  says "not recorded" for a fact that a work directory, such as one of version 0.1, does
  not have.

  Above six runs the pictures show means over runs, and the range of their values as a
  band: a picture for each group of runs that differ in their seed alone, or one for all
  if there are more than six groups. Works while jobs still run; a picture without data
  is left out.

  Args:
    workdirs: Work directories, of one experiment or of several.

  Raises:
    FileNotFoundError: If a work directory has neither metrics nor results.
    ValueError: If there is no work directory, or a file is not what a job writes.
  """
  if not workdirs:
    raise ValueError("workdirs: expected at least one work directory, got none")
  import jinja2  # here, as nothing else of this room needs it

  names = _short_names([Path(path) for path in workdirs])
  runs = {name: read_run(path) for name, path in names.items()}
  configs = {name: _config(path) for name, path in names.items()}
  headings, networks, notes = _table(runs)
  for name, path in names.items():
    run = f"{name}: " if len(names) > 1 else ""
    notes += [f"{run}{sentence}" for sentence in diverged(path)]
  settings_headings, settings = _settings(configs)
  fact_headings, facts = _facts.rows_of_runs(
    {
      name: _facts.run_facts(runs[name][1], configs[name], _facts.read_start(path))
      for name, path in names.items()
    },
    by_row=len(names) > _SIDE_BY_SIDE,
  )
  environment = jinja2.Environment(
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
  )
  template = importlib.resources.files("flowkd_jax.report") / _TEMPLATE
  page = environment.from_string(template.read_text(encoding="utf-8"))
  return page.render(
    title=", ".join(names),
    runs=list(names),
    fact_headings=fact_headings if len(names) > 1 else [],
    facts=[_plain(row) for row in facts],
    headings=headings,
    networks=networks,
    notes=notes,
    settings_headings=settings_headings,
    settings=settings,
    shared_settings=[_plain(row) for row in _shared_settings(configs)],
    pictures=_drawn(_shown(runs, configs)),
  ).lstrip()


def _short_names(paths: Sequence[Path]) -> dict[str, Path]:
  """Shortest names that distinguish the paths: each without the folder they share."""
  absolute = [path.absolute() for path in paths]
  shared = Path(os.path.commonpath([path.parent for path in absolute]))
  return {str(path.relative_to(shared)): path for path in absolute}


def _table(runs: Mapping[str, tuple[MetricLog, Results]]):
  """Headings, cells and notes: one row per network of each run, compared over all."""
  networks, rows = [], []
  for name, (_, results) in runs.items():
    for network in results:
      networks.append(network)
      rows.append(name)
  headings, cells, notes = network_cells(networks)
  if len(runs) > 1:
    headings = ["run", *headings]
    cells = [[(name, False), *row] for name, row in zip(rows, cells, strict=True)]
  return headings, cells, notes


def _settings(
  configs: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[tuple[str, bool]]]]:
  """Headings and cells of the settings that are not equal in all runs.

  A column per run, or a row per run if there are more than fit beside one another.
  """
  keys = dict.fromkeys(key for config in configs.values() for key in config)
  columns = [["setting", *configs]]
  for key in keys:
    values = [_setting(config, key) for config in configs.values()]
    if key != "workdir" and len(set(values)) > 1:
      columns.append([key, *values])
  if len(columns) == 1:
    return [], []
  if len(configs) > _SIDE_BY_SIDE:
    columns[0][0] = "run"
    columns = [list(row) for row in zip(*columns, strict=True)]
  return columns[0], [[(text, False) for text in column] for column in columns[1:]]


def _setting(config: Mapping[str, Any], key: str) -> str:
  """A setting as text; a dash if the job has no such setting."""
  if not config:
    return _facts.NOT_RECORDED
  return json.dumps(config[key]) if key in config else "–"


def _shared_settings(configs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
  """Names and values of the settings that are equal in all runs."""
  first, *others = configs.values()
  return [
    [key, json.dumps(value)]
    for key, value in first.items()
    if all(key in other and other[key] == value for other in others)
  ]


def _plain(row: Sequence[str]) -> list[tuple[str, bool]]:
  """Cells of a row, none of them the best."""
  return [(text, False) for text in row]


def _config(path: Path) -> dict[str, Any]:
  file = path / _CONFIG_FILE
  if not file.exists():
    return {}
  return _files.read_json(file, "restore a copy, or delete it to leave settings out")


def _shown(
  runs: Mapping[str, tuple[MetricLog, Results]],
  configs: Mapping[str, Mapping[str, Any]],
) -> dict[str, tuple[MetricLog, Results]]:
  """Metrics and results by caption: of each run, or means of many."""
  if len(runs) <= _SIDE_BY_SIDE:
    return dict(runs)
  groups: dict[str, list[str]] = {}
  for name, config in configs.items():
    alike = {key: value for key, value in config.items() if key not in _OF_A_RUN}
    groups.setdefault(json.dumps(alike, sort_keys=True), []).append(name)
  chosen = [*groups.values()] if len(groups) <= _SIDE_BY_SIDE else [list(runs)]
  return {_caption(group): _mean([runs[name] for name in group]) for group in chosen}


def _caption(names: Sequence[str]) -> str:
  if len(names) == 1:
    return names[0]
  return f"mean of {len(names)} runs, band from least to greatest: {', '.join(names)}"


def _mean(runs: Sequence[tuple[MetricLog, Results]]) -> tuple[MetricLog, Results]:
  if len(runs) == 1:
    return runs[0]
  metrics, results = zip(*runs, strict=True)
  return mean_metrics(metrics), mean_results(results)


def _drawn(runs: Mapping[str, tuple[MetricLog, Results]]) -> dict[str, dict[str, str]]:
  """Pictures in base 64 by title and run, for runs that have such a picture."""
  # Networks of one name have one colour in all runs.
  every = ([*itertools.chain(*parts)] for parts in zip(*runs.values(), strict=True))
  styles = _colors.styles_of_run(*every)
  pictures = {}
  for _, title, draw in _gallery.PICTURES:
    drawn = {
      name: _picture(name, title, draw, *run, styles) for name, run in runs.items()
    }
    shown = {name: png for name, png in drawn.items() if png is not None}
    if shown:
      pictures[title] = shown
  return pictures


def _picture(name, title, draw, metrics, results, styles) -> str | None:
  try:
    figure = draw(metrics, results, styles)
  except _canvas.NothingToDrawError as error:
    _LOG.info("%s: left out %s: %s", name, title, error)
    return None
  png = io.BytesIO()
  figure.savefig(png, format="png", dpi=100)
  return base64.b64encode(png.getvalue()).decode()
