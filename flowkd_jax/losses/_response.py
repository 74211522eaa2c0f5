"""Losses on logits."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped

from flowkd_jax import _checks
from flowkd_jax import _global_batch
from flowkd_jax import _labels
from flowkd_jax import _precision


def cross_entropy(
  logits: Float[Array, "batch classes"],
  labels: Int[Array, " batch"],
  *,
  mask: Shaped[Array, " batch"] | None = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Mean cross-entropy of the rows with their labels.

  Computed in float32 from log-softmax. Not a distillation loss, but the one that
  every method of this library stands beside. The mean over rows: does not depend on
  the batch size; `log(classes)` where nothing is known. Invariant to a shift of each
  row of logits and to permutation of rows, or of the classes.

  Args:
    logits: Unnormalised log-probabilities.
    labels: Class of each row; negative in rows without a label, which are left out.
    mask: Which rows are real; the mean is over those.
    axis_name: Mapped axis over which the batch is split.

  Raises:
    TypeError: If logits are not floating or labels not integers.
    ValueError: If shapes disagree.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))), 4)
    1.3863
  """
  _checks.check_features(logits=logits)
  _checks.check_mask(mask, logits)
  read = _labels.read_labels(labels, logits.shape[1], shape=logits.shape[:1], mask=mask)
  logs = jax.nn.log_softmax(_real_logits(logits, read.labelled))
  rows = -jnp.take_along_axis(logs, read.classes[:, None], axis=1)[:, 0]
  return _global_batch.global_mean(read.invalidate(rows), read.labelled, axis_name)


