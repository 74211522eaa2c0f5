"""Registry of the losses by name, with the outputs that each loss reads.

`combined_losses` and the flag `--losses` of `flowkd train distill` take these names. An
entry defines which outputs a loss compares, which parameters it learns and which taps
it reads by default. The options of a loss are the keyword arguments of its function and
of the function that makes its parameters.
"""

import difflib
import inspect
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from flowkd_jax import losses
from flowkd_jax.methods import _loss_calls
from flowkd_jax.methods._tap_roles import LAST_MAP
from flowkd_jax.methods._tap_roles import LEVELS
from flowkd_jax.methods._tap_roles import MAPS
from flowkd_jax.methods._tap_roles import POOLED
from flowkd_jax.methods._tap_roles import TAPS
from flowkd_jax.methods._tap_roles import TOKENS

# Parameters of losses that users cannot set as options: the method passes them.
_PASSED = frozenset(
  {
    *("key", "student", "teacher", "student_shape", "teacher_shape"),
    *("mask", "axis_name", "params", "labels", "weights", "pairs", "layer_map"),
    *("bank", "queue", "indices", "negatives", "num_classes", "kept", "token_mask"),
  }
)


class NamedLoss(NamedTuple):
  """Entry of the registry: a loss and the outputs that it reads.

  Attributes:
    function: The loss function. Its keyword arguments are the options of the loss.
    apply: `(function, call) -> value`, or a dictionary of terms by name, "" for the
      loss itself. If the loss has a state: `(value, new state)`.
    taps: Role of the taps that the loss compares by default; "" if it compares logits.
    init: Function that makes the learnt parameters of a pair of taps: `(key, shape of
      the student tap, shape of the teacher tap, **options)`. None if the loss learns
      nothing.
    init_takes_lists: True if `init` makes one tree for all pairs, from lists of shapes.
    state: Function that makes the initial state of a pair: `(key, rows of the data
      set, **options)`. None if the loss has no state.
    further: Constant weight of each further term that `apply` returns.
    aliases: Short names of the loss.
  """

  function: Callable[..., Any]
  apply: Callable[[Callable[..., Any], _loss_calls.Call], Any]
  taps: str = ""
  init: Callable[..., Any] | None = None
  init_takes_lists: bool = False
  state: Callable[..., Any] | None = None
  further: Mapping[str, float] = {}
  aliases: tuple[str, ...] = ()

  @property
  def options(self) -> dict[str, Any]:
    """Options of the loss, with their default values."""
    functions = self.function, self.init, self.state
    return {n: default for f in functions for n, default in _options_of(f).items()}

  def check_options(self, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown option, or a flag that is not a bool.

    A string such as "no" would count as true, and a schedule cannot set a Python bool.
    """
    unknown = [name for name in options if name not in self.options]
    if unknown:
      raise ValueError(
        f"expected options of {', '.join(self.options) or 'none'}, got "
        f"{', '.join(map(str, unknown))}"
      )
    for name, value in options.items():
      if isinstance(self.options[name], bool) and not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")

  def is_number(self, name: str) -> bool:
    """Returns whether an option is numeric, so that it may follow a schedule."""
    default = self.options[name]
    values = default if isinstance(default, tuple) else (default,)
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)

  def split_options(
    self, options: Mapping[str, Any]
  ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split options into those of the loss, of `init` and of `state`.

    An option may belong to several of these functions.
    """
    own, first, kept = (
      {name: value for name, value in options.items() if name in _options_of(function)}
      for function in (self.function, self.init, self.state)
    )
    return own, first, kept


def _options_of(function: Callable[..., Any] | None) -> dict[str, Any]:
  if function is None:
    return {}
  return {
    name: parameter.default
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in _PASSED
  }


LOSSES: dict[str, NamedLoss] = {
  "knowledge_distillation": NamedLoss(
    losses.knowledge_distillation, _loss_calls.logits, aliases=("kd",)
  ),
  "decoupled_kd": NamedLoss(
    losses.decoupled_kd, _loss_calls.labelled_logits, aliases=("dkd",)
  ),
  "dist": NamedLoss(losses.dist, _loss_calls.logits),
  "transformed_teacher_matching": NamedLoss(
    losses.transformed_teacher_matching, _loss_calls.logits, aliases=("wttm",)
  ),
  "jensen_shannon": NamedLoss(
    losses.jensen_shannon, _loss_calls.logits, aliases=("jsd",)
  ),
  "reverse_kl": NamedLoss(losses.reverse_kl, _loss_calls.logits),
  "skew_kl": NamedLoss(losses.skew_kl, _loss_calls.logits),
  "multi_level_distillation": NamedLoss(
    losses.multi_level_distillation, _loss_calls.logits, aliases=("mlkd",)
  ),
  "hint": NamedLoss(
    losses.hint,
    _loss_calls.each_pair_learnt,
    "map_2",
    losses.hint_init,
    aliases=("fitnet",),
  ),
  "attention_transfer": NamedLoss(
    losses.attention_transfer, _loss_calls.each_pair, MAPS, aliases=("at",)
  ),
  "similarity_preserving": NamedLoss(
    losses.similarity_preserving, _loss_calls.each_pair, LAST_MAP, aliases=("sp",)
  ),
  "correlation_congruence": NamedLoss(
    losses.correlation_congruence,
    _loss_calls.each_pair_embedded,
    POOLED,
    _loss_calls.embedding_init,
    aliases=("cc",),
  ),
  "channel_wise_distillation": NamedLoss(
    losses.channel_wise_distillation,
    _loss_calls.each_pair_learnt,
    LAST_MAP,
    losses.hint_init,
    aliases=("cwd",),
  ),
  "mgd": NamedLoss(losses.mgd, _loss_calls.each_pair_masked, LAST_MAP, losses.mgd_init),
  "gaussian_wasserstein": NamedLoss(
    losses.gaussian_wasserstein,
    _loss_calls.each_pair_learnt,
    LAST_MAP,
    losses.gaussian_wasserstein_init,
    aliases=("wkd_f",),
  ),
  "cosine_regression": NamedLoss(
    losses.cosine_regression, _loss_calls.each_pair_learnt, POOLED, losses.hint_init
  ),
  "normalized_regression": NamedLoss(
    losses.normalized_regression, _loss_calls.each_pair_learnt, POOLED, losses.hint_init
  ),
  "token_relations": NamedLoss(
    losses.token_relations, _loss_calls.each_pair, TOKENS, aliases=("minilm",)
  ),
  "ickd": NamedLoss(
    losses.ickd, _loss_calls.each_pair_learnt, LAST_MAP, losses.ickd_init
  ),
  "vid": NamedLoss(losses.vid, _loss_calls.each_pair_learnt, MAPS, losses.vid_init),
  "rkd": NamedLoss(_loss_calls.rkd, _loss_calls.each_pair, POOLED),
  "rkd_distance": NamedLoss(losses.rkd_distance, _loss_calls.each_pair, POOLED),
  "rkd_angle": NamedLoss(losses.rkd_angle, _loss_calls.each_pair, POOLED),
  "pkt": NamedLoss(losses.pkt, _loss_calls.each_pair, POOLED),
  "conditional_divergence": NamedLoss(
    losses.conditional_divergence, _loss_calls.each_pair, POOLED
  ),
  "factor_transfer": NamedLoss(
    losses.factor_transfer,
    _loss_calls.factors,
    LAST_MAP,
    losses.factor_transfer_init,
    further={"reconstruction": 1.0},
    aliases=("ft",),
  ),
  "kdsvd": NamedLoss(losses.kdsvd, _loss_calls.all_pairs, MAPS),
  "fsp": NamedLoss(losses.fsp, _loss_calls.neighbouring_maps, MAPS),
  "nst": NamedLoss(losses.nst, _loss_calls.each_pair, MAPS),
  "crd": NamedLoss(losses.crd, _loss_calls.each_pair_learnt, POOLED, losses.crd_init),
  "crd_bank": NamedLoss(
    _loss_calls.crd_bank,
    _loss_calls.banked,
    POOLED,
    losses.crd_init,
    state=_loss_calls.bank_init,
  ),
  "rrd": NamedLoss(
    losses.rrd,
    _loss_calls.queued,
    POOLED,
    losses.rrd_init,
    state=_loss_calls.queue_init,
  ),
  "review_kd": NamedLoss(
    losses.review_kd, _loss_calls.all_pairs_learnt, LEVELS, losses.review_kd_init, True
  ),
  "hierarchical_context": NamedLoss(
    losses.hierarchical_context, _loss_calls.each_pair, LAST_MAP, aliases=("hcl",)
  ),
  "patch_relations": NamedLoss(losses.patch_relations, _loss_calls.each_pair, LAST_MAP),
  "information_flow": NamedLoss(losses.information_flow, _loss_calls.all_pairs, TAPS),
  "quadratic_flow": NamedLoss(
    losses.quadratic_flow, _loss_calls.all_pairs_labelled, TAPS
  ),
  "linear_cka": NamedLoss(losses.linear_cka, _loss_calls.each_pair, POOLED),
  "rbf_cka": NamedLoss(losses.rbf_cka, _loss_calls.each_pair, POOLED),
}
_ALIASES = {alias: name for name, loss in LOSSES.items() for alias in loss.aliases}

# Public functions of `flowkd_jax.losses` that have no entry, each with the reason.
WITHOUT_A_NAME = {
  "cross_entropy": "the loss on labels, which has its own weight",
  "weighted_sum": "adds terms, compares nothing",
  "top_k_distillation": "reads stored classes instead of logits",
  "information_flow_terms": "the terms of information_flow",
  "quadratic_flow_terms": "the terms of quadratic_flow",
  "factor_reconstruction": "a term of factor_transfer",
  "rrd_queue_init": "part of rrd",
  "rrd_queue_update": "part of rrd",
  "crd_bank_update": "part of crd_bank",
  "crd_negatives": "part of crd_bank",
}


def loss_names() -> tuple[str, ...]:
  """Names of all losses; the short name if a loss has one."""
  return tuple(
    loss.aliases[0] if loss.aliases else name for name, loss in LOSSES.items()
  )


def loss_by_name(name: str) -> NamedLoss:
  """Look up a loss by its long or short name.

  Raises:
    ValueError: If there is no such loss. The message lists the names.
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
