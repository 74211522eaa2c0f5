"""Provenance of numbers: the command, commit, machine and time of every kept run."""

import shlex
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from experiments.studies import spec
from experiments.tables import kept_runs
from experiments.tables import paired_arms
from experiments.tables import study_pictures
from flowkd_jax import report

PAGE = "README.md"  # in the folder of a study, where websites show it

# Placeholders for values that depend on the machine.
_PLACES = {"data_dir": "DIR", "auxiliary_checkpoint": "FILE.npz", "seed": "SEED"}


def summary(name: str, found: paired_arms.Found, time: str) -> list[str]:
  """Lines below a table: machines, versions, and where each run is listed."""
  made = [
    entry for seeds in found.values() for one in seeds.values() for entry in _made(one)
  ]
  if not made:
    return []
  machines = "; ".join(sorted({_machine(entry) for entry in made}))
  versions = "; ".join(sorted({_versions(entry) for entry in made}))
  return [
    "",
    f"Made with {machines}; {versions}. {time} Command, commit, machine and time of "
    f"each run: [results/{name}](results/{name}/{PAGE}).",
  ]


def diverged(runs: kept_runs.KeptRuns) -> list[str]:
  """Lines below a table: arms whose training diverged, with run and seed."""
  found = [
    f"{name}, seed {seed}: {stage['error']}"
    for name, seeds in runs.items()
    for seed, run in sorted(seeds.items(), key=lambda pair: int(pair[0]))
    for stage in run.diverged
  ]
  return ["", f"Diverged: {'; '.join(found)}."] if found else []


def page(
  name: str,
  study: spec.Study,
  found: paired_arms.Found,
  pictures: Iterable[str] = (),
) -> str:
  """Runs of a study in Markdown, with the command of each run.

  Args:
    name: Name of the study.
    study: The study.
    found: Networks of its runs.
    pictures: Files of pictures beside the page.
  """
  lines = [
    f"# Runs of the study `{name}`",
    "",
    f"{study.title}. `python -m experiments.tables.update` writes this page. The "
    "tables are on [RESULTS](../../RESULTS.md#results). `runs.json` has the settings, "
    "the final numbers and the curves of each run. Minutes are the time of training "
    "and its measurements, without networks from earlier runs. A + after a commit "
    "means that there were uncommitted changes.",
    "",
  ]
  for file in pictures:
    lines += [f"![{study_pictures.FILES[file]}]({file})", ""]
  rows = [
    [each.name, seed, *_origin(each, study, found[each.name][seed])]
    for each in study.launches
    for seed in sorted(found[each.name], key=int)
  ]
  headings = ["run", "seed", "commit", "machine", "versions", "minutes"]
  lines.append(report.markdown_table(headings, rows, left=5))
  lines += ["", "## Commands", ""]
  lines.append(
    f"All runs: `python -m experiments.studies.run --study={name} --workdir=W ...`. "
    "Some runs: the same with `--runs=NAME --seeds=SEED`. One launch:"
  )
  for each in study.launches:
    lines += ["", f"**{each.name}**: {each.title}", "", f"    {_command(name, each)}"]
  return "\n".join(lines) + "\n"


def _origin(each, study, networks) -> list[str]:
  """Commit, machine, versions and minutes of a launch in the table."""
  if not study.comparison:
    shown = {run.result for run in study.runs if run.folder == each.folder}
    networks = {name: one for name, one in networks.items() if name in shown}
  made = _made(networks)
  cells = [
    _joined(entry["commit"] for entry in made),
    _joined(_machine(entry) for entry in made),
    _joined(_versions(entry) for entry in made),
  ]
  minutes = paired_arms.launch_minutes({each.name: {"": networks}})
  return [*cells, f"{minutes:.1f}"]


def _command(name: str, each: spec.Run) -> str:
  places = {**_PLACES, "workdir": f"W/{name}", "all_studies": "W"}
  flags = [flag.format(**places) for flag in each.flags]
  flags += ["--seed=SEED", f"--workdir=W/{name}/{each.name}/SEED"]
  return shlex.join(["flowkd", "train", each.job, *flags])


def _made(networks: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  return [one["environment"] for one in networks.values() if "environment" in one]


def _machine(entry) -> str:
  processor = f", {entry['processor']}" if entry.get("processor") else ""
  return f"{entry['device']}, cores {entry['cores']}{processor}"


def _versions(entry) -> str:
  return ", ".join(f"{name} {entry[name]}" for name in ("python", "jax", "flax"))


def _joined(values: Iterable[str | None]) -> str:
  return "; ".join(dict.fromkeys(str(value) for value in values))
