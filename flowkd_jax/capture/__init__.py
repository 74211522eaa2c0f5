"""Intermediate activations of any model, by name, without a change to the model.

A tap is an activation that the model sows (Linen: into `intermediates`; NNX: as
`nnx.Intermediate`), or the output of one of its modules. Names of nested modules are
joined by "/": "encoder/block_3/attention". In a pattern "*" and "?" stand for letters
within one such part, "**" for any number of parts: "encoder/block_*", "**/attention".

What comes several times in one call is numbered, "name/0", "name/1": a module that is
used twice, and so each layer of a scanned one (`nn.scan`, `nnx.scan`, `lax.scan`):
"blocks/3" is the output of the fourth layer, "blocks/attention/3" that of its
attention, "blocks/*" those of all. Several arrays in one output are numbered too.

Linen modules are taken as they are. `from_nnx` and `from_equinox` turn modules of the
other two into a model and its variables, for every function that takes a Linen module
and its variables:

    model, variables = capture.from_nnx(vit, taps=["blocks/*"])
    logits, taps = capture.apply_with_taps(model, variables, images)

A model of no framework is any object with the members of `Model`, whose `apply` marks
activations by `tag`.

A model that returns more than its logits is told which output they are:
`with_logits(model, 0)`, or `with_logits(model, "logits")`.

A dictionary that crosses `jax.jit` comes back sorted by name: index it by tap.
"""

import importlib
from typing import TYPE_CHECKING

from flowkd_jax import _extra

_extra.require("capture")

from flowkd_jax.capture._apply import AnyModel
from flowkd_jax.capture._apply import adapt
from flowkd_jax.capture._apply import apply_with_taps
from flowkd_jax.capture._apply import check_evaluation
from flowkd_jax.capture._apply import check_logits
from flowkd_jax.capture._apply import init
from flowkd_jax.capture._apply import list_taps
from flowkd_jax.capture._apply import pooled
from flowkd_jax.capture._apply import tap_shapes
from flowkd_jax.capture._apply import with_logits
from flowkd_jax.capture._apply import with_taps
from flowkd_jax.capture._cost import peak_bytes
from flowkd_jax.capture._model import IsWanted
from flowkd_jax.capture._model import Model
from flowkd_jax.capture._model import Pool
from flowkd_jax.capture._model import Variables
from flowkd_jax.capture._names import Tap
from flowkd_jax.capture._names import Taps
from flowkd_jax.capture._shapes import row_shapes
from flowkd_jax.capture._statistics import statistics_over
from flowkd_jax.capture._tags import tag

if TYPE_CHECKING:
  from flowkd_jax.capture._equinox import from_equinox
  from flowkd_jax.capture._nnx import from_nnx

# Loaded with the framework that they need, when they are asked for.
_LAZY = {
  "from_equinox": "flowkd_jax.capture._equinox",
  "from_nnx": "flowkd_jax.capture._nnx",
}


def __getattr__(name: str):
  if name in _LAZY:
    return getattr(importlib.import_module(_LAZY[name]), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
  "AnyModel",
  "IsWanted",
  "Model",
  "Pool",
  "Tap",
  "Taps",
  "Variables",
  "adapt",
  "apply_with_taps",
  "check_evaluation",
  "check_logits",
  "from_equinox",
  "from_nnx",
  "init",
  "list_taps",
  "peak_bytes",
  "pooled",
  "row_shapes",
  "statistics_over",
  "tag",
  "tap_shapes",
  "with_logits",
  "with_taps",
]
