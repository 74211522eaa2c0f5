"""Docstrings say `Example:`, as there is one; Griffe knows `Examples:` only."""

import re

import griffe


class Examples(griffe.Extension):
  """Renames the section while docstrings are read."""

  def on_object(self, *, obj: griffe.Object, **others) -> None:
    """Called with every object that may have a docstring."""
    del others
    if obj.docstring is not None:
      text = obj.docstring.value
      obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.M)
