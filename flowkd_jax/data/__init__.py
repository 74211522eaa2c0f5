"""Data sets: loading of splits, batches, and augmentation on the device."""

from flowkd_jax.data._augment import Augmentation
from flowkd_jax.data._augment import augment
from flowkd_jax.data._augment import example_keys
from flowkd_jax.data._augment import normalize
from flowkd_jax.data._batches import Batches
from flowkd_jax.data._dirichlet import dirichlet_split
from flowkd_jax.data._federated import FederatedBatches
from flowkd_jax.data._load import load
from flowkd_jax.data._load import open_source
from flowkd_jax.data._load import split_names
from flowkd_jax.data._memory_batches import MemoryBatches
from flowkd_jax.data._normalization import known_normalization
from flowkd_jax.data._normalization import normalization
from flowkd_jax.data._prepared import DatasetNotPreparedError
from flowkd_jax.data._select import evaluation_batches
from flowkd_jax.data._select import training_batches
from flowkd_jax.data._shared_examples import shared_examples
from flowkd_jax.data._split import Source
from flowkd_jax.data._split import Split
from flowkd_jax.data._stream_batches import StreamBatches

__all__ = [
  "Augmentation",
  "Batches",
  "DatasetNotPreparedError",
  "FederatedBatches",
  "MemoryBatches",
  "Source",
  "Split",
  "StreamBatches",
  "augment",
  "dirichlet_split",
  "evaluation_batches",
  "example_keys",
  "known_normalization",
  "load",
  "normalization",
  "normalize",
  "open_source",
  "shared_examples",
  "split_names",
  "training_batches",
]
