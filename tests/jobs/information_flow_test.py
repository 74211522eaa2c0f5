"""The main experiment, small: all stages, resuming, refusing."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from flowkd_jax import capture
from flowkd_jax import data
from flowkd_jax.jobs import flow_settings
from flowkd_jax.jobs import information_flow
from flowkd_jax.jobs import layer_matching

pytestmark = pytest.mark.optimizer

ROOT = pathlib.Path(__file__).parents[2]
STAGES = flow_settings.STAGES
TINY = {
  "teacher_network": "digits_resnet:2",
  "auxiliary_network": "digits_cnn:4",
  "student_network": "digits_cnn:2",
  "flow_examples": 64,
  "batch_size": 200,
  "diagnostics": False,
  **{f"{stage}_epochs": "1@1e-3,1@1e-4" for stage in STAGES},
}
FLAGS = [f"--{name}={value}" for name, value in TINY.items()]


def _run(workdir, **options):
  settings = {"dataset": "digits", "workdir": str(workdir), **TINY, **options}
  information_flow.run(information_flow.configure(**settings))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A work directory in which all stages have run."""
  workdir = tmp_path_factory.mktemp("finished")
  _run(workdir)
  return workdir


@pytest.mark.slow
def test_all_stages_leave_their_results(finished):
  results = json.loads((finished / "results.json").read_text())["networks"]
  assert [result["name"] for result in results] == list(STAGES)
  for result in results:
    assert 0 < result["retrieval"]["cosine"]["mean_average_precision"] < 1
    assert result["parameters"] > 100
    assert result["seconds"] > 0
  # Taps alone train no classifier, of the auxiliary neither.
  trained = [each["name"] for each in results if each["accuracy"] is not None]
  assert trained == ["teacher", "student_labels", "auxiliary_labels"]
  assert results[-1]["teacher"] == "auxiliary"
  records = [
    json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()
  ]
  assert {r["stage"] for r in records if "test_accuracy" in r} == {*trained}
  student = [r for r in records if r["stage"] == "student"]
  assert [r["epoch"] for r in student] == [-1, 0, 1]
  assert [r.get("weight/block_1") for r in student] == [None, 100, 70]
  assert student[-1]["qmi/cosine/dense"] > 0
  assert json.loads((finished / "config.json").read_text())["batch_size"] == 200
  assert "student by information flow" in (finished / "results.md").read_text()
  pictures = {path.stem for path in (finished / "pictures").glob("*.png")}
  names = ("training", "flow", "loss", "precision_recall", "sizes", "times")
  assert pictures == {*names}
  assert list((finished / "tensorboard" / "student").glob("events*"))


