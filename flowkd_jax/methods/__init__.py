"""Methods: what to initialise, what an update is, what is exported.

One method, one file, readable beside its paper; methods never import one another.

| file | method | paper |
|---|---|---|
| `supervised` | cross-entropy on labels | |
| `information_flow` | information-flow matching | Passalis et al., CVPR 2020 |
"""

from flowkd_jax.methods.base import Method
from flowkd_jax.methods.base import Metrics
from flowkd_jax.methods.base import Network
from flowkd_jax.methods.base import TrainState
from flowkd_jax.methods.base import Variables
from flowkd_jax.methods.base import gradient_method
from flowkd_jax.methods.information_flow import MATCHINGS
from flowkd_jax.methods.information_flow import information_flow
from flowkd_jax.methods.supervised import supervised

__all__ = [
  "MATCHINGS",
  "Method",
  "Metrics",
  "Network",
  "TrainState",
  "Variables",
  "gradient_method",
  "information_flow",
  "supervised",
]
