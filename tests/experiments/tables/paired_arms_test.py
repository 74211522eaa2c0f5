"""Tables of paired arms: means, intervals, what is missing, what is kept."""

import math

import pytest

from experiments.studies import spec
from experiments.tables import kept_runs
from experiments.tables import paired_arms

_COLUMNS = (
  spec.Column("accuracy", runs=("a",), paired=True),
  spec.Column("mean", paired=True),
  spec.Column("rounds", "rounds", ("b",), "number"),
  spec.Column("time", "epoch_seconds", form="times"),
)
_ARMS = (
  spec.Arm("labels", "labels only", ("labels",)),
  spec.Arm("method", "the method", ("labels",)),
  spec.Arm("both/second", "second of both", ("labels",)),
)


@pytest.fixture
def study():
  runs = tuple(spec.Run(name, f"on {name}", ()) for name in "ab")
  table = spec.Comparison(_ARMS, _COLUMNS, ("labels",))
  return spec.Study("A comparison", runs, comparison=table)


def _network(name, accuracy, rounds, seconds):
  return {
    "name": name,
    "accuracy": accuracy,
    "rounds": rounds,
    "epoch_seconds": seconds,
  }


def _kept(*networks):
  return kept_runs.KeptRun({}, list(networks), [])


def _rows(study, runs):
  lines = paired_arms.table(study, paired_arms.networks(study, runs))
  return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_table_pairs_seeds_and_averages_runs(study):
  runs = {"a": {}, "b": {}}
  gaps = (0.01, 0.02, 0.06)
  for seed, gap in enumerate(gaps):
    for run, shift in (("a", 0.0), ("b", 0.1)):
      base = 0.5 + 0.1 * seed + shift
      runs[run][str(seed)] = _kept(
        _network("labels", base, 7, 2.0),
        _network("method", base + gap, None if seed else 5, 5.0),
      )
  head, _, labels, method, second = _rows(study, runs)
  assert head[1:] == [
    "seeds",
    "accuracy",
    "− labels",
    "mean",
    "− labels",
    "rounds",
    "time",
  ]
  assert labels[2:] == ["60.00 ± 10.00", "", "65.00 ± 10.00", "", "7 ± 0", "1.00"]
  mean = sum(gaps) / 3
  variance = sum((gap - mean) ** 2 for gap in gaps) / 2
  # 4.3027 is the 97.5 % point of Student's t with 2 degrees of freedom.
  half = 4.3027 * math.sqrt(variance / 3)
  gap = f"{100 * mean:+.2f} ± {100 * half:.2f}"
  assert method[3] == method[5] == gap
  assert method[6:] == ["5 (1/3)", "2.50"]
  assert second == ["second of both", "not run", "–", "", "–", "", "–", "–"]


def test_table_that_is_wide_has_columns_with_differences_first(study):
  single = tuple(spec.Column(f"place {i}", runs=("a",)) for i in range(5))
  columns = (*single, *_COLUMNS)
  wide = study._replace(comparison=study.comparison._replace(columns=columns))
  runs = {"a": {"0": _kept(_network("method", 0.5, 5, 2.0))}}
  lines = paired_arms.table(wide, paired_arms.networks(wide, runs))
  first, second = "\n".join(lines).split("\n\n")
  heads = [text.splitlines()[0].split("|")[1:-1] for text in (first, second)]
  assert [cell.strip() for cell in heads[0]][1:7] == [
    "seeds",
    "accuracy",
    "− labels",
    "mean",
    "− labels",
    "place 0",
  ]
  assert [cell.strip() for cell in heads[1]] == [
    "The same runs",
    "place 3",
    "place 4",
    "rounds",
    "time",
  ]
  assert "the method" in second
  assert "50.00" in second


def test_table_pairs_only_seeds_that_both_arms_have(study):
  labels, method = _network("labels", 0.7, 1, 1.0), _network("method", 0.6, 1, 1.0)
  seeds = {"0": _kept(_network("labels", 0.5, 1, 1.0)), "10": _kept(labels, method)}
  row = _rows(study, {"a": seeds, "b": seeds})[3]
  assert row[1:4] == ["1", "60.00", "−10.00"]


def test_a_run_without_seeds_is_left_out_of_the_mean(study):
  runs = {"a": {"0": _kept(_network("labels", 0.5, 1, 1.0))}}
  assert _rows(study, runs)[2][1:6] == ["1", "50.00", "", "50.00", ""]


def test_a_study_without_comparison_is_refused(study):
  with pytest.raises(ValueError, match="expected one with a comparison, got 'A comp"):
    paired_arms.table(study._replace(comparison=None), {})


def test_time_of_an_epoch_is_that_of_the_shortest():
  entries = [
    {"stage": "s", "epoch": epoch, "seconds": seconds}
    for epoch, seconds in enumerate((50.0, 3.0, 9.0, 4.0))
  ]
  entries += [{"stage": "s", "epoch": -1}, {"stage": "t", "epoch": 1, "seconds": 7.0}]
  assert paired_arms.epoch_seconds(entries, "s") == 3.0
  assert paired_arms.epoch_seconds(entries, "u") is None


def test_launches_take_as_long_as_their_stages():
  one, two, three = ({"seconds": seconds} for seconds in (60.0, 120.0, 240.0))
  launch = {"one": one, "both/first": two, "both/second": two}
  found = {"a": {"0": launch, "1": {"one": three}}, "b": {}}
  assert paired_arms.launch_minutes(found) == 3.5
  assert paired_arms.launch_minutes({"b": {}}) == 0


def test_accuracies_alone_are_kept_and_make_curves(study):
  entries = [
    {"stage": stage, "epoch": epoch, "loss": 1.0, "test_accuracy": 0.125 + epoch}
    for stage in ("method", "both/second")
    for epoch in range(3)
  ]
  kept = paired_arms.accuracies([*entries, {"stage": "both", "epoch": 0, "loss": 2.0}])
  assert kept[0] == {"stage": "method", "epoch": 0, "test_accuracy": 0.125}
  assert len(kept) == 6
  one = kept_runs.KeptRun({}, [], kept)
  line = {1: 0.125, 2: 1.125, 3: 2.125}
  assert paired_arms.curves(study, {"a": {"0": one, "1": one}}) == {
    "on a": {"the method": [line, line], "second of both": [line, line]}
  }


def test_an_arm_that_diverged_with_every_seed_is_named_so(study):
  of_labels = _network("labels", 0.5, 3, 1.0)
  method = _network("method", 0.75, 4, 1.0)
  gone = [{"name": "method", "title": "the method", "error": "loss not finite"}]
  runs = {
    "a": {"0": _kept(of_labels)._replace(diverged=gone)},
    "b": {
      "0": _kept(of_labels)._replace(diverged=gone),
      "1": _kept(of_labels, method),
    },
  }
  diverged = paired_arms.diverged(runs)
  assert diverged == {("a", "method")}
  found = paired_arms.networks(study, runs)
  (row,) = [
    line for line in paired_arms.table(study, found, diverged) if "the method" in line
  ]
  cells = [cell.strip() for cell in row.split("|")[1:-1]]
  assert cells[2:4] == ["diverged", ""]
  assert "diverged" not in cells[4:]
