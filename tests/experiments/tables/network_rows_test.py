"""Tables with a row for each run."""

import pytest

from experiments.studies import spec
from experiments.tables import network_rows


def _network(level, *, accuracy=None, seconds=60, **changes):
  """A network all of whose measures have one level."""
  side = {"mean_average_precision": level, "precision_at": {"100": level}}
  side |= {f"authors_{key}": value for key, value in side.items()}
  return {
    "name": "student",
    "accuracy": accuracy,
    "seconds": seconds,
    "retrieval": {"euclidean": side, "cosine": side},
    "centroid": {"euclidean": level, "cosine": level},
    **changes,
  }


def _cells(line):
  return [cell.strip() for cell in line.split("|")[1:-1]]


def test_table_has_means_deviations_and_gaps_of_the_same_seeds(fake):
  found = {
    "first": {
      seed: {"student": _network(level)} for seed, level in (("0", 0.2), ("1", 0.4))
    },
    "second": {"1": {"student": _network(0.5, accuracy=0.25, seconds=150)}},
  }
  lines = network_rows.table(fake, found)
  heading, _, published, first, second = map(_cells, lines[: lines.index("")])
  assert (heading[0], heading[-2:]) == ("A fake study", ["mAP c − first", "minutes"])
  assert published[heading.index("mAP c")] == "12.50"
  # 20 % and 40 %: mean 30, standard deviation sqrt(200).
  assert first[:3] == ["the first", "0, 1", "30.00 ± 14.14"]
  assert first[heading.index("accuracy")] == "–"
  assert first[-2:] == ["", "1"]
  assert second[:3] == ["the second", "1", "50.00"]
  assert second[heading.index("accuracy")] == "25.00"
  assert second[-2].startswith("+10.00")
  assert second[-1] == "2"


def test_main_numbers_come_first_and_all_others_below(fake):
  found = {"first": {"0": {"student": _network(0.2)}}, "second": {}}
  lines = network_rows.table(fake._replace(compared="area mAP c"), found)
  main, more = lines[: lines.index("")], lines[lines.index("") + 1 :]
  gap = "area mAP c − first"
  names = ["mAP e", "mAP c", "area mAP c", "accuracy", gap, "minutes"]
  assert _cells(main[0])[2:] == names
  assert {*_cells(more[0])} & {*_cells(main[0])} == set()
  # The published row and the row that was not run have no other numbers.
  assert [_cells(line)[0] for line in more[2:]] == ["the first"]
  assert len(_cells(main[0])) + len(_cells(more[0])) == len(network_rows.COLUMNS) + 5


def test_numbers_are_those_of_the_named_column(fake):
  found = {"first": {"0": {"student": _network(0.2)}}, "second": {}}
  run = fake.runs[0]
  assert network_rows.numbers(run, "centroid c", found) == {"0": 0.2}
  assert network_rows.numbers(run, "accuracy", found, factor=100) == {"0": None}
  with pytest.raises(KeyError, match="speed"):
    network_rows.numbers(run, "speed", found)


def test_table_shows_no_accuracy_after_a_transfer(fake):
  network = _network(0.5, accuracy=0.1, name="auxiliary", teacher="teacher")
  study = fake._replace(
    runs=(spec.Run("first", "a", result="auxiliary"),), published=()
  )
  lines = network_rows.table(study, {"first": {"0": {"auxiliary": network}}})
  heading, _, row = map(_cells, lines[:3])
  assert row[heading.index("accuracy")] == "–"


def test_rows_without_their_network_are_not_run(fake):
  found = {"first": {"0": {"teacher": _network(0.5)}}, "second": {}}
  lines = network_rows.table(fake, found)
  assert "" not in lines
  assert [_cells(line)[1] for line in lines[3:]] == [
    "not run",
    "not run",
  ]
