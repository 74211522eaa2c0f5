"""Table of the contract test: a call of each public loss."""

import functools
import inspect
from collections.abc import Callable
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowkd_jax import losses

BATCH = 16


class Row(NamedTuple):
  """One loss: `call(student, teacher, ids, **options)` and shapes of an example.

  `ids` are the positions of the rows, from which labels and indices are made. A loss
  that reads labels has `classes`, and `call` takes other labels as `labels`.
  """

  call: Callable[..., jax.Array]
  student: tuple[int, ...] = (5,)
  teacher: tuple[int, ...] = (7,)
  blocks: bool = False
  teacher_constant: bool = False
  exempt: Mapping[str, str] = {}
  classes: int | None = None


def _pairwise(loss, student=(5,), teacher=(7,), **options):
  def call(s, t, ids, **more):
    return loss(s, t, **_in_dtype_of(s, options), **more)

  return Row(call, student, teacher, blocks=True)


def _rowwise(loss, student=(4, 4, 3), teacher=(6, 6, 4), **options):
  return _pairwise(loss, student, teacher, **options)._replace(blocks=False)


def _taps(loss, **options):
  def call(student, teacher, ids, **more):
    if loss is losses.quadratic_flow:
      more = {"labels": ids % 3, "num_classes": 3, **more}
    return loss([student], [teacher], **options, **more)

  classes = 3 if loss is losses.quadratic_flow else None
  return Row(call, blocks=True, classes=classes)


def _logits(loss, **options):
  def call(student, teacher, ids, **more):
    if loss is losses.decoupled_kd:
      more = {"labels": ids % 3, **more}
    return loss(student, teacher, **options, **more)

  classes = 6 if loss is losses.decoupled_kd else None
  blocks = "block_size" in inspect.signature(loss).parameters
  return Row(call, student=(6,), teacher=(6,), blocks=blocks, classes=classes)


def _cross_entropy(student, teacher, ids, *, labels=None, **options):
  labels = ids % 3 if labels is None else labels
  return losses.cross_entropy(student, labels, **options)


def _top_k(student, teacher, ids, **options):
  """The teacher's logits of three classes, beside a sum of exponentials of 1."""
  # A constant: its gradient would be NaN where masked rows are.
  wide = jax.lax.stop_gradient(jnp.asarray(teacher))
  wide = wide if wide.dtype == jnp.float64 else wide.astype(jnp.float32)
  normalizer = jnp.logaddexp(jax.nn.logsumexp(wide, axis=-1), 0)
  classes = (ids[:, None] + jnp.arange(3, dtype=ids.dtype)[None]) % 6
  return losses.top_k_distillation(
    student, teacher, ids=classes, log_normalizer=normalizer, **options
  )


def _flow_of_solution(student, teacher, ids, **options):
  sides = ((maps[..., :2], maps[..., 2:]) for maps in (student, teacher))
  return losses.fsp(*sides, **options)


def _generated(student, teacher, ids, *, hidden, **options):
  return losses.mgd(
    student,
    teacher,
    key=jax.random.key(1),
    hidden=hidden,
    **_in_dtype_of(student, {"params": losses.mgd_init(KEY, *MAPS)}),
    **options,
  )


def _reviewed(student, teacher, ids, **options):
  """A map, and vectors in place of pooled features."""
  sides = [
    [maps, maps[:, 0, 0, :] if maps.ndim == 4 else maps] for maps in (student, teacher)
  ]
  shapes = [[maps, (1, maps[-1])] for maps in MAPS]
  params = losses.review_kd_init(KEY, *shapes)
  return losses.review_kd(
    *sides, **_in_dtype_of(student, {"params": params}), **options
  )


def _singular(student, teacher, ids, **options):
  half = lambda maps: maps[:, ::2] if maps.ndim == 4 else maps
  sides = ([maps, half(maps)] for maps in (student, teacher))
  return losses.kdsvd(*sides, rank=2, **options)


def _bank(student, teacher, ids, **options):
  state = {
    "params": losses.crd_init(KEY, (1, 5), (1, 7), width=4),
    "bank": losses.crd_bank_init(KEY, 3 * BATCH, width=4),
  }
  negatives = (ids[:, None] + 1 + jnp.arange(8, dtype=ids.dtype)[None]) % (3 * BATCH)
  return losses.crd_bank(
    student,
    teacher,
    indices=ids,
    negatives=negatives,
    **_in_dtype_of(student, state),
    **options,
  )