@pytest.mark.eight_devices
@pytest.mark.slow
def test_finished_stages_are_not_repeated(finished, capsys):
  before = (finished / "metrics.jsonl").read_text()
  _run(finished)
  output = capsys.readouterr().out
  assert "data: digits, 1,000 training and 797 test images of 8 x 8 x 1" in output
  assert "devices: 8 x cpu" in output
  assert "student by information flow: done before" in output
  assert (finished / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_work_directory_of_other_settings_is_refused(finished):
  with pytest.raises(
    ValueError, match="--seed: 0 before, 1 now.*Use another --workdir"
  ):
    _run(finished, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(
  "options",
  [
    {"matching": "quadratic", "label_weight": 1.0},
    {"authors": True, "mixed_precision": True, "schedule_by_step": True},
    {"recipe": "labelled", "average": 0.9, "teacher_mixed_precision": True},
  ],
)
def test_stages_can_be_named_and_options_work(options, finished, tmp_path):
  shutil.copytree(finished / "auxiliary", tmp_path / "auxiliary")
  options |= {"student_epochs": "1@1e-3", "measure": ()}
  _run(tmp_path, stages=("student",), **options)
  results = json.loads((tmp_path / "results.json").read_text())["networks"]
  assert [r["name"] for r in results] == ["auxiliary", "student"]
  assert (results[-1]["accuracy"] is not None) == ("label_weight" in options)


@pytest.mark.slow
def test_baselines_learn_from_the_auxiliary(finished, tmp_path):
  shutil.copytree(finished / "auxiliary", tmp_path / "auxiliary")
  options = {"learning_rate_decay": "cosine", "measure": ()}
  _run(tmp_path, stages=flow_settings.BASELINES, **options)
  results = json.loads((tmp_path / "results.json").read_text())["networks"]
  assert [r["name"] for r in results] == [
    "auxiliary",
    *flow_settings.BASELINES,
  ]
  assert {r["teacher"] for r in results[1:]} == {"auxiliary"}
  assert [r["accuracy"] is not None for r in results[1:]] == [True, False, False]
  assert len({r["parameters"] for r in results[1:]}) == 1


@pytest.mark.slow
def test_networks_of_an_earlier_run_are_taken(finished, tmp_path):
  chosen = ("teacher", "auxiliary", "student")
  earlier = {"networks_from": str(finished), "measure": ("retrieval",)}
  _run(tmp_path / "run", stages=chosen, **earlier)
  before, now = (
    {
      each["name"]: each
      for each in json.loads((d / "results.json").read_text())["networks"]
    }
    for d in (finished, tmp_path / "run")
  )
  assert [*now] == [*chosen]
  assert now["teacher"]["epochs"] == now["auxiliary"]["epochs"] == 0
  assert now["auxiliary"]["title"].endswith("last tap, of an earlier run")
  assert now["teacher"]["accuracy"] == before["teacher"]["accuracy"]
  assert now["auxiliary"]["accuracy"] is None
  assert now["student"]["retrieval"] == before["student"]["retrieval"]
  with pytest.raises(ValueError, match="--networks_from: teacher in .*: "):
    _run(tmp_path / "other", teacher_network="digits_resnet:4", **earlier)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"networks_from": "."}, "--networks_from: expected the work directory of"),
    ({"image_size": 12}, "--networks_from: .* trained with --image_size=12"),
  ],
)
def test_earlier_runs_of_no_use_are_refused(options, match, finished, tmp_path):
  options = {"networks_from": str(finished), **options}
  with pytest.raises(ValueError, match=match):
    _run(tmp_path, **options)


@pytest.mark.slow
def test_student_from_the_teacher_cache_is_the_same(finished, tmp_path, capsys):
  cache = tmp_path / "cache"
  runs = {
    "plain": {},
    "filling": {"teacher_cache": str(cache)},
    "reading": {
      "teacher_cache": str(cache),
      "diagnostics": True,
      "measure": ("flow",),
    },
  }
  options = {"stages": ("student",), "student_epochs": "1@1e-3"}
  results, networks = {}, {}

  def student(name, **given):
    workdir = tmp_path / name
    shutil.copytree(finished / "auxiliary", workdir / "auxiliary")
    _run(workdir, **{"measure": (), **options, **given})
    networks[name] = _network(workdir, "student")
    return json.loads((workdir / "student" / "results.json").read_text())[0]

  for name, given in runs.items():
    results[name] = student(name, **given)
  assert "teacher cache" in capsys.readouterr().out
  lines = (tmp_path / "reading" / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["epoch"] for line in lines] == [-1, 0]
  for record in map(json.loads, lines):
    assert 0 < record["cka/dense"] <= 1
    assert record["gradient/block_1"] > 0
    assert 0 <= record["dead/dense"] <= 1
  assert (tmp_path / "reading" / "pictures" / "diagnostics.png").exists()
  # A cache is a recording: the network that filled it is not needed any more.
  (folder,) = cache.iterdir()
  results["recorded"] = student(
    "recorded", learn_from="recorded", teacher_cache=str(folder)
  )
  for network in networks.values():
    jax.tree.map(np.testing.assert_array_equal, network, networks["plain"])
  assert [result["teacher"] for result in results.values()] == 3 * ["auxiliary"] + [
    None
  ]


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"learn_from": "recorded"}, "expected --teacher_cache, the folder"),
    (
      {"learn_from": "recorded", "teacher_cache": ".", "layer_map": "auto"},
      "--layer_map: .* auto, which needs the teacher network",
    ),
    ({"teacher_cache_dtype": "int8"}, "--teacher_cache_dtype: expected one of"),
    ({"teacher_cache_gib": 0.0}, "--teacher_cache_gib: expected above 0"),
  ],
)
def test_impossible_caches_are_refused(options, match, tmp_path):
  with pytest.raises(ValueError, match=match):
    information_flow.configure(workdir=str(tmp_path), **options)


