"""Losses over several taps that match a teacher's information flow.

`information_flow` compares the conditional probabilities of each tap, which is how the
paper trains. `quadratic_flow` compares the flow vectors themselves. Both pair taps as
`flow.pair_taps` does: by name, or by position for sequences.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax import _taps
from flowkd_jax import flow
from flowkd_jax import information
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import equal_shapes
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import renamed
from flowkd_jax.kernels import KernelsLike
from flowkd_jax.kernels import as_kernels
from flowkd_jax.kernels import flatten
from flowkd_jax.losses import _probabilistic
from flowkd_jax.losses import _tap_weights

Mask = Shaped[Array, " batch"] | None
PAPER_KERNELS = ("cosine", "student_t")


@renamed.renamed_arguments(kernel_names="kernels", divergence_name="divergence")
@meshes.on_any_mesh
def information_flow_terms(
  student: flow.Taps,
  teacher: flow.Taps,
  *,
  pairs: Mapping[str, str] | None = None,
  layer_map: Sequence[int] | None = None,
  kernels: KernelsLike = PAPER_KERNELS,
  divergence: str | information.Divergence = "jeffreys",
  authors: bool = False,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> dict[str, Float[Array, ""]]:
  """Unweighted terms of `information_flow`, by the names of the student taps.

  The term of a tap is the sum over kernels of `conditional_divergence` between the
  student tap and its teacher tap. Taps of a sequence without names are called "tap 0",
  "tap 1" and so on. Arguments and errors are those of `information_flow`.
  """
  options = {"self_pairs": True, "reduction": "matrix"} if authors else {}
  paired = flow.pair_taps(student, teacher, pairs=pairs, layer_map=layer_map)
  for pair in paired:
    checks.check_features(student=pair.student, teacher=pair.teacher)

  def divergence_of(student, teacher):
    return _probabilistic.conditional_divergence(
      student,
      teacher,
      kernels=kernel_list,
      divergence=chosen,
      mask=mask,
      axis_name=axis_name,
      block_size=block_size,
      **options,
    )

  kernel_list = as_kernels(kernels, authors=authors)
  chosen = information.as_divergence(divergence, authors=authors)
  terms = equal_shapes.map_by_shape(
    divergence_of,
    [flatten(pair.student) for pair in paired],
    [flatten(pair.teacher) for pair in paired],
  )
  return {pair.name: term for pair, term in zip(paired, terms, strict=True)}


@renamed.renamed_arguments(kernel_names="kernels", divergence_name="divergence")
@meshes.on_any_mesh
def information_flow(  # noqa: PLR0913 (a sequence has layer_map, a mapping pairs)
  student: flow.Taps,
  teacher: flow.Taps,
  *,
  weights: _tap_weights.Weights = None,
  pairs: Mapping[str, str] | None = None,
  layer_map: Sequence[int] | None = None,
  kernels: KernelsLike = PAPER_KERNELS,
  divergence: str | information.Divergence = "jeffreys",
  authors: bool = False,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Information-flow matching over several taps: `sum_i weight_i L_i`.

  `L_i` is the sum of two Jeffreys divergences between neighbour probabilities, one
  under the cosine kernel and one under the Student-t kernel (Passalis et al. 2020, Eq.
  5-9). The paper takes weights from `flowkd_jax.schedules.critical_period` for
  intermediate taps and 1 for the last tap (Eq. 10). `quadratic_flow` matches the flow
  vectors themselves.

  By its reduction the loss depends neither on the batch size nor on the widths. It
  grows with the number of taps. It is invariant to rotation of either side and to
  permutation of the rows. The cosine kernel is also invariant to the scale of each row,
  and the Student-t kernel to a shift.

  Differs from the authors' code, which `authors=True` reproduces exactly:

  - A row is not its own neighbour.
  - The loss is the mean over rows of sums over columns. The authors take the mean over
    all pairs, which is smaller by the batch size.
  - There is no epsilon in norms and distances (the authors: 1e-6), and antipodal, zero
    and duplicate rows have finite losses and gradients.

  Args:
    student: Student taps: a mapping `{name: array}`, or a sequence of arrays or of
      `(name, array)` pairs.
    teacher: Teacher taps. Their widths may differ from those of the student. Taps with
      names are paired by name: every student name must be among the teacher's names,
      and further teacher taps are ignored. Sequences of arrays are paired by position.
    weights: Weight of each compared student tap, one by default. Pass a mapping for a
      mapping of taps, and a sequence for a sequence.
    pairs: Name of the teacher tap for each name of a student tap, if the names differ.
      Only the student taps among its keys are compared.
    layer_map: Index of the teacher tap for each student tap, for sequences.
    kernels: Kernels or their names, such as `[kernels.von_mises_fisher(8.0), "cosine"]`
      or `["von_mises_fisher:8"]`. The divergences under all kernels are summed.
    divergence: A divergence of `flowkd_jax.information`, a function of your own with
      the same signature, or a name in `information.DIVERGENCES`.
    authors: Reproduce the published code. Names of kernels and divergences then refer
      to `kernels.authors_kernel` and `information.authors_divergence`.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If a tap is not floating point, or taps, `pairs`, `layer_map` or
      `weights` have the wrong type.
    ValueError: If taps cannot be paired, batch sizes disagree, a weight is missing, or
      a kernel or divergence is unknown or has a parameter out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> taps = {"conv": jnp.eye(4), "dense": jnp.eye(4)}
    >>> float(information_flow(taps, taps, weights={"conv": 100.0, "dense": 1.0}))
    0.0
  """
  paired = flow.pair_taps(student, teacher, pairs=pairs, layer_map=layer_map)
  weights = _tap_weights.named_weights(
    [pair.name for pair in paired], weights, student, pairs
  )
  terms = information_flow_terms(
    student,
    teacher,
    pairs=pairs,
    layer_map=layer_map,
    kernels=kernels,
    divergence=divergence,
    authors=authors,
    mask=mask,
    axis_name=axis_name,
    block_size=block_size,
  )
  return _tap_weights.weighted_sum(terms, weights)


