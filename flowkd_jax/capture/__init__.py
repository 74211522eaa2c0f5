"""Intermediate activations of any model, by name, without a change to the model.

A tap is an activation that the model sows (Linen: into `intermediates`; NNX: as
`nnx.Intermediate`), or the output of one of its modules. Names of nested modules are
joined by "/": "encoder/block_3/attention". In a pattern "*" and "?" stand for letters
within one such part, "**" for any number of parts: "encoder/block_*", "**/attention".

What comes several times in one call is numbered, "name/0", "name/1": a module that is
used twice, and so each layer of a scanned one (`nn.scan`, `nnx.scan`, `lax.scan`):
"blocks/3" is the output of the fourth layer, "blocks/attention/3" that of its
attention, "blocks/*" those of all. Several arrays in one output are numbered too.

A dictionary that crosses `jax.jit` comes back sorted by name: index it by tap.
"""

from flowkd_jax.capture._apply import apply_with_taps
from flowkd_jax.capture._apply import check_evaluation
from flowkd_jax.capture._apply import init
from flowkd_jax.capture._apply import list_taps
from flowkd_jax.capture._apply import tap_shapes
from flowkd_jax.capture._model import Variables
from flowkd_jax.capture._names import Tap
from flowkd_jax.capture._names import Taps

__all__ = [
  "Tap",
  "Taps",
  "Variables",
  "apply_with_taps",
  "check_evaluation",
  "init",
  "list_taps",
  "tap_shapes",
]
