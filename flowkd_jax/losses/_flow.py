"""Losses over several taps: matching of a teacher's information flow.

Two ways of matching: `information_flow` compares the conditional probabilities of each
tap, as the paper trains; `quadratic_flow` compares the flow vectors themselves.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax import _checks
from flowkd_jax import flow
from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax.losses import _probabilistic

Mask = Shaped[Array, " batch"] | None
Weights = Mapping[str, Array | float] | Sequence[Array | float] | None
PAPER_KERNELS = ("cosine", "student_t")


def information_flow_terms(
  student: flow.Taps,
  teacher: flow.Taps,
  *,
  layer_map: Sequence[int] | None = None,
  kernel_names: Sequence[str] = PAPER_KERNELS,
  divergence_name: str = "jeffreys",
  authors: bool = False,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> dict[str, Float[Array, ""]]:
  """The flow-matching loss of every student tap, by name, unweighted.

  Per tap the sum over kernels of `conditional_divergence` between the tap and its
  teacher tap. Arguments and errors as in `information_flow`.
  """
  student_items, teacher_items = (
    flow.tap_items(student),
    flow.tap_items(teacher),
  )
  layer_map = _paired_layers(layer_map, student_items, teacher_items)
  divergence, options = _matching_options(divergence_name, authors)
  select = kernels.authors_kernel if authors else kernels.by_name
  return {
    name: _probabilistic.conditional_divergence(
      features,
      teacher_items[index][1],
      kernel=[select(kernel) for kernel in kernel_names],
      divergence=divergence,
      mask=mask,
      axis_name=axis_name,
      block_size=block_size,
      **options,
    )
    for (name, features), index in zip(student_items, layer_map, strict=True)
  }


def information_flow(
  student: flow.Taps,
  teacher: flow.Taps,
  *,
  weights: Weights = None,
  layer_map: Sequence[int] | None = None,
  kernel_names: Sequence[str] = PAPER_KERNELS,
  divergence_name: str = "jeffreys",
  authors: bool = False,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Information-flow matching over several taps: `sum_i weight_i L_i`.

  `L_i` is the Jeffreys divergence of neighbour probabilities under the cosine
  kernel plus that under the Student-t kernel (Passalis et al. 2020, Eq. 5-9);
  weights come from `flowkd_jax.schedules.critical_period` for intermediate taps
  and are 1 for the last (Eq. 10). To match the flow vectors themselves, see
  `quadratic_flow`. Depends neither on the batch size nor on the widths through its
  reduction; grows with the number of taps. Invariant to rotation and permutation:
  each kernel has an invariance that the other has not.

  Differs from the authors' code (`authors=True` is that code exactly): a row is
  not its own neighbour; the mean is over rows of sums over columns (theirs is
  over all pairs, smaller by the batch size); no epsilon in norms and distances
  (theirs: 1e-6), so antipodal, zero and duplicate rows are finite.

  Args:
    student: Student taps, by name or in a sequence, from input to output.
    teacher: Teacher taps; widths may differ from the student's.
    weights: Weight per student tap, one by default.
    layer_map: Index of the teacher tap of each student tap; by default taps
      correspond one to one.
    kernel_names: Kernels whose divergences are summed.
    divergence_name: One of `information.DIVERGENCES`.
    authors: Reproduce the published code.
    mask: Which rows are real; padding changes nothing.
    axis_name: Mapped axis over which the batch is split.
    block_size: Rows evaluated at a time; None chooses.

  Raises:
    TypeError: If a tap is not floating point.
    ValueError: If batch sizes or numbers of taps disagree, a weight is missing,
      or a kernel or divergence is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> taps = {"conv": jnp.eye(4), "dense": jnp.eye(4)}
    >>> float(information_flow(taps, taps, weights={"conv": 100.0, "dense": 1.0}))
    0.0
  """
  weights = _weight_of_each([name for name, _ in flow.tap_items(student)], weights)
  terms = information_flow_terms(
    student,
    teacher,
    layer_map=layer_map,
    kernel_names=kernel_names,
    divergence_name=divergence_name,
    authors=authors,
    mask=mask,
    axis_name=axis_name,
    block_size=block_size,
  )
  return weighted_sum(terms, weights)


