"""Old names of arguments: a warning, the same call, one name at a time."""

import pytest

from flowkd_jax._numerics import renamed


@renamed.renamed_arguments(heads="params", sigma="bandwidth")
def _call(first, *, params=None, bandwidth=None):
  """Returns the arguments."""
  return first, params, bandwidth


def test_old_names_are_passed_on_under_the_new_ones_with_a_warning():
  with pytest.warns(
    DeprecationWarning, match="_call: .* heads is called params"
  ) as all_:
    assert _call(1, heads=2, bandwidth=3) == (1, 2, 3)
  assert len(all_) == 1
  assert all_[0].filename == __file__  # the line of the caller, not of the decorator
  with pytest.warns(DeprecationWarning, match="sigma is called bandwidth"):
    assert _call(1, sigma=4) == (1, None, 4)


def test_new_names_give_no_warning(recwarn):
  assert _call(1, params=2) == (1, 2, None)
  assert not recwarn


def test_both_names_at_once_are_refused():
  with pytest.raises(TypeError, match="_call: expected params alone, got heads too"):
    _call(1, heads=2, params=3)


def test_decorated_functions_keep_name_and_documentation():
  assert _call.__name__ == "_call"
  assert _call.__doc__ == "Returns the arguments."
