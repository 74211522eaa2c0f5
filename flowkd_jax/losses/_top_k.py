"""Distillation from k probabilities of the teacher, with all others in one bucket."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import label_rule
from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _log_probabilities
from flowkd_jax.losses import _logits
from flowkd_jax.losses import _softmax


@meshes.on_any_mesh
def top_k_distillation(
  student: Float[Array, "batch *positions classes"],
  teacher: Float[Array, "batch *positions k"],
  *,
  ids: Int[Array, "batch *positions k"],
  log_normalizer: Float[Array, "batch *positions"] | None = None,
  beta: _logits.Option = 0.0,
  temperature: _logits.Option = 1.0,
  standardize: bool = False,
  mask: _logits.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Divergence over k classes of the teacher and one bucket of all other classes.

  `T^2 mean_i D(t_i, s_i)` with distributions over k + 1 buckets: the probabilities of
  the classes `ids`, and the sum of all other probabilities in the last bucket. D is the
  divergence of `jensen_shannon`: `KL(t, s)` at beta = 0 (the default), `KL(s, t)` at
  beta = 1, and the divergence from a mixture in between. Like `jensen_shannon` it is
  not continuous in beta at 0 and 1.

  The loss uses all that is known of the teacher. It is never above the divergence over
  all classes, and equals it for `k = classes`. Losses that renormalise both sides over
  the k classes (MaxText, Tunix, TRL without a tail) are 0 for a student with the right
  ratios but too little probability on these classes. This loss is not. The last bucket
  of the student is a sum over all its other classes, and not 1 minus the k
  probabilities, so it keeps its digits and its gradient.

  The teacher is given in one of two forms. Either `teacher` holds log-probabilities of
  a softmax over all classes at temperature T, or it holds logits, and `log_normalizer`
  is the logarithm of the sum of `exp(logits / T)` over all classes. Probabilities at
  another temperature cannot be computed from k of them. The k classes are free to
  choose. With beta above 0, choose classes to which the student gives much probability
  too.

  If the teacher's k probabilities sum to 1 up to rounding, its last bucket has the
  probability of one machine epsilon, without a gradient (TRL: 1e-7 on both sides). It
  has none if the student rules out all other classes.

  Args:
    student: Student logits over all classes, one row for each example or position.
    teacher: Log-probabilities that the teacher gives to the classes `ids`, or logits of
      these classes if `log_normalizer` is given. Log-probabilities above 0 count as 0.
    ids: Classes of the entries of `teacher`. The classes of a row must all differ. A
      negative number marks an unused slot, whose `teacher` is not read, so the number
      of classes may differ between rows.
    log_normalizer: Logarithm of the sum of `exp(logits / T)` over all classes of the
      teacher. If given, `teacher` holds logits.
    beta: Weight of the teacher in the mixture, in [0, 1], as in `jensen_shannon`. May
      be traced, like `temperature`.
    temperature: Temperature T, above 0: one number, or one for each example or row.
    standardize: Standardise the student's logits first, as `flowkd_jax.losses`
      explains. The teacher's logits must be standardised before k of them are taken.
    mask: True for real examples `[batch]`, or for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any. Every
      device returns the loss of the global batch.
    block_size: Number of classes evaluated at a time, also in the backward pass. Memory
      then holds no array of all rows and classes except the logits and their gradients.
      If None, up to 2^26 logits are evaluated at once.

  Raises:
    TypeError: If an input is not floating point, or `ids` are not integers.
    ValueError: If shapes disagree, there is a single class, an id in a NumPy array is
      at or above the number of classes, `temperature` is not positive, or `beta` is
      outside [0, 1].

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0]])
    >>> log_probabilities, ids = jax.lax.top_k(jax.nn.log_softmax(logits), 2)
    >>> float(top_k_distillation(logits, log_probabilities, ids=ids)) < 1e-6
    True
    >>> float(top_k_distillation(-logits, log_probabilities, ids=ids)) > 1
    True

  References:
    Agarwal et al., "On-policy distillation of language models: learning from
    self-generated mistakes", ICLR 2024 (the divergence).
    TRL, `IWOPDTrainer.generalized_jsd_loss` with `add_tail` (the tail).
  """
  checks.check_share("beta", beta)
  rows = _logits.read(mask, student=student)
  scale = _logits.temperatures(rows, temperature)
  picked = _read_ids(rows, teacher, ids)
  student_logs = jax.nn.log_softmax(
    _softmax.bucket_logits(
      rows,
      scale,
      picked.classes,
      picked.labelled,
      standardize=standardize,
      block_size=block_size,
    )
  )
  logs = _of_teacher(rows, teacher, log_normalizer, scale)
  teacher_logs = _with_tail(logs, picked.labelled, student_logs[:, -1:] > -jnp.inf)
  (share,) = _logits.numbers(rows, beta=beta)
  weights = _log_probabilities.jensen_shannon_weights(share, scaled=False)
  terms = _log_probabilities.jensen_shannon(student_logs, teacher_logs, share, weights)
  sums = picked.invalidate(terms).sum(1)
  return rows.mean(scale**2 * sums, axis_name)


