"""Information in a representation: about labels, and about neighbours in the batch.

Quadratic mutual information measures how much the features tell about the labels.
Conditional probabilities describe each row by the probabilities that the other rows are
its neighbours. Divergences compare two such descriptions.
"""

from flowkd_jax._numerics.row_blocks import rows_in_blocks
from flowkd_jax.information._conditional import conditional_log_probabilities
from flowkd_jax.information._conditional import log_totals
from flowkd_jax.information._divergences import DIVERGENCES
from flowkd_jax.information._divergences import HOMOGENEITY
from flowkd_jax.information._divergences import PARAMETRIC_DIVERGENCES
from flowkd_jax.information._divergences import Divergence
from flowkd_jax.information._divergences import absolute
from flowkd_jax.information._divergences import as_divergence
from flowkd_jax.information._divergences import authors_divergence
from flowkd_jax.information._divergences import divergence_by_name
from flowkd_jax.information._divergences import exponential
from flowkd_jax.information._divergences import jeffreys
from flowkd_jax.information._divergences import kagan
from flowkd_jax.information._divergences import kullback_leibler
from flowkd_jax.information._divergences import smoothed_kullback_leibler
from flowkd_jax.information._divergences import squared
from flowkd_jax.information._quadratic import InformationPotentials
from flowkd_jax.information._quadratic import information_potentials
from flowkd_jax.information._quadratic import quadratic_mutual_information

__all__ = [
  "DIVERGENCES",
  "HOMOGENEITY",
  "PARAMETRIC_DIVERGENCES",
  "Divergence",
  "InformationPotentials",
  "absolute",
  "as_divergence",
  "authors_divergence",
  "conditional_log_probabilities",
  "divergence_by_name",
  "exponential",
  "information_potentials",
  "jeffreys",
  "kagan",
  "kullback_leibler",
  "log_totals",
  "quadratic_mutual_information",
  "rows_in_blocks",
  "smoothed_kullback_leibler",
  "squared",
]
