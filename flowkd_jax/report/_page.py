"""One self-contained HTML page of one or several work directories, side by side."""

import base64
import html
import io
import json
import logging
import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from flowkd_jax import _files
from flowkd_jax.report import _canvas
from flowkd_jax.report._diagnostics import diagnostics_picture
from flowkd_jax.report._flow import flow_picture
from flowkd_jax.report._pictures import loss_picture
from flowkd_jax.report._pictures import precision_recall_picture
from flowkd_jax.report._pictures import training_picture
from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results
from flowkd_jax.report._read import read_run
from flowkd_jax.report._table import network_cells

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_LOG = logging.getLogger(__name__)
_CONFIG_FILE = "config.json"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #262626; margin: 2rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
th:first-child, td:first-child { text-align: left; }
.runs { display: flex; gap: 2rem; overflow-x: auto; align-items: flex-start; }
.runs > figure { flex: 1 0 32rem; margin: 0; } figure img { max-width: 100%; }
figcaption { color: #6f6f6f; overflow-wrap: anywhere; }
"""
_PICTURES: dict[str, Callable[[MetricLog, Results], "Figure"]] = {
  "Training": training_picture,
  "Information flow": flow_picture,
  "Matching": loss_picture,
  "Diagnostics": diagnostics_picture,
  "Retrieval": lambda metrics, results: precision_recall_picture(results),
}


def report_page(workdirs: Sequence[str | os.PathLike[str]]) -> str:
  """The page: results in one table, settings that differ, pictures side by side.

  Works while jobs still run; a picture without data is left out.

  Args:
    workdirs: Work directories, of one experiment or of several.

  Raises:
    FileNotFoundError: If a work directory has neither metrics nor results.
    ValueError: If there is no work directory, or a file is not what a job writes.
  """
  if not workdirs:
    raise ValueError("workdirs: expected at least one work directory, got none")
  names = _short_names([Path(path) for path in workdirs])
  runs = {name: read_run(path) for name, path in names.items()}
  sections = [_section("Networks", _table(runs))]
  if len(runs) > 1:
    sections.append(_section("Settings that differ", _settings(names)))
  for title, draw in _PICTURES.items():
    figures = [_figure(name, title, draw, *run) for name, run in runs.items()]
    shown = "".join(filter(None, figures))
    if shown:
      sections.append(_section(title, f'<div class="runs">{shown}</div>'))
  title = html.escape(", ".join(names))
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f"<title>{title}</title><style>{_STYLE}</style></head>\n"
    f"<body><h1>{title}</h1>\n{''.join(sections)}</body></html>\n"
  )


def _short_names(paths: Sequence[Path]) -> dict[str, Path]:
  """What tells the paths apart: each without the folder that they share."""
  absolute = [path.absolute() for path in paths]
  shared = Path(os.path.commonpath([path.parent for path in absolute]))
  return {str(path.relative_to(shared)): path for path in absolute}


def _table(runs: Mapping[str, tuple[MetricLog, Results]]) -> str:
  """One row per network of each run, compared over all runs."""
  networks, rows = [], []
  for name, (_, results) in runs.items():
    for network in results:
      networks.append(network)
      rows.append(name)
  headings, cells, notes = network_cells(networks)
  several = len(runs) > 1
  if several:
    headings = ["run", *headings]
    cells = [[(name, False), *row] for name, row in zip(rows, cells, strict=True)]
  body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in cells)
  head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
  below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
  return f"<table><tr>{head}</tr>\n{body}</table>{below}"


def _cell(cell: tuple[str, bool]) -> str:
  text, best = html.escape(cell[0]), cell[1]
  return f"<td><b>{text}</b></td>" if best else f"<td>{text}</td>"


def _settings(names: Mapping[str, Path]) -> str:
  """A column per run; settings that are equal in all are left out."""
  configs = {name: _config(path) for name, path in names.items()}
  keys = dict.fromkeys(key for config in configs.values() for key in config)
  head = "".join(f"<th>{html.escape(name)}</th>" for name in ["setting", *configs])
  rows = []
  for key in keys:
    values = [json.dumps(config.get(key)) for config in configs.values()]
    if key != "workdir" and len(set(values)) > 1:
      rows.append("".join(_cell((text, False)) for text in [key, *values]))
  if not rows:
    return "<p>None.</p>"
  return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _config(path: Path) -> dict[str, Any]:
  file = path / _CONFIG_FILE
  if not file.exists():
    return {}
  return _files.read_json(file, "restore a copy, or delete it to leave settings out")


def _figure(name, title, draw, metrics, results) -> str:
  try:
    figure = draw(metrics, results)
  except _canvas.NothingToDrawError as error:
    _LOG.info("%s: left out %s: %s", name, title, error)
    return ""
  png = io.BytesIO()
  figure.savefig(png, format="png", dpi=100)
  data = base64.b64encode(png.getvalue()).decode()
  caption = html.escape(name)
  return (
    f'<figure><img alt="{html.escape(title)} of {caption}" '
    f'src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>\n'
  )


def _section(title: str, content: str) -> str:
  return f"<h2>{html.escape(title)}</h2>\n{content}\n"
