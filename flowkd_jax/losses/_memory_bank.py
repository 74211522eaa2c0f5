"""Contrastive distillation with a bank of embeddings of the whole data set.

The bank is an explicit pytree. The step that evaluates the loss also updates the bank:

    params = crd_init(key, student.shape, teacher.shape)
    bank = crd_bank_init(key, len(data_set))
    negatives = crd_negatives(step_key, indices, len(data_set))
    loss = crd_bank(student, teacher, params=params, bank=bank, indices=indices, ...)
    bank = crd_bank_update(student, teacher, params=params, bank=bank, ...)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Key
from jaxtyping import Shaped

from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import renamed
from flowkd_jax.losses import _contrastive
from flowkd_jax.losses._contrastive import SIDES

Mask = Shaped[Array, " batch"] | None
Parameters = dict[str, Any]
Bank = dict[str, Array]


def crd_bank_init(key: Key[Array, ""], size: int, *, width: int = 128) -> Bank:
  """Bank of random embeddings, one per side for each row of the data set.

  Args:
    key: Random key.
    size: Number of rows in the data set.
    width: Width of the embedding, as in `crd_init`.

  Returns:
    `{"student": [size, width], "teacher": [size, width], "log_normalizers": [2]}` in
    float32. The last are the logarithms of Z. They are infinite until the first update.

  Raises:
    ValueError: If `size` or `width` is below 1.
  """
  checks.check_count("size", size)
  checks.check_count("width", width)
  bound = (3 / width) ** 0.5
  bank = {
    side: jax.random.uniform(side_key, (size, width), jnp.float32, -bound, bound)
    for side, side_key in zip(SIDES, jax.random.split(key), strict=True)
  }
  return {**bank, "log_normalizers": jnp.full(2, jnp.inf, jnp.float32)}


@meshes.on_any_mesh
def crd_negatives(
  key: Key[Array, ""],
  indices: Int[Array, " batch"],
  size: int,
  *,
  number: int = 16384,
  axis_name: str | None = None,
) -> Int[Array, "batch number"]:
  """Draws negatives for each row: other rows of the data set, with replacement.

  The negatives of a row depend only on the key and its position in the global batch, so
  the result does not depend on the number of devices. With labels, the paper draws from
  other classes. To do this, pass an array of your own to `crd_bank`.

  Args:
    key: Random key. Pass a new key in every step, the same on all devices.
    indices: Index in the data set of each row of the batch.
    size: Number of rows in the data set.
    number: Number of negatives per row, N in the paper. The authors' code has 16384.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If `indices` are not integers.
    ValueError: If `number` is below 1, or `size` is below 2.
  """
  checks.check_integer("indices", indices)
  checks.check_count("number", number)
  checks.check_count("size - 1", size - 1)
  positions = parallel.row_positions(indices.shape[0], axis_name)

  def draw(position, index):
    row_key = jax.random.fold_in(key, position)
    # Uniform over all rows but one: numbers from the row itself on move up by one.
    others = jax.random.randint(row_key, (number,), 0, size - 1, jnp.int32)
    return others + (others >= index.astype(jnp.int32)).astype(jnp.int32)

  return jax.vmap(draw)(positions, indices)


@renamed.renamed_arguments(heads="params")
@meshes.on_any_mesh
def crd_bank(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  params: Parameters | None,
  bank: Bank,
  indices: Int[Array, " batch"],
  negatives: Int[Array, "batch number"],
  temperature: float = 0.07,
  authors: bool = False,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Contrastive distillation against a bank of embeddings, as in the paper.

  The loss is the mean over rows of `-log h(i, i) - sum_n log(1 - h(i, n))`, summed over
  both sides as the anchor. Here `h = P / (P + N / M)` and `P = exp(anchor . bank_n /
  tau) / Z`, with N negatives and M rows in the bank (Tian et al. 2020, section 3.1; the
  authors' code refers to Eq. 18). The paper has no Z. It is taken from the authors'
  code: M times the mean exponential in the first batch, and constant from then on. The
  loss does not depend on the batch size. It grows with N. It is invariant to a
  permutation of rows and of negatives.

  Differs from the authors' code, which adds an epsilon of 1e-7 in the denominator
  (`authors=True` does so too) and does not compute with logarithms throughout. The bank
  is a constant to the gradient. Call `crd_bank_update` with the same arguments in the
  same step.

  Args:
    student: Student features. Axes after the first are flattened.
    teacher: Teacher features, of any width.
    params: Heads from `crd_init`. If None, the features themselves are compared and
      must have the width of the bank.
    bank: Result of `crd_bank_init` or `crd_bank_update`, the same on all devices.
    indices: Index in the data set of each row of the batch.
    negatives: Indices in the data set of the negatives of each row, such as
      `crd_negatives` draws.
    temperature: Temperature tau of the inner products, above 0.
    authors: Reproduce the published code exactly.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If features are not floating point, or `indices` or `negatives` are not
      integers.
    ValueError: If shapes disagree, or `temperature` is not positive.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> key, rows, indices = jax.random.key(0), jnp.eye(4), jnp.arange(4)
    >>> from flowkd_jax import losses
    >>> params = losses.crd_init(key, rows.shape, rows.shape, width=8)
    >>> bank = crd_bank_init(key, 100, width=8)
    >>> options = {"params": params, "bank": bank, "indices": indices}
    >>> options["negatives"] = crd_negatives(key, indices, 100, number=16)
    >>> crd_bank(rows, rows, **options).shape
    ()
    >>> bank = crd_bank_update(rows, rows, **options)

  References:
    Tian, Krishnan and Isola, "Contrastive representation distillation", ICLR 2020.
  """
  _, logits = _bank_logits(
    student, teacher, params, bank, indices, negatives, temperature, mask
  )
  log_normalizers = _log_normalizers(bank, logits, mask, axis_name)
  log_normalizers = jnp.where(jnp.isfinite(log_normalizers), log_normalizers, 0)
  size, number = bank["student"].shape[0], negatives.shape[1]
  epsilon = 1e-7 if authors else 0.0
  # With log P = side - log Z and log(N / M) = threshold, h is the sigmoid of their
  # difference, and 1 - h that of the negative. The epsilon of the authors changes the
  # threshold and adds the constant `shift`.
  threshold = float(np.log(number / size + epsilon))
  shift = 2 * number * (threshold - float(np.log(number / size)))
  rows = jnp.full(student.shape[:1], shift, logits[0].dtype)
  for side, log_normalizer in zip(logits, log_normalizers, strict=True):
    scores = side - log_normalizer - threshold
    rows -= jax.nn.log_sigmoid(scores[:, 0])
    rows -= jax.nn.log_sigmoid(-scores[:, 1:]).sum(1)
  return parallel.global_mean(rows, mask, axis_name, student, teacher)


