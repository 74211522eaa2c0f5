"""Best learning rate of each arm, by a search whose results are kept."""

import json
import math
from collections.abc import Sequence
from pathlib import Path


def chosen(
  folder: Path, runs: Sequence[tuple[str, float]], arms: Sequence[str], metric: str
) -> dict[str, float] | None:
  """The rate of every arm with the highest number, the mean over seeds.

  Args:
    folder: Folder of the kept results of the search.
    runs: Run of the search and its rate.
    arms: Networks of each run.
    metric: Name of the number among the results of a network.

  Returns:
    Rates by arm; None if a run or an arm is missing. An arm that diverged in a run is
    not missing, and never the best.
  """
  path = folder / "runs.json"
  kept = json.loads(path.read_text())["runs"] if path.exists() else {}
  if not all(kept.get(name) for name, _ in runs):
    return None
  best = {}
  for arm in arms:
    numbers = {rate: _mean(kept[name], arm, metric) for name, rate in runs}
    if None in numbers.values():
      return None
    best[arm] = max(numbers, key=lambda rate: numbers[rate] or 0.0)
  return best


def _mean(seeds, arm, metric) -> float | None:
  """Mean over seeds, None if the arm is missing. A run that diverged counts as 0."""
  found = [
    network.get(metric)
    for run in seeds.values()
    for network in (*run["networks"], *run.get("diverged", ()))
    if network["name"] == arm
  ]
  if len(found) < len(seeds):
    return None
  numbers = [x if x is not None and math.isfinite(x) else 0.0 for x in found]
  return sum(numbers) / len(numbers)
