"""Information flow: mutual information of each tap of a network with the labels.

A tap is a named activation. The information flow vector of a network holds the
quadratic mutual information between each tap and the labels, from input to output. The
flow divergence is the distance between the flow vectors of a student and a teacher.

`pair_taps` pairs the taps of two networks by name, or by position for sequences. A flow
vector has no names. Its order is that of the taps, which a mapping does not keep.
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

  Passalis et al. 2020, section 3.1: `[I(f^1, Y), ..., I(f^L, Y)]`. It is differentiable
  in the taps. The cost is that of `information.quadratic_mutual_information` for each
  tap. Taps of equal width are compiled once.

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
    For a sequence, a vector in the order of the taps. For a mapping, scalars by name,
    because a mapping keeps no order (`jax.jit` sorts its keys).

  Raises:
    TypeError: If a tap is not floating point, or the labels are not integers.
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
  """Maps a scalar function over taps. It is traced once for taps of equal shapes.

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
  """Index of the teacher tap of nearest flow for each student tap.

  This is kappa of Passalis et al. 2020, `kappa(i) = argmin_j (w_s[i] - w_t[j])^2`. The
  last student tap is mapped to the last teacher tap.

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
  """Index of the nearest teacher tap for each student tap.

  The last student tap is mapped to the last teacher tap.

  Args:
    distances: Distance between the flows of each student tap and each teacher tap, such
      as `evaluation.flow_distance_matrix` returns.
  """
  # The last taps are the outputs of both networks, which belong together.
  nearest = jnp.argmin(distances, axis=1).astype(jnp.int32)
  return nearest.at[-1].set(distances.shape[1] - 1)


def monotone_layers(
  similarity: Float[np.ndarray, "student_taps teacher_taps"],
) -> tuple[int, ...]:
  """Map of student taps to teacher taps that keeps their order.

  A map is monotone if no student tap is mapped to an earlier teacher tap than the
  student tap before it. Among all monotone maps of the last student tap to the last
  teacher tap, dynamic programming finds the map with the largest sum of similarities.
  Between equal sums, earlier teacher taps win. The paper's kappa, `nearest_layers`,
  chooses each tap independently, so its map need not be monotone.

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
  # `best[j]` is the largest sum of a map whose last student tap so far goes to teacher
  # tap j. `steps` holds, for each j, the teacher tap of the student tap before.
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

  `sum_i weight_i (w_s[i] - w_t[kappa(i)])^2` (Passalis et al. 2020, section 3.1). It is
  differentiable in both flows. The choice of kappa is a constant to the gradient.

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
  """Student flow minus the flow of the teacher taps to which its taps are mapped.

  Arguments and errors are those of `flow_divergence`. With `relative=True`, the default
  here, differences are divided by the teacher's entries.
  """
  student_flow, teacher_flow = _flow_vectors(student_flow, teacher_flow)
  indices = resolve_layer_map(layer_map, student_flow, teacher_flow)
  target = teacher_flow[indices]
  difference = student_flow - target
  if not relative:
    return difference
  # A tap that knows nothing of the labels has a flow of 0.
  floor = jnp.finfo(target.dtype).eps
  return difference / jnp.maximum(lax.stop_gradient(target), floor)


def resolve_layer_map(
  layer_map: LayerMap,
  student_flow: Float[Array, " student_taps"],
  teacher_flow: Float[Array, " teacher_taps"],
) -> Int[Array, " student_taps"]:
  """Index of the teacher tap for each student tap.

  Args:
    layer_map: "nearest" for `nearest_layers`, or a sequence of indices.
    student_flow: Information flow of the student, from input to output.
    teacher_flow: Information flow of the teacher, from input to output.

  Raises:
    ValueError: If `layer_map` is another string, has the wrong length, or holds an
      index without a teacher tap.
  """
  if isinstance(layer_map, str):
    checks.check_choice("layer_map", layer_map, ("nearest",))
    return nearest_layers(student_flow, teacher_flow)
  indices = _taps.check_layer_map(
    layer_map, student_flow.shape[0], teacher_flow.shape[0]
  )
  return jnp.asarray(indices, jnp.int32)


def _flow_vectors(student_flow, teacher_flow):
  """Both flows as arrays. Raises unless each is a non-empty vector."""
  vectors = []
  for name, flow in (("student_flow", student_flow), ("teacher_flow", teacher_flow)):
    _taps.check_vector_type(name, flow)
    vector = jnp.asarray(flow)
    if vector.ndim != 1 or not vector.shape[0]:
      raise ValueError(f"{name}: expected a non-empty vector, got shape {vector.shape}")
    vectors.append(vector)
  return vectors
