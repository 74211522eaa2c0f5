"""How good a representation is: classification and retrieval."""

from flowkd_jax.evaluation._classification import accuracy
from flowkd_jax.evaluation._classification import nearest_centroid_accuracy
from flowkd_jax.evaluation._retrieval import RetrievalMetrics
from flowkd_jax.evaluation._retrieval import retrieval
from flowkd_jax.evaluation._rows import Metric

__all__ = [
  "Metric",
  "RetrievalMetrics",
  "accuracy",
  "nearest_centroid_accuracy",
  "retrieval",
]
