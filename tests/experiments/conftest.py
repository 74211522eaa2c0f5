"""A study whose launcher only writes results."""

import importlib
import re
import sys
import textwrap

import pytest

from experiments.studies import catalogue
from experiments.studies import run as study
from experiments.studies import spec
from flowkd_jax import jobs

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


def configure(tmp_path, **options):
  """Settings of the driver for that study."""
  settings = {"study": "fake", "workdir": str(tmp_path), "seeds": ("1", "3")}
  return study.configure(**{**settings, **options})


def unpadded(table):
  """A table in Markdown without the spaces that align its columns."""
  return re.sub(" {2,}", " ", table)
