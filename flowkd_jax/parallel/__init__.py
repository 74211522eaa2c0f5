"""Several devices: mapped steps, and functions of the global batch.

`map_step` maps a function over devices, by `pmap` or by `jit` with global arrays.
Functions of the global batch, such as `global_mean`, are called inside a mapped step.
"""

from flowkd_jax.parallel._global_batch import finite_rows
from flowkd_jax.parallel._global_batch import gather_rows
from flowkd_jax.parallel._global_batch import global_mean
from flowkd_jax.parallel._global_batch import global_sum
from flowkd_jax.parallel._global_batch import mean_weights
from flowkd_jax.parallel._global_batch import real_rows
from flowkd_jax.parallel._global_batch import row_positions
from flowkd_jax.parallel._mapping import AXIS
from flowkd_jax.parallel._mapping import MODES
from flowkd_jax.parallel._mapping import Mode
from flowkd_jax.parallel._mapping import ShardRule
from flowkd_jax.parallel._mapping import axis_of
from flowkd_jax.parallel._mapping import check_batch_size
from flowkd_jax.parallel._mapping import check_mode
from flowkd_jax.parallel._mapping import constrain
from flowkd_jax.parallel._mapping import fully_sharded
from flowkd_jax.parallel._mapping import map_step
from flowkd_jax.parallel._mapping import place
from flowkd_jax.parallel._mapping import shardings
from flowkd_jax.parallel._mapping import split_rows
from flowkd_jax.parallel._resident import Resident
from flowkd_jax.parallel._resident import RowShards
from flowkd_jax.parallel._resident import device_bytes
from flowkd_jax.parallel._resident import share
from flowkd_jax.parallel._resident import take_rows

__all__ = [
  "AXIS",
  "MODES",
  "Mode",
  "Resident",
  "RowShards",
  "ShardRule",
  "axis_of",
  "check_batch_size",
  "check_mode",
  "constrain",
  "device_bytes",
  "finite_rows",
  "fully_sharded",
  "gather_rows",
  "global_mean",
  "global_sum",
  "map_step",
  "mean_weights",
  "place",
  "real_rows",
  "row_positions",
  "share",
  "shardings",
  "split_rows",
  "take_rows",
]
