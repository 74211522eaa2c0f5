"""Rules for the files of the packages: names of test files, docstrings."""

import ast
import functools
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
MODULES = [
  path
  for package in ("flowkd_jax", "experiments")
  for path in sorted((ROOT / package).rglob("*.py"))
]
# Words that begin neither a noun phrase nor a verb with its object.
WRONG_START = re.compile(
  r"(What|Which|Of|Those|As|How|Where|Whether|When|Why|Who|That|It|Its|They|Their|"
  r"This|These|If|For|In|With|By|To|From|At|On(?!-)|But|Under|After|While|Within|Without|"
  r"Likewise|Something)\b",
  re.IGNORECASE,
)
MOST_WORDS = 40  # in a sentence; a span of code counts as one
# Paragraphs, entries of sections, items of lists and rows of tables.
PARTS = re.compile(
  r"\n\s*\n|\n(?=  ?\*{0,2}\w+: )|\n(?=\s*(?:- |\||\d\. ))|\n(?=  \S+  )"
)
TABLE = re.compile(r"    |\||  \S+  ")  # or code
ENTRY = re.compile(r"^(?P<indent> +)\*{0,2}\w+: (?P<text>.+)$", re.MULTILINE)


def _test_files():
  """Test file of each module: `flowkd_jax/room/_x.py` has `tests/room/x_test.py`."""
  files = {}
  for path in MODULES:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1].startswith("__"):
      continue
    below = parts[1:] if parts[0] == "flowkd_jax" else parts
    names = [part.removeprefix("_") for part in below]
    if len(parts) == 2 and parts[0] == "experiments":
      names[-1] = "launchers"  # they differ in a name alone
    tests = ROOT.joinpath("tests", *names[:-1], f"{names[-1]}_test.py")
    files["/".join(parts) + ".py"] = tests
  return files


@functools.cache
def _docstrings():
  """All docstrings of packages and tests, by their places."""
  kinds = ast.Module | ast.ClassDef | ast.FunctionDef
  tests = sorted((ROOT / "tests").rglob("*.py"))
  found = {}
  for path in [*MODULES, *tests]:
    for node in ast.walk(ast.parse(path.read_text())):
      text = ast.get_docstring(node) if isinstance(node, kinds) else None
      if text:
        found[f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"] = text
  return found


def _first_lines():
  """First line of every docstring, by its place."""
  return {place: text.splitlines()[0] for place, text in _docstrings().items()}


def _descriptions():
  """Descriptions of arguments and attributes, by place and name."""
  for place, text in _docstrings().items():
    for section in re.findall(
      r"^(?:Args|Attributes):\n((?:(?: .*)?\n)+)", text + "\n", re.M
    ):
      for entry in ENTRY.finditer(section):
        if entry["indent"] == "  ":
          yield f"{place}: {entry[0].strip()}", entry["text"]


def _sentences(text):
  """Sentences of a docstring without its examples, references and tables."""
  prose = re.split(r"^(?:Examples?|References):$", text, flags=re.MULTILINE)[0]
  for part in PARTS.split(prose):
    if not TABLE.match(part):
      words = re.sub(r"`[^`]*`", "code", " ".join(part.split()))
      yield from re.split(r"(?<=[.:]) ", words)


def test_every_module_has_a_test_file_of_its_name():
  missing = {name for name, tests in _test_files().items() if not tests.exists()}
  assert missing == set(), "write the test files of these modules"


def test_docstrings_begin_with_a_noun_or_a_verb():
  wrong = {
    place: line for place, line in _first_lines().items() if WRONG_START.match(line)
  }
  assert wrong == {}, "say what it is or does: a noun phrase, or a verb and its object"


def test_first_lines_of_docstrings_are_whole_sentences_or_phrases():
  wrong = {
    place: line for place, line in _first_lines().items() if not line.endswith(".")
  }
  assert wrong == {}, "end the first line of a docstring with a period"


def test_descriptions_of_arguments_begin_with_a_noun_or_a_verb():
  wrong = [place for place, text in _descriptions() if WRONG_START.match(text)]
  assert wrong == [], 'say what the argument is; a flag is "True if ..."'


def test_sentences_of_docstrings_are_short():
  wrong = [
    f"{place}: {sentence}"
    for place, text in _docstrings().items()
    for sentence in _sentences(text)
    if len(sentence.split()) > MOST_WORDS
  ]
  assert wrong == [], "split these sentences: one idea in each"
