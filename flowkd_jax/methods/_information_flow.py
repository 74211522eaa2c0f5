"""Information-flow distillation (Passalis, Tzelepi, Tefas, CVPR 2020).

"Heterogeneous Knowledge Distillation using Information Flow Modeling",
https://arxiv.org/abs/2005.00727. The loss compares each student tap with a teacher tap:

    L = sum_i alpha_i(k) L_i        (Eq. 9)

`L_i` is the divergence between the conditional probabilities of tap i in both networks
(Eq. 5-8), or between their quadratic mutual information with the labels. In epoch k,
`alpha_i` is 1 for the last tap and `alpha_init gamma^k` for the other taps (Eq. 10).
This decay is the critical-period schedule.

The paper uses the loss in two stages. First, an auxiliary teacher, which has the
student's architecture but is wider, is distilled from the teacher by its last tap
alone. Then the student is distilled from the auxiliary teacher by all taps, which
correspond one to one.

Not in the paper: a student tap can learn from the teacher's class probabilities
(`POSTERIOR`) instead of a teacher tap. The probabilities carry the teacher's knowledge
of the labels, and separate near from far rows more sharply than a tap does. If labels
may be used, `LABELLED_POSTERIOR` is the mean of the probabilities and the one-hot
labels; in rows without a label it is the probabilities alone.
"""

from collections.abc import Mapping

import optax

from flowkd_jax import _taps
from flowkd_jax import capture
from flowkd_jax import information
from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax._numerics import checks
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _heads
from flowkd_jax.methods import _method
from flowkd_jax.methods import _targets
from flowkd_jax.methods._targets import LABELLED_POSTERIOR
from flowkd_jax.methods._targets import POSTERIORS

_TERMS = {
  "probabilities": losses.information_flow_terms,
  "quadratic": losses.quadratic_flow_terms,
}
MATCHINGS = tuple(_TERMS)


def information_flow(  # noqa: PLR0913 (options of one method, by name)
  student: capture.AnyModel,
  teacher: _method.Network,
  optimizer: optax.GradientTransformation,
  *,
  pairs: Mapping[str, str],
  weights: Mapping[str, optax.Schedule | float],
  matching: str = "probabilities",
  matching_options: Mapping | None = None,
  label_weight: float = 0.0,
  initial: _method.Variables | None = None,
  micro_batches: int = 1,
  axis_name: str | None = "batch",
) -> _method.Method:
  """Distillation by information-flow matching.

  Args:
    student: Network to train. Its BatchNorm layers need the same `axis_name`.
    teacher: Frozen teacher in evaluation mode; receives no gradient.
    optimizer: Optimizer of the student.
    pairs: Teacher tap of each student tap, by name. Instead of a teacher tap, the value
      may be `POSTERIOR`, the softmax of the teacher's logits, or `LABELLED_POSTERIOR`.
    weights: Weight of each student tap, a number or a schedule of the step.
    matching: "probabilities" for `losses.information_flow`, which needs no labels; or
      "quadratic" for `losses.quadratic_flow`.
    matching_options: Options of that loss: `kernels`, `divergence`, `authors`, as in
      `{"kernels": [kernels.von_mises_fisher(8.0)]}`; "quadratic" needs `num_classes`.
      The entry "taps" holds options of single student taps, by tap name; they override
      the general options.
    label_weight: Weight of an additional cross-entropy on the labels; 0 in the paper.
    initial: Initial variables of the student; fresh ones by default.
    micro_batches: Number of parts of the batch, to save memory; see `gradient_method`.
    axis_name: Name of the mapped axis over which the batch is split, or None.

  Raises:
    ValueError: If `pairs` is empty; if a weight is missing or negative; if
      `matching_options` names a tap that is not in `pairs`; or if `matching`, a kernel
      or a divergence is unknown.
  """
  checks.check_choice("matching", matching, MATCHINGS)
  _taps.check_pairs(pairs)
  if set(weights) != set(pairs):
    raise ValueError(
      f"weights: expected one for each of the taps {sorted(pairs, key=str)}, got "
      f"{sorted(weights, key=str)}"
    )
  options = dict(matching_options or {})
  of_tap = options.pop("taps", {})
  if not set(of_tap) <= set(pairs):
    raise ValueError(
      f"matching_options: expected options of some of the taps "
      f"{sorted(pairs, key=str)}, got {sorted(of_tap, key=str)}"
    )
  for of_one in (options, *of_tap.values()):
    _check_options(options | of_one)

  teacher_taps = tuple(name for name in pairs.values() if name not in POSTERIORS)
  # One call for all taps with the same options: taps of equal widths compile once.
  plain = [tap for tap in pairs if tap not in of_tap]
  together = [[tap] for tap in pairs if tap in of_tap] + ([plain] if plain else [])

  def terms(student, teacher, batch, params):
    del params
    shared = {"mask": batch["mask"], "axis_name": axis_name, **options}
    if matching == "quadratic":
      shared |= {"labels": batch["label"]}
    values = {}
    for taps in together:
      values |= _TERMS[matching](
        {tap: student.taps[tap] for tap in taps},
        {tap: _targets.output(teacher, batch["label"], pairs[tap]) for tap in taps},
        **(shared | of_tap.get(taps[0], {})),
      )
    return {tap: values[tap] for tap in pairs}

  method = _distillation.distillation(
    student,
    teacher,
    optimizer,
    terms=terms,
    weights=weights,
    taps=(tuple(pairs), teacher_taps),
    label_weight=label_weight,
    initial=initial,
    micro_batches=micro_batches,
    axis_name=axis_name,
  )
  method = _method.also_checked(method, _posterior_fits(teacher, pairs.values()))
  if matching == "quadratic":
    return _method.also_checked(method, _num_classes_fit([options, *of_tap.values()]))
  return method


def _posterior_fits(teacher: _method.Network, names):
  """Check the teacher's head if the student learns from its probabilities."""

  def check(images, num_classes):
    if not set(names) & set(POSTERIORS):
      return
    classes = _heads.num_logits("teacher", *teacher, images)
    _heads.check_head("teacher", classes)
    if LABELLED_POSTERIOR in names:
      _heads.check_labels("teacher", classes, num_classes, exactly=True)

  return check


def _check_options(options):
  """Raise for an unknown kernel or divergence before training starts."""
  authors = options.get("authors", False)
  if "kernels" in options:
    kernels.as_kernels(options["kernels"], authors=authors)
  if "divergence" in options:
    information.as_divergence(options["divergence"], authors=authors)


def _num_classes_fit(options):
  """Check the number of classes of the quadratic mutual information."""

  def check(_, num_classes):
    for one in options:
      classes = one.get("num_classes", num_classes)
      _heads.check_labels("matching_options: num_classes", classes, num_classes)

  return check
