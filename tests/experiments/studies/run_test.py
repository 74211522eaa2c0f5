"""The driver of studies."""

import contextlib
import shlex
import sys

import jax
import pytest

from experiments.studies import run as study
from flowkd_jax import train
from tests.experiments.conftest import configure


def test_driver_runs_what_is_left_and_skips_what_is_done(fake, tmp_path, capsys):
  config = configure(tmp_path, processes=2)
  assert len(study.jobs(config)) == 3  # the second run has one seed
  study.run(config)
  folder = tmp_path / "fake" / "first" / "3"
  written = (folder / "results.json").stat().st_mtime_ns
  study.run(config)
  assert (folder / "results.json").stat().st_mtime_ns == written
  assert "3 runs are finished" in capsys.readouterr().out


def test_driver_leaves_the_accelerator_to_its_runs(fake, tmp_path, monkeypatch):
  def refuse(*args):
    raise AssertionError("starts a backend, which takes memory of the accelerator")

  for name in ("process_index", "process_count", "devices", "local_devices"):
    monkeypatch.setattr(jax, name, refuse)
  study.run(configure(tmp_path, seeds=("1",), runs=("second",)))


def test_interrupted_driver_stops_all_runs_and_waits(fake, tmp_path, monkeypatch):
  wait = "import pathlib, signal, sys, time\nname = pathlib.Path(sys.argv[1])\n"
  wait += "signal.signal(signal.SIGTERM, lambda *_: (name.touch(), sys.exit(0)))\n"
  wait += "print('epoch 3', flush=True)\ntime.sleep(60)"
  config = configure(tmp_path, processes=2)
  jobs = [
    job._replace(command=[sys.executable, "-c", wait, str(tmp_path / f"saved-{n}")])
    for n, job in enumerate(study.jobs(config))
  ]
  monkeypatch.setattr(study, "jobs", lambda config: jobs)

  @contextlib.contextmanager
  def stop_when_both_have_begun():
    logs = [job.log for job in jobs[:2]]
    yield (
      lambda: (
        "SIGINT" if all(log.exists() and log.read_text() for log in logs) else None
      )
    )

  monkeypatch.setattr(study.train, "stop_on_signals", stop_when_both_have_begun)
  with pytest.raises(train.Interrupted, match="stopped by SIGINT"):
    study.run(config)
  assert sorted(path.name for path in tmp_path.glob("saved-*")) == [
    "saved-0",
    "saved-1",
  ]
  assert not jobs[2].log.exists()


def test_driver_goes_on_after_a_failure_and_names_it(fake, tmp_path):
  (tmp_path / "fake" / "first").mkdir(parents=True)
  (tmp_path / "fake" / "first" / "fail-1").touch()
  config = configure(tmp_path)
  with pytest.raises(ValueError, match=r"1 of 3 runs failed: .*first/1; see the .log"):
    study.run(config)
  assert (tmp_path / "fake" / "second" / "1" / "results.json").exists()
  log = (tmp_path / "fake" / "first" / "1.log").read_text()
  assert "told to fail" in log


def test_dry_run_prints_the_commands_that_are_left(fake, tmp_path, capsys):
  study.run(configure(tmp_path, seeds=("1",), runs=("second",), dry_run=True))
  output = capsys.readouterr().out
  assert "-m fake_launcher --verbosity=-1 --seed=1" in output
  assert not (tmp_path / "fake").exists()


def test_dry_run_prints_commands_that_can_be_copied(fake, tmp_path, capsys):
  folder = tmp_path / "a[b] [/b] :smile: it's" / ("long" * 40)
  config = configure(folder, seeds=("1",), dry_run=True)
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
    ({"processes": 0}, "--processes: expected 1 or more, got 0"),
    (
      {"study": "cifar10"},
      "--auxiliary_checkpoint: expected a .npz of PyTorch weights",
    ),
  ],
)
def test_impossible_settings_are_refused(fake, tmp_path, options, match):
  with pytest.raises(ValueError, match=match):
    configure(tmp_path, **options)
