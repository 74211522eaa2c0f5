"""The files of a work directory: metrics of every epoch, results of every network."""

import json
import logging
import os
import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowkd_jax import _files

METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"

# Content of the two files: one entry per stage and epoch, and one per network.
MetricLog = Sequence[Mapping[str, Any]]
Results = Sequence[Mapping[str, Any]]

# What is measured of each network of a stage that trains several.
_OF_NETWORK = re.compile(r"([^/]+)/((?:test|validation)_accuracy|qmi/.+)")

_LOG = logging.getLogger(__name__)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The entries of `metrics.jsonl`, one per stage and epoch, in order of training.

  A resumed job may write a stage and epoch twice; the later entry is used. A line that
  was cut off by a kill is left out, with a warning in the log. If a stage trains
  several networks, the measurements of each network are an entry of their own with the
  stage "STAGE/NETWORK", which is the network's name in the results.

  Args:
    path: A work directory, or the file itself.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If no line of it is an entry.
  """
  path = _existing_file(path, METRICS_FILE)
  entries = {}
  unreadable = []
  lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
  for number, line in enumerate(lines, start=1):
    entry = _entry(line)
    if entry is not None:
      entries[entry["stage"], entry["epoch"]] = entry
    elif line.strip():
      unreadable.append(number)
  if len(unreadable) > 1 and not entries:
    raise ValueError(
      f'{path}: expected lines such as {{"stage": "student", "epoch": 0, ...}}, got '
      f"{lines[unreadable[0] - 1][:60]!r}; pass the metrics of a flowkd_jax job"
    )
  for number in unreadable:
    _LOG.warning("%s: skipped line %d, which is cut off or damaged", path, number)
  return [part for entry in entries.values() for part in _by_network(entry)]


def read_results(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The networks of `results.json`, in the order in which they were trained.

  Args:
    path: A work directory, or the file itself.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it does not hold a list of named networks.
  """
  path = _existing_file(path, RESULTS_FILE)
  content = _files.read_json(
    path, "run the job again to write it again: what is trained is not trained again"
  )
  networks = content.get("networks") if isinstance(content, dict) else None
  if not isinstance(networks, list) or not all(map(_is_named, networks)):
    raise ValueError(
      f'{path}: expected {{"networks": [{{"name": "student", ...}}, ...]}}, got '
      f"{str(content)[:60]!r}; pass the results of a flowkd_jax job"
    )
  return networks


def read_run(path: str | os.PathLike[str]) -> tuple[MetricLog, Results]:
  """Metrics and results of a job so far; either may be empty.

  Raises:
    FileNotFoundError: If the work directory has neither.
    ValueError: If one of them is not what a job writes.
  """
  path = Path(path)
  finished = (path / RESULTS_FILE).exists()
  started = (path / METRICS_FILE).exists()
  metrics = read_metrics(path) if started or not finished else []
  return metrics, read_results(path) if finished else []


def diverged(path: str | os.PathLike[str]) -> list[str]:
  """Sentences about stages whose training diverged, by the results of a job so far."""
  file = Path(path) / RESULTS_FILE
  content = _files.read_json(file, "run the job again") if file.exists() else {}
  return [f"Diverged: {stage['error']}." for stage in content.get("diverged", ())]


def retrieval_curve(
  network: Mapping[str, Any], distance: str
) -> Mapping[str, Any] | None:
  """Retrieval of a network by a distance; None if a number is missing.

  Files have null for numbers that are not finite, for example of a diverged network.
  """
  curve = (network.get("retrieval") or {}).get(distance)
  if curve is None:
    return None
  values = [curve.get("mean_average_precision"), *curve.get("precision", [None])]
  return None if any(value is None for value in values) else curve


def _existing_file(path: str | os.PathLike[str], name: str) -> Path:
  path = Path(path)
  path = path / name if path.is_dir() else path
  if not path.is_file():
    raise FileNotFoundError(
      f"{path}: expected the file {name} of a work directory, found nothing; pass "
      "the folder that the job writes to, once it has written there"
    )
  return path


def _entry(line: str) -> dict[str, Any] | None:
  """Entry of a line; None unless it names stage and epoch.

  A resumed job may write directly after a line that was cut off. As entries are flat,
  the last opening brace begins the last entry.
  """
  entry = _json(line[max(line.rfind("{"), 0) :])
  if not isinstance(entry, dict) or not isinstance(entry.get("stage"), str):
    return None
  return entry if isinstance(entry.get("epoch"), int) else None


def _by_network(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
  """The entry without what was measured of single networks, and an entry of each."""
  own, networks = {}, {}
  for key, value in entry.items():
    match = _OF_NETWORK.fullmatch(key)
    if match:
      networks.setdefault(match[1], {})[match[2]] = value
    else:
      own[key] = value
  yield own
  position = {key: entry[key] for key in ("epoch", "step") if key in entry}
  for name, values in networks.items():
    yield {"stage": f"{entry['stage']}/{name}", **position, **values}


def _is_named(network: Any) -> bool:
  return isinstance(network, dict) and isinstance(network.get("name"), str)


def _json(text: str) -> Any:
  try:
    return json.loads(text)
  except (ValueError, RecursionError):
    return None
