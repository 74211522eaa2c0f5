"""The studies and the runs that are kept of them."""

import json
import pathlib

import pytest
from absl import flags

from experiments.studies import catalogue
from experiments.studies import run as study
from experiments.studies import spec
from experiments.tables import kept_runs
from experiments.tables import update
from flowkd_jax import data
from flowkd_jax import jobs
from flowkd_jax.cli import parsing
from flowkd_jax.jobs import imported_weights
from flowkd_jax.jobs import stages

KEPT = [path.parent.name for path in (update.HERE / "results").glob("*/runs.json")]

# Settings that name places, or do not matter to the network of the row.
_PLACES = {
  "workdir",
  "data_dir",
  "auxiliary_checkpoint",
  "networks_from",
  "teacher_cache",
}


@pytest.fixture
def resolve(monkeypatch, tmp_path):
  """Settings of a launch, as its command gives them."""
  # The authors' weights are no part of the repository.
  monkeypatch.setattr(imported_weights, "check", lambda *arguments: None)
  domains = ("art_painting", "cartoon", "photo", "sketch")
  monkeypatch.setattr(data, "split_names", lambda *_, **__: domains)

  def resolve(job):
    stages.write_json(job.folder / "config.json", {})
    stages.write_json(job.folder / "teacher" / stages.RESULTS, [])
    for flag in job.command:
      if flag.startswith("--networks_from="):  # perhaps of another study
        source = pathlib.Path(flag.partition("=")[2])
        stages.write_json(source / "config.json", {})
        stages.write_json(source / "teacher" / stages.RESULTS, [])
    launcher = jobs.load(job.command[4])
    values = flags.FlagValues()
    parsing.define_flags(launcher.Config, values)
    given = [flag for flag in job.command[5:] if not flag.startswith("--verbosity")]
    values(["program", *given])
    return launcher.configure(**parsing.given_flags(launcher.Config, values))

  return resolve


def _jobs(name, tmp_path, **options):
  weights = str(update.HERE.parent / "tests" / "golden" / "torch_cnn.npz")
  places = {"data_dir": "D", "workdir": str(tmp_path), "auxiliary_checkpoint": weights}
  return study.jobs(study.configure(study=name, **places, **options))


@pytest.mark.parametrize("name", catalogue.STUDIES)
def test_flags_of_every_study_are_flags_of_its_launcher(name, resolve, tmp_path):
  # A grid has hundreds of launches, whose flags do not depend on the seed.
  seeds = {"seeds": ("0",)} if catalogue.STUDIES[name].grid else {}
  for job in _jobs(name, tmp_path, **seeds):
    resolve(job)


@pytest.mark.parametrize(
  "name",
  sorted(path.parent.name for path in (update.HERE / "results").glob("*/runs.json")),
)
def test_kept_runs_have_the_settings_that_their_commands_give(name, resolve, tmp_path):
  kept = kept_runs.read(update.HERE / "results" / name)
  seeds = sorted({seed for runs in kept.values() for seed in runs})
  wanted = {run.name: run.result for run in catalogue.STUDIES[name].launches}
  number = 0
  for job in _jobs(name, tmp_path, seeds=tuple(seeds)):
    run, seed = job.folder.parent.name, job.folder.name
    if seed not in kept.get(run, {}):
      continue
    number += 1
    then = kept[run][seed].settings
    now = json.loads(json.dumps(resolve(job).resolved(), default=str))
    # Other stages may have been run beside, and only the full method has authors' code.
    ignored = {*_PLACES, "stages", *(["authors"] if wanted[run] != "student" else [])}
    assert then.keys() - ignored == now.keys() - ignored, f"{name}, {run}, seed {seed}"
    for setting in now.keys() - ignored:
      assert then[setting] == now[setting], f"{name}, {run}, seed {seed}: {setting}"
  assert number


@pytest.mark.parametrize("name", catalogue.STUDIES)
def test_rows_name_launches_and_rows_that_are_there(name):
  found = catalogue.STUDIES[name]
  rows = [run.name for run in found.runs]
  assert len(set(rows)) == len(rows)
  assert {run.of for run in found.runs} - {""} <= {run.name for run in found.launches}
  assert {found.baseline, *found.pictured} - {""} <= {*rows}


@pytest.mark.parametrize("name", catalogue.STUDIES)
def test_flags_depend_on_the_machine_by_placeholders_alone(name):
  places = dict.fromkeys((*spec.PLACEHOLDERS, "seed"), "X")
  for run in catalogue.STUDIES[name].launches:
    for flag in run.flags:
      assert flag.startswith("--")
      assert "{" not in flag.format(**places)
