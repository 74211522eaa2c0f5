"""Docstrings of the site: links to papers, and equations beside the formulas."""

import importlib.util
import inspect
import pathlib

import pytest

import flowkd_jax
from flowkd_jax import losses

PLACE = pathlib.Path(__file__).parents[2] / "docs" / "_docstrings.py"
# Parts of losses.
_PARTS = ("_init", "_update", "_terms", "_negatives")


@pytest.fixture(scope="module")
def docstrings():
  pytest.importorskip("griffe")
  spec = importlib.util.spec_from_file_location("docstrings_of_the_site", PLACE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_linked_makes_links_of_papers(docstrings):
  link = "[arXiv:2005.00727](https://arxiv.org/abs/2005.00727)"
  for text in (
    "A, arXiv 2005.00727.",
    "A, arXiv:2005.00727.",
    "A, arXiv\n  2005.00727.",
    "A, https://arxiv.org/abs/2005.00727.",
  ):
    assert docstrings.linked(text) == f"A, {link}."


def test_linked_leaves_links_and_code(docstrings):
  for text in (
    "[arXiv:2005.00727](https://arxiv.org/abs/2005.00727)",
    "<https://arxiv.org/abs/2005.00727>",
    "`https://arxiv.org/abs/2005.00727`",
    "```\narXiv 2005.00727\n```",
  ):
    assert docstrings.linked(text) == text


def test_with_equations_follows_the_first_paragraph(docstrings):
  text = "One line.\n\nMore.\n\nArgs:\n  x: A number.\n"
  expected = "One line.\n\n$$\nx^2\n$$\n\nMore.\n\nArgs:\n  x: A number.\n"
  assert docstrings.with_equations(text, ["x^2"]) == expected
  assert docstrings.with_equations(text, []) == text


def test_with_equations_replaces_indented_blocks(docstrings):
  text = (
    "One line:\n\n    x + y\n      + z\n\nAnd:\n\n    z\n\nRaises:\n    E: Never.\n"
  )
  shown = docstrings.with_equations(text, ["a", "b"])
  assert shown == (
    "One line:\n\n$$\na\n$$\n\nAnd:\n\n$$\nb\n$$\n\nRaises:\n    E: Never.\n"
  )
  with pytest.raises(ValueError, match="expected 2 equations.*got 1.*'One line:'"):
    docstrings.with_equations(text, ["a"])


def test_every_loss_has_an_equation(docstrings):
  public = {name for name in losses.__all__ if not name.endswith(_PARTS)}
  assert set(docstrings.FORMULAS["losses"]) == public


def test_every_equation_belongs_to_a_docstring(docstrings):
  for room, equations in docstrings.FORMULAS.items():
    module = importlib.import_module(f"{flowkd_jax.__name__}.{room}")
    for name, found in equations.items():
      if name.startswith("_"):
        owner = importlib.import_module(f"{module.__name__}.{name}")
      else:
        assert name in module.__all__, f"{room}.{name}"
        owner = getattr(module, name)
      listed = [found] if isinstance(found, str) else found
      shown = docstrings.with_equations(inspect.getdoc(owner), listed)
      assert shown.count("$$") == 2 * len(listed), name