def _read_ids(rows, teacher, ids):
  """Classes of each slot, read by the rule of labels."""
  shape = jnp.shape(teacher)
  checks.check_floating("teacher", teacher)
  if shape[:-1] != rows.leading or not shape[-1]:
    raise ValueError(
      f"teacher: expected shape {(*rows.leading, 'k')} with k of 1 or more, got {shape}"
    )
  mask = rows.mask
  if mask is not None:
    xp: Any = jnp if isinstance(mask, jax.Array) else np
    mask = xp.broadcast_to(mask[:, None], (len(mask), shape[-1])).reshape(shape)
  found = label_rule.read_labels(
    ids, rows.sides[0].shape[1], shape=shape, mask=mask, name="ids"
  )
  flat = label_rule.Labels(*(each.reshape(-1, shape[-1]) for each in found))
  # One id beyond the classes makes the whole row NaN, its last bucket included.
  return flat._replace(beyond=flat.beyond.any(1))


def _of_teacher(rows, teacher, log_normalizer, scale):
  """Log-probabilities of the teacher, with masked rows set to 0."""
  logs = jnp.asarray(teacher).reshape(-1, teacher.shape[-1])
  logs = _logits.real_logits(logs, rows.mask)
  if log_normalizer is None:
    return logs
  checks.check_floating("log_normalizer", log_normalizer)
  checks.check_shape("log_normalizer", log_normalizer, rows.leading)
  normalizer = jnp.asarray(log_normalizer).reshape(-1, 1)
  normalizer = _logits.real_logits(normalizer, rows.mask)
  return _logits.divided(logs, scale[:, None]) - normalizer


def _with_tail(logs, used, others):
  """Log-probabilities of all buckets, from those of the classes in use.

  Args:
    logs: Log-probabilities of k classes.
    used: True for slots that hold a class.
    others: True for rows in which the student does not rule out all other classes.
  """
  logs = jnp.where(used, jnp.minimum(logs, 0), -jnp.inf)
  total = jnp.exp(logs).sum(1, keepdims=True)
  unit = jnp.finfo(logs.dtype).eps
  # Both comparisons are False for NaN, so NaN reaches the result. `none`: the last
  # bucket is empty. `rounded`: its probability is below the resolution of 1.
  none, rounded = ~others & (1 - total <= 8 * unit), others & (1 - total <= unit)
  tail = jnp.log1p(-jnp.where(none | rounded, 0, total))
  tail = jnp.where(rounded, jnp.log(unit).astype(tail.dtype), tail)
  return jnp.concatenate([logs, jnp.where(none, -jnp.inf, tail)], axis=1)