@pytest.mark.slow
@pytest.mark.parametrize("layer_map", ["auto", "kappa", "block_2:stage_1,dense:pooled"])
def test_student_learns_from_the_teacher_itself(layer_map, finished, tmp_path):
  for stage in ("teacher", "student_labels"):
    shutil.copytree(finished / stage, tmp_path / stage)
  options = {"learn_from": "teacher", "layer_map": layer_map, "measure": ()}
  _run(tmp_path, stages=("student",), student_epochs="1@1e-3", **options)
  result = json.loads((tmp_path / "results.json").read_text())["networks"][-1]
  assert result["teacher"] == "teacher"
  saved = tmp_path / "student" / "layer_map.json"
  if layer_map.startswith("block"):
    assert not saved.exists()
    return
  found = json.loads(saved.read_text())
  assert found["layer_map"]["dense"] == found["teacher_taps"][-1]
  assert np.shape(found["cka"]) == (3, len(found["teacher_taps"]))
  assert (tmp_path / "student" / "layer_map.png").exists()
  # The file serves as a map of its own.
  taps = found["student_taps"], found["teacher_taps"]
  assert layer_matching.given_layers(str(saved), *taps) == found["layer_map"]


TRANSFORMER = {
  "teacher_network": "digits_vit:4",
  "learn_from": "teacher",
  "layer_map": "auto",
  "measure": (),
}


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
  """A work directory in which a transformer has been trained as the teacher."""
  workdir = tmp_path_factory.mktemp("transformer")
  _run(workdir, stages=("teacher",), teacher_epochs="1@1e-3", **TRANSFORMER)
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_student_learns_from_a_transformer(pooling, transformer, tmp_path):
  shutil.copytree(transformer / "teacher", tmp_path / "teacher")
  options = {**TRANSFORMER, "stages": ("student",), "student_epochs": "1@1e-3"}
  _run(tmp_path, teacher_pooling=pooling, **options)
  teacher, student = json.loads((tmp_path / "results.json").read_text())["networks"]
  assert student["teacher"] == "teacher"
  assert teacher["accuracy"] > 0.05
  found = json.loads((tmp_path / "student" / "layer_map.json").read_text())
  assert found["layer_map"]["dense"] == "class_token"
  assert found["teacher_taps"][0] == "block_1"
  with pytest.raises(ValueError, match="--teacher_pooling: .* before, None now"):
    _run(tmp_path, **options)


class Theirs(nnx.Module):
  """A network of somebody else, in another framework."""

  def __init__(self, rngs):
    self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])
    self.norm = nnx.BatchNorm(8, axis_name="batch", rngs=rngs)
    self.head = nnx.Linear(8, 10, rngs=rngs)

  def __call__(self, images):
    x = images[..., 0]
    for layer in self.layers:
      x = nnx.relu(layer(x))
    return self.head(self.norm(x.mean(1)))


def make_theirs():
  # The last is no row.
  return capture.from_nnx(Theirs(nnx.Rngs(0)), taps=["norm", "layers/0", "layers/1"])


def make_tapless():
  return capture.from_nnx(Theirs(nnx.Rngs(0)), taps=["layers/*"])


@pytest.mark.slow
def test_student_learns_from_a_network_of_another_framework(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "theirs", sys.modules[__name__])
  _run(
    tmp_path,
    stages=("teacher", "student"),
    teacher_network="theirs:make_theirs",
    learn_from="teacher",
    measure=("flow",),
    teacher_epochs="1@1e-3",
    student_epochs="1@1e-3",
  )
  teacher, student = json.loads((tmp_path / "results.json").read_text())["networks"]
  assert student["teacher"] == "teacher"
  assert teacher["parameters"] == 2 * 72 + 16 + 90
  records = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert "qmi/cosine/layers/1" in json.loads(records[0])
  with pytest.raises(ValueError, match=r"--teacher_network: taps: .* layers/\*; list"):
    information_flow.configure(workdir="x", teacher_network="theirs:make_tapless")


