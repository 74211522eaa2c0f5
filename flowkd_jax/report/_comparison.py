"""The picture of a comparison: accuracy of several arms over the epochs and seeds."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flowkd_jax.report import _average
from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _legends
from flowkd_jax.report import _series

if TYPE_CHECKING:
  from matplotlib.figure import Figure

# Accuracy by epochs trained, of each seed of each arm.
Curves = Mapping[str, Sequence[Mapping[int, float]]]


def comparison_picture(
  panels: Mapping[str, Curves],
  *,
  x: str = "",
  styles: Mapping[str, _colors.Style] | None = None,
) -> "Figure":
  """Test accuracy of arms over the epochs, a panel for each run.

  A line is the mean over seeds, the band reaches from the least to the greatest.

  Args:
    panels: Dictionaries `{epochs trained: accuracy}` of each seed, by run and arm.
      Accuracies are fractions of 1. Epochs that not all seeds have are left out.
    x: Name of the epochs.
    styles: Style of each arm, from `network_styles`; by default free ones.

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
    title="Test accuracy: mean over seeds",
    width=max(7.0, 4.6 * len(panels)),
    height=4.6,
  )
  arms = dict.fromkeys(arm for curves in panels.values() for arm in curves)
  styles = styles or _colors.network_styles(arms)
  for axes, (title, curves) in zip(grid.flat, panels.items(), strict=True):
    for arm, seeds in curves.items():
      epochs = sorted(set.intersection(*(set(seed) for seed in seeds)))
      values = 100 * np.array([[seed[epoch] for epoch in epochs] for seed in seeds])
      band = (
        np.stack([values.min(axis=0), values.max(axis=0)]) if len(seeds) > 1 else None
      )
      line = _series.Series(np.array(epochs, float), values.mean(axis=0), band)
      bold = styles[arm] == _colors.ROLES["student"]
      _canvas.draw_line(axes, line, style=styles[arm], bold=bold)
    _canvas.whole_epochs(axes)
    _canvas.end_at(axes, 100)
    first = axes is grid.flat[0]
    _canvas.name_axes(
      axes, title=title, x=x or _canvas.EPOCHS, y="accuracy, %" if first else ""
    )
  method = _colors.focus({arm: styles[arm] for arm in arms})
  entries = [
    _legends.Entry(
      f"{arm} (bold)" if arm == method else arm, styles[arm], bold=arm == method
    )
    for arm in arms
  ]
  meaning = _legends.Meaning(
    bold="the method" if method else "",
    band=_average.BAND if _canvas.has_bands(figure) else "",
    line="ends with the shortest of its runs" if _some_are_shorter(panels) else "",
  )
  _legends.below(figure, entries, meaning)
  return figure


def _some_are_shorter(panels: Mapping[str, Curves]) -> bool:
  """Returns whether seeds of an arm were measured for different numbers of epochs."""
  arms = [seeds for curves in panels.values() for seeds in curves.values()]
  return any(len({max(seed) for seed in seeds}) > 1 for seeds in arms)
