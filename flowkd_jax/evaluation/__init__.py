"""Quality of representations, and similarity between the layers of two networks.

Missing labels, NaN and infinities are treated by the rules of `flowkd_jax.losses`.
"""

from flowkd_jax.evaluation._classification import accuracy
from flowkd_jax.evaluation._classification import nearest_centroid_accuracy
from flowkd_jax.evaluation._layer_comparison import cka_matrix
from flowkd_jax.evaluation._layer_comparison import dead_share
from flowkd_jax.evaluation._layer_comparison import flow_distance_matrix
from flowkd_jax.evaluation._nearest import nearest_rows
from flowkd_jax.evaluation._nearest_retrieval import NearestRetrievalMetrics
from flowkd_jax.evaluation._nearest_retrieval import nearest_retrieval
from flowkd_jax.evaluation._retrieval import RetrievalMetrics
from flowkd_jax.evaluation._retrieval import retrieval
from flowkd_jax.evaluation._rows import Metric

__all__ = [
  "Metric",
  "NearestRetrievalMetrics",
  "RetrievalMetrics",
  "accuracy",
  "cka_matrix",
  "dead_share",
  "flow_distance_matrix",
  "nearest_centroid_accuracy",
  "nearest_retrieval",
  "nearest_rows",
  "retrieval",
]
