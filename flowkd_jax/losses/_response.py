"""Losses on logits.

Missing labels, NaN and infinities are treated by the rules of `flowkd_jax.losses`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import label_rule
from flowkd_jax._numerics import meshes

# A number, or an array that may be traced and differentiated.
Option = float | Float[Array, "..."]


@meshes.on_any_mesh
def cross_entropy(
  logits: Float[Array, "batch classes"],
  labels: Int[Array, " batch"],
  *,
  smoothing: Option = 0.0,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Mean cross-entropy of the rows with their labels.

  Computed in float32 from log-softmax. Not a distillation loss, but the one that
  every method of this library stands beside. The mean over labelled rows:
  does not depend on the batch size; `log(classes)` where nothing is known. Invariant to
  a shift of each row of logits and to permutation of rows, or of the classes.

  Args:
    logits: Unnormalised log-probabilities.
    labels: Class of each row; negative in rows without a label, which are left out.
    smoothing: Share of the target, in [0, 1], that is spread evenly over the classes
      of the row that are not ruled out (Szegedy et al. 2016, section 7).
    mask: Which rows are real; the mean is over those.
    axis_name: Mapped axis over which the batch is split.

  Raises:
    TypeError: If logits are not floating or labels not integers.
    ValueError: If shapes disagree or logits are not [batch, classes], of two classes or
      more, a label in a NumPy array is no class, or `smoothing` is outside [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))), 4)
    1.3863

  References:
    Szegedy et al., "Rethinking the inception architecture for computer vision",
    CVPR 2016.
  """
  _check_logits("logits", logits)
  checks.check_mask(mask, logits)
  rows, classes = logits.shape
  read = label_rule.read_labels(labels, classes, shape=(rows,), mask=mask)
  logs = jax.nn.log_softmax(_real_logits(logits, read.labelled))
  terms = -jnp.take_along_axis(logs, read.classes[:, None], axis=1)[:, 0]
  if isinstance(smoothing, jax.Array) or smoothing:
    terms = _smoothed(terms, logs, smoothing)
  return parallel.global_mean(read.invalidate(terms), read.labelled, axis_name)


def _smoothed(terms, logs, smoothing):
  """Terms whose target is spread over all classes that are not ruled out."""
  (share,) = _numbers(logs, smoothing=smoothing)
  if not isinstance(smoothing, jax.Array) and not 0 <= smoothing <= 1:
    raise ValueError(f"smoothing: expected a number in [0, 1], got {smoothing}")
  ruled_out = jnp.isneginf(logs)
  classes = jnp.maximum((~ruled_out).sum(1, keepdims=True, dtype=logs.dtype), 1)
  # Divided before the sum, which overflows for logits of 1e38.
  spread = -jnp.where(ruled_out, 0, logs / classes).sum(1)
  # 0 times an infinity, as where the label is ruled out, would be NaN.
  return (1 - share) * jnp.where(share < 1, terms, 0) + share * spread


