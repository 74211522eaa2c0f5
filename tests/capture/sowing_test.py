"""Search of code for calls that sow."""

import functools

import pytest

from flowkd_jax.capture import _sowing


class Base:
  def sow(self, name, value):
    """Defines what subclasses may call."""

  def inherited(self):
    self.sow("name", 0)


class Silent(Base):
  size = 3

  def __call__(self, x):
    return [x + self.size for _ in range(2)]


class Direct(Silent):
  def __call__(self, x):
    self.sow("name", x)


class Nested(Silent):
  def __call__(self, x):
    def inner():
      self.sow("name", x)

    return inner()


def _sows(module, x):
  module.sow("name", x)


def _calls(module, x):
  _sows(module, x)


class Through(Silent):
  def __call__(self, x):
    _calls(self, x)


class Static(Silent):
  @staticmethod
  def record(module, x):
    module.sow("name", x)


def _wrapped(function):
  @functools.wraps(function)
  def call(*args):
    return function(*args)

  return call


class Decorated(Silent):
  @_wrapped
  def __call__(self, x):
    self.sow("name", x)


class Recursive(Silent):
  def __call__(self, x):
    return _even(x)


def _even(n):
  return n == 0 or _odd(n - 1)


def _odd(n):
  return n != 0 and _even(n - 1)


@pytest.mark.parametrize("kind", [Direct, Nested, Through, Static, Decorated])
def test_calls_of_sow_are_found(kind):
  assert _sowing.may_sow([Silent, kind], Base, [])


@pytest.mark.parametrize("kind", [Base, Silent, Recursive])
def test_modules_that_never_sow_are_known(kind):
  assert not _sowing.may_sow([kind], Base, [])


def test_further_functions_and_their_closures_are_followed():
  def through_closure(module):
    recorded(module, 1)

  recorded = _sows
  assert _sowing.may_sow([Silent], Base, [through_closure])
  assert not _sowing.may_sow([Silent], Base, [_even, len, print])


def test_subclasses_inherit_what_their_parents_sow():
  class Child(Direct):
    __call__ = Silent.__call__

    def other(self):
      """Calls nothing."""

  assert _sowing.may_sow([Child], Base, [])
