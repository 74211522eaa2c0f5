"""The queue of runs with a budget, with launches and time that are simulated."""

import errno
import json
import re

import pytest

from experiments.studies import bundles
from experiments.studies import launches
from experiments.studies import queue_rows
from experiments.studies import run_queue
from experiments.studies import saved_state
from experiments.studies import step_costs


class _World:
  """Time that passes only in `sleep`, and launches that train an epoch at a time.

  Attributes:
    speed: Epochs that a launch trains in a second, by the number of launches at work.
    epochs: Epochs of every launch.
    at_work: Number of launches that were at work together, each time.
    order: Names in the order in which they were started.
  """

  def __init__(self, epochs, speed):
    self.time, self.epochs, self.speed = 0.0, epochs, speed
    self.running, self.order, self.at_work = {}, [], []

  def sleep(self, seconds):
    self.time += seconds
    at_work = [each for each in self.running.values() if each.returncode is None]
    self.at_work.append(len(at_work))
    for each in at_work:
      each.train(seconds * self.speed(len(at_work)))

  def start(self, job, slot, processes):
    assert slot < processes
    self.order.append(job.name)
    process = self.running[job.name] = _Process(self, job)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.log.touch()
    return launches.Running(job, process, slot, 0)

  def stop(self, running, seconds):
    del seconds
    for each in running:
      each.process.returncode = each.process.returncode or 0
    return []


class _Process:
  """A launch: the epochs that it has trained are in its folder."""

  def __init__(self, world, job):
    self.world, self.job, self.returncode, self.part = world, job, None, 0.0
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "config.json").write_text("{}")
    self.done = len(step_costs.epochs(job.folder).get("student", {}))

  def poll(self):
    return self.returncode

  def train(self, epochs):
    self.part += epochs
    with (self.job.folder / "metrics.jsonl").open("a") as file:
      while self.part >= 1 and self.done < self.world.epochs[self.job.name]:
        entry = {"stage": "student", "epoch": self.done, "seconds": 1.0}
        file.write(json.dumps(entry) + "\n")
        self.done, self.part = self.done + 1, self.part - 1
    if self.done == self.world.epochs[self.job.name]:
      (self.job.folder / "results.json").write_text('{"networks": []}')
      self.returncode = 0


def _rows(root, names, **needs):
  rows = []
  for name in names:
    flags = [f"--networks_from={root}/study/{other}/0" for other in needs.get(name, ())]
    rows.append(launches.Job(root / "study" / name / "0", ["run", *flags]))
  return queue_rows.rows(rows, root)


def _queue(world, root, out, seconds, processes=1, lines=None):
  return run_queue.Queue(
    root,
    out,
    seconds,
    processes,
    costs={},
    say=[].append if lines is None else lines.append,
    clock=lambda: world.time,
    sleep=world.sleep,
    start=world.start,
    stop=world.stop,
  )


def test_rows_run_in_order_until_the_budget_is_over_and_go_on_elsewhere(tmp_path):
  world = _World({f"{name}/0": 40 for name in "abc"}, lambda running: 1)
  root, out = tmp_path / "here", tmp_path / "out"
  rows, lines = _rows(root, "abc"), []
  queue = _queue(world, root, out, 105, lines=lines)
  queue.run(queue_rows.left(rows, set()))
  assert 90 <= world.time <= 105
  assert world.order == ["a/0", "b/0", "c/0"]
  assert bundles.names(out) == {"study/a/0", "study/b/0"}
  report = json.loads((out / run_queue.REPORT).read_text())
  assert report["finished"] == ["study/a/0", "study/b/0"]
  assert [*report["left"]] == ["study/c/0"]
  assert "left: study/c/0, time not known" in lines

  there = tmp_path / "there"
  saved_state.unpack(out, there)
  done = len(step_costs.epochs(there / "study" / "c" / "0")["student"])
  assert 5 <= done < 40
  world.order.clear()
  again = queue_rows.left(_rows(there, "abc"), bundles.names(out))
  _queue(world, there, tmp_path / "next", 100).run(again)
  assert world.order == ["c/0"]
  assert len(step_costs.epochs(there / "study" / "c" / "0")["student"]) == 40
  assert bundles.names(tmp_path / "next") == {"study/c/0"}


