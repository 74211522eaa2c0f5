"""Training loop for all methods, with checkpoints, metrics, measuring and saving."""

from flowkd_jax import _extra

_extra.require("train")

from flowkd_jax.train._checkpoint import Checkpoints
from flowkd_jax.train._checkpoint import check_folder
from flowkd_jax.train._devices import DeviceStep
from flowkd_jax.train._devices import replicate
from flowkd_jax.train._diagnostics import Diagnostics
from flowkd_jax.train._evaluate import evaluate_network
from flowkd_jax.train._features import FeatureExtractor
from flowkd_jax.train._features import Features
from flowkd_jax.train._features import PlacedImages
from flowkd_jax.train._features import for_evaluation
from flowkd_jax.train._finite import NonFiniteError
from flowkd_jax.train._freed_memory import keep_freed_memory
from flowkd_jax.train._interruption import Interrupted
from flowkd_jax.train._interruption import stop_on_signals
from flowkd_jax.train._lock import lock_workdir
from flowkd_jax.train._loop import Trained
from flowkd_jax.train._loop import fit
from flowkd_jax.train._measure import EpochMeasures
from flowkd_jax.train._metrics import MetricsWriter
from flowkd_jax.train._network_files import load_network
from flowkd_jax.train._network_files import save_network
from flowkd_jax.train._options import FitOptions
from flowkd_jax.train._processes import check_same_settings
from flowkd_jax.train._processes import is_first_process
from flowkd_jax.train._processes import wait_for_processes
from flowkd_jax.train._progress import Progress
from flowkd_jax.train._progress import standard_output
from flowkd_jax.train._rehearsal import check_method
from flowkd_jax.train._run_display import length_in_words
from flowkd_jax.train._times import MEASURING
from flowkd_jax.train._times import Times
from flowkd_jax.train._workdir import TrainedNetworks
from flowkd_jax.train._workdir import blank_network
from flowkd_jax.train._workdir import check_same_run
from flowkd_jax.train._workdir import fit_in_workdir
from flowkd_jax.train._workdir import network_in_workdir

__all__ = [
  "Checkpoints",
  "DeviceStep",
  "EpochMeasures",
  "FeatureExtractor",
  "Features",
  "FitOptions",
  "Interrupted",
  "MetricsWriter",
  "NonFiniteError",
  "PlacedImages",
  "Progress",
  "Diagnostics",
  "MEASURING",
  "Times",
  "Trained",
  "TrainedNetworks",
  "blank_network",
  "check_folder",
  "check_method",
  "check_same_run",
  "check_same_settings",
  "evaluate_network",
  "fit",
  "fit_in_workdir",
  "for_evaluation",
  "is_first_process",
  "keep_freed_memory",
  "length_in_words",
  "load_network",
  "lock_workdir",
  "network_in_workdir",
  "replicate",
  "save_network",
  "standard_output",
  "stop_on_signals",
  "wait_for_processes",
]