@meshes.on_any_mesh
def knowledge_distillation(
  student: Float[Array, "batch classes"],
  teacher: Float[Array, "batch classes"],
  *,
  temperature: Option = 4.0,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Knowledge distillation: `T^2 mean_i KL(t_i, s_i)` of softened probabilities.

  `t = softmax(teacher / T)`, `s = softmax(student / T)` (Hinton et al. 2015, Eq. 1;
  `T^2` keeps the size of the gradient, section 2). The mean over rows of a sum over
  classes: depends neither on the batch size nor, through its reduction, on the number
  of classes. Invariant to a shift of each row of
  logits and to permutation of rows, or of the classes of both; not to scale or
  rotation.

  Differs from ports that average over the classes too, as KLDivLoss does by default,
  or that give it probabilities in place of log-probabilities.

  Args:
    student: Student logits.
    teacher: Teacher logits.
    temperature: T, above 0: a number, or one a row. May be traced and differentiated,
      and is then not checked.
    mask: Which rows are real; padding changes nothing.
    axis_name: Mapped axis over which the batch is split; the loss is that of the
      global batch, on every device.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If shapes disagree or are not [batch, classes], or `temperature` is
      not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    >>> float(knowledge_distillation(logits + 1, logits))
    0.0

  References:
    Hinton et al., "Distilling the knowledge in a neural network", 2015.
  """
  sides, scale = _softened(student, teacher, temperature, mask)
  student_logs, teacher_logs = (jax.nn.log_softmax(side) for side in sides)
  rows = relative_entropy(student_logs, teacher_logs).sum(1)
  return parallel.global_mean(scale**2 * rows, mask, axis_name)


@meshes.on_any_mesh
def decoupled_kd(
  student: Float[Array, "batch classes"],
  teacher: Float[Array, "batch classes"],
  *,
  labels: Int[Array, " batch"],
  alpha: Option = 1.0,
  beta: Option = 8.0,
  temperature: Option = 4.0,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Decoupled knowledge distillation: `T^2 mean_i (alpha TCKD_i + beta NCKD_i)`.

  TCKD is the relative entropy between the probabilities of the label and of anything
  else; NCKD that between the probabilities of the other classes among themselves
  (Zhao et al. 2022). `alpha = 1` with the teacher's probability of the other classes
  as beta is `knowledge_distillation`, as the paper shows. Scale and invariances
  as there.

  Differs from the authors' code: the label is left out of NCKD, where they lower its
  logit by 1000, and logarithms are of sums of exponentials, where their log of a
  rounded 0 is infinite. With two classes NCKD is 0. Their trainer ramps the loss up
  over 20 epochs and uses beta from 1 to 8, depending on the pair of networks.

  Args:
    student: Student logits.
    teacher: Teacher logits.
    labels: Class of each row; negative in rows without a label, which are left out.
    alpha: Weight of TCKD. May be traced, as may beta and the temperature.
    beta: Weight of NCKD.
    temperature: T, above 0: a number, or one a row.
    mask: Which rows are real.
    axis_name: Mapped axis over which the batch is split.

  Raises:
    TypeError: If logits are not floating point or labels not integers.
    ValueError: If shapes disagree, there is a single class, a label in a NumPy array is
      no class, `temperature` is not positive or a weight is not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0]])
    >>> float(decoupled_kd(logits, logits, labels=jnp.array([1, 1])))
    0.0

  References:
    Zhao et al., "Decoupled knowledge distillation", CVPR 2022.
  """
  _check_logits("student", student)
  checks.check_mask(mask, student)
  batch, classes = student.shape
  read = label_rule.read_labels(labels, classes, shape=(batch,), mask=mask)
  sides, scale = _softened(student, teacher, temperature, read.labelled)
  positions = jnp.arange(classes, dtype=jnp.int32)
  target = positions[None, :] == read.classes[:, None]
  student_side, teacher_side = (_decoupled_logs(side, target) for side in sides)
  target_terms = relative_entropy(student_side.binary, teacher_side.binary).sum(1)
  rest_terms = relative_entropy(student_side.rest, teacher_side.rest).sum(1)
  # Without mass on the other classes the teacher says nothing about them.
  rest_terms = jnp.where(teacher_side.certain, 0, rest_terms)
  weights = _numbers(rest_terms, alpha=alpha, beta=beta)
  rows = read.invalidate(
    scale**2 * (weights[0] * target_terms + weights[1] * rest_terms)
  )
  return parallel.global_mean(rows, read.labelled, axis_name)


@meshes.on_any_mesh
def dist(
  student: Float[Array, "batch classes"],
  teacher: Float[Array, "batch classes"],
  *,
  beta: Option = 1.0,
  gamma: Option = 1.0,
  temperature: Option = 1.0,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """DIST: one minus the correlation of rows, and of columns, of probabilities.

  `T^2 (beta mean_i (1 - r(s_i, t_i)) + gamma mean_c (1 - r(s_c, t_c)))` with r the
  correlation of Pearson, `s_i` the probabilities of row i (inter-class relation) and
  `s_c` those of class c in the batch (intra-class relation) (Huang et al. 2022).
  Between 0 and `2 T^2 (beta + gamma)` whatever the batch size and the number of
  classes. Invariant to a shift of each row of logits and to permutation of rows or
  classes; not to scale or rotation.

  Differs from the authors' code, which adds 1e-8 to products of norms and so loses
  classes that are rare in the batch. A row or class without variation on one side
  counts 1, on both 0; on neither, as defined. Entries that both sides rule out are left
  out of both correlations. The paper sets beta and gamma to 2
  beside a cross-entropy of weight 1.

  Args:
    student: Student logits.
    teacher: Teacher logits.
    beta: Weight of the relation between classes, within rows. May be traced, as may
      gamma and the temperature.
    gamma: Weight of the relation within classes, between rows.
    temperature: T, above 0, one number.
    mask: Which rows are real; padding changes nothing.
    axis_name: Mapped axis over which the batch is split; correlations of classes run
      over the global batch.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If shapes disagree or are not [batch, classes], or `temperature` is
      not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0]])
    >>> float(dist(logits, logits))
    0.0

  References:
    Huang et al., "Knowledge distillation from a stronger teacher", NeurIPS 2022.
  """
  # Columns compare rows with one another, so all have the same temperature.
  checks.check_positive("temperature", temperature)
  sides, scale = _softened(student, teacher, temperature, mask)
  present = _present(student, teacher, mask)
  sides = [jax.nn.softmax(side) for side in sides]
  weights = _numbers(sides[0], beta=beta, gamma=gamma)

  def over_rows(values):
    return parallel.global_sum(values.sum(0, keepdims=True), axis_name)

  def over_classes(values):
    return values.sum(1, keepdims=True)

  inter = _correlation_gap(sides, present, over_classes)
  inter = parallel.global_mean(inter[:, 0], mask, axis_name)
  intra = _correlation_gap(sides, present, over_rows)[0]
  possible = over_rows(present.astype(intra.dtype))[0] > 0
  intra = jnp.where(possible, intra, 0).sum() / jnp.maximum(
    possible.sum(dtype=intra.dtype), 1
  )
  return scale[0] ** 2 * (weights[0] * inter + weights[1] * intra)


def _check_logits(name, logits):
  checks.check_features(**{name: logits})
  if len(logits.shape) != 2:
    raise ValueError(
      f"{name}: expected logits of shape [batch, classes], got {logits.shape}"
    )
  if logits.shape[1] == 1:
    raise ValueError(
      f"{name}: expected logits of two classes or more, got shape {logits.shape}, "
      "whose softmax is 1 in every row; for a binary problem use two logits"
    )


def _softened(student, teacher, temperature, mask):
  """Both sides divided by the temperature, at least float32, and it as `[batch or 1]`.

  Infinite logits stay as they are, without a gradient; no finite logit becomes one.
  """
  _check_logits("student", student)
  checks.check_floating("teacher", teacher)
  checks.check_shape("teacher", teacher, student.shape)
  checks.check_mask(mask, student)
  sides = [_real_logits(side, mask) for side in (student, teacher)]
  temperature = _row_temperatures(temperature, sides[0], mask)
  return [_divided(side, temperature[:, None]) for side in sides], temperature


def _divided(logits, temperature):
  infinite = jnp.isinf(logits)
  largest = float(jnp.finfo(logits.dtype).max) / 4
  # The inner `where` keeps infinity out of the gradient of the temperature.
  divided = jnp.where(infinite, 0, logits) / temperature
  clipped = jnp.clip(divided, -largest, largest)
  return jnp.where(infinite, lax.stop_gradient(logits), clipped)


def _row_temperatures(temperature, logits, mask):
  """The temperature as `[1]` or `[batch]`; 1 in masked rows, which are not read."""
  checks.check_positive("temperature", temperature, rows=logits.shape[0])
  values = jnp.asarray(temperature).astype(logits.dtype)
  if not values.ndim or mask is None:
    return values.reshape(-1)
  return jnp.where(jnp.asarray(mask).astype(bool), values, 1)


def _numbers(like, **options):
  """Numbers, traced ones too, in the dtype of the computation."""
  for name, value in options.items():
    checks.check_number(name, value)
  return [jnp.asarray(value).astype(like.dtype) for value in options.values()]


def _real_logits(logits, mask):
  """Logits in at least float32, 0 in masked rows, which may hold anything."""
  logits = jnp.asarray(float32.at_least_float32(logits))
  if mask is None:
    return logits
  return jnp.where(jnp.asarray(mask).astype(bool)[:, None], logits, 0)


def relative_entropy(
  student_logs: Float[Array, "..."], teacher_logs: Float[Array, "..."]
) -> Float[Array, "..."]:
  """Terms `t (log t - log s) - t + s`, each 0 or above; the last two cancel in sum.

  Without them the terms have both signs, and the sum of near sides is rounding. Where
  the teacher has no mass the term is s. NaN is no mass either way and stays.
  """
  teacher = jnp.exp(teacher_logs)
  massless = teacher == 0
  gaps = jnp.where(massless, 0, teacher_logs - student_logs)
  near = ~massless & (jnp.abs(gaps) < 1)
  close = jnp.where(near, gaps, 0)
  return jnp.where(
    near,
    teacher * (close + jnp.expm1(-close)),
    teacher * (gaps - 1) + jnp.exp(student_logs),
  )


class _Decoupled(NamedTuple):
  """Log-probabilities of one side.

  Attributes:
    binary: Of the label and of anything else.
    rest: Of each other class among the others; minus infinity at the label.
    certain: Rows in which no other class is possible.
  """

  binary: Float[Array, "batch 2"]
  rest: Float[Array, "batch classes"]
  certain: Bool[Array, " batch"]


def _decoupled_logs(logits, target):
  label = jnp.where(target, logits, 0).sum(1, keepdims=True)
  others = jnp.where(target, -jnp.inf, logits)
  certain = (others == -jnp.inf).all(1, keepdims=True)
  # The gradient of logsumexp is NaN where no class is possible.
  total = jax.nn.logsumexp(jnp.where(certain, 0, others), axis=1, keepdims=True)
  anything_else = jnp.where(certain, -jnp.inf, total)
  binary = jax.nn.log_softmax(jnp.concatenate([label, anything_else], axis=1))
  return _Decoupled(binary, others - total, certain[:, 0])


def _present(student, teacher, mask):
  """Entries to compare: of real rows, and possible on one side at least."""
  sides = (jnp.asarray(side) for side in (student, teacher))
  student_gone, teacher_gone = (side == -jnp.inf for side in sides)
  present = ~(student_gone & teacher_gone)
  if mask is None:
    return present
  return present & jnp.asarray(mask).astype(bool)[:, None]


def _correlation_gap(sides, present, total):
  """`1 - correlation` as half a squared distance; variation of rounding is none."""
  count = jnp.maximum(total(present.astype(sides[0].dtype)), 1)
  units, moving = [], []
  for side in sides:
    mean = total(jnp.where(present, side, 0)) / count
    centred = jnp.where(present, side - mean, 0)
    squares = total(centred**2)
    real = jnp.where(present, side, 0)
    noise = (8 * jnp.finfo(side.dtype).eps) ** 2 * lax.stop_gradient(total(real**2))
    still = squares <= noise  # not of NaN, which must reach the result
    norm = jnp.sqrt(jnp.where(still, 1, squares))
    units.append(jnp.where(still, 0, centred / norm))
    moving.append(~still)
  gap = total((units[0] - units[1]) ** 2) / 2
  return gap + jnp.where(moving[0] != moving[1], 0.5, 0).astype(gap.dtype)
