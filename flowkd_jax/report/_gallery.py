"""All pictures of a run, by file and title: `save_pictures` and the page draw them."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import NamedTuple

from flowkd_jax.report import _colors
from flowkd_jax.report import _sizes
from flowkd_jax.report import _times
from flowkd_jax.report._diagnostics import diagnostics_picture
from flowkd_jax.report._flow import flow_picture
from flowkd_jax.report._likeness import likeness_picture
from flowkd_jax.report._pictures import loss_picture
from flowkd_jax.report._pictures import precision_recall_picture
from flowkd_jax.report._pictures import training_picture
from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results

if TYPE_CHECKING:
  from matplotlib.figure import Figure

Styles = Mapping[str, _colors.Style]


class Picture(NamedTuple):
  """A picture of a run.

  Attributes:
    file: Name of its file, without the ending.
    title: Heading above it.
    draw: Draws it of metrics, results, and the style of each network.
  """

  file: str
  title: str
  draw: Callable[[MetricLog, Results, Styles], "Figure"]


def _sizes_of_run(results: Results, styles: Styles) -> "Figure":
  networks, measure = _sizes.sizes_of_run(results)
  by_title = {one.get("title") or one["name"]: styles[one["name"]] for one in results}
  return _sizes.size_picture({"": networks}, measure=measure, styles=by_title)


PICTURES = (
  Picture("training", "Training", lambda m, r, s: training_picture(m, r, styles=s)),
  Picture("flow", "Information flow", lambda m, r, s: flow_picture(m, r, styles=s)),
  Picture("likeness", "Likeness of layers", lambda m, r, s: likeness_picture(m, r)),
  Picture("loss", "Matching", lambda m, r, s: loss_picture(m, r, styles=s)),
  Picture(
    "diagnostics", "Diagnostics", lambda m, r, s: diagnostics_picture(m, r, styles=s)
  ),
  Picture(
    "precision_recall",
    "Retrieval",
    lambda m, r, s: precision_recall_picture(r, styles=s),
  ),
  Picture("sizes", "Size and quality", lambda m, r, s: _sizes_of_run(r, s)),
  Picture("times", "Time", lambda m, r, s: _times.time_picture(_times.times_of_run(r))),
)
