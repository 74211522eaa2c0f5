"""Docstrings as the site shows them.

Docstrings say `Example:`, as there is one, and Griffe knows `Examples:` only. Papers
are cited as `arXiv 2005.00727`, which becomes a link.
"""

import re

import griffe


class Examples(griffe.Extension):
  """Renames the section and links papers while docstrings are read."""

  def on_object(self, *, obj: griffe.Object, **others) -> None:
    """Called with every object that may have a docstring."""
    del others
    if obj.docstring is not None:
      text = obj.docstring.value
      text = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.M)
      obj.docstring.value = linked(text)


def linked(text: str) -> str:
  """The text with numbers of arXiv as links; a line may end after "arXiv"."""
  return re.sub(
    r"(?<!\[)\barXiv(\s+)(\d{4}\.\d{4,5})\b",
    r"[arXiv\1\2](https://arxiv.org/abs/\2)",
    text,
  )
