"""Capture of intermediate activations (taps) of any model, without changing the model.

A tap is an activation that the model sows (Linen: into `intermediates`; NNX: as
`nnx.Intermediate`), or the output of one of its modules. The names of nested modules
are joined by "/", as in "encoder/block_3/attention". In patterns, "*" and "?" match
characters within one part of a name, and "**" matches any number of parts:
"encoder/block_*", "**/attention".

If a name occurs several times in one call, the taps are numbered: "name/0", "name/1".
This happens if a module is used twice, and for the layers of a scanned module
(`nn.scan`, `nnx.scan`, `lax.scan`): "blocks/3" is the output of the fourth layer,
"blocks/attention/3" the output of its attention, and "blocks/*" matches the outputs of
all layers. The arrays of an output with several arrays are numbered, too.

Linen modules are used directly. `from_nnx` and `from_equinox` convert NNX and Equinox
modules to a model and its variables. Every function that takes a Linen module and its
variables takes these, too:

    model, variables = capture.from_nnx(vit, taps=["blocks/*"])
    logits, taps = capture.apply_with_taps(model, variables, images)

A model of another framework is any object with the members of `Model`, whose `apply`
marks activations by `tag`.

If a model returns more than its logits, choose them: `with_logits(model, 0)`, or
`with_logits(model, "logits")`.

`jax.jit` sorts the keys of dictionaries. Look taps up by name; do not rely on their
order.
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

# Imported on first use, because each needs a framework that may not be installed.
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