@renamed.renamed_arguments(heads="params")
@meshes.on_any_mesh
def crd_bank_update(
  student: Float[Array, "batch ..."],
  teacher: Float[Array, "batch ..."],
  *,
  params: Parameters | None,
  bank: Bank,
  indices: Int[Array, " batch"],
  negatives: Int[Array, "batch number"],
  momentum: float = 0.5,
  temperature: float = 0.07,
  mask: Mask = None,
  axis_name: str | None = None,
) -> Bank:
  """Bank after a step: rows of the batch are updated, and Z is set once.

  `b_i <- (m b_i + (1 - m) v_i) / |m b_i + (1 - m) v_i|` for the rows of the batch on
  all devices, where m is `momentum` and v holds the embeddings. The result has no
  gradient. Other arguments and errors are those of `crd_bank`.
  """
  embeddings, logits = _bank_logits(
    student, teacher, params, bank, indices, negatives, temperature, mask
  )
  # A masked row gets an index beyond the bank, which the scatter below drops.
  size = bank["student"].shape[0]
  rows = jnp.where(parallel.real_rows(student, mask), indices, size)
  rows = parallel.gather_rows(rows, axis_name)
  updated = {}
  for side, embedding in zip(SIDES, embeddings, strict=True):
    new = lax.stop_gradient(parallel.gather_rows(embedding, axis_name))
    new = new.astype(bank[side].dtype)
    old = bank[side].at[rows].get(mode="clip")
    moved = kernels.unit_rows(momentum * old + (1 - momentum) * new)
    updated[side] = bank[side].at[rows].set(moved, mode="drop")
  log_normalizers = _log_normalizers(bank, logits, mask, axis_name)
  return {
    **updated,
    "log_normalizers": log_normalizers.astype(bank["log_normalizers"].dtype),
  }


def _bank_logits(student, teacher, params, bank, indices, negatives, temperature, mask):
  """Embeddings of both sides, and logits `[batch, 1 + number]` with each as anchor.

  The first logit of a row is that of the positive.
  """
  checks.check_positive("temperature", temperature)
  embeddings = _contrastive.embeddings(student, teacher, params, mask)
  checks.check_integer("indices", indices)
  checks.check_integer("negatives", negatives)
  checks.check_shape("indices", indices, student.shape[:1])
  checks.check_shape("negatives", negatives, (student.shape[0], negatives.shape[-1]))
  size, width = bank["student"].shape[0], embeddings[0].shape[1]
  for side in SIDES:
    checks.check_shape(f"bank, {side}", bank[side], (size, width))
  drawn = jnp.concatenate([indices[:, None], negatives.astype(indices.dtype)], axis=1)
  others = bank["teacher"], bank["student"]
  return embeddings, [
    _inner_products(anchors, lax.stop_gradient(rows), drawn)
    / float32.like(temperature, anchors)
    for anchors, rows in zip(embeddings, others, strict=True)
  ]


def _inner_products(anchors, rows, drawn):
  """Inner products `anchor_i . rows[drawn_in]`."""
  rows = rows.astype(anchors.dtype)
  # If most rows are drawn anyway, one product with all rows is faster than a gather of
  # `number` rows for each anchor, which is bound by memory.
  if rows.shape[0] <= 4 * drawn.shape[1]:
    products = float32.matmul(anchors, rows.T)
    return jnp.take_along_axis(products, drawn, axis=1, mode="clip")
  picked = rows.at[drawn].get(mode="clip")
  return jnp.einsum("bd,bnd->bn", anchors, picked, precision=lax.Precision.HIGHEST)


def _log_normalizers(bank, logits, mask, axis_name):
  """Log Z of both sides from the bank, or from this batch before the first update."""
  real = parallel.gather_rows(parallel.real_rows(logits[0], mask), axis_name)
  size, entries = bank["student"].shape[0], logits[0].shape[1]
  estimates = []
  for side in logits:
    rows = jax.nn.logsumexp(lax.stop_gradient(side), axis=1)
    rows = parallel.gather_rows(rows, axis_name)
    total = jax.nn.logsumexp(jnp.where(real, rows, jnp.finfo(rows.dtype).min))
    count = jnp.maximum(real.sum(dtype=rows.dtype), 1) * entries
    estimates.append(jnp.where(real.any(), total - jnp.log(count / size), jnp.inf))
  known = bank["log_normalizers"].astype(logits[0].dtype)
  return jnp.where(jnp.isfinite(known), known, jnp.stack(estimates))
