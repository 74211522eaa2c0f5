"""Rates that a search has found best."""

import json

from experiments.studies import chosen_rates

RUNS = (("set_0.1", 0.1), ("set_0.2", 0.2))


def _keep(folder, numbers):
  """Kept results: numbers of the arms a and b by run and seed."""
  runs = {
    name: {
      str(seed): {"networks": [{"name": k, "top": v} for k, v in arms.items()]}
      for seed, arms in enumerate(seeds)
    }
    for name, seeds in numbers.items()
  }
  (folder / "runs.json").write_text(json.dumps({"runs": runs}))


def _chosen(folder):
  return chosen_rates.chosen(folder, RUNS, ("a", "b"), "top")


def test_the_best_rate_of_every_arm_is_chosen(tmp_path):
  first = [{"a": 0.5, "b": 0.9}, {"a": 0.6, "b": 0.5}]
  second = [{"a": 0.7, "b": None}, {"a": 0.1, "b": None}]  # b diverged
  _keep(tmp_path, {"set_0.1": first, "set_0.2": second})
  assert _chosen(tmp_path) == {"a": 0.1, "b": 0.1}
  _keep(tmp_path, {"set_0.1": first, "set_0.2": [{"a": 0.8, "b": float("nan")}]})
  assert _chosen(tmp_path) == {"a": 0.2, "b": 0.1}


def test_an_arm_that_diverged_is_not_chosen(tmp_path):
  _keep(tmp_path, {"set_0.1": [{"a": 0.5, "b": 0.9}], "set_0.2": [{"a": 0.8}]})
  path = tmp_path / "runs.json"
  content = json.loads(path.read_text())
  content["runs"]["set_0.2"]["0"]["diverged"] = [{"name": "b", "error": "not finite"}]
  path.write_text(json.dumps(content))
  assert _chosen(tmp_path) == {"a": 0.2, "b": 0.1}


def test_nothing_is_chosen_before_the_search_is_complete(tmp_path):
  assert _chosen(tmp_path) is None
  _keep(tmp_path, {"set_0.1": [{"a": 0.5, "b": 0.9}]})
  assert _chosen(tmp_path) is None
  _keep(tmp_path, {"set_0.1": [{"a": 0.5, "b": 0.9}], "set_0.2": [{"a": 0.5}]})
  assert _chosen(tmp_path) is None
