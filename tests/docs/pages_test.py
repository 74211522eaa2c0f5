"""Blocks of README and guides: Python runs, commands pass the checks of their flags."""

import importlib
import pathlib
import re
import shlex
import tomllib

import pytest
from absl import flags

from experiments.studies import cifar100_pairs
from flowkd_jax import cli
from flowkd_jax import jobs
from flowkd_jax import losses
from flowkd_jax import teacher_cache
from flowkd_jax.cli import parsing
from flowkd_jax.jobs import doctor
from flowkd_jax.jobs import pretrained

ROOT = pathlib.Path(__file__).parents[2]
MEASURES = ROOT / "flowkd_jax" / "train" / "_measure.py"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _blocks(page, kind):
  found = _FENCED.findall((ROOT / page).read_text())
  return [text for info, text in found if (info.split() or [""])[0] == kind]


COMMANDS = [
  pytest.param(line, id=f"{page.stem}-{line}")
  for page in PAGES
  for kind in ("", "sh")
  for block in _blocks(page, kind)
  for line in block.replace("\\\n", " ").splitlines()
  if line.startswith("flowkd ")
]
# Losses that are no row of the table: parts of others, and labels.
_PARTS = ("_init", "_update", "_terms", "_negatives")


def _module(command, words):
  """Module of a command line, which has `Config` and `configure`."""
  if command == "train":
    return jobs.load(words[0])
  if command == "doctor" and words:
    return doctor.JOBS[words[0]]
  name = {"report": "report_page"}.get(command, command)
  return importlib.import_module(f"flowkd_jax.jobs.{name}")


@pytest.fixture
def after_earlier_commands(tmp_path, monkeypatch):
  """Folder in which commands start; networks and outputs of earlier ones are there."""
  for name in ("FOLDER", "runs/digits", "runs/cached", "runs/teacher"):
    (tmp_path / name).mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(pretrained, "check", lambda *_: None)
  recorded = {"row_shapes": {"logits": [10], "taps/pooled": [512]}}
  monkeypatch.setattr(teacher_cache, "describe_cache", lambda _: recorded)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_have_flags_and_values_that_are_right(line, after_earlier_commands):
  _, command, *given = shlex.split(line.partition(" #")[0])
  assert command in cli.COMMANDS
  words = [argument for argument in given if not argument.startswith(("-", "[", "."))]
  if command == "train" and not words:
    return  # the list of jobs
  module, values = _module(command, words), flags.FlagValues()
  parsing.define_flags(module.Config, values)
  own = ("--help", "--coordinator_address", "--num_processes", "--process_id")
  values(
    [
      "flowkd",
      *(flag for flag in given if flag[:2] == "--" and not flag.startswith(own)),
    ]
  )
  settings = parsing.given_flags(module.Config, values)
  if command == "report":
    settings["workdirs"] = tuple(words)
  if not {"...", "--help"} & set(given):  # else the line leaves flags out
    module.configure(**settings)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["README.md", "docs/install.md", "docs/losses_by_kind.md"]
)
def test_python_blocks_run(name, capsys):
  names = {}
  for number, block in enumerate(_blocks(name, "python")):
    exec(compile(block, f"{name}, block {number}", "exec"), names)
  assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.optimizer
def test_a_work_directory_is_read_back(tmp_path, capsys):
  (block,) = _blocks("docs/work_directory.md", "python")
  exec(block, {"workdir": tmp_path / "W"})
  assert "student 0 " in capsys.readouterr().out
  page = (ROOT / "docs" / "work_directory.md").read_text()
  left = {path.name for path in (tmp_path / "W").iterdir()} - {"student"}
  assert all(name in page for name in left), left


def test_large_weights_are_published_ones_with_their_reduction():
  published = {row.losses for row in cifar100_pairs.ROWS}
  sources = [*PAGES, *sorted((ROOT / "flowkd_jax").rglob("*.py"))]
  text = "\n".join(path.read_text() for path in sources)
  terms = re.findall(r"\b([a-z_]+)(\([^()]*\))?(?:\[[^\]]*\])?:(\d+)\b", text)
  large = {
    f"{name}{options}:{weight}" for name, options, weight in terms if int(weight) > 900
  }
  assert "pkt(authors=true):30000" in large
  assert large <= published


def test_every_metric_is_on_the_page_of_the_work_directory():
  page = (ROOT / "docs" / "work_directory.md").read_text()
  written = set()
  for path in (*(ROOT / "flowkd_jax" / "methods").glob("*.py"), MEASURES):
    text = path.read_text()
    written |= set(re.findall(r'[\[{|(\s]f?"(\w+/)[{\w]', text))
    written |= set(re.findall(r'metrics\["(\w+)"\]', text))
  written -= {"teacher/", "body/"}  # the prefix of a variable, a path of a layer
  assert {"qmi/", "loss/", "gradient/", "generator/", "gradient_ratio"} <= written
  missing = {key for key in written if f"`{key}" not in page and f"/{key}" not in page}
  assert missing == set()


def test_every_loss_is_in_the_table_by_kind():
  page = (ROOT / "docs" / "losses_by_kind.md").read_text()
  rows = " ".join(line.split("|")[1] for line in page.splitlines() if line[:1] == "|")
  public = {name for name in losses.__all__ if not name.endswith(_PARTS)}
  named = set(re.findall(r"`(\w+)`", rows))
  assert named == public - {"cross_entropy", "weighted_sum"}


def test_readme_is_short_and_in_order():
  text = (ROOT / "README.md").read_text()
  assert len(text.splitlines()) <= 150
  titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
  assert titles == ["Install", "Three doors", "What you get", "Where to go on"]
  assert text.index("![") < text.index("## Install")
  for command in ("make demo", "make test"):
    assert command in text


def test_targets_and_extras_that_pages_name_exist():
  text = "\n".join(page.read_text() for page in PAGES)
  targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
  named = set(re.findall(r"(?:^ *|`)make ([a-z-]+)", text, re.MULTILINE))
  assert {"demo", "test"} <= named <= set(targets)
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  extras = set(re.findall(r'"\.\[([a-z]+)\]"', text))
  assert {"train"} <= extras <= set(project["optional-dependencies"])


def test_commands_of_other_programs_are_few():
  lines = [
    line
    for page in PAGES
    for block in _blocks(page, "sh")
    for line in block.splitlines()
  ]
  # They need a network, so no test runs them.
  others = ("pip install", "tfds build")
  assert [line for line in lines if not line.startswith(("flowkd ", *others))] == []
