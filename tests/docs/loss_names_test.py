"""The page of names elsewhere knows all losses, and no others."""

import pathlib
import re

from flowkd_jax import losses
from flowkd_jax import methods

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "loss_names.md"
# Parts of losses, and no loss between two networks.
_PARTS = ("_init", "_update", "_terms", "_negatives")
_OTHERS = {"cross_entropy", "weighted_sum"}


def _named_here():
  tables, _, only_here = PAGE.read_text().partition("## Only here")
  cells = [row.split("|")[1] for row in tables.splitlines() if row.startswith("| `")]
  return set(re.findall(r"`(\w+)[`(]", " ".join([*cells, only_here])))


def test_every_loss_has_its_name_elsewhere():
  public = {name for name in losses.__all__ if not name.endswith(_PARTS)} - _OTHERS
  assert public <= _named_here()


def test_every_name_is_one_of_this_library():
  assert _named_here() <= {*losses.__all__, *methods.__all__}
