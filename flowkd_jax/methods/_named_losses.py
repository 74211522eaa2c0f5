"""Losses of the library by name, with what each reads of the two networks.

`combined_losses` and the flag `--losses` of `flowkd train distill` take these names. An
entry says which outputs a loss compares, which parameters it learns and which taps it
reads unless taps are given. Its options are the keyword arguments of the loss and of
the function that makes its parameters.
"""

import difflib
import inspect
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import jax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key

from flowkd_jax import kernels
from flowkd_jax import losses
from flowkd_jax._numerics import equal_shapes
from flowkd_jax._numerics import float32
from flowkd_jax.methods import _distillation
from flowkd_jax.methods import _method
from flowkd_jax.methods import _targets
from flowkd_jax.methods._tap_roles import LAST_MAP
from flowkd_jax.methods._tap_roles import MAPS
from flowkd_jax.methods._tap_roles import POOLED
from flowkd_jax.methods._tap_roles import TAPS
from flowkd_jax.methods._tap_roles import TOKENS

Scalar = Float[Array, ""]

# Parameters of losses that are no options: the method passes them.
_PASSED = frozenset(
  {
    *("key", "student", "teacher", "student_shape", "teacher_shape"),
    *("mask", "axis_name", "params", "labels", "weights", "pairs", "layer_map"),
    *("bank", "queue", "indices", "negatives", "num_classes", "kept", "token_mask"),
  }
)


class Call(NamedTuple):
  """Arguments of a loss in a step.

  Attributes:
    student: Outputs of the student.
    teacher: Outputs of the teacher.
    pairs: Pairs of a student tap and its teacher tap; none for logits.
    batch: Rows of this device.
    params: Learnt parameters of each pair, in the order of the pairs.
    options: Keyword arguments of the loss, with `mask` and `axis_name`.
    key: Random key of the step, the same on all devices.
  """

  student: _distillation.Outputs
  teacher: _distillation.Outputs
  pairs: tuple[tuple[str, str], ...]
  batch: _method.Batch
  params: tuple[Any, ...]
  options: dict[str, Any]
  key: Key[Array, ""]

  def features(self) -> list[tuple[Array, Array]]:
    """Student and teacher features of each pair."""
    return [
      (
        _targets.output(self.student, self.batch["label"], ours),
        _targets.output(self.teacher, self.batch["label"], theirs),
      )
      for ours, theirs in self.pairs
    ]


