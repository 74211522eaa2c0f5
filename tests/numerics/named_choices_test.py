"""Choices by name, with a number where one has a parameter."""

import pytest

from flowkd_jax._numerics import named_choices

FACTORIES = {"plain": lambda: "plain", "wide": lambda width=2.0: width}


def test_choices_are_made_from_their_names():
  assert named_choices.from_text("x", "plain", FACTORIES) == "plain"
  assert named_choices.from_text("x", "wide", FACTORIES) == 2
  assert named_choices.from_text("x", "wide:8", FACTORIES) == 8
  assert named_choices.listed(FACTORIES) == "plain, wide[:WIDTH]"


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("other", r"x: expected one of plain, wide\[:WIDTH\], got 'other'"),
    ("plain:3", "x: expected plain, which has no parameter"),
    *(
      (f"wide:{bad}", "x: expected wide:WIDTH") for bad in ("", "a", "0", "-1", "1e99")
    ),
    ("wide:nan", "x: expected wide:WIDTH, the width a number above 0"),
  ],
)
def test_texts_that_are_no_choice_are_refused(text, match):
  with pytest.raises(ValueError, match=match):
    named_choices.from_text("x", text, FACTORIES)
