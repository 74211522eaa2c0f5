"""Old names of arguments, accepted for one more release."""

import functools
import warnings
from collections.abc import Callable
from typing import Any
from typing import TypeVar
from typing import cast

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed_arguments(**new_names: str) -> Callable[[Function], Function]:
  """Decorates a function so that old names of keyword arguments give a warning.

  The warning is a DeprecationWarning. The value is passed on under the new name.

  Args:
    **new_names: New name for each old name, `old="new"`.
  """

  def decorate(function: Function) -> Function:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
      for old, new in new_names.items():
        if old not in kwargs:
          continue
        if new in kwargs:
          raise TypeError(
            f"{function.__name__}: expected {new} alone, got {old} too, its old name"
          )
        warnings.warn(
          f"{function.__name__}: the argument {old} is called {new} since version 0.2; "
          f"write {new}=, as {old} will be gone in version 0.3",
          DeprecationWarning,
          stacklevel=2,
        )
        kwargs[new] = kwargs.pop(old)
      return function(*args, **kwargs)

    return cast("Function", call)

  return decorate
