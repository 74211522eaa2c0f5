"""Results of a job: the files of its work directory as tables and pictures.

    from flowkd_jax import report
    report.network_table(report.read_results(workdir))   # in a terminal or notebook
    report.flow_picture(report.read_metrics(workdir))    # a Matplotlib figure
    report.save_pictures(workdir)                        # workdir/pictures/*.png
    report.report_page([workdir, another])               # one HTML page of both

Reads files and plain dictionaries only. Nothing here keeps a state, so several
work directories can be read side by side.
"""

from flowkd_jax import _extra

_extra.require("report")

from flowkd_jax.report._average import mean_metrics
from flowkd_jax.report._canvas import NothingToDrawError
from flowkd_jax.report._canvas import save_figure
from flowkd_jax.report._colors import ROLES
from flowkd_jax.report._colors import Style
from flowkd_jax.report._colors import network_styles
from flowkd_jax.report._comparison import Curves
from flowkd_jax.report._comparison import comparison_picture
from flowkd_jax.report._diagnostics import diagnostics_picture
from flowkd_jax.report._flow import flow_picture
from flowkd_jax.report._images import retrieval_picture
from flowkd_jax.report._layer_picture import layer_picture
from flowkd_jax.report._likeness import likeness_picture
from flowkd_jax.report._markdown import markdown_table
from flowkd_jax.report._page import report_page
from flowkd_jax.report._pictures import loss_picture
from flowkd_jax.report._pictures import precision_recall_picture
from flowkd_jax.report._pictures import training_picture
from flowkd_jax.report._read import MetricLog
from flowkd_jax.report._read import Results
from flowkd_jax.report._read import read_metrics
from flowkd_jax.report._read import read_results
from flowkd_jax.report._save import save_pictures
from flowkd_jax.report._sizes import Sized
from flowkd_jax.report._sizes import size_picture
from flowkd_jax.report._table import network_markdown
from flowkd_jax.report._table import network_table
from flowkd_jax.report._times import time_picture

__all__ = [
  "Curves",
  "MetricLog",
  "NothingToDrawError",
  "ROLES",
  "Results",
  "Sized",
  "Style",
  "comparison_picture",
  "flow_picture",
  "layer_picture",
  "likeness_picture",
  "loss_picture",
  "markdown_table",
  "mean_metrics",
  "network_markdown",
  "network_styles",
  "network_table",
  "precision_recall_picture",
  "read_metrics",
  "read_results",
  "report_page",
  "retrieval_picture",
  "save_figure",
  "save_pictures",
  "size_picture",
  "time_picture",
  "diagnostics_picture",
  "training_picture",
]
