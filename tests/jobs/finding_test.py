"""Findings of the doctor."""

from flowkd_jax.jobs import finding


def test_levels_have_words_of_their_own():
  words = [level.value for level in finding.Level]
  assert words == ["ok", "not yet", "warning", "wrong"]
  assert finding.Level("wrong") is finding.Level.WRONG


def test_finding_is_a_level_and_a_sentence():
  level, text = finding.Finding(finding.Level.FINE, "JAX has 8 devices")
  assert level is finding.Level.FINE
  assert text == "JAX has 8 devices"
