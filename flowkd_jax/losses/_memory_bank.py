"""Contrastive distillation with a bank of the embeddings of the whole data set.

The bank is an explicit pytree, updated in the step that evaluates the loss:

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
  """A bank of random embeddings, one a side for each row of the data set.

  Args:
    key: Random key.
    size: Number of rows in the data set.
    width: Width of the embedding, as in `crd_init`.

  Returns:
    `{"student": [size, width], "teacher": [size, width], "log_normalizers": [2]}`;
    the last are the logarithms of Z, infinite until the first update sets them.

  Raises:
    ValueError: If a size is not positive.
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
  """Draws rows of the data set other than each row itself, with replacement.

  What a row gets depends on the key and its position in the global batch only, so
  that one device and many draw the same. To draw from other classes, as the paper
  does where there are labels, pass any other such array to `crd_bank`.

  Args:
    key: Random key. Pass a new key in every step, the same on all devices.
    indices: Index in the data set of each row of the batch.
    size: Number of rows in the data set.
    number: Number of negatives per row, N in the paper. The authors' code has 16384.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If `indices` are not integers.
    ValueError: If `number` is not positive or `size` is not above 1.
  """
  checks.check_integer("indices", indices)
  checks.check_count("number", number)
  checks.check_count("size - 1", size - 1)
  positions = parallel.row_positions(indices.shape[0], axis_name)

  def draw(position, index):
    row_key = jax.random.fold_in(key, position)
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

  For both sides as anchor, mean over rows of `-log h(i, i) - sum_n log(1 - h(i, n))`
  with `h = P / (P + N / M)`, `P = exp(anchor . bank_n / tau) / Z`, N negatives and M
  rows in the bank (Tian et al. 2020, section 3.1; the authors' code says Eq. 18). Z,
  absent from the paper, is as in their code: M times the mean exponential of the first
  batch, constant ever after. Does not depend on the batch; grows with N. Invariant to a
  permutation of rows and of the negatives.

  Differs from the authors' code by its epsilon of 1e-7 in the denominator, which
  `authors=True` puts back, and by having logarithms throughout. The bank is a constant
  to the gradient; call `crd_bank_update` with the same arguments in the same step.

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
    TypeError: If features are not floating point or indices not integers.
    ValueError: If shapes disagree or `temperature` is not positive.

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
  # h = P / (P + N / M) is a sigmoid, and so is 1 - h up to a factor.
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
  """The bank after a step: its rows moved towards the batch, and Z once set.

  `b_i <- (m b_i + (1 - m) v_i) / |...|` for the rows of the batch, of all devices;
  other arguments and errors as in `crd_bank`. No gradient flows into the bank.
  """
  embeddings, logits = _bank_logits(
    student, teacher, params, bank, indices, negatives, temperature, mask
  )
  # A masked row has an index beyond the bank, where a scatter drops it.
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
  """Embeddings, and for each side as anchor `[batch, 1 + number]` logits."""
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
  """`anchor_i . rows[drawn_in]`; over all rows first where most are drawn anyway."""
  rows = rows.astype(anchors.dtype)
  if rows.shape[0] <= 4 * drawn.shape[1]:
    products = float32.matmul(anchors, rows.T)
    return jnp.take_along_axis(products, drawn, axis=1, mode="clip")
  picked = rows.at[drawn].get(mode="clip")
  return jnp.einsum("bd,bnd->bn", anchors, picked, precision=lax.Precision.HIGHEST)


def _log_normalizers(bank, logits, mask, axis_name):
  """Log Z of both sides: the bank's, or that of this batch if it has none yet."""
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
