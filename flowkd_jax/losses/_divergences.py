"""Divergences of softened probabilities: reverse, skewed and Jensen-Shannon.

The documentation of `flowkd_jax.losses` has the rules for infinities and NaN.
"""

from jaxtyping import Array
from jaxtyping import Float

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _log_probabilities
from flowkd_jax.losses import _logits
from flowkd_jax.losses import _softmax


@meshes.on_any_mesh
def reverse_kl(
  student: Float[Array, "batch *positions classes"],
  teacher: Float[Array, "batch *positions classes"],
  *,
  temperature: _logits.Option = 1.0,
  standardize: bool = False,
  mask: _logits.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Reverse distillation: `T^2 mean_i KL(s_i, t_i)` of softened probabilities.

  This is `knowledge_distillation` with both sides exchanged. The student is penalised
  for probability where the teacher has none, and may ignore modes of the teacher that
  it cannot represent. This helps small language models (Gu et al. 2024, section 2;
  their training by policy gradient is not part of this loss). The loss is the mean over
  rows of a sum over classes. It is invariant to a shift of each row of logits, and to
  permutation of rows or of the classes of both sides.

  The loss is infinite if only the teacher rules out a class. `skew_kl` and
  `jensen_shannon` are finite in this case. Differs from the code of DistiLLM by the
  temperature and the factor `T^2`.

  Args:
    student: Student logits, one row for each example or each position.
    teacher: Teacher logits.
    temperature: Temperature T, above 0: one number, or one for each example or row. May
      be traced.
    standardize: Standardise the logits of each row first (Sun et al. 2024), as
      `flowkd_jax.losses` explains.
    mask: True for real examples `[batch]`, or for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any. Every
      device returns the loss of the global batch.
    block_size: Number of classes evaluated at a time, also in the backward pass. Memory
      then holds no array of all rows and classes except the logits and their gradients.
      If None, up to 2^26 logits are evaluated at once.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If shapes disagree, there is a single class, or `temperature` is not
      positive.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    >>> float(reverse_kl(logits + 1, logits))
    0.0

  References:
    Gu et al., "MiniLLM: knowledge distillation of large language models", ICLR 2024.
  """

  def terms(logs, options, columns, constants):
    student, teacher = logs
    return _log_probabilities.relative_entropy(teacher, student)

  return _mean(
    student,
    teacher,
    terms,
    temperature=temperature,
    standardize=standardize,
    mask=mask,
    axis_name=axis_name,
    block_size=block_size,
  )


@meshes.on_any_mesh
def skew_kl(
  student: Float[Array, "batch *positions classes"],
  teacher: Float[Array, "batch *positions classes"],
  *,
  alpha: _logits.Option = 0.1,
  reverse: bool = False,
  temperature: _logits.Option = 1.0,
  standardize: bool = False,
  mask: _logits.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Skewed distillation: `T^2 mean_i KL(t_i, alpha t_i + (1 - alpha) s_i)`.

  With `reverse=True` it is `T^2 mean_i KL(s_i, (1 - alpha) t_i + alpha s_i)` (Ko et al.
  2024, section 3.1). For alpha above 0 the loss is at most `-T^2 log(alpha)`, also if
  one side rules out classes. At alpha = 0 it is `knowledge_distillation` or
  `reverse_kl`, and at alpha = 1 it is 0. The loss is the mean over rows of a sum over
  classes. It is invariant to a shift of each row of logits, and to permutation of rows
  or of the classes of both sides.

  Differs from the authors' code by the temperature and the factor `T^2`. The forward
  form here is a divergence. The authors' code leaves out the teacher's entropy, which
  has no gradient in the student.

  Args:
    student: Student logits, one row for each example or each position.
    teacher: Teacher logits.
    alpha: Weight of the first distribution in the mixture, in [0, 1].
    reverse: Compute the reverse form, in which the student is the first distribution.
    temperature: Temperature T, above 0: one number, or one for each example or row. May
      be traced, like `alpha`.
    standardize: Standardise the logits of each row first (Sun et al. 2024), as
      `flowkd_jax.losses` explains.
    mask: True for real examples `[batch]`, or for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any. Every
      device returns the loss of the global batch.
    block_size: Number of classes evaluated at a time, also in the backward pass. Memory
      then holds no array of all rows and classes except the logits and their gradients.
      If None, up to 2^26 logits are evaluated at once.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If shapes disagree, there is a single class, `temperature` is not
      positive, or `alpha` is outside [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    >>> float(skew_kl(logits + 1, logits)) < 1e-6
    True

  References:
    Ko et al., "DistiLLM: towards streamlined distillation for large language models",
    ICML 2024.
  """
  checks.check_share("alpha", alpha)

  def terms(logs, options, columns, constants):
    first, second = logs if reverse else logs[::-1]
    return _log_probabilities.skewed(second, first, options[0])

  return _mean(
    student,
    teacher,
    terms,
    alpha=alpha,
    temperature=temperature,
    standardize=standardize,
    mask=mask,
    axis_name=axis_name,
    block_size=block_size,
  )


@meshes.on_any_mesh
def jensen_shannon(
  student: Float[Array, "batch *positions classes"],
  teacher: Float[Array, "batch *positions classes"],
  *,
  beta: _logits.Option = 0.5,
  scaled: bool = False,
  temperature: _logits.Option = 1.0,
  standardize: bool = False,
  mask: _logits.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Generalised Jensen-Shannon divergence, between forward and reverse KL.

  `T^2 mean_i (beta KL(t_i, m_i) + (1 - beta) KL(s_i, m_i))` with the mixture
  `m = beta t + (1 - beta) s` (Agarwal et al. 2024, section 2). At beta = 0 it is
  `knowledge_distillation`, and at beta = 1 it is `reverse_kl`, as in the code of TRL.
  For beta in between it is at most `T^2 log 2`, also if one side rules out classes. The
  loss is the mean over rows of a sum over classes. It is invariant to a shift of each
  row of logits, and to permutation of rows or of the classes of both sides.

  The loss is not continuous in beta at 0 and 1: near these values the formula is about
  beta or `1 - beta` times a KL divergence and tends to 0. `scaled=True` divides by
  `beta (1 - beta)`. The loss is then continuous in beta from the forward to the reverse
  KL, so that beta can follow a schedule. At beta = 1/2 it is 4 times as large. At beta
  = 0 and 1 the gradient with respect to beta is 0.

  Differs from TRL by the factor `T^2`.

  Args:
    student: Student logits, one row for each example or each position.
    teacher: Teacher logits.
    beta: Weight of the teacher in the mixture, in [0, 1]. The value of a JAX array is
      not checked.
    scaled: Divide the loss by `beta (1 - beta)`.
    temperature: Temperature T, above 0: one number, or one for each example or row. May
      be traced, like `beta`.
    standardize: Standardise the logits of each row first (Sun et al. 2024), as
      `flowkd_jax.losses` explains.
    mask: True for real examples `[batch]`, or for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any. Every
      device returns the loss of the global batch.
    block_size: Number of classes evaluated at a time, also in the backward pass. Memory
      then holds no array of all rows and classes except the logits and their gradients.
      If None, up to 2^26 logits are evaluated at once.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If shapes disagree, there is a single class, `temperature` is not
      positive, or `beta` is outside [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    >>> float(jensen_shannon(logits + 1, logits)) < 1e-6
    True

  References:
    Agarwal et al., "On-policy distillation of language models: learning from
    self-generated mistakes", ICLR 2024.
  """
  checks.check_share("beta", beta)

  def terms(logs, options, columns, constants):
    weights = _log_probabilities.jensen_shannon_weights(options[0], scaled=scaled)
    student_logs, teacher_logs = logs
    return _log_probabilities.jensen_shannon(
      student_logs, teacher_logs, options[0], weights
    )

  return _mean(
    student,
    teacher,
    terms,
    beta=beta,
    temperature=temperature,
    standardize=standardize,
    mask=mask,
    axis_name=axis_name,
    block_size=block_size,
  )


def _mean(
  student,
  teacher,
  terms,
  *,
  temperature,
  standardize,
  mask,
  axis_name,
  block_size,
  **options,
):
  """Mean over rows of the sum of terms over the classes, times `T^2`."""
  rows = _logits.read(mask, student=student, teacher=teacher)
  scale = _logits.temperatures(rows, temperature)
  sums = _softmax.term_sums(
    rows,
    terms,
    (scale, scale),
    _logits.numbers(rows, **options),
    standardize=standardize,
    block_size=block_size,
  )
  return rows.mean(scale**2 * sums, axis_name)