def test_a_row_that_does_not_fit_is_begun_and_its_time_is_said(tmp_path):
  world = _World({"long/0": 10_000}, lambda running: 1)
  lines = []
  queue = _queue(world, tmp_path / "w", tmp_path / "out", 60, lines=lines)
  queue.costs = {"study/long": [step_costs.StageCost("student", 10_000, 1, 152e12, 1)]}
  queue.run(_rows(tmp_path / "w", ["long"]))
  assert lines[0].startswith("1 runs to do, 5.6 h")
  assert lines[1].startswith("started study/long/0: about 5.6 h, an estimate")
  # A timed minute shows that the device is twice as fast.
  at_work = [line for line in lines if line.startswith("at work:")]
  expected = r"at work: study/long/0, student \d+ of 10000 epochs, about 2.8 h by its "
  assert re.match(expected, at_work[-1])
  (left,) = [line for line in lines if line.startswith("left:")]
  assert left.endswith("by its measured epochs")
  assert (tmp_path / "out" / "state.000").exists()


def test_nothing_is_started_at_the_very_end(tmp_path):
  world = _World({"a/0": 85, "b/0": 85}, lambda running: 1)
  _queue(world, tmp_path / "w", tmp_path / "out", 100).run(_rows(tmp_path / "w", "ab"))
  assert world.order == ["a/0"]


def test_a_signal_stops_all_and_their_state_is_packed(tmp_path):
  world = _World({"a/0": 40}, lambda running: 1)
  queue = _queue(world, tmp_path / "w", tmp_path / "out", 100)
  rows = _rows(tmp_path / "w", "a")
  queue.run(rows, lambda: "SIGTERM" if world.time > 9 else None)
  assert 9 < world.time < 10
  assert (tmp_path / "out" / "state.000").exists()


