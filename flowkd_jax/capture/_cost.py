"""Cost of computing the outputs of a traced program."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from flowkd_jax.capture import _tags


def flops_of_outputs(program: core.Jaxpr) -> list[int]:
  """Number of operations (FLOPs) that each output needs.

  Only convolutions and matrix products count. A multiply-add counts as two operations.
  A loop counts as often as it runs, or once if the number is unknown, even if an output
  needs only part of it. Of several branches, the most expensive counts.
  """
  costs = []
  needed = {}  # For each variable, a bit set of the equations that it depends on.
  for number, equation in enumerate(program.eqns):
    costs.append(_flops(equation))
    behind = 1 << number
    for atom in equation.invars:
      behind |= _behind(needed, atom)
    needed |= dict.fromkeys(equation.outvars, behind)
  return [
    sum(cost for i, cost in enumerate(costs) if _behind(needed, atom) >> i & 1)
    for atom in program.outvars
  ]


def _behind(needed, atom) -> int:
  return 0 if isinstance(atom, core.Literal) else needed.get(atom, 0)


def _flops(equation: Any) -> int:
  params = equation.params
  match equation.primitive.name:
    case "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      terms = math.prod(shape[axis] for axis in contracted)
    case "conv_general_dilated":
      shape = equation.invars[1].aval.shape
      terms = math.prod(shape) // shape[params["dimension_numbers"].rhs_spec[0]]
    case name:
      inner = [sum(map(_flops, each.jaxpr.eqns)) for each in _tags.programs(params)]
      if name == "cond":
        return max(inner, default=0)
      return params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)
  return 2 * terms * math.prod(equation.outvars[0].aval.shape)


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> int:
  """Estimate of the memory of a function besides its arguments, in bytes.

  The estimate keeps every value from its computation to its last use, and results to
  the end. The real need is smaller if the compiler fuses operations, and larger if it
  pads arrays.

  Args:
    function: A function that can be traced.
    *arguments: Arguments of the function, or their shapes.
  """
  return _peak_bytes(jax.make_jaxpr(function)(*arguments).jaxpr)


def _peak_bytes(program: core.Jaxpr) -> int:
  held, alive, peak = {}, 0, 0
  for equation, ended in zip(program.eqns, _tags.last_uses(program), strict=True):
    inner = [_peak_bytes(each.jaxpr) for each in _tags.programs(equation.params)]
    made = {atom: _bytes(equation, atom) for atom in equation.outvars}
    peak = max(peak, alive + max(sum(made.values()), *inner, 0))
    held |= made
    alive += sum(made.values())
    alive -= sum(held.pop(atom, 0) for atom in ended)
  return peak


def _bytes(equation: Any, atom: Any) -> int:
  """Size of a result in bytes; 0 for a broadcast, which is never stored."""
  if equation.primitive.name == "broadcast_in_dim":
    return 0
  shape, dtype = atom.aval.shape, atom.aval.dtype
  return math.prod(shape) * getattr(dtype, "itemsize", 1)
