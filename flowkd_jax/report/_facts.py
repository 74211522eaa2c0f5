"""Facts about runs, for the page: job, data, command, versions, machine and seed.

A result depends on more than its settings. Each stage records the environment in which
it was finished; before the first stage is finished, that of the latest start is used.
"""

import json
import os
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowkd_jax import _files
from flowkd_jax.report._read import Results

NOT_RECORDED = "not recorded"

_FILE = "environment.json"
_REMEDY = "restore a copy, or delete it to leave its facts out"
_NO_COMMIT = "none: not run from a git checkout"
# Rows of the table that come from the environment: heading and key.
_OF_ENVIRONMENT = (
  ("command", "command"),
  ("commit", "commit"),
  ("flowkd_jax", "flowkd_jax"),
  ("Python", "python"),
  ("JAX", "jax"),
  ("Flax", "flax"),
  ("Optax", "optax"),
  ("devices", "device"),
  ("processor", "processor"),
  ("cores", "cores"),
)
_DATA = ("train_split", "test_split", "validation_split")


def read_start(workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """The environment of the latest start of a run; empty if none was recorded.

  Raises:
    ValueError: If the file is damaged.
  """
  path = Path(workdir) / _FILE
  found = _files.read_json(path, _REMEDY) if path.exists() else {}
  if not isinstance(found, dict):
    raise ValueError(
      f"{path}: expected the environment of a run, got {str(found)[:60]!r}; {_REMEDY}"
    )
  return found


def run_facts(
  results: Results, config: Mapping[str, Any], start: Mapping[str, Any]
) -> dict[str, str]:
  """Facts about a run by name; "not recorded" if an older version did not keep them.

  If a fact differs between stages, for example in a run that was resumed with another
  version, it is given for each stage.

  Args:
    results: Results of its networks, as far as there are any.
    config: Settings of the run.
    start: The environment of its latest start.
  """
  stages = {
    result["name"].partition("/")[0]: result.get("environment") or {}
    for result in results
  }
  stages = stages or {"": start}
  facts = {"job": _text(start, "job"), "data set": _data_set(config)}
  facts["seed"] = _text(config, "seed")
  for heading, key in _OF_ENVIRONMENT:
    told = {name: _text(environment, key) for name, environment in stages.items()}
    facts[heading] = _by_stage(told)
  return facts


def _by_stage(told: Mapping[str, str]) -> str:
  """The value of all stages, or each value with its stages."""
  groups: dict[str, list[str]] = {}
  for stage, text in told.items():
    groups.setdefault(text, []).append(stage)
  if len(groups) == 1:
    return next(iter(groups))
  return "; ".join(f"{text} ({', '.join(names)})" for text, names in groups.items())


def _data_set(config: Mapping[str, Any]) -> str:
  if config.get("dataset") is None:
    return NOT_RECORDED
  splits = [f"{name}={config[name]}" for name in _DATA if config.get(name) is not None]
  return ", ".join([str(config["dataset"]), *splits])


def _text(facts: Mapping[str, Any], key: str) -> str:
  value = facts.get(key)
  if key == "commit" and key in facts:
    return _commit(value)
  if value is None or value == "":
    return NOT_RECORDED
  return value if isinstance(value, str) else json.dumps(value)


def _commit(value: str | None) -> str:
  if value is None:
    return _NO_COMMIT
  changed = value.endswith("+")
  return f"{value.removesuffix('+')}{' with uncommitted changes' if changed else ''}"


def rows_of_runs(
  facts: Mapping[str, Mapping[str, str]], *, by_row: bool
) -> tuple[list[str], list[list[str]]]:
  """Headings and rows of the table of facts.

  Args:
    facts: Facts of each run, by its name.
    by_row: True for a row per run; otherwise it is a column per run.
  """
  names: Sequence[str] = list(next(iter(facts.values())))
  columns = [["run", *facts]]
  columns += [[name, *(run[name] for run in facts.values())] for name in names]
  if by_row:
    columns = [list(row) for row in zip(*columns, strict=True)]
  return columns[0], columns[1:]