@renamed.renamed_arguments(kernel_names="kernels")
@meshes.on_any_mesh
def quadratic_flow_terms(
  student: flow.Taps,
  teacher: flow.Taps,
  *,
  labels: Int[Array, " batch"],
  num_classes: int,
  pairs: Mapping[str, str] | None = None,
  layer_map: flow.LayerMap | None = None,
  kernels: KernelsLike = PAPER_KERNELS,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> dict[str, Float[Array, ""]]:
  """Unweighted terms of `quadratic_flow`, by the names of the student taps.

  Arguments and errors are those of `quadratic_flow`.
  """
  sides, layer_map = _compared(student, teacher, pairs, layer_map)
  # Converted to float32 once for all kernels, so that the gradients of the kernels are
  # summed before they are rounded to half precision.
  students, teachers = (_flattened(side) for side in sides)
  total = jnp.zeros(len(students))
  for kernel in as_kernels(kernels):
    student_flow, teacher_flow = (
      flow.information_flow(
        taps,
        labels,
        num_classes,
        kernel=kernel,
        mask=mask,
        axis_name=axis_name,
        block_size=block_size,
      )
      for taps in (students, teachers)
    )
    terms = flow.flow_differences(student_flow, teacher_flow, layer_map=layer_map)
    total = total.astype(terms.dtype) + terms**2
  return {name: term for (name, _), term in zip(sides[0], total, strict=True)}


@renamed.renamed_arguments(kernel_names="kernels")
@meshes.on_any_mesh
def quadratic_flow(  # noqa: PLR0913 (a sequence has layer_map, a mapping pairs)
  student: flow.Taps,
  teacher: flow.Taps,
  *,
  labels: Int[Array, " batch"],
  num_classes: int,
  weights: _tap_weights.Weights = None,
  pairs: Mapping[str, str] | None = None,
  layer_map: flow.LayerMap | None = None,
  kernels: KernelsLike = PAPER_KERNELS,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Squared distance between the information flow vectors of student and teacher.

  `sum_i weight_i ((w_s[i] - w_t[kappa(i)]) / w_t[kappa(i)])^2` is the flow divergence
  of Passalis et al. 2020, section 3.1, summed over kernels. It needs labels, unlike
  `information_flow`.

  Differs from the paper: each difference is divided by the teacher's entry. Flow is of
  order 1e-3, so its squares would be negligible beside any other loss.
  `flow.flow_divergence` has the form of the paper.

  Because differences are relative, the loss depends neither on the batch size nor on
  the widths. It grows with the number of taps. It is invariant to rotation of either
  side and to permutation of the rows.

  Args:
    student: Student taps: a mapping `{name: array}`, or a sequence of arrays or of
      `(name, array)` pairs from input to output.
    teacher: Teacher taps. Their widths may differ from those of the student. Taps with
      names are paired by name: every student name must be among the teacher's names,
      and further teacher taps are ignored.
    labels: Class of each row.
    num_classes: Number of classes.
    weights: Weight of each compared student tap, one by default. Pass a mapping for a
      mapping of taps, and a sequence for a sequence.
    pairs: Name of the teacher tap for each name of a student tap, if the names differ.
      Only the student taps among its keys are compared.
    layer_map: The paper's kappa, for sequences: "nearest" maps each student tap to the
      teacher tap of nearest flow, and the last to the last; a sequence holds the index
      of the teacher tap for each student tap. The default for arrays without names is
      "nearest".
    kernels: Kernels or their names, such as `[kernels.von_mises_fisher(8.0), "cosine"]`
      or `["von_mises_fisher:8"]`. The divergences under all kernels are summed.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of rows evaluated at a time, chosen automatically if None.

  Raises:
    TypeError: If a tap is not floating point, labels are not integers, or `layer_map`
      is given for a mapping, which does not keep the order of the taps.
    ValueError: If taps cannot be paired, shapes disagree, a weight is missing, or a
      kernel is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> taps, labels = [jnp.eye(4)], jnp.array([0, 0, 1, 1])
    >>> float(quadratic_flow(taps, taps, labels=labels, num_classes=2))
    0.0
  """
  sides, _ = _compared(student, teacher, pairs, layer_map)
  weights = _tap_weights.named_weights(
    [name for name, _ in sides[0]], weights, student, pairs
  )
  terms = quadratic_flow_terms(
    student,
    teacher,
    labels=labels,
    num_classes=num_classes,
    pairs=pairs,
    layer_map=layer_map,
    kernels=kernels,
    mask=mask,
    axis_name=axis_name,
    block_size=block_size,
  )
  return _tap_weights.weighted_sum(terms, weights)


def _compared(student, teacher, pairs, layer_map):
  """Compared taps of both sides as `(name, array)` pairs, and their layer map.

  Taps that are paired by name or by index come in the order of the pairs, and their
  layer map is the identity. With "nearest" all taps of both sides are returned.
  """
  nearest = isinstance(layer_map, str)
  if layer_map is None and pairs is None:
    nearest = not any(
      _taps.are_named(*side) for side in (("student", student), ("teacher", teacher))
    )
  if not nearest:
    paired = flow.pair_taps(student, teacher, pairs=pairs, layer_map=layer_map)
    students, teachers = (
      [(pair.name, pair[side]) for pair in paired] for side in (1, 2)
    )
    return (students, teachers), range(len(paired))
  if pairs is not None:
    raise ValueError("pairs, layer_map: expected one of them, got both")
  sides = _taps.ordered_taps("student", student), _taps.ordered_taps("teacher", teacher)
  return sides, "nearest" if layer_map is None else layer_map


def _flattened(items):
  for name, features in items:
    checks.check_floating(name, features)
    checks.check_rows(name, features)
  return [flatten(features) for _, features in items]
