"""The picture of sizes: accuracy or retrieval against the parameters of networks."""

import statistics
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np

from flowkd_jax.report import _canvas
from flowkd_jax.report import _colors
from flowkd_jax.report import _legends
from flowkd_jax.report._read import Results

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_SEED_BARS = "mean over seeds, bars of one standard deviation"


class Sized(NamedTuple):
  """A network of a picture of sizes.

  Attributes:
    title: Title of the network. Networks of one title share colour and mark, and are
      joined by a line.
    size: Number of its parameters.
    values: Accuracy or retrieval in percent, one value per seed.
  """

  title: str
  size: int
  values: Sequence[float]


def size_picture(
  panels: Mapping[str, Sequence[Sized]],
  *,
  measure: str,
  styles: Mapping[str, _colors.Style] | None = None,
) -> "Figure":
  """Accuracy or retrieval of networks against their number of parameters.

  A point is the mean over seeds; with several seeds its bar is one standard deviation
  to each side, as in the tables. Networks of equal size stand side by side.

  Args:
    panels: Networks by title of the panel.
    measure: Name of the values, with their unit.
    styles: Style of each title, from `network_styles`; by default free ones.

  Raises:
    NothingToDrawError: If there are no two networks of different sizes.

  Example:
    >>> networks = [Sized("teacher", 11_000, [93.0]), Sized("student", 900, [70, 72])]
    >>> size_picture({"": networks}, measure="accuracy, %").axes[0].get_ylabel()
    'accuracy, %'
  """
  panels = {title: _known(networks) for title, networks in panels.items()}
  panels = {
    title: networks
    for title, networks in panels.items()
    if len({one.size for one in networks}) > 1
  }
  if not panels:
    raise _canvas.NothingToDrawError(
      "panels: expected networks of at least two sizes, got none or one size"
    )
  titles = dict.fromkeys(one.title for found in panels.values() for one in found)
  styles = styles or _colors.network_styles(titles)
  figure, grid = _canvas.new_figure(
    1,
    len(panels),
    title="Size and quality of the networks",
    width=max(8.0, 3.9 * len(panels)),
    height=5.0,
  )
  for axes, (title, networks) in zip(grid.flat, panels.items(), strict=True):
    _draw(axes, networks, styles)
    first = axes is grid.flat[0]
    _canvas.name_axes(axes, title=title, x="parameters", y=measure if first else "")
  several = any(len(one.values) > 1 for found in panels.values() for one in found)
  _legends.below(
    figure,
    [_legends.Entry(title, styles[title], line=False) for title in titles],
    _legends.Meaning(mark=_SEED_BARS if several else ""),
  )
  return figure


def sizes_of_run(results: Results) -> tuple[list[Sized], str]:
  """Networks of a run, and the measure that most of them have.

  The measure is mean average precision by cosine distance if it was measured, as
  networks that learn without labels have no accuracy, and else the accuracy.

  Args:
    results: Results of `read_results`.
  """
  accuracy = {one["name"]: one.get("accuracy") for one in results}
  retrieval = {
    one["name"]: ((one.get("retrieval") or {}).get("cosine") or {}).get(
      "mean_average_precision"
    )
    for one in results
  }
  known = [
    sum(value is not None for value in each.values()) for each in (accuracy, retrieval)
  ]
  use_retrieval = known[1] >= max(1, known[0])
  values = retrieval if use_retrieval else accuracy
  networks = [
    Sized(one.get("title") or one["name"], one["parameters"], [100 * value])
    for one in results
    if (value := values[one["name"]]) is not None and one.get("parameters")
  ]
  return networks, "mAP by cosine, %" if use_retrieval else "accuracy, %"


def _known(networks: Sequence[Sized]) -> list[Sized]:
  """Networks with the values that are finite numbers, if there are any."""
  known = []
  for one in networks:
    values = [float(value) for value in one.values if np.isfinite(value)]
    if values:
      known.append(one._replace(values=values))
  return known


def _draw(
  axes: "Axes", networks: Sequence[Sized], styles: Mapping[str, _colors.Style]
) -> None:
  axes.set_xscale("log")
  places = _side_by_side(networks)
  for title in dict.fromkeys(one.title for one in networks):
    own = [
      (place, statistics.mean(one.values), _deviation(one.values))
      for place, one in zip(places, networks, strict=True)
      if one.title == title
    ]
    x, y, spread = np.array(sorted(own)).T
    axes.errorbar(
      x,
      y,
      spread,
      color=styles[title].color,
      marker=styles[title].mark,
      markersize=6,
      linewidth=1,
      elinewidth=1.4,
      capsize=3,
    )
  _name_sizes(axes, [one.size for one in networks])


def _deviation(values: Sequence[float]) -> float:
  return statistics.stdev(values) if len(values) > 1 else 0.0


# Least distance of two ticks, by the width of the panel: their names do not touch.
_TICKS_APART = 0.08
# Distance of networks of equal size by the width of the panel, and the most in all.
_STEP, _WIDEST = 0.03, 0.16


def _side_by_side(networks: Sequence[Sized]) -> list[float]:
  """Places across: the number of parameters, a little apart if there are several."""
  sizes = [one.size for one in networks]
  decades = np.log10(max(sizes) / min(sizes))
  places, seen = [], dict.fromkeys(sizes, 0)
  for size in sizes:
    alike = sizes.count(size)
    step = min(_STEP, _WIDEST / alike) * decades
    places.append(float(size * 10 ** (step * (seen[size] - (alike - 1) / 2))))
    seen[size] += 1
  return places


def _name_sizes(axes: "Axes", sizes: Sequence[int]) -> None:
  """Ticks at the sizes that are there, as far as their names do not touch."""
  from matplotlib.ticker import FixedLocator
  from matplotlib.ticker import FuncFormatter
  from matplotlib.ticker import NullLocator

  low, high = np.log10(min(sizes)), np.log10(max(sizes))
  margin = 0.1 * (high - low)
  axes.set_xlim(10 ** (low - margin), 10 ** (high + margin))
  ticks: list[int] = []
  for size in sorted(set(sizes)):
    if not ticks or np.log10(size / ticks[-1]) > _TICKS_APART * (high - low):
      ticks.append(size)
  axes.xaxis.set_major_locator(FixedLocator(ticks))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _short(size)))


def _short(size: float) -> str:
  """A number of parameters in three digits, such as 58.0 k."""
  for unit, factor in (("M", 1e6), ("k", 1e3)):
    if size >= factor:
      return f"{size / factor:.3g} {unit}"
  return f"{size:.0f}"