def knowledge_distillation(
  student: Float[Array, "batch classes"],
  teacher: Float[Array, "batch classes"],
  *,
  temperature: float = 4.0,
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
    temperature: T, above 0.
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
  logits = _logits(student, teacher, temperature, mask)
  student_logs, teacher_logs = (jax.nn.log_softmax(side) for side in logits)
  rows = _relative_entropy(student_logs, teacher_logs).sum(1)
  return temperature**2 * _global_batch.global_mean(rows, mask, axis_name)


def decoupled_kd(
  student: Float[Array, "batch classes"],
  teacher: Float[Array, "batch classes"],
  *,
  labels: Int[Array, " batch"],
  alpha: float = 1.0,
  beta: float = 8.0,
  temperature: float = 4.0,
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
    alpha: Weight of TCKD.
    beta: Weight of NCKD.
    temperature: T, above 0.
    mask: Which rows are real.
    axis_name: Mapped axis over which the batch is split.

  Raises:
    TypeError: If logits are not floating point or labels not integers.
    ValueError: If shapes disagree, there is a single class, or `temperature` is not
      positive.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0]])
    >>> float(decoupled_kd(logits, logits, labels=jnp.array([1, 1])))
    0.0

  References:
    Zhao et al., "Decoupled knowledge distillation", CVPR 2022.
  """
  sides = _logits(student, teacher, temperature, mask)
  if student.shape[1] < 2:
    raise ValueError(
      f"student: expected logits of two classes or more, got shape {student.shape}"
    )
  read = _labels.read_labels(
    labels, student.shape[1], shape=student.shape[:1], mask=mask
  )
  sides = (_real_logits(side, read.labelled) for side in sides)
  classes = jnp.arange(student.shape[1], dtype=jnp.int32)
  target = classes[None, :] == read.classes[:, None]
  (student_binary, student_rest), (teacher_binary, teacher_rest) = (
    _decoupled_logs(side, target) for side in sides
  )
  target_terms = _relative_entropy(student_binary, teacher_binary).sum(1)
  rest = jnp.where(target, 0, _relative_entropy(student_rest, teacher_rest)).sum(1)
  rows = read.invalidate(alpha * target_terms + beta * rest)
  mean = _global_batch.global_mean(rows, read.labelled, axis_name)
  return temperature**2 * mean


def dist(
  student: Float[Array, "batch classes"],
  teacher: Float[Array, "batch classes"],
  *,
  beta: float = 1.0,
  gamma: float = 1.0,
  temperature: float = 1.0,
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
  counts 1, on both 0; on neither, as defined. The paper sets beta and gamma to 2
  beside a cross-entropy of weight 1.

  Args:
    student: Student logits.
    teacher: Teacher logits.
    beta: Weight of the relation between classes, within rows.
    gamma: Weight of the relation within classes, between rows.
    temperature: T, above 0.
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
  logits = _logits(student, teacher, temperature, mask)
  sides = [jax.nn.softmax(side) for side in logits]
  real = jnp.ones(student.shape[:1], bool) if mask is None else jnp.asarray(mask, bool)
  count = _global_batch.global_sum(real.sum(dtype=sides[0].dtype), axis_name)
  count = jnp.maximum(count, 1)

  def over_rows(values):
    return _global_batch.global_sum(
      jnp.where(real[:, None], values, 0).sum(0, keepdims=True), axis_name
    )

  def over_classes(values):
    return values.sum(1, keepdims=True)

  means = [side.mean(1, keepdims=True) for side in sides]
  inter = _correlation_gap(sides, means, over_classes)
  means = [over_rows(side) / count for side in sides]
  intra = _correlation_gap(sides, means, over_rows)
  inter = _global_batch.global_mean(inter[:, 0], mask, axis_name)
  return temperature**2 * (beta * inter + gamma * intra.mean())


def _logits(student, teacher, temperature, mask):
  """Both sides divided by the temperature, at least float32."""
  _checks.check_features(student=student, teacher=teacher)
  if len(student.shape) != 2:
    raise ValueError(
      f"student: expected logits of shape [batch, classes], got {student.shape}"
    )
  _checks.check_shape("teacher", teacher, student.shape)
  _checks.check_positive("temperature", temperature)
  _checks.check_mask(mask, student)
  return [_real_logits(side, mask) / temperature for side in (student, teacher)]


def _real_logits(logits, mask):
  """Logits in at least float32, 0 in masked rows, which may hold anything."""
  logits = jnp.asarray(_precision.at_least_float32(logits))
  if mask is None:
    return logits
  return jnp.where(jnp.asarray(mask).astype(bool)[:, None], logits, 0)


def _relative_entropy(student_logs, teacher_logs):
  """Terms `t (log t - log s) - t + s`, each 0 or above; the last two cancel in sum.

  Without them the terms have both signs, and the sum of near sides is rounding.
  """
  gaps = teacher_logs - student_logs
  near = jnp.abs(gaps) < 1
  close = jnp.where(near, gaps, 0)
  teacher = jnp.exp(teacher_logs)
  return jnp.where(
    near,
    teacher * (close + jnp.expm1(-close)),
    teacher * (gaps - 1) + jnp.exp(student_logs),
  )


def _decoupled_logs(logits, target):
  """Log-probabilities of label and rest, and of each class within the rest."""
  lowest = jnp.finfo(logits.dtype).min
  label = jnp.where(target, logits, lowest).max(1, keepdims=True)
  rest = jax.nn.logsumexp(jnp.where(target, -jnp.inf, logits), axis=1, keepdims=True)
  binary = jax.nn.log_softmax(jnp.concatenate([label, rest], axis=1))
  return binary, jnp.where(target, 0, logits - rest)


def _correlation_gap(sides, means, total):
  """`1 - correlation` as half a squared distance; variation of rounding is none."""
  units, moving = [], []
  for side, mean in zip(sides, means, strict=True):
    centred = side - mean
    squares = total(centred**2)
    noise = (8 * jnp.finfo(side.dtype).eps) ** 2 * lax.stop_gradient(total(side**2))
    moves = squares > noise
    norm = jnp.sqrt(jnp.where(moves, squares, 1))
    units.append(jnp.where(moves, centred / norm, 0))
    moving.append(moves)
  gap = total((units[0] - units[1]) ** 2) / 2
  return gap + jnp.where(moving[0] != moving[1], 0.5, 0).astype(gap.dtype)
