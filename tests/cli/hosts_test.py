"""A launcher in two processes, as on two hosts, and the flags for that."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags

from flowkd_jax.cli import hosts
from flowkd_jax.cli import parsing

FLAGS = (
  "--dataset=digits",
  "--stages=teacher,student",
  "--learn_from=teacher",
  "--layer_map=auto",
  "--teacher_network=digits_cnn:2",
  "--student_network=digits_cnn:2",
  "--teacher_epochs=1@1e-3",
  "--student_epochs=1@1e-3",
  "--batch_size=200",
  "--flow_examples=200",
  "--measure=flow",
  "--kernels=cosine",
)


def _launch(run_in_processes, folder, processes, devices, *more):
  def arguments(address, number):
    meeting = [
      f"--coordinator_address={address}",
      f"--num_processes={processes}",
      f"--process_id={number}",
    ]
    return [
      *("-m", "flowkd_jax", "train", "information_flow", *FLAGS, *more),
      *(f"--workdir={folder}", f"--data_dir={folder}"),
      *(meeting if processes > 1 else ()),
    ]

  return run_in_processes(arguments, processes, devices)


@pytest.mark.slow
def test_two_processes_run_an_experiment_as_one_does(tmp_path, run_in_processes):
  # Of several steps a call the processes have to agree on the number.
  many = "--steps_per_call=3"
  (alone,) = _launch(run_in_processes, tmp_path / "one", 1, 4)
  first, second = _launch(run_in_processes, tmp_path / "two", 2, 2, many)
  for said in (alone, first):
    assert "devices: 4 x cpu" in said
    assert "student by information flow" in said
    assert "the student is compared untrained" in " ".join(said.split())
  # Neither begins with messages of other libraries, nor wraps what is long.
  begun = [line for line in first.splitlines() if not line.startswith("[Gloo]")]
  assert begun[0].startswith("job: information_flow of flowkd_jax ")
  assert f"kept in {tmp_path / 'two' / 'student' / 'network'}" in first
  epochs = [line for line in begun if ": epoch " in line]
  assert [line.partition(", ")[0].partition(": ")[2] for line in epochs] == [
    "epoch 1 of 1",
    "epoch 1 of 1",
  ]
  # The second process only says whom it met, in lines that threads may tear apart.
  assert not [word for word in ("device", "teacher", "student") if word in second]
  entries = [
    [json.loads(line) for line in path.read_text().splitlines()]
    for path in (tmp_path / name / "metrics.jsonl" for name in ("one", "two"))
  ]
  assert len(entries[0]) == len(entries[1]) == 2 * 2
  for one, two in zip(*entries, strict=True):
    assert one["stage"] == two["stage"]
    assert one.keys() == two.keys()
    if "loss" in one:
      # Adam divides by small gradients, so that rounding grows from step to step: to
      # 2e-4 on some processors. Other rows or other gradients differ by per cents.
      np.testing.assert_allclose(one["loss"], two["loss"], rtol=2e-3)
  maps = [
    json.loads((tmp_path / name / "student" / "layer_map.json").read_text())
    for name in ("one", "two")
  ]
  assert maps[0]["layer_map"] == maps[1]["layer_map"]
  results = [
    json.loads((tmp_path / name / "results.json").read_text())["networks"]
    for name in ("one", "two")
  ]
  for one, two in zip(*results, strict=True):
    assert one["name"] == two["name"]
    assert one["environment"]["device"] == two["environment"]["device"] == "4 x cpu"


def _start(folder, number, address, *flags):
  """One of two processes, with one device each."""
  root = pathlib.Path(__file__).parents[2]
  arguments = [
    *("-m", "flowkd_jax", "train", "information_flow", *FLAGS),
    *(f"--workdir={folder}", f"--data_dir={folder}{number}", "--stages=teacher"),
    *(f"--coordinator_address={address}", "--num_processes=2"),
    *(f"--process_id={number}", *flags),
  ]
  return subprocess.Popen(
    [sys.executable, *arguments],
    cwd=root,
    env={**os.environ, "PYTHONPATH": str(root), "JAX_NUM_CPU_DEVICES": "1"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _ended(processes):
  outputs = [process.communicate(timeout=800)[0] for process in processes]
  return outputs, [process.returncode for process in processes]


@pytest.mark.slow
def test_processes_with_other_settings_are_all_refused(tmp_path, free_address):
  flags = ["--teacher_epochs=2@1e-3", "--teacher_epochs=3@1e-3"]
  address = free_address()
  folder = tmp_path / "run"
  processes = [_start(folder, n, address, flags[n]) for n in range(2)]
  outputs, statuses = _ended(processes)
  assert statuses == [2, 2], outputs
  for output in outputs:
    assert "--teacher_epochs: '2@1e-3' in process 0, '3@1e-3' in process 1" in output
  assert not folder.exists()


@pytest.mark.slow
def test_signal_at_one_process_ends_all_with_its_status(tmp_path, free_address):
  address = free_address()
  folder = tmp_path / "run"
  flags = ["--teacher_epochs=2000@1e-3", "--nodiagnostics"]
  processes = [_start(folder, n, address, *flags) for n in range(2)]
  deadline = time.monotonic() + 800
  while not (folder / "metrics.jsonl").exists() or not (
    folder / "metrics.jsonl"
  ).read_text().count("\n"):
    assert time.monotonic() < deadline, _ended(processes)
    time.sleep(0.2)
  processes[1].send_signal(signal.SIGTERM)
  outputs, statuses = _ended(processes)
  assert statuses == [0, 0], outputs
  for output in outputs:
    assert "stopped by SIGTERM after step" in output


@pytest.mark.parametrize(
  ("given", "match"),
  [
    (["--num_processes=2"], "--num_processes: expected with --coordinator_address"),
    (["--process_id=0"], "--process_id: expected with --coordinator_address"),
    (["--coordinator_address=a:1"], "expected --num_processes and --process_id with"),
    (
      ["--coordinator_address=a:1", "--num_processes=2", "--process_id=2"],
      "--process_id: expected 0 to --num_processes - 1, which is 1, got 2",
    ),
    (
      ["--coordinator_address=a:1", "--num_processes=0", "--process_id=0"],
      "--num_processes: expected 1 or more, got 0",
    ),
    (
      ["--coordinator_address=auto", "--num_processes=2"],
      "--num_processes, --process_id: expected both or none with",
    ),
    (
      ["--coordinator_address=auto"],
      r"--coordinator_address: the processes could not connect \(auto\)",
    ),
    *(
      (
        [f"--coordinator_address={address}", "--num_processes=1", "--process_id=0"],
        "--coordinator_address: expected auto, or HOST:PORT with a port up to 65535",
      )
      for address in ("nonsense", "", ":1", "a:", "a:b", "a:0", "a:65536", "a:-1")
    ),
    (
      ["--coordinator_address=a..b:1", "--num_processes=1", "--process_id=0"],
      "--coordinator_address: no host is known by the name in 'a..b:1'",
    ),
  ],
)
def test_flags_that_cannot_be_right_are_refused(given, match):
  values = flags.FlagValues()
  parsing.define_flags(hosts.Config, values)
  values(["program", *given])
  with pytest.raises(ValueError, match=match):
    hosts.connect(values)


def test_one_process_needs_no_flags():
  values = flags.FlagValues()
  parsing.define_flags(hosts.Config, values)
  values(["program"])
  hosts.connect(values)