def quadratic_flow_terms(
  student: flow.Taps,
  teacher: flow.Taps,
  *,
  labels: Int[Array, " batch"],
  num_classes: int,
  layer_map: flow.LayerMap = "nearest",
  kernel_names: Sequence[str] = PAPER_KERNELS,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> dict[str, Float[Array, ""]]:
  """The relative flow divergence of every student tap, by name, unweighted.

  Arguments and errors as in `quadratic_flow`.
  """
  # Once for all kernels: half-precision gradients are then summed in float32.
  student, teacher = _flattened(student), _flattened(teacher)
  names = list(student)
  total = jnp.zeros(len(names))
  for kernel_name in kernel_names:
    student_flow, teacher_flow = (
      flow.information_flow(
        taps,
        labels,
        num_classes,
        kernel=kernels.by_name(kernel_name),
        mask=mask,
        axis_name=axis_name,
        block_size=block_size,
      )
      for taps in (student, teacher)
    )
    terms = flow.flow_differences(student_flow, teacher_flow, layer_map=layer_map)
    total = total.astype(terms.dtype) + terms**2
  return dict(zip(names, total, strict=True))


def quadratic_flow(
  student: flow.Taps,
  teacher: flow.Taps,
  *,
  labels: Int[Array, " batch"],
  num_classes: int,
  weights: Weights = None,
  layer_map: flow.LayerMap = "nearest",
  kernel_names: Sequence[str] = PAPER_KERNELS,
  mask: Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Distance between the information flow vectors of student and teacher.

  `sum_i weight_i ((w_s[i] - w_t[kappa(i)]) / w_t[kappa(i)])^2`, the flow divergence of
  Passalis et al. 2020, section 3.1, summed over kernels. Differs from the paper: each
  difference is relative to the teacher's entry, because flow is of order 1e-3 and its
  squares would vanish beside any other loss; `flow.flow_divergence` has the plain form.
  Needs labels, which conditional probabilities do not. Relative, so of one size
  whatever the batch and the widths; grows with the number of taps. Invariant to
  rotation and to permutation.

  Args:
    student: Student taps, by name or in a sequence, from input to output.
    teacher: Teacher taps; their number and widths may differ from the student's.
    labels: Class of each row.
    num_classes: Number of classes.
    weights: Weight per student tap, one by default.
    layer_map: The paper's kappa: "nearest" (last to last), or for each student tap
      the index of its teacher tap.
    kernel_names: Kernels whose divergences are summed.
    mask: Which rows are real.
    axis_name: Mapped axis over which the batch is split.
    block_size: Rows evaluated at a time; None chooses.

  Raises:
    TypeError: If a tap is not floating or labels are not integers.
    ValueError: If shapes disagree, a weight is missing or a kernel is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> taps, labels = [jnp.eye(4)], jnp.array([0, 0, 1, 1])
    >>> float(quadratic_flow(taps, taps, labels=labels, num_classes=2))
    0.0
  """
  weights = _weight_of_each([name for name, _ in flow.tap_items(student)], weights)
  terms = quadratic_flow_terms(
    student,
    teacher,
    labels=labels,
    num_classes=num_classes,
    layer_map=layer_map,
    kernel_names=kernel_names,
    mask=mask,
    axis_name=axis_name,
    block_size=block_size,
  )
  return weighted_sum(terms, weights)


def weighted_sum(
  terms: Mapping[str, Float[Array, ""]],
  weights: Weights,
) -> Float[Array, ""]:
  """Sum of the terms by their weights, which are one by default.

  Raises:
    ValueError: If there is not exactly one weight per term.
  """
  weights = _weight_of_each(list(terms), weights)
  return jnp.stack([weights[name] * term for name, term in terms.items()]).sum()


def _weight_of_each(names, weights):
  if weights is None:
    weights = [1.0] * len(names)
  if not isinstance(weights, Mapping):
    if len(weights) != len(names):
      raise ValueError(
        f"weights: expected {len(names)}, one per tap, got {len(weights)}"
      )
    weights = dict(zip(names, weights, strict=True))
  if set(weights) != set(names):
    raise ValueError(
      f"weights: expected one for each of {sorted(names)}, got {sorted(weights)}"
    )
  return weights


def _flattened(taps):
  items = flow.tap_items(taps)
  for name, features in items:
    _checks.check_floating(name, features)
    _checks.check_rows(name, features)
  return {name: kernels.flatten(features) for name, features in items}


def _paired_layers(layer_map, student_items, teacher_items):
  if layer_map is None:
    if len(student_items) != len(teacher_items):
      raise ValueError(
        f"expected as many teacher taps as student taps, but the student has "
        f"{len(student_items)} and the teacher {len(teacher_items)}; pass "
        "layer_map with the teacher index of each student tap"
      )
    return range(len(student_items))
  flow.check_layer_map(layer_map, len(student_items), len(teacher_items))
  return layer_map


def _matching_options(divergence_name, authors):
  if not authors:
    return information.divergence_by_name(divergence_name), {}
  divergence = information.authors_divergence(divergence_name)
  return divergence, {"self_pairs": True, "reduction": "matrix"}
