"""Kept runs of a study: settings, results and curves, in one JSON file.

`experiments/results/STUDY/runs.json` holds every run that the results page shows:

    settings       settings that most runs have
    environments   versions, machine and commit, each written once
    runs           RUN -> SEED -> {settings, networks, curves, diverged}

A run stores the settings in which it differs, the final numbers of its networks, and
for each network the curves that pictures draw. Paths of the machine are left out. Each
seed is one line of the file, so that a diff shows which runs changed.
"""

import collections
import json
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

from flowkd_jax import _files
from flowkd_jax import report
from flowkd_jax.jobs import job_run
from flowkd_jax.jobs import stages

FILE = "runs.json"

# Prefixes of the names of metrics that pictures draw.
_CURVES = ("qmi/", "cka/", "loss/", "test_accuracy", "validation_accuracy")
_POSITION = ("stage", "epoch")
# Values on a grid of recall, which no table shows.
_NOT_KEPT = ("recall_levels", "precision", "authors_precision")
# Settings that name folders of the machine.
PLACES = ("workdir", "data_dir")


class KeptRun(NamedTuple):
  """One launch: its settings, its networks and their metrics over the epochs.

  Attributes:
    settings: Settings of the launch, without folders of the machine.
    networks: Entries of `results.json`.
    metrics: Entries as `report.read_metrics` returns them, one a network and epoch.
    diverged: Stages whose training diverged, with name, title and error.
  """

  settings: Mapping[str, Any]
  networks: list[dict[str, Any]]
  metrics: list[dict[str, Any]]
  diverged: Sequence[Mapping[str, str]] = ()


# Runs by name and seed.
KeptRuns = dict[str, dict[str, KeptRun]]


def read(folder: Path) -> KeptRuns:
  """Read the kept runs of a study; {} if there are none.

  Args:
    folder: Folder of the study, which holds `runs.json`.
  """
  path = folder / FILE
  if not path.exists():
    return {}
  content = _files.read_json(path, "restore the file from version control")
  environments = content["environments"]

  def run(entry):
    networks = [
      one | {"environment": environments[one["environment"]]}
      if "environment" in one
      else one
      for one in entry["networks"]
    ]
    settings = content["settings"] | entry["settings"]
    diverged = entry.get("diverged", ())
    return KeptRun(settings, networks, _entries(entry["curves"]), diverged)

  return {
    name: {seed: run(entry) for seed, entry in seeds.items()}
    for name, seeds in content["runs"].items()
  }


def write(folder: Path, runs: Mapping[str, Mapping[str, KeptRun]]) -> None:
  """Writes the runs of a study, replacing the file.

  Args:
    folder: Folder of the study; made if it does not exist.
    runs: Runs by name and seed.
  """
  every = [run for seeds in runs.values() for run in seeds.values()]
  shared = _most_common(run.settings for run in every)
  environments: list[Any] = []

  def numbered(network):
    if "environment" not in network:
      return network
    if network["environment"] not in environments:
      environments.append(network["environment"])
    return network | {"environment": environments.index(network["environment"])}

  def line(run):
    entry = {
      "settings": {
        key: value
        for key, value in run.settings.items()
        if key not in shared or shared[key] != value
      },
      "networks": [numbered(network) for network in run.networks],
      "curves": _curves(run.metrics),
    }
    if run.diverged:
      entry["diverged"] = [*run.diverged]
    return json.dumps(entry, allow_nan=False, separators=(",", ":"))

  lines = {
    name: {seed: line(seeds[seed]) for seed in sorted(seeds, key=int)}
    for name, seeds in sorted(runs.items())
  }
  _files.write_text(
    folder / FILE,
    f'{{"settings": {json.dumps(shared, indent=1, allow_nan=False)},\n'
    f'"environments": {json.dumps(environments, indent=1, allow_nan=False)},\n'
    f'"runs": {{\n{_in_lines(lines)}\n}}}}\n',
  )


def from_workdir(
  folder: Path, metrics: Iterable[Mapping[str, Any]], root: Path
) -> KeptRun:
  """Makes a kept run of a finished work directory.

  Args:
    folder: The work directory.
    metrics: Metrics of the run.
    root: Folder of the study, to which paths of other runs are made relative.
  """
  settings = job_run.read_config(folder / "config.json")
  for name in ("auxiliary_checkpoint", "networks_from", "teacher_cache"):
    if settings.get(name):
      settings[name] = _portable(Path(settings[name]), root)
  networks = report.read_results(folder)
  diverged = _files.read_json(folder / stages.RESULTS, "run it again").get(
    "diverged", ()
  )
  for network in networks:
    if "environment" in network:
      network["environment"]["command"] = ""
  kept = {name: value for name, value in settings.items() if name not in PLACES}
  return KeptRun(kept, [_final(one) for one in networks], _drawn(metrics), diverged)


def _drawn(metrics):
  """Entries with the values that pictures draw, rounded to four digits."""
  kept = [
    {
      name: float(f"{value:.4g}") if isinstance(value, float) else value
      for name, value in entry.items()
      if name in _POSITION or name.startswith(_CURVES)
    }
    for entry in metrics
  ]
  return [entry for entry in kept if len(entry) > len(_POSITION)]


def _final(value):
  """The final numbers of a network, at full precision: tables round them."""
  if not isinstance(value, dict):
    return value
  return {key: _final(one) for key, one in value.items() if key not in _NOT_KEPT}


def _portable(path: Path, root: Path) -> str:
  """The path within the study, or only the last part of a path outside the study."""
  root = root.absolute()
  return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _most_common(settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
  """The most common value of every setting that all runs have."""
  settings = list(settings)
  shared = {}
  for name in settings[0] if settings else ():
    if all(name in one for one in settings):
      counts = collections.Counter(json.dumps(one[name]) for one in settings)
      shared[name] = json.loads(counts.most_common(1)[0][0])
  return shared


def _curves(metrics) -> dict[str, dict[str, list]]:
  """Entries as columns: network -> metric -> values, None where not measured."""
  curves = {}
  for stage in dict.fromkeys(entry["stage"] for entry in metrics):
    entries = [entry for entry in metrics if entry["stage"] == stage]
    names = dict.fromkeys(name for entry in entries for name in entry)
    del names["stage"]
    curves[stage] = {name: [entry.get(name) for entry in entries] for name in names}
  return curves


def _entries(curves) -> list[dict[str, Any]]:
  """The inverse of `_curves`."""
  return [
    {"stage": stage}
    | {
      name: value for name, value in zip(columns, row, strict=True) if value is not None
    }
    for stage, columns in curves.items()
    for row in zip(*columns.values(), strict=True)
  ]


def _in_lines(lines) -> str:
  return ",\n".join(
    f"{json.dumps(name)}: {{\n"
    + ",\n".join(f"{json.dumps(seed)}: {line}" for seed, line in seeds.items())
    + "}"
    for name, seeds in lines.items()
  )