class NamedLoss(NamedTuple):
  """A loss by name.

  Attributes:
    function: The loss; its keyword arguments are options.
    apply: `(function, call) -> value`, or the values of several terms by name, ""
      for the loss itself.
    taps: Role of the taps that it compares by default; "" if it compares logits.
    init: Makes the parameters that it learns for a pair of taps: `(key, shape of the
      student tap, shape of the teacher tap, **options)`. None if it learns nothing.
    further: Constant weight of each further term that `apply` gives.
    aliases: Short names.
  """

  function: Callable[..., Any]
  apply: Callable[[Callable[..., Any], Call], Scalar | dict[str, Scalar]]
  taps: str = ""
  init: Callable[..., Any] | None = None
  further: Mapping[str, float] = {}
  aliases: tuple[str, ...] = ()

  @property
  def options(self) -> dict[str, Any]:
    """Options with their defaults."""
    return _options_of(self.function) | _options_of(self.init)

  def check_options(self, options: Mapping[str, Any]) -> None:
    """Raises ValueError if there is no such option; lists those that there are."""
    unknown = [name for name in options if name not in self.options]
    if unknown:
      raise ValueError(
        f"expected options of {', '.join(self.options) or 'none'}, got "
        f"{', '.join(map(str, unknown))}"
      )

  def split_options(
    self, options: Mapping[str, Any]
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the loss, and those of the function that makes its parameters."""
    own, first = _options_of(self.function), _options_of(self.init)
    return (
      {name: value for name, value in options.items() if name in own},
      {name: value for name, value in options.items() if name in first},
    )


def _options_of(function: Callable[..., Any] | None) -> dict[str, Any]:
  if function is None:
    return {}
  return {
    name: parameter.default
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in _PASSED
  }


def _logits(function, call):
  return function(call.student.logits, call.teacher.logits, **call.options)


def _labelled_logits(function, call):
  labels = call.batch["label"]
  return function(
    call.student.logits, call.teacher.logits, labels=labels, **call.options
  )


def _each_pair(function, call):
  """Sum over the pairs, as published code sums over layers."""
  found = equal_shapes.map_by_shape(
    lambda student, teacher: function(student, teacher, **call.options),
    *map(list, zip(*call.features(), strict=True)),
  )
  return sum(found[1:], found[0])


def _each_pair_learnt(function, call):
  found = [
    function(student, teacher, params=params, **call.options)
    for (student, teacher), params in zip(call.features(), call.params, strict=True)
  ]
  return sum(found[1:], found[0])


def _each_pair_masked(function, call):
  """Sum over the pairs, of losses that draw a mask of features."""
  keys = jax.random.split(call.key, len(call.pairs))
  found = [
    function(student, teacher, params=params, key=key, **call.options)
    for (student, teacher), params, key in zip(
      call.features(), call.params, keys, strict=True
    )
  ]
  return sum(found[1:], found[0])


def _all_pairs(function, call):
  student, teacher = map(list, zip(*call.features(), strict=True))
  return function(student, teacher, **call.options)


def _all_pairs_labelled(function, call):
  classes = call.student.logits.shape[-1]
  student, teacher = map(list, zip(*call.features(), strict=True))
  return function(
    student,
    teacher,
    labels=call.batch["label"],
    num_classes=classes,
    **call.options,
  )


def _neighbouring_maps(function, call):
  """Sum over pairs of successive taps."""
  features = call.features()
  if len(features) < 2:
    raise ValueError(
      f"expected two pairs of taps or more, of successive layers, got {len(features)}"
    )
  found = [
    function(
      (earlier[0], later[0]),
      (earlier[1], later[1]),
      **call.options,
    )
    for earlier, later in zip(features[:-1], features[1:], strict=True)
  ]
  return sum(found[1:], found[0])


def _factors(function, call):
  """The transfer, and the reconstruction with which the paraphraser is trained."""
  value = _each_pair_learnt(function, call)
  options = {name: call.options[name] for name in ("mask", "axis_name")}
  restored = [
    losses.factor_reconstruction(teacher, params=params, **options)
    for (_, teacher), params in zip(call.features(), call.params, strict=True)
  ]
  return {"": value, "reconstruction": sum(restored[1:], restored[0])}


def _rkd(student, teacher, *, distance=25.0, angle=50.0, reduction="mean", **options):
  """Distances and angles by the weights of Park et al. 2019 for classification."""
  options["reduction"] = reduction
  return distance * losses.rkd_distance(
    student, teacher, **options
  ) + angle * losses.rkd_angle(student, teacher, **options)


def _embedding_init(key, student_shape, teacher_shape, *, width=None):
  """Linear maps of both sides to `width` channels; none without a width."""
  if width is None:
    return {}
  return losses.crd_init(key, student_shape, teacher_shape, width=width)


def _each_pair_embedded(function, call):
  """Sum over the pairs, both sides through learnt linear maps if there are any."""
  mask, found = call.options["mask"], []
  for sides, params in zip(call.features(), call.params, strict=True):
    rows = [
      float32.matmul(kernels.flatten(features, mask), params[side]["kernel"])
      + params[side]["bias"][None, :]
      if params
      else features
      for side, features in zip(("student", "teacher"), sides, strict=True)
    ]
    found.append(function(*rows, **call.options))
  return sum(found[1:], found[0])


LOSSES: dict[str, NamedLoss] = {
  "knowledge_distillation": NamedLoss(
    losses.knowledge_distillation, _logits, aliases=("kd",)
  ),
  "decoupled_kd": NamedLoss(losses.decoupled_kd, _labelled_logits, aliases=("dkd",)),
  "dist": NamedLoss(losses.dist, _logits),
  "hint": NamedLoss(
    losses.hint, _each_pair_learnt, "map_2", losses.hint_init, aliases=("fitnet",)
  ),
  "attention_transfer": NamedLoss(
    losses.attention_transfer, _each_pair, MAPS, aliases=("at",)
  ),
  "similarity_preserving": NamedLoss(
    losses.similarity_preserving, _each_pair, LAST_MAP, aliases=("sp",)
  ),
  "correlation_congruence": NamedLoss(
    losses.correlation_congruence,
    _each_pair_embedded,
    POOLED,
    _embedding_init,
    aliases=("cc",),
  ),
  "channel_wise_distillation": NamedLoss(
    losses.channel_wise_distillation,
    _each_pair_learnt,
    LAST_MAP,
    losses.hint_init,
    aliases=("cwd",),
  ),
  "mgd": NamedLoss(losses.mgd, _each_pair_masked, LAST_MAP, losses.mgd_init),
  "gaussian_wasserstein": NamedLoss(
    losses.gaussian_wasserstein,
    _each_pair_learnt,
    LAST_MAP,
    losses.gaussian_wasserstein_init,
    aliases=("wkd_f",),
  ),
  "cosine_regression": NamedLoss(
    losses.cosine_regression, _each_pair_learnt, POOLED, losses.hint_init
  ),
  "normalized_regression": NamedLoss(
    losses.normalized_regression, _each_pair_learnt, POOLED, losses.hint_init
  ),
  "token_relations": NamedLoss(
    losses.token_relations, _each_pair, TOKENS, aliases=("minilm",)
  ),
  "ickd": NamedLoss(losses.ickd, _each_pair_learnt, LAST_MAP, losses.ickd_init),
  "vid": NamedLoss(losses.vid, _each_pair_learnt, MAPS, losses.vid_init),
  "rkd": NamedLoss(_rkd, _each_pair, POOLED),
  "rkd_distance": NamedLoss(losses.rkd_distance, _each_pair, POOLED),
  "rkd_angle": NamedLoss(losses.rkd_angle, _each_pair, POOLED),
  "pkt": NamedLoss(losses.pkt, _each_pair, POOLED),
  "conditional_divergence": NamedLoss(
    losses.conditional_divergence, _each_pair, POOLED
  ),
  "factor_transfer": NamedLoss(
    losses.factor_transfer,
    _factors,
    LAST_MAP,
    losses.factor_transfer_init,
    {"reconstruction": 1.0},
    aliases=("ft",),
  ),
  "fsp": NamedLoss(losses.fsp, _neighbouring_maps, MAPS),
  "nst": NamedLoss(losses.nst, _each_pair, MAPS),
  "crd": NamedLoss(losses.crd, _each_pair_learnt, POOLED, losses.crd_init),
  "information_flow": NamedLoss(losses.information_flow, _all_pairs, TAPS),
  "quadratic_flow": NamedLoss(losses.quadratic_flow, _all_pairs_labelled, TAPS),
  "linear_cka": NamedLoss(losses.linear_cka, _each_pair, POOLED),
  "rbf_cka": NamedLoss(losses.rbf_cka, _each_pair, POOLED),
}
_ALIASES = {alias: name for name, loss in LOSSES.items() for alias in loss.aliases}

# Public functions of `flowkd_jax.losses` without a name here, each with the reason.
WITHOUT_A_NAME = {
  "cross_entropy": "the labels, which have a weight of their own",
  "weighted_sum": "adds terms up",
  "information_flow_terms": "the terms of information_flow",
  "quadratic_flow_terms": "the terms of quadratic_flow",
  "factor_reconstruction": "a term of factor_transfer",
  "crd_bank": "its bank needs the position of each row in the data set",
  "crd_bank_init": "part of crd_bank",
  "crd_bank_update": "part of crd_bank",
  "crd_negatives": "part of crd_bank",
}


def loss_names() -> tuple[str, ...]:
  """All names, a short one in place of a long one."""
  return tuple(
    loss.aliases[0] if loss.aliases else name for name, loss in LOSSES.items()
  )


def loss_by_name(name: str) -> NamedLoss:
  """A loss by its name or a short name.

  Raises:
    ValueError: If there is no such loss; the message lists the names.
  """
  known = _ALIASES.get(name, name)
  if known in LOSSES:
    return LOSSES[known]
  close = difflib.get_close_matches(name, [*LOSSES, *_ALIASES], n=1)
  hint = f"; did you mean {close[0]}?" if close else ""
  raise ValueError(
    f"losses: expected names of losses, of {', '.join(loss_names())}, got "
    f"{name!r}{hint}"
  )
