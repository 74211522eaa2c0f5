"""The picture of a comparison: accuracy of several arms over the epochs and seeds."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flowkd_jax.report import _canvas
from flowkd_jax.report import _series

if TYPE_CHECKING:
  from matplotlib.figure import Figure

# Accuracy by epochs trained, of each seed of each arm.
Curves = Mapping[str, Sequence[Mapping[int, float]]]


def comparison_picture(panels: Mapping[str, Curves], *, x: str = "") -> "Figure":
  """Test accuracy of arms over the epochs, a panel for each run.

  A line is the mean over seeds, the band one standard deviation to each side.

  Args:
    panels: By run and arm, for each seed `{epochs trained: accuracy}`, accuracies as a
      fraction of 1; epochs that not all seeds have are left out.
    x: Name of the epochs.

  Raises:
    NothingToDrawError: If there are no curves.
  """
  panels = {title: curves for title, curves in panels.items() if curves}
  if not panels:
    raise _canvas.NothingToDrawError(
      "panels: expected accuracies of at least one arm, got none; measure them during "
      "training, not at its end only"
    )
  figure, grid = _canvas.new_figure(
    1,
    len(panels),
    title="Test accuracy: mean over seeds, and one standard deviation",
    width=max(7.0, 4.6 * len(panels)),
    height=4.6,
  )
  arms = dict.fromkeys(arm for curves in panels.values() for arm in curves)
  colours = _canvas.network_colours(arms)
  for axes, (title, curves) in zip(grid.flat, panels.items(), strict=True):
    for arm, seeds in curves.items():
      epochs = sorted(set.intersection(*(set(seed) for seed in seeds)))
      values = 100 * np.array([[seed[epoch] for epoch in epochs] for seed in seeds])
      mean, spread = values.mean(axis=0), values.std(axis=0, ddof=len(seeds) > 1)
      band = np.clip(np.stack([mean - spread, mean + spread]), 0, 100)
      line = _series.Series(np.array(epochs, float), mean, band)
      _canvas.draw_line(axes, line, colour=colours[arm])
    _canvas.whole_epochs(axes)
    _canvas.end_at(axes, 100)
    first = axes is grid.flat[0]
    _canvas.name_axes(
      axes, title=title, x=x or _canvas.EPOCHS, y="accuracy, %" if first else ""
    )
  _canvas.legend_below(figure, [_canvas.LegendEntry(arm, colours[arm]) for arm in arms])
  return figure
