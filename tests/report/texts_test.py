"""Lines of texts that fit."""

from flowkd_jax.report import _texts


def test_lines_are_broken_at_spaces_and_long_words_anywhere():
  text = "some words and a_path_that_is_long/and/has/no/space"
  lines = _texts.wrapped(text, 10, 80)
  assert lines[0] == "some words"
  assert "".join(lines).replace(" ", "") == text.replace(" ", "")
  assert all(_texts.text_points(line, 10) <= 80 for line in lines)
  assert _texts.wrapped("", 10, 80) == [""]
