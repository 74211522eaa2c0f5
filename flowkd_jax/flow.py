"""Information flow: how much each tap of a network knows about the labels.

The information flow vector of a network holds the quadratic mutual information
between each tap (a named activation) and the labels, from input to output. The flow
divergence says how far the flow of a student is from that of a teacher.

Taps of two networks are paired by `pair_taps`: by name, or sequences by position. A
flow vector has no names; its order is that of the taps, which a mapping does not keep.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import overload

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax import _taps
from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import equal_shapes
from flowkd_jax._numerics import meshes
from flowkd_jax._taps import TapPair
from flowkd_jax._taps import Taps
from flowkd_jax._taps import pair_taps

__all__ = [
  "LayerMap",
  "TapPair",
  "Taps",
  "flow_differences",
  "flow_divergence",
  "information_flow",
  "map_by_shape",
  "monotone_layers",
  "nearest_layers",
  "nearest_of_distances",
  "pair_taps",
  "resolve_layer_map",
]

LayerMap = Sequence[int] | str


@overload
def information_flow(
  taps: Mapping[str, Float[Array, "batch ..."]],
  labels: Int[Array, " batch"],
  num_classes: int,
  *,
  kernel: kernels.KernelLike | None = None,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> dict[str, Float[Array, ""]]: ...


@overload
def information_flow(
  taps: Sequence[Any],
  labels: Int[Array, " batch"],
  num_classes: int,
  *,
  kernel: kernels.KernelLike | None = None,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, " taps"]: ...


@meshes.on_any_mesh
def information_flow(
  taps: Taps,
  labels: Int[Array, " batch"],
  num_classes: int,
  *,
  kernel: kernels.KernelLike | None = None,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, " taps"] | dict[str, Float[Array, ""]]:
  """Quadratic mutual information with the labels, one entry per tap.

  Passalis et al. 2020, section 3.1: `[I(f^1, Y), ..., I(f^L, Y)]`. Differentiable in
  the taps. Costs `information.quadratic_mutual_information` of each tap; taps of equal
  width are compiled once.

  Args:
    taps: Activations of any shapes after the batch axis: a sequence of arrays or of
      `(name, array)` pairs from input to output, or a mapping by name.
    labels: Class of each row. Rows with a negative label have no label and are left
      out.
    num_classes: Number of classes.
    kernel: Pairwise kernel or its name, cosine by default.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Returns:
    A vector in the order of the sequence. For a mapping, which has no order to rely on
    (`jax.jit` sorts its keys), scalars by name.

  Raises:
    TypeError: If a tap is not floating or the labels are not integers.
    ValueError: If there are no taps or shapes disagree.
  """
  named = _taps.tap_items("taps", taps)
  for name, features in named:
    checks.check_floating(name, features)
    checks.check_rows(name, features)

  def measure(features):
    return information.quadratic_mutual_information(
      features,
      labels,
      num_classes,
      kernel=kernel,
      mask=mask,
      axis_name=axis_name,
      block_size=block_size,
    )

  values = map_by_shape(measure, [kernels.flatten(tap) for _, tap in named])
  if not isinstance(taps, Mapping):
    return values
  return {name: value for (name, _), value in zip(named, values, strict=True)}


def map_by_shape(
  function: Callable[..., Float[Array, ""]],
  *arguments: Sequence[Array],
) -> Float[Array, " taps"]:
  """Maps a scalar function over taps; it is traced once for all of equal shapes.

  Args:
    function: Function of one array from each argument. Returns a scalar.
    *arguments: Sequences of arrays, all of the same length.

  Returns:
    The results in the order of the taps.
  """
  return jnp.stack(equal_shapes.map_by_shape(function, *arguments))


def nearest_layers(
  student_flow: Float[Array, " student_taps"],
  teacher_flow: Float[Array, " teacher_taps"],
) -> Int[Array, " student_taps"]:
  """For each student tap the teacher tap of nearest flow; last goes to last.

  The paper's `kappa(i) = argmin_j (w_s[i] - w_t[j])^2`.

  Args:
    student_flow: Information flow of the student, from input to output.
    teacher_flow: Information flow of the teacher, from input to output.

  Raises:
    TypeError: If a flow is a mapping, which does not keep the order of the taps.
    ValueError: If a flow is not a non-empty vector.
  """
  student_flow, teacher_flow = _flow_vectors(student_flow, teacher_flow)
  return nearest_of_distances(jnp.abs(student_flow[:, None] - teacher_flow[None, :]))


def nearest_of_distances(
  distances: Float[Array, "student_taps teacher_taps"],
) -> Int[Array, " student_taps"]:
  """For each student tap the nearest teacher tap; last goes to last.

  Args:
    distances: Distance between the flows of each student tap and each teacher tap, such
      as `evaluation.flow_distance_matrix` returns.
  """
  nearest = jnp.argmin(distances, axis=1).astype(jnp.int32)
  return nearest.at[-1].set(distances.shape[1] - 1)


def monotone_layers(
  similarity: Float[np.ndarray, "student_taps teacher_taps"],
) -> tuple[int, ...]:
  """For each student tap a teacher tap, in order, so that similarity is largest.

  Of all maps that never step back (a later student tap is not given an earlier
  teacher tap) and give the last tap to the last, the one with the largest sum of
  similarities, by dynamic programming; of equal sums the one with earlier teacher
  taps. The paper's kappa, `nearest_layers`, chooses each tap on its own and may cross.

  Args:
    similarity: Similarity of each student tap to each teacher tap, of any scale. For
      distances pass their negative.

  Raises:
    ValueError: If `similarity` is not a non-empty, finite matrix.

  Example:
    >>> import numpy as np
    >>> monotone_layers(np.array([[0.1, 0.9, 0.0], [0.8, 0.3, 0.1], [0.0, 0.0, 0.9]]))
    (1, 1, 2)
  """
  similarity = np.asarray(similarity, np.float64)
  if similarity.ndim != 2 or not similarity.size or not np.isfinite(similarity).all():
    raise ValueError(
      "similarity: expected a finite matrix [student taps, teacher taps], got shape "
      f"{similarity.shape}" + ("" if similarity.ndim != 2 else " or a NaN in it")
    )
  best = similarity[0]
  steps = []
  for row in similarity[1:]:
    so_far = np.maximum.accumulate(best)
    steps.append([int(np.argmax(best[: last + 1])) for last in range(len(best))])
    best = so_far + row
  choice = [len(best) - 1]
  for step in reversed(steps):
    choice.append(step[choice[-1]])
  return tuple(reversed(choice))


@meshes.on_any_mesh
def flow_divergence(
  student_flow: Float[Array, " student_taps"],
  teacher_flow: Float[Array, " teacher_taps"],
  *,
  layer_map: LayerMap = "nearest",
  weights: Float[Array, " student_taps"] | None = None,
  relative: bool = False,
) -> Float[Array, ""]:
  """Squared distance between two information flow vectors.

  `sum_i weight_i (w_s[i] - w_t[kappa(i)])^2`, Passalis et al. 2020, section 3.1.
  Differentiable in both flows; the choice of kappa is a constant.

  Args:
    student_flow: Information flow of the student, from input to output.
    teacher_flow: Information flow of the teacher, from input to output.
    layer_map: The paper's kappa: "nearest" maps each student tap to the teacher tap of
      nearest flow, and the last to the last; a sequence holds the index of the teacher
      tap for each student tap.
    weights: Weight of each student tap, one by default.
    relative: Divide each difference by the teacher's entry. Flow is of order 1e-3 and
      its square of order 1e-6. The relative divergence is of order one at any tap.

  Raises:
    TypeError: If a flow or `weights` is a mapping, which does not keep the order of
      the taps.
    ValueError: If a flow is not a vector, `layer_map` does not name a teacher tap for
      every student tap, or there is not one weight per student tap.
  """
  differences = flow_differences(
    student_flow, teacher_flow, layer_map=layer_map, relative=relative
  )
  squares = differences**2
  if weights is None:
    return squares.sum()
  _taps.check_vector_type("weights", weights)
  weights = jnp.asarray(weights, squares.dtype)
  checks.check_shape("weights", weights, squares.shape)
  return (weights * squares).sum()


@meshes.on_any_mesh
def flow_differences(
  student_flow: Float[Array, " student_taps"],
  teacher_flow: Float[Array, " teacher_taps"],
  *,
  layer_map: LayerMap = "nearest",
  relative: bool = True,
) -> Float[Array, " student_taps"]:
  """Student flow minus the flow of the teacher taps it is mapped to.

  Arguments and errors as in `flow_divergence`.
  """
  student_flow, teacher_flow = _flow_vectors(student_flow, teacher_flow)
  indices = resolve_layer_map(layer_map, student_flow, teacher_flow)
  target = teacher_flow[indices]
  difference = student_flow - target
  if not relative:
    return difference
  floor = jnp.finfo(target.dtype).eps
  return difference / jnp.maximum(lax.stop_gradient(target), floor)


def resolve_layer_map(
  layer_map: LayerMap,
  student_flow: Float[Array, " student_taps"],
  teacher_flow: Float[Array, " teacher_taps"],
) -> Int[Array, " student_taps"]:
  """Teacher index of every student tap, from "nearest" or a given sequence.

  Raises:
    ValueError: If `layer_map` is another word, of the wrong length, or names a
      tap that is not there.
  """
  if isinstance(layer_map, str):
    checks.check_choice("layer_map", layer_map, ("nearest",))
    return nearest_layers(student_flow, teacher_flow)
  indices = _taps.check_layer_map(
    layer_map, student_flow.shape[0], teacher_flow.shape[0]
  )
  return jnp.asarray(indices, jnp.int32)


def _flow_vectors(student_flow, teacher_flow):
  """Both flows as arrays; raises unless each is a non-empty vector."""
  vectors = []
  for name, flow in (("student_flow", student_flow), ("teacher_flow", teacher_flow)):
    _taps.check_vector_type(name, flow)
    vector = jnp.asarray(flow)
    if vector.ndim != 1 or not vector.shape[0]:
      raise ValueError(f"{name}: expected a non-empty vector, got shape {vector.shape}")
    vectors.append(vector)
  return vectors
