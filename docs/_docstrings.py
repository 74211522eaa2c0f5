"""Docstrings as the site shows them: sections, equations and links to papers.

Docstrings say `Example:`, as there is one, and Griffe knows `Examples:` only. Their
formulas are plain text, which a terminal can show; `_formulas.toml` has the same
formulas in LaTeX. Papers are cited as `arXiv 2005.00727` or by their address.
"""

import re
import tomllib
from pathlib import Path

import griffe

FORMULAS = tomllib.loads(Path(__file__).with_name("_formulas.toml").read_text())
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Examples?|References):$", re.M)
_INDENTED = re.compile(r"(?:^    .*\n?)+", re.M)
_PAPER = re.compile(
  r"(?P<kept>^ *```.*?^ *```|`[^`\n]*`|\[[^\]]*\]\([^)]*\)|<[^>\n]*>)"
  r"|(?:https?://arxiv\.org/abs/|\barXiv[:\s]\s*)(?P<id>\d{4}\.\d{4,5}(?:v\d+)?)\b",
  re.DOTALL | re.MULTILINE,
)


class Docstrings(griffe.Extension):
  """Changes docstrings while they are read."""

  def on_object(self, *, obj: griffe.Object, **others) -> None:
    """Called with every object that may have a docstring."""
    del others
    if obj.docstring is not None:
      text = linked(obj.docstring.value)
      text = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
      if obj.is_module or (obj.is_function and obj.parent and obj.parent.is_module):
        text = with_equations(text, equations(obj.path))
      obj.docstring.value = text


def equations(path: str) -> list[str]:
  """Equations of a function or a module in LaTeX, by its path with dots."""
  below, name = path.partition(".")[2], path.rpartition(".")[2]
  found = FORMULAS.get(below.split(".")[0], {}).get(name, [])
  return [found] if isinstance(found, str) else found


def with_equations(text: str, found: list[str]) -> str:
  """The docstring with equations, in place of its indented blocks if it has any.

  Raises:
    ValueError: If there are indented blocks, but not one for each equation.
  """
  if not found:
    return text
  section = _SECTION.search(text)
  end = section.start() if section else len(text)
  about, rest = text[:end], text[end:]
  displayed = [f"$$\n{equation.strip()}\n$$" for equation in found]
  blocks = _INDENTED.findall(about)
  if not blocks:
    first, _, others = about.partition("\n\n")
    return "\n\n".join([first.rstrip(), *displayed, others]) + rest
  if len(blocks) != len(found):
    raise ValueError(
      f"docs/_formulas.toml: expected {len(blocks)} equations, one for each indented "
      f"block, got {len(found)} for the docstring {text.splitlines()[0]!r}"
    )
  following = iter(displayed)
  return _INDENTED.sub(lambda _: f"{next(following)}\n", about) + rest


def linked(text: str) -> str:
  """The text with papers of arXiv as links; code and links stay as they are."""

  def link(match):
    number = match["id"]
    return match["kept"] or f"[arXiv:{number}](https://arxiv.org/abs/{number})"

  return _PAPER.sub(link, text)
