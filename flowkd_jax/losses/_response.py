"""Losses on logits, row by row: cross-entropy and knowledge distillation.

The documentation of `flowkd_jax.losses` has the rules for missing labels, NaN and
infinities.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int

from flowkd_jax._numerics import checks
from flowkd_jax._numerics import class_blocks
from flowkd_jax._numerics import meshes
from flowkd_jax.losses import _log_probabilities
from flowkd_jax.losses import _logits
from flowkd_jax.losses import _softmax


@meshes.on_any_mesh
def cross_entropy(
  logits: Float[Array, "batch *positions classes"],
  labels: Int[Array, "batch *positions"],
  *,
  smoothing: _logits.Option = 0.0,
  mask: _logits.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Cross-entropy of logits and labels, the mean over labelled rows.

  It is computed in float32 from a log-softmax. It is not a distillation loss, but every
  method of this library is used beside it. It does not depend on the batch size, and is
  `log(classes)` for uniform probabilities. It is invariant to a shift of each row of
  logits, and to permutation of rows or of classes.

  Args:
    logits: Unnormalised log-probabilities, one row for each example or position.
    labels: Class of each row. Rows with a negative label have no label and are left
      out.
    smoothing: Share of the target, in [0, 1], that is spread evenly over the classes of
      the row (Szegedy et al. 2016, section 7). Classes with a logit of minus infinity
      get none of it.
    mask: True for real examples `[batch]`, or for real rows. The mean is over these.
    axis_name: Name of the mapped axis over which the batch is split, if any.
    block_size: Number of classes evaluated at a time, also in the backward pass. Memory
      then holds no array of all rows and classes except the logits and their gradients.
      If None, up to 2^26 logits are evaluated at once.

  Raises:
    TypeError: If logits are not floating point, or labels are not integers.
    ValueError: If shapes disagree, there is a single class, a label in a NumPy array
      is at or above the number of classes, or `smoothing` is outside [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))), 4)
    1.3863

  References:
    Szegedy et al., "Rethinking the inception architecture for computer vision",
    CVPR 2016.
  """
  rows, read = _logits.read_labelled(mask, labels, logits=logits)
  checks.check_share("smoothing", smoothing)
  (share,) = _logits.numbers(rows, smoothing=smoothing)
  smoothed = isinstance(smoothing, jax.Array) or smoothing != 0
  terms = _of_labels(rows, read.classes, share if smoothed else None, block_size)
  return rows.mean(read.invalidate(terms), axis_name)


def _of_labels(rows, classes, share, block_size):
  """Cross-entropy of each row."""
  number, width = rows.sides[0].shape
  if share is None and class_blocks.one_block(number, width, block_size):
    logs = jax.nn.log_softmax(rows.at_least_float32()[0])
    return -jnp.take_along_axis(logs, classes[:, None], axis=1)[:, 0]

  def entries(logs, options, columns, constants):
    hits = columns[None, :] == constants[:, None]
    own = -jnp.where(hits, logs[0], 0)
    if share is None:
      return own
    share_of_row, possible = options
    # Divided before the sum: a sum of logits of 1e38 overflows.
    spread = -jnp.where(jnp.isneginf(logs[0]), 0, logs[0] / possible)
    # If the label is ruled out, its term is infinite, and a share of 0 times infinity
    # would be NaN.
    own = jnp.where(share_of_row < 1, own, 0)
    return (1 - share_of_row) * own + share_of_row * spread

  options = () if share is None else (share, _softmax.possible_classes(rows))
  temperature = jnp.ones(1, _logits.float32_dtype(rows))
  return _softmax.term_sums(
    rows, entries, [temperature], options, classes, block_size=block_size
  )


@meshes.on_any_mesh
def knowledge_distillation(
  student: Float[Array, "batch *positions classes"],
  teacher: Float[Array, "batch *positions classes"],
  *,
  temperature: _logits.Option = 4.0,
  standardize: bool = False,
  mask: _logits.Mask = None,
  axis_name: str | None = None,
  block_size: int | None = None,
) -> Float[Array, ""]:
  """Knowledge distillation: `T^2 mean_i KL(t_i, s_i)` of softened probabilities.

  `t = softmax(teacher / T)` and `s = softmax(student / T)` (Hinton et al. 2015, Eq. 1).
  The factor `T^2` keeps the size of the gradient (section 2). The loss is the mean over
  rows of a sum over classes. By this reduction it depends neither on the batch size nor
  on the number of classes. It is invariant to a shift of each row of logits, and to
  permutation of rows or of the classes of both sides, but not to scale or rotation.

  Some ports differ: they take the mean over classes too, which is the default of
  PyTorch's KLDivLoss, or pass probabilities to it in place of log-probabilities.

  Args:
    student: Student logits, one row for each example or each position.
    teacher: Teacher logits.
    temperature: Temperature T, above 0: one number, or one for each example or row. May
      be traced and differentiated; its value is not checked then.
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
    >>> float(knowledge_distillation(logits + 1, logits))
    0.0

  References:
    Hinton et al., "Distilling the knowledge in a neural network", 2015.
  """
  rows = _logits.read(mask, student=student, teacher=teacher)
  scale = _logits.temperatures(rows, temperature)
  terms = _softmax.term_sums(
    rows,
    _log_probabilities.forward,
    (scale, scale),
    standardize=standardize,
    block_size=block_size,
  )
  return rows.mean(scale**2 * terms, axis_name)