def _rrd(student, teacher, ids, **options):
  state = {
    "params": losses.rrd_init(KEY, (1, 5), (1, 7), width=4),
    "queue": losses.rrd_queue_init(KEY, 3 * BATCH, width=4),
  }
  return losses.rrd(student, teacher, **_in_dtype_of(student, state), **options)


def _in_dtype_of(rows, options):
  """Parameters in the dtype that a loss computes in."""
  wide = jnp.asarray(rows).dtype == jnp.float64
  dtype = jnp.float64 if wide else jnp.float32

  def cast(x):
    is_float = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(dtype) if is_float else x

  return jax.tree.map(cast, options)


KEY = jax.random.key(0)
MAPS = (1, 4, 4, 3), (1, 4, 4, 4)
MATRIX = {"replication": "divides by a gathered count, equal but not known to be"}
FEW_ROWS = {"one row": "refuses fewer than 4 rows, which have no unbiased estimate"}
FACTORS = losses.factor_transfer_init(KEY, *MAPS)

ROWS = {
  "attention_transfer": _rowwise(losses.attention_transfer),
  "channel_wise_distillation": _rowwise(
    losses.channel_wise_distillation,
    *(shape[1:] for shape in MAPS),
    params=losses.hint_init(KEY, *MAPS),
  ),
  "conditional_divergence": _pairwise(losses.conditional_divergence),
  "correlation_congruence": _pairwise(losses.correlation_congruence),
  "correlation_congruence, authors": _rowwise(
    losses.correlation_congruence, (5,), (5,), authors=True
  )._replace(exempt={"permutation": "multiplies neighbours in the batch"}),
  "cosine_regression": _rowwise(
    losses.cosine_regression, (5,), (7,), params=losses.hint_init(KEY, (1, 5), (1, 7))
  ),
  "cosine_regression, maps": _rowwise(losses.cosine_regression, (4, 4, 3), (6, 5, 3)),
  "crd": _pairwise(losses.crd, params=losses.crd_init(KEY, (1, 5), (1, 7), width=4)),
  "crd_bank": Row(
    _bank, exempt={"traced": "Z of a first batch is a constant; see memory_bank_test"}
  ),
  "cross_entropy": Row(
    _cross_entropy,
    student=(6,),
    blocks=True,
    classes=6,
    exempt={"both sides": "takes no teacher"},
  ),
  "decoupled_kd": _logits(losses.decoupled_kd),
  "dist": _logits(losses.dist),
  "factor_reconstruction": Row(
    lambda s, t, ids, **options: losses.factor_reconstruction(
      s, **_in_dtype_of(s, {"params": FACTORS}), **options
    ),
    student=MAPS[1][1:],
    teacher=MAPS[1][1:],
    exempt={"both sides": "takes the teacher only, here as the student"},
  ),
  "factor_transfer": _rowwise(losses.factor_transfer),
  "factor_transfer, params": _rowwise(
    losses.factor_transfer, MAPS[0][1:], MAPS[1][1:], params=FACTORS
  )._replace(
    teacher_constant=True,
    exempt={
      "both sides": "the paraphraser's factors are constants",
      "exponent": "plays no part with params",
    },
  ),
  "fsp": Row(_flow_of_solution, student=(4, 4, 5), teacher=(4, 4, 5)),
  "gaussian_wasserstein": _rowwise(
    losses.gaussian_wasserstein,
    *(shape[1:] for shape in MAPS),
    params=losses.gaussian_wasserstein_init(KEY, *MAPS),
  ),
  "gaussian_wasserstein, grid": _rowwise(
    losses.gaussian_wasserstein, (5, 4, 3), (4, 6, 3), grid=3
  ),
  "hierarchical_context": _rowwise(losses.hierarchical_context, (6, 5, 3), (5, 6, 3)),
  "hint": _rowwise(
    losses.hint, (5,), (7,), params=losses.hint_init(KEY, (1, 5), (1, 7))
  ),
  "hint, convolution": _rowwise(
    losses.hint,
    (4, 4, 3),
    (2, 2, 4),
    params=losses.hint_init(KEY, (1, 4, 4, 3), (1, 2, 2, 4), convolution=True),
    rectify=True,
  ),
  "ickd": _rowwise(
    losses.ickd,
    *(shape[1:] for shape in MAPS),
    params=losses.ickd_init(KEY, *MAPS),
  ),
  "ickd, equal channels": _rowwise(losses.ickd, (4, 4, 3), (5, 3, 3)),
  "information_flow": _taps(losses.information_flow),
  "information_flow, authors": _taps(losses.information_flow, authors=True)._replace(
    exempt=MATRIX
  ),
  "jensen_shannon": _logits(losses.jensen_shannon),
  "jensen_shannon, scaled": _logits(losses.jensen_shannon, scaled=True),
  "kdsvd": Row(_singular, student=(4, 4, 4), teacher=(6, 5, 4)),
  "knowledge_distillation": _logits(losses.knowledge_distillation),
  "knowledge_distillation, standardized": _logits(
    losses.knowledge_distillation, standardize=True
  ),
  "linear_cka": _pairwise(losses.linear_cka),
  "linear_cka, debiased": _pairwise(losses.linear_cka, debiased=True)._replace(
    exempt=FEW_ROWS
  ),
  "linear_cka, debiased wide": _pairwise(
    losses.linear_cka, (20,), debiased=True
  )._replace(exempt=FEW_ROWS),
  "multi_level_distillation": _logits(losses.multi_level_distillation),
  "normalized_regression": _rowwise(
    losses.normalized_regression, (4, 3), (4, 3)
  )._replace(exempt={"threshold": "no part of squares"}),
  "normalized_regression, standard": _rowwise(
    losses.normalized_regression,
    (4, 3),
    (4, 5),
    normalization="standard",
    distance="smooth_l1",
    params=losses.hint_init(KEY, (1, 3), (1, 5)),
  ),
  **{
    f"mgd, {hidden}": Row(
      functools.partial(_generated, hidden=hidden),
      *(shape[1:] for shape in MAPS),
      exempt={
        "permutation": "draws the mask of a row by its position",
        "hidden_share": "a probability, without a gradient",
      },
    )
    for hidden in ("positions", "channels")
  },
  "nst": _rowwise(losses.nst),
  "patch_relations": _pairwise(losses.patch_relations, (5, 4), (5, 6)),
  "patch_relations, maps": _pairwise(
    losses.patch_relations, (4, 2, 3), (2, 2, 4), relation="pkt"
  ),
  "patch_relations, debiased_linear_cka": _pairwise(
    losses.patch_relations, (5, 4), (5, 6), relation="debiased_linear_cka"
  ),
  "pkt": _pairwise(losses.pkt),
  "pkt, authors": _pairwise(losses.pkt, authors=True)._replace(exempt=MATRIX),
  "quadratic_flow": _taps(losses.quadratic_flow),
  "rbf_cka": _pairwise(losses.rbf_cka),
  "rbf_cka, debiased": _pairwise(losses.rbf_cka, debiased=True)._replace(
    exempt=FEW_ROWS
  ),
  "review_kd": Row(_reviewed, *(shape[1:] for shape in MAPS)),
  "reverse_kl": _logits(losses.reverse_kl),
  "rkd_angle": _pairwise(losses.rkd_angle),
  "rkd_distance": _pairwise(losses.rkd_distance),
  "rrd": Row(
    _rrd,
    blocks=True,
    teacher_constant=True,
    exempt={"both sides": "the teacher is embedded by a fixed projection"},
  ),
  "similarity_preserving": _pairwise(losses.similarity_preserving),
  "skew_kl": _logits(losses.skew_kl),
  "skew_kl, reverse": _logits(losses.skew_kl, reverse=True),
  "token_relations": _pairwise(
    losses.token_relations, (3, 4), (3, 6), relation_heads=2
  ),
  "top_k_distillation": Row(_top_k, student=(6,), teacher=(3,), blocks=True),
  "transformed_teacher_matching": _logits(losses.transformed_teacher_matching),
  "transformed_teacher_matching, standardized": _logits(
    losses.transformed_teacher_matching, weighted=False, standardize=True
  ),
  "vid": _rowwise(
    losses.vid, MAPS[0][1:], MAPS[1][1:], params=losses.vid_init(KEY, *MAPS)
  ),
}

NOT_LOSSES = {
  "crd_bank_init": "state",
  "crd_bank_update": "state",
  "crd_init": "parameters",
  "crd_negatives": "draws indices",
  "rrd_init": "parameters",
  "rrd_queue_init": "state",
  "rrd_queue_update": "state",
  "factor_transfer_init": "parameters",
  "gaussian_wasserstein_init": "parameters",
  "hint_init": "parameters",
  "mgd_init": "parameters",
  "ickd_init": "parameters",
  "review_kd_init": "parameters",
  "vid_init": "parameters",
  "information_flow_terms": "a dictionary, summed by information_flow",
  "quadratic_flow_terms": "a dictionary, summed by quadratic_flow",
  "weighted_sum": "adds losses",
}
