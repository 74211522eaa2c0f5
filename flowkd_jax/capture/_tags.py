"""Tags: values that are marked inside a function and collected outside of it.

A mark is an identity operation with a label. It becomes an equation of the traced
program (the jaxpr) of the function. `harvest` evaluates this program equation by
equation and collects marked values. Thus it finds marks within `scan`, `checkpoint`,
`jit` and `vmap`, too; a Python variable could not carry values out of these, because
they would be leaked tracers.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir

PyTree = Any


class Label(NamedTuple):
  """Label of a marked value.

  Attributes:
    name: Path of the module or of the sown value.
    sown: True if the model sows it; False if it is the output of a module.
    part: Number of the array, if several arrays are marked together.
  """

  name: str
  sown: bool
  part: int | None = None


class Tagged(NamedTuple):
  """Marked value with its label.

  Attributes:
    label: Label of the value.
    value: The value. Values marked in a loop are stacked.
    loops: Number of loops around the mark, which is the number of stacked axes in front
      of the value's own axes.
  """

  label: Label
  value: jax.Array
  loops: int = 0


# An identity for evaluation, shapes, lowering and gradients; only `harvest` sees it.
_mark_p = core.Primitive("flowkd_mark")
_mark_p.def_impl(lambda x, *, label: x)
_mark_p.def_abstract_eval(lambda x, *, label: x)
mlir.register_lowering(_mark_p, lambda context, x, *, label: [x])
ad.deflinear2(_mark_p, lambda cotangent, x, *, label: [cotangent])


def _batch(arguments, axes, *, label):
  """Move the axis that `vmap` adds to the front, where taps have their rows."""
  first = jnp.moveaxis(arguments[0], axes[0], 0)
  return _mark_p.bind(first, label=label), 0


batching.primitive_batchers[_mark_p] = _batch


def tag(value: PyTree, name: str, *, sown: bool = False) -> PyTree:
  """Mark the arrays of a value, so that they can be captured by name.

  Value and gradient do not change. Functions `apply` of a `Model` call it; use the
  returned value, as only that is marked.

  Args:
    value: An array or a pytree. Several arrays are numbered.
    name: Path of the activation.
    sown: True if the model sows it; False if it is the output of a module.
  """
  leaves, structure = jax.tree.flatten(value)
  several = sum(isinstance(leaf, jax.Array) for leaf in leaves) > 1
  for part, leaf in enumerate(leaves):
    if isinstance(leaf, jax.Array):
      label = Label(name, sown, part if several else None)
      leaves[part] = _mark_p.bind(leaf, label=label)
  return structure.unflatten(leaves)


def harvest(
  function: Callable[..., PyTree], *arguments: PyTree
) -> tuple[PyTree, list[Tagged]]:
  """Call a function: `(results, marked values in order)`.

  Marks inside a `cond`, a `while_loop` or a function with a custom derivative are not
  found.

  Args:
    function: A function from pytrees of arrays to pytrees of arrays.
    *arguments: Arguments of the function.
  """
  program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
  outputs, found = _evaluate(program, jax.tree.leaves(arguments))
  return jax.tree.unflatten(jax.tree.structure(shapes), outputs), found


def _evaluate(program, arguments) -> tuple[list[jax.Array], list[Tagged]]:
  """Evaluate a program: `(outputs, marked values)`.

  Each value is dropped after its last use: without a compiler around it, the evaluation
  would otherwise keep all activations in memory. For the same reason `arguments` is
  emptied, so that the caller does not keep them alive.
  """
  jaxpr, constants = program.jaxpr, program.consts
  values = dict(zip(jaxpr.constvars, constants, strict=True))
  values |= dict(zip(jaxpr.invars, arguments, strict=True))
  arguments.clear()

  def read(atom):
    return atom.val if isinstance(atom, core.Literal) else values[atom]

  found = []
  for equation, ended in zip(jaxpr.eqns, last_uses(jaxpr), strict=True):
    inputs = [read(atom) for atom in equation.invars]
    for variable in ended:
      values.pop(variable, None)
    outputs, marked = _evaluation(equation)(equation, inputs)
    values |= dict(zip(equation.outvars, outputs, strict=True))
    for variable in ended:
      values.pop(variable, None)
    found += marked
    # Local names would keep the values alive during the next equation, which may be a
    # long program.
    del inputs, outputs, marked
  return [read(atom) for atom in jaxpr.outvars], found


def last_uses(jaxpr) -> list[set]:
  """Variables of each equation that no later equation reads."""
  read_later = {atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}
  found = []
  for equation in reversed(jaxpr.eqns):
    atoms = *equation.invars, *equation.outvars
    ended = {atom for atom in atoms if not isinstance(atom, core.Literal)} - read_later
    found.append(ended)
    read_later |= ended
  return found[::-1]


def _evaluation(equation):
  if equation.primitive is _mark_p:
    return _marked
  inner = programs(equation.params)
  return _RULES.get(equation.primitive.name, _bind) if _any_mark(inner) else _bind


def _marked(equation, inputs):
  return inputs, [Tagged(equation.params["label"], inputs[0])]


def _bind(equation, inputs):
  options = equation.primitive.get_bind_params(equation.params)
  with equation.ctx.manager:
    outputs = equation.primitive.bind(*inputs, **options)
  return (outputs if equation.primitive.multiple_results else [outputs]), []


def _inline(equation, inputs):
  (program,) = programs(equation.params)
  return _evaluate(program, inputs)


def _checkpoint(equation, inputs):
  (program,) = programs(equation.params)
  options = {name: equation.params[name] for name in ("prevent_cse", "policy")}
  labels = _Labels()
  again = jax.checkpoint(
    lambda inputs: labels.taken_off(_evaluate(program, inputs)), **options
  )
  outputs, values = again(inputs)
  return outputs, labels.put_on(values)


def _scan(equation, inputs):
  options = {name: equation.params[name] for name in ("length", "reverse", "unroll")}
  start, end = _carry(equation.params, inputs)
  labels = _Labels()

  def body(carry, rows):
    arguments = [*inputs[:start], *carry, *rows]
    found = _evaluate(equation.params["jaxpr"], arguments)
    outputs, values = labels.taken_off(found)
    return outputs[: end - start], (outputs[end - start :], values)

  carry, (stacked, values) = lax.scan(body, inputs[start:end], inputs[end:], **options)
  return [*carry, *stacked], labels.put_on(values, loops=1)


def _carry(params, inputs) -> tuple[int, int]:
  """Range of the carry among the inputs of a loop: first position and end."""
  if "num_carry" in params:
    start = params["num_consts"]
    return start, start + params["num_carry"]
  constants, carry, _ = params["ft_in"].update(inputs).unpack()  # JAX 0.12
  start = len(list(constants))
  return start, start + len(list(carry))


class _Labels:
  """Store for labels while their values leave a transformation.

  A transformation such as `scan` returns only arrays. The labels are taken off inside
  and put back on outside, in the same order.
  """

  def __init__(self):
    self._found: list[Tagged] = []

  def taken_off(self, result):
    outputs, self._found = result
    return outputs, [tagged.value for tagged in self._found]

  def put_on(self, values: Sequence[jax.Array], loops: int = 0) -> list[Tagged]:
    return [
      Tagged(tagged.label, value, tagged.loops + loops)
      for tagged, value in zip(self._found, values, strict=True)
    ]


_RULES: Mapping[str, Callable] = {
  "jit": _inline,
  "pjit": _inline,
  "closed_call": _inline,
  "core_call": _inline,
  "checkpoint": _checkpoint,
  "remat2": _checkpoint,
  "scan": _scan,
}


class Program(NamedTuple):
  """Program and its constants, for all versions of JAX."""

  jaxpr: core.Jaxpr
  consts: Sequence[Any]


def programs(params: Mapping[str, Any]) -> list[Program]:
  """Programs inside an equation, such as the body of a loop."""
  found = []
  for value in params.values():
    for entry in value if isinstance(value, tuple | list) else (value,):
      if hasattr(entry, "eqns"):  # Up to JAX 0.11 some have no constants.
        jaxpr = getattr(entry, "jaxpr", entry)
        found.append(Program(jaxpr, getattr(entry, "consts", ())))
  return found


def _any_mark(inner: Sequence[Program]) -> bool:
  return any(
    equation.primitive is _mark_p or _any_mark(programs(equation.params))
    for program in inner
    for equation in program.jaxpr.eqns
  )
