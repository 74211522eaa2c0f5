"""Examples that two splits have in common."""

import pytest

from flowkd_jax.data import _shared_examples


@pytest.mark.parametrize(
  ("one", "other", "expected"),
  [
    ("train", "test", 0),
    ("train", "train", 1000),
    ("train[:100]", "train[50:150]", 50),
    ("train[:50%]", "train[50%:]", 0),
    ("train[-100:]", "train", 100),
    ("train[:100]+test", "test[:10]+train[90:]", 20),
    ("train[:100]@30", "train[:40]@60", 40),  # angles do not count
  ],
)
def test_shared_examples_are_those_of_overlapping_parts(one, other, expected):
  assert _shared_examples.shared_examples("digits", one, other) == expected
  assert _shared_examples.shared_examples("digits", other, one) == expected


def test_splits_of_other_names_need_no_data_set():
  assert _shared_examples.shared_examples("not_here", "train", "test[:10]") == 0


def test_all_shares_with_every_split():
  assert _shared_examples.shared_examples("digits", "all", "test") == 797


def test_unknown_splits_are_refused():
  with pytest.raises(ValueError, match="split: .*other"):
    _shared_examples.shared_examples("digits", "other", "other[:10]")
