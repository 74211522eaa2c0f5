"""Values marked inside a function, collected outside of it.

A mark is an identity with a label. It stands in the traced program (the jaxpr) of the
function, where `harvest` finds it: also within `scan`, `checkpoint`, `jit` and `vmap`,
whose values no Python variable can carry outside.
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
  """Name of a marked value.

  Attributes:
    name: The path of the module, or of what it sows.
    sown: True if the model sows it; otherwise it is the output of a module.
    part: Number of the array among those marked together, if they are several.
  """

  name: str
  sown: bool
  part: int | None = None


class Tagged(NamedTuple):
  """A value found.

  Attributes:
    label: Its name.
    value: The value; what was marked in a loop is stacked.
    loops: Loops around the mark: so many axes come before the value's own.
  """

  label: Label
  value: jax.Array
  loops: int = 0


_mark_p = core.Primitive("flowkd_mark")
_mark_p.def_impl(lambda x, *, label: x)
_mark_p.def_abstract_eval(lambda x, *, label: x)
mlir.register_lowering(_mark_p, lambda context, x, *, label: [x])
ad.deflinear2(_mark_p, lambda cotangent, x, *, label: [cotangent])


def _batch(arguments, axes, *, label):
  """Moves the axis that `vmap` adds to the front."""
  first = jnp.moveaxis(arguments[0], axes[0], 0)
  return _mark_p.bind(first, label=label), 0


batching.primitive_batchers[_mark_p] = _batch


def tag(value: PyTree, name: str, *, sown: bool = False) -> PyTree:
  """The same value, its arrays marked for those who ask for them by name.

  An identity of value and gradient, for the `apply` of a `Model`: use what it returns.

  Args:
    value: An array, or a pytree whose arrays are numbered if they are several.
    name: Path of the activation.
    sown: True if the model sows it; otherwise it is the output of a module.
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
  """Returns the results of the function and the values it marked, in order.

  What is marked in a `cond`, a `while_loop` or a function with a derivative of its own
  is not found.

  Args:
    function: Takes and returns pytrees of arrays.
    *arguments: What it is called with.
  """
  program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
  outputs, found = _evaluate(program, jax.tree.leaves(arguments))
  return jax.tree.unflatten(jax.tree.structure(shapes), outputs), found


def _evaluate(program, arguments) -> tuple[list[jax.Array], list[Tagged]]:
  """Outputs and marked values; each other value is dropped after its last use.

  `arguments` is emptied, so that the caller does not keep them alive.
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
    # The next equation may be a long program.
    del inputs, outputs, marked
  return [read(atom) for atom in jaxpr.outvars], found


def last_uses(jaxpr) -> list[set]:
  """For each equation, its variables that are not read after it."""
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
  """Positions of the carry among the inputs of a loop: first, and one past the last."""
  if "num_carry" in params:
    start = params["num_consts"]
    return start, start + params["num_carry"]
  constants, carry, _ = params["ft_in"].update(inputs).unpack()  # JAX 0.12
  start = len(list(constants))
  return start, start + len(list(carry))


class _Labels:
  """Labels of values that cross a transformation, which lets only arrays through."""

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
  """A program and its constants, whatever JAX calls the two together."""

  jaxpr: core.Jaxpr
  consts: Sequence[Any]


def programs(params: Mapping[str, Any]) -> list[Program]:
  """The programs within an equation."""
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
