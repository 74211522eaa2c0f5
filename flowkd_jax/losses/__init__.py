"""Distillation losses: `(student, teacher, *, options) -> scalar`.

Pure functions of arrays, whatever library they come from. The caller jits.
"""

from flowkd_jax.losses._flow import information_flow
from flowkd_jax.losses._flow import information_flow_terms
from flowkd_jax.losses._flow import quadratic_flow
from flowkd_jax.losses._flow import quadratic_flow_terms
from flowkd_jax.losses._flow import weighted_sum
from flowkd_jax.losses._probabilistic import conditional_divergence
from flowkd_jax.losses._probabilistic import pkt
from flowkd_jax.losses._response import cross_entropy
from flowkd_jax.losses._response import decoupled_kd
from flowkd_jax.losses._response import dist
from flowkd_jax.losses._response import knowledge_distillation
from flowkd_jax.losses._spatial import attention_transfer
from flowkd_jax.losses._spatial import fsp
from flowkd_jax.losses._spatial import nst

__all__ = [
  "attention_transfer",
  "conditional_divergence",
  "cross_entropy",
  "decoupled_kd",
  "dist",
  "fsp",
  "information_flow",
  "information_flow_terms",
  "knowledge_distillation",
  "nst",
  "pkt",
  "quadratic_flow",
  "quadratic_flow_terms",
  "weighted_sum",
]