def test_stage_whose_teacher_is_missing_says_what_to_do(tmp_path):
  with pytest.raises(ValueError, match="stage auxiliary has not been run.*--stages"):
    _run(tmp_path, stages=("student",))


def test_weights_from_pytorch_replace_the_auxiliary(tmp_path):
  settings = {
    "dataset": "digits",
    "image_size": 32,
    "workdir": str(tmp_path),
    "auxiliary_checkpoint": str(ROOT / "tests" / "golden" / "torch_cnn.npz"),
  }
  others = {
    "state_dict: expected the state of one network": "digits_cnn:4",
    "--auxiliary_network: model: expected": "vit",
  }
  for number, (message, name) in enumerate(others.items()):
    settings |= {"auxiliary_network": name, "workdir": str(tmp_path / str(number))}
    with pytest.raises(ValueError, match=message):
      information_flow.run(
        information_flow.configure(**{**TINY, **settings, "stages": ("auxiliary",)})
      )


def test_unprepared_data_set_is_refused_before_any_work(tmp_path):
  with pytest.raises(data.DatasetNotPreparedError, match="cifar10"):
    _run(tmp_path, dataset="cifar10", data_dir=str(tmp_path / "nothing"))
  assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
@pytest.mark.eight_devices
def test_devices_that_cannot_share_a_batch_refuse_before_any_work(tmp_path):
  with pytest.raises(ValueError, match="8 devices cannot share 100 rows"):
    _run(tmp_path, batch_size=100)


# From the command line -------------------------------------------------------


def _command(workdir, *flags):
  environment = {
    **os.environ,
    "JAX_NUM_CPU_DEVICES": "2",
    "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
    "COLUMNS": "100",
  }
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      "flowkd_jax",
      "train",
      "information_flow",
      "--dataset=digits",
      f"--workdir={workdir}",
      *FLAGS,
      *flags,
    ],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _wait_for(condition, process):
  deadline = time.monotonic() + 800
  while not condition() and process.poll() is None:
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _network(workdir, stage):
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore((workdir / stage / "network").absolute())


def _new_checkpoint(workdir, stage):
  folder = workdir / stage / "checkpoints"
  steps = lambda: {path.name for path in folder.glob("*") if path.name.isdigit()}
  before = steps()
  return lambda: steps() - before


@pytest.mark.cpu("a GPU need not repeat an update to the bit")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_killed_and_terminated_runs_end_bit_for_bit_like_an_uninterrupted_one(tmp_path):
  flags = [
    "--checkpoint_seconds=0",
    "--stages=student_labels",
    "--student_labels_epochs=8@1e-3",
    "--measure=",
  ]
  whole = _command(tmp_path / "whole", *flags)
  output, _ = whole.communicate(timeout=800)
  assert whole.returncode == 0, output

  parts = tmp_path / "parts"
  for number in (signal.SIGKILL, signal.SIGTERM):
    process = _command(parts, *flags)
    _wait_for(_new_checkpoint(parts, "student_labels"), process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=800)
    if number == signal.SIGTERM:
      assert process.returncode == 0, output
      assert "stopped by SIGTERM after step" in output
      assert "Run the same command again" in output
  last = _command(parts, *flags)
  output, _ = last.communicate(timeout=800)
  assert last.returncode == 0, output

  expected, actual = (
    _network(folder, "student_labels") for folder in (tmp_path / "whole", parts)
  )
  assert set(expected) == {"params", "batch_stats"}
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.slow
def test_help_ends_well_and_bad_flags_are_messages(tmp_path):
  process = _command(tmp_path, "--help")
  output, _ = process.communicate(timeout=800)
  assert process.returncode == 0
  assert "Compute the loss exactly as the published code does" in output
  process = _command(tmp_path, "--matching=qmi")
  output, _ = process.communicate(timeout=800)
  assert process.returncode == 2
  assert "error: --matching: expected one of probabilities, quadratic" in output
  assert "Traceback" not in output
