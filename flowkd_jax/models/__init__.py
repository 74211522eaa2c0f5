"""Networks that name their activations, and the weights the authors trained."""

from flowkd_jax.models._cnn import CNN
from flowkd_jax.models._normalization import BatchNorm

__all__ = [
  "CNN",
  "BatchNorm",
]
