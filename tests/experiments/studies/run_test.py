"""The driver of studies and the tables of the results page."""

import dataclasses
import importlib
import json
import shlex
import sys
import textwrap

import pytest
from absl import flags

from experiments.studies import catalogue
from experiments.studies import run as study
from experiments.studies import spec
from experiments.tables import kept_runs
from experiments.tables import network_rows
from experiments.tables import paired_arms
from experiments.tables import run_list
from experiments.tables import update
from flowkd_jax import data
from flowkd_jax import jobs
from flowkd_jax.cli import parsing
from flowkd_jax.jobs import imported_weights
from flowkd_jax.jobs import stages

CONFIG = """
import dataclasses

@dataclasses.dataclass
class Config:
  workdir: str = "runs"
  auxiliary_checkpoint: str = ""
  new: tuple = (1, 2)

if __name__ == "__main__":
"""
PYTHON = """
import json, pathlib, sys
flags = dict(flag.removeprefix("--").split("=") for flag in sys.argv[1:])
folder = pathlib.Path(flags["workdir"])
folder.mkdir(parents=True)
mark = folder.parent / f"fail-{flags['seed']}"
if mark.exists():
  sys.exit("told to fail")
seed = int(flags["seed"])
side = {"mean_average_precision": .1 * seed, "precision_at": {"100": .5}}
side |= {f"authors_{name}": value for name, value in side.items()}
network = {
  "name": "student", "accuracy": None, "seconds": 120,
  "retrieval": {"euclidean": side, "cosine": side},
  "centroid": {"euclidean": .25, "cosine": .75},
  "environment": {
    "command": "", "commit": "abc", "device": "1 x cpu", "cores": 2, "python": "3.11",
    "processor": "Abacus",
    "jax": "1", "flax": "2",
  },
}
network["environment"]["command"] = "python launcher.py --workdir=/somewhere"
config = {"data_dir": "/data", "workdir": "/x", "auxiliary_checkpoint": "/w/a.npz"}
config["networks_from"] = str(folder.parents[1] / "teacher" / "0")
(folder / "config.json").write_text(json.dumps(config))
line = '{"stage": "student", "epoch": 0, "loss/dense": 1.5, "seconds": 2.5}'
(folder / "metrics.jsonl").write_text(line)
(folder / "results.json").write_text(json.dumps({"networks": [network]}))
"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
  """A study of two runs whose launcher only writes results."""
  (tmp_path / "code").mkdir()
  source = CONFIG + textwrap.indent(PYTHON, "  ")
  (tmp_path / "code" / "fake_launcher.py").write_text(source)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
  monkeypatch.syspath_prepend(tmp_path / "code")
  runs = (
    spec.Run("first", "the first", (), job="fake_launcher"),
    spec.Run("second", "the second", (), job="fake_launcher", seeds=1),
  )
  published = (("theirs", {"mAP c": 12.5}),)
  fake = spec.Study("A fake study", runs, published, baseline="first")
  monkeypatch.setitem(catalogue.STUDIES, "fake", fake)
  monkeypatch.setattr(study, "COMMAND", (sys.executable, "-m"))
  load = jobs.load
  monkeypatch.setattr(
    jobs,
    "load",
    lambda name: (
      importlib.import_module(name) if name == "fake_launcher" else load(name)
    ),
  )
  return fake


def _configure(tmp_path, **options):
  settings = {"study": "fake", "workdir": str(tmp_path), "seeds": ("1", "3")}
  return study.configure(**{**settings, **options})


def test_driver_runs_what_is_left_and_skips_what_is_done(fake, tmp_path, capsys):
  config = _configure(tmp_path, jobs=2)
  assert len(study.jobs(config)) == 3  # the second run has one seed
  study.run(config)
  folder = tmp_path / "fake" / "first" / "3"
  written = (folder / "results.json").stat().st_mtime_ns
  study.run(config)
  assert (folder / "results.json").stat().st_mtime_ns == written
  assert "3 runs are finished" in capsys.readouterr().out


def test_driver_goes_on_after_a_failure_and_names_it(fake, tmp_path):
  (tmp_path / "fake" / "first").mkdir(parents=True)
  (tmp_path / "fake" / "first" / "fail-1").touch()
  config = _configure(tmp_path)
  with pytest.raises(ValueError, match=r"1 of 3 runs failed: .*first/1; see the .log"):
    study.run(config)
  assert (tmp_path / "fake" / "second" / "1" / "results.json").exists()
  log = (tmp_path / "fake" / "first" / "1.log").read_text()
  assert "told to fail" in log


def test_dry_run_prints_the_commands_that_are_left(fake, tmp_path, capsys):
  study.run(_configure(tmp_path, seeds=("1",), runs=("second",), dry_run=True))
  output = capsys.readouterr().out
  assert "-m fake_launcher --verbosity=-1 --seed=1" in output
  assert not (tmp_path / "fake").exists()


def test_dry_run_prints_commands_that_can_be_copied(fake, tmp_path, capsys):
  folder = tmp_path / "a[b] [/b] :smile: it's" / ("long" * 40)
  config = _configure(folder, seeds=("1",), dry_run=True)
  study.run(config)
  lines = capsys.readouterr().out.splitlines()
  commands = [job.command for job in study.jobs(config)]
  assert [shlex.split(line) for line in lines] == commands


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"study": "imagenet"}, "--study: expected one of cifar10, .*got 'imagenet'"),
    ({"runs": ("third",)}, "--runs: expected one of first, second, got 'third'"),
    ({"seeds": ("one",)}, "--seeds: expected numbers such as 0,1,2, got 'one'"),
    ({"jobs": 0}, "--jobs: expected 1 or more, got 0"),
    (
      {"study": "cifar10"},
      "--auxiliary_checkpoint: expected a .npz of PyTorch weights",
    ),
  ],
)
def test_impossible_settings_are_refused(fake, tmp_path, options, match):
  with pytest.raises(ValueError, match=match):
    _configure(tmp_path, **options)


def test_page_shows_mean_and_deviation_over_seeds(fake, tmp_path):
  study.run(_configure(tmp_path))
  page = tmp_path / "PAGE.md"
  page.write_text("Before.\n<!-- table: fake -->\nold\n<!-- end -->\nAfter.\n")
  options = {"kept": str(tmp_path / "kept"), "page": str(page)}
  update.run(update.configure(workdir=str(tmp_path), **options))
  text = page.read_text()
  rows = [line for line in text.splitlines() if line.startswith("|")]
  assert "old" not in text
  assert text.startswith("Before.")
  assert text.endswith("After.\n")
  assert "| *theirs* | | – | 12.50 |" in rows[2]
  # 10 % and 30 %: mean 20, standard deviation sqrt(200).
  assert "| the first | 1, 3 | 20.00 ± 14.14 | 20.00 ± 14.14 | 50.00 ± 0.00" in rows[3]
  assert rows[3].endswith("| 25.00 ± 0.00 | 75.00 ± 0.00 | – |  | 2 |")
  assert "| the second | 1 | 10.00 |" in rows[4]
  assert rows[4].endswith("| +0.00 | 2 |")  # of seed 1 alone
  assert (
    "Made with 1 x cpu, cores 2, Abacus; python 3.11, jax 1, flax 2. Minutes" in text
  )
  assert "[results/fake](results/fake/README.md)" in text
  update.run(update.configure(**options))
  assert page.read_text() == text


def test_kept_runs_have_the_settings_that_their_launcher_has_now(fake, tmp_path):
  study.run(_configure(tmp_path))
  (tmp_path / "PAGE.md").touch()
  options = {"kept": str(tmp_path / "kept"), "page": str(tmp_path / "PAGE.md")}
  update.run(update.configure(workdir=str(tmp_path), **options))
  kept = kept_runs.read(tmp_path / "kept" / "fake")["second"]["1"]
  assert kept.settings == {"auxiliary_checkpoint": "a.npz", "new": [1, 2]}


def test_page_of_the_runs_says_how_each_was_made(fake, tmp_path, monkeypatch):
  (first, *_) = fake.runs
  flags = ("--data_dir={data_dir}", "--networks_from={workdir}/teacher/{seed}")
  other = first._replace(name="other", title="not run", flags=flags)
  study.run(_configure(tmp_path))
  monkeypatch.setitem(catalogue.STUDIES, "fake", fake._replace(runs=(first, other)))
  page = tmp_path / "PAGE.md"
  page.write_text("")
  kept = tmp_path / "kept"
  update.run(update.configure(workdir=str(tmp_path), kept=str(kept), page=str(page)))
  text = (kept / "fake" / "README.md").read_text()
  row = (
    "| first | {} | abc | 1 x cpu, cores 2, Abacus | python 3.11, jax 1, flax 2 | 2.0 |"
  )
  assert row.format(1) in text
  assert row.format(3) in text
  assert "| other |" not in text
  command = (
    "flowkd train fake_launcher --data_dir=DIR --networks_from=W/fake/teacher/SEED"
  )
  assert f"    {command} --seed=SEED --workdir=W/fake/other/SEED\n" in text


def test_a_row_may_show_another_network_of_a_launch(fake, tmp_path, monkeypatch):
  beside = spec.Run("beside", "of the same launch", of="first")
  both = fake._replace(runs=(beside, *fake.runs))
  monkeypatch.setitem(catalogue.STUDIES, "fake", both)
  with pytest.raises(ValueError, match="expected one of first, second, got 'beside'"):
    _configure(tmp_path, runs=("beside",))
  assert len(study.jobs(_configure(tmp_path))) == 3
  study.run(_configure(tmp_path))
  update.take_in(tmp_path, tmp_path / "kept")
  runs = kept_runs.read(tmp_path / "kept" / "fake")
  assert set(runs) == {"first", "second"}
  found = paired_arms.networks(both, runs)
  text = update.table("fake", both, found)
  assert "| of the same launch | 1, 3 | 20.00 ± 14.14 |" in text
  assert "beside" not in run_list.page("fake", both, found)


def _flow(teacher_level, teacher="auxiliary"):
  """A run of one tap whose student learned from a network of that information."""
  entry = {"qmi/cosine/tap": teacher_level, "epoch": -1, "stage": teacher}
  entries = [entry, *({**entry, "stage": "student", "epoch": n} for n in (0, 1))]
  student = {"name": "student", "teacher": teacher}
  return {"1": kept_runs.KeptRun({}, [student], entries)}


def _legend(figure):
  return [text.get_text() for text in figure.legends[0].get_texts()]


def test_picture_of_rows_shows_a_shared_teacher_once(fake):
  # The levels differ by the rounding of another launch.
  runs = {"first": _flow(2.0), "second": _flow(2.0001)}
  figure = network_rows.flow_picture(fake, runs)
  goal = "auxiliary at its end: goal of first and second"
  assert _legend(figure) == ["the first", "the second", goal]
  figure = network_rows.flow_picture(fake._replace(pictured=("second",)), runs)
  goal = "auxiliary at its end: goal of second"
  assert _legend(figure) == ["the second", goal]


def test_picture_of_rows_tells_teachers_of_one_name_apart(fake):
  runs = {"first": _flow(2.0, "teacher"), "second": _flow(3.0), "third": _flow(4.0)}
  three = fake._replace(runs=(*fake.runs, spec.Run("third", "the third", ())))
  assert _legend(network_rows.flow_picture(three, runs)) == [
    "the first",
    "the second",
    "the third",
    "teacher at its end: goal of first",
    "auxiliary at its end: goal of second",
    "auxiliary of third at its end: goal of third",
  ]


def test_what_is_kept_names_no_place_of_the_machine(fake, tmp_path):
  study.run(_configure(tmp_path))
  update.take_in(tmp_path, tmp_path / "kept")
  kept = kept_runs.read(tmp_path / "kept" / "fake")["first"]["1"]
  assert kept.settings == {
    "auxiliary_checkpoint": "a.npz",
    "networks_from": "teacher/0",
  }
  assert kept.networks[0]["environment"]["command"] == ""
  assert kept.metrics == [{"stage": "student", "epoch": 0, "loss/dense": 1.5}]


def test_new_runs_are_added_to_those_that_are_kept(fake, tmp_path):
  study.run(_configure(tmp_path, seeds=("1",)))
  update.take_in(tmp_path, tmp_path / "kept")
  study.run(_configure(tmp_path / "more", seeds=("3",), runs=("first",)))
  update.take_in(tmp_path / "more", tmp_path / "kept")
  kept = kept_runs.read(tmp_path / "kept" / "fake")
  seeds = {name: list(runs) for name, runs in kept.items()}
  assert seeds == {"first": ["1", "3"], "second": ["1"]}


def test_a_comparison_keeps_accuracies_and_the_time_of_an_epoch(
  fake, tmp_path, monkeypatch
):
  table = spec.Comparison((spec.Arm("student", "it"),), (spec.Column("a"),))
  study.run(_configure(tmp_path))
  monkeypatch.setitem(catalogue.STUDIES, "fake", fake._replace(comparison=table))
  entries = [
    {"stage": "student", "epoch": n, "seconds": 7.0 * n, "loss/a": 1.0}
    | {"test_accuracy": 0.25 * n}
    for n in (1, 2)
  ]
  first = tmp_path / "fake" / "first" / "1" / "metrics.jsonl"
  first.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
  update.take_in(tmp_path, tmp_path / "kept")
  kept = kept_runs.read(tmp_path / "kept" / "fake")["first"]["1"]
  assert kept.networks[0]["epoch_seconds"] == 7.0
  names = ("stage", "epoch", "test_accuracy")
  assert kept.metrics == [{name: entry[name] for name in names} for entry in entries]


def test_page_says_what_was_not_run(fake):
  found = paired_arms.networks(fake, {})
  assert "| the first | not run |" in update.table("fake", fake, found)


def test_page_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(ValueError, match="--page: expected a file to read"):
    update.configure(page=str(tmp_path / "nothing.md"))


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
  """What the settings of a launch are when its command is given."""
  # The authors' weights are no part of the repository.
  monkeypatch.setattr(imported_weights, "check", lambda *arguments: None)
  domains = ("art_painting", "cartoon", "photo", "sketch")
  monkeypatch.setattr(data, "split_names", lambda *_, **__: domains)

  def resolve(job):
    stages.write_json(job.folder / "config.json", {"dataset": "cifar10"})
    stages.write_json(job.folder / "teacher" / stages.RESULTS, [])
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
  for job in _jobs(name, tmp_path):
    resolve(job)


@pytest.mark.parametrize(
  "name", sorted(path.name for path in (update.HERE / "results").iterdir())
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
    now = json.loads(json.dumps(dataclasses.asdict(resolve(job)), default=str))
    # Other stages may have been run beside, and only the full method has authors' code.
    ignored = {*_PLACES, "stages", *(["authors"] if wanted[run] != "student" else [])}
    assert then.keys() - ignored == now.keys() - ignored, f"{name}, {run}, seed {seed}"
    for setting in now.keys() - ignored:
      assert then[setting] == now[setting], f"{name}, {run}, seed {seed}: {setting}"
  assert number