@pytest.mark.parametrize(
  ("speed", "most"),
  [
    (lambda running: 1, 4),  # each as fast as alone
    (lambda running: 1 / running, 2),  # two are no faster than one
  ],
)
def test_more_runs_are_started_as_long_as_all_together_get_faster(
  tmp_path, speed, most
):
  names = [f"r{number}" for number in range(30)]
  world = _World({f"{name}/0": 60 for name in names}, speed)
  rows = _rows(tmp_path / "w", names)
  queue = _queue(world, tmp_path / "w", tmp_path / "out", 800, processes=4)
  queue.run(rows)
  assert max(world.at_work) == most
  assert max(world.at_work[-len(world.at_work) // 4 :]) == (4 if most == 4 else 1)


def test_a_row_waits_for_the_network_that_it_starts_from(tmp_path):
  world = _World({"a/0": 5, "b/0": 5}, lambda running: 1)
  root = tmp_path / "w"
  rows = _rows(root, ["b", "a"], b=["a"])
  _queue(world, root, tmp_path / "out", 100).run(rows)
  assert world.order == ["a/0", "b/0"]


def test_networks_that_rows_left_start_from_are_packed(tmp_path):
  world = _World({"a/0": 80, "b/0": 80}, lambda running: 1)
  root = tmp_path / "w"
  rows = _rows(root, ["a", "b"], b=["a"])
  _queue(world, root, tmp_path / "out", 100).run(rows)
  saved_state.unpack(tmp_path / "out", tmp_path / "there")
  assert (tmp_path / "there" / "study" / "a" / "0" / "results.json").exists()


def test_a_failure_stops_only_what_starts_from_it(tmp_path):
  world = _World({"a/0": 5, "b/0": 5, "c/0": 5}, lambda running: 1)
  start = world.start

  def failing(job, slot, processes):
    running = start(job, slot, processes)
    if job.name == "a/0":
      running.process.returncode = 1
    return running

  world.start = failing
  rows = _rows(tmp_path / "w", ["a", "b", "c"], b=["a"])
  queue = _queue(world, tmp_path / "w", tmp_path / "out", 100)
  queue.run(rows)
  assert [row.name for row in queue.failed] == ["study/a/0"]
  assert [row.name for row in queue.finished] == ["study/c/0"]
  assert [row.name for row in queue.waiting] == ["study/b/0"]


def test_a_row_in_which_a_stage_diverged_is_finished(tmp_path):
  world = _World({"a/0": 5}, lambda running: 1)
  train = _Process.train

  def diverging(process, epochs):
    train(process, epochs)
    if process.returncode == 0:
      content = '{"networks": [], "diverged": [{"name": "kd"}]}'
      (process.job.folder / "results.json").write_text(content)
      process.returncode = 1

  rows, lines = _rows(tmp_path / "w", ["a"]), []
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(_Process, "train", diverging)
    _queue(world, tmp_path / "w", tmp_path / "out", 100, lines=lines).run(rows)
  assert "finished study/a/0, except kd, which diverged" in lines
  assert bundles.names(tmp_path / "out") == {"study/a/0"}


def test_a_row_without_its_data_is_left_with_the_reason(tmp_path):
  world, lines = _World({"a/0": 5, "b/0": 5}, lambda running: 1), []
  rows = _rows(tmp_path / "w", "ab")
  queue = _queue(world, tmp_path / "w", tmp_path / "out", 100, lines=lines)
  queue.blocked = {"study/a/0": "no pacs in --data_dir=D"}
  queue.run(rows)
  assert world.order == ["b/0"]
  assert "left: study/a/0, no pacs in --data_dir=D" in lines
  report = json.loads((tmp_path / "out" / run_queue.REPORT).read_text())
  assert [*report["left"]] == ["study/a/0"]


def test_a_full_disk_stops_no_run_and_loses_nothing(tmp_path, monkeypatch):
  def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")

  world, lines = _World({"a/0": 5, "b/0": 5}, lambda running: 1), []
  rows = _rows(tmp_path / "w", "ab")
  with monkeypatch.context() as patched:
    patched.setattr(bundles, "add", full)
    queue = _queue(world, tmp_path / "w", tmp_path / "out", 100, lines=lines)
    with pytest.raises(
      ValueError, match=r"--out: expected a folder with room .* No spa"
    ):
      queue.run(rows)
  assert [row.name for row in queue.finished] == ["study/a/0", "study/b/0"]
  assert all(row.job.is_done for row in rows)
  assert any(line.startswith("cannot write to --out=") for line in lines)


def test_state_of_an_earlier_call_is_packed_again(tmp_path):
  root = tmp_path / "w"
  (root / "other" / "run" / "0").mkdir(parents=True)
  (root / "other" / "run" / "0" / "config.json").write_text("{}")
  world = _World({"a/0": 5}, lambda running: 1)
  queue = _queue(world, root, tmp_path / "out", 100)
  queue.carried, queue.about = ["other/run/0", "study/a/0"], {"study": "mine"}
  queue.run(_rows(root, "a"))
  assert saved_state.unpack(tmp_path / "out", tmp_path / "there") == ["other/run/0"]
  report = json.loads((tmp_path / "out" / run_queue.REPORT).read_text())
  assert report["study"] == "mine"


def test_a_failure_shows_the_last_line_of_its_log(tmp_path):
  world, lines = _World({"a/0": 5}, lambda running: 1), []
  start = world.start

  def failing(job, slot, processes):
    running = start(job, slot, processes)
    job.log.write_text("working\nerror: --data_dir: too few\n")
    running.process.returncode = 1
    return running

  world.start = failing
  _queue(world, tmp_path / "w", tmp_path / "out", 100, lines=lines).run(
    _rows(tmp_path / "w", "a")
  )
  assert any("failed: study/a/0: error: --data_dir: too few; see" in s for s in lines)
