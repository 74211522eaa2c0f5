"""Kernels by name, and what stands for a kernel in arguments."""

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from flowkd_jax._numerics import named_choices
from flowkd_jax.kernels._authors import authors_kernel
from flowkd_jax.kernels._authors import check_authors_name
from flowkd_jax.kernels._families import adaptive_rbf
from flowkd_jax.kernels._families import cauchy
from flowkd_jax.kernels._families import cosine
from flowkd_jax.kernels._families import rbf
from flowkd_jax.kernels._families import student_t
from flowkd_jax.kernels._families import von_mises_fisher
from flowkd_jax.kernels._kernel import Kernel

KERNELS: dict[str, Callable[..., Kernel]] = {
  "cosine": cosine,
  "student_t": student_t,
  "rbf": rbf,
  "adaptive_rbf": adaptive_rbf,
  "cauchy": cauchy,
  "von_mises_fisher": von_mises_fisher,
}

# What stands for a kernel, and what for one or several, in arguments.
KernelLike = Kernel | str
KernelsLike = KernelLike | Iterable[KernelLike]


def by_name(name: str) -> Kernel:
  """The kernel of that name with its default parameter, or as in "rbf:2" another.

  Raises:
    ValueError: If there is no such kernel, which lists those there are; or if the
      parameter is not a number above 0.
  """
  return named_choices.from_text("kernel", name, KERNELS)


def as_kernel(
  kernel: KernelLike | None, *, authors: bool = False, name: str = "kernel"
) -> Kernel:
  """The kernel itself, or the one that a name as of `by_name` describes.

  Args:
    kernel: A kernel, or its name; None is cosine.
    authors: Take names for those of `authors_kernel`.
    name: Name of the argument or flag in messages.

  Raises:
    TypeError: If it is neither a kernel nor a name.
    ValueError: If there is no such kernel, or its parameter is out of range.
  """
  if isinstance(kernel, Kernel):
    return kernel
  if kernel is None:
    return authors_kernel("cosine") if authors else cosine()
  if not isinstance(kernel, str):
    raise TypeError(
      f"{name}: expected a kernel, such as kernels.student_t(), or its name, got "
      f"{getattr(kernel, '__name__', kernel)!r} of type {type(kernel).__name__}"
    )
  if not authors:
    return named_choices.from_text(name, kernel, KERNELS)
  check_authors_name(name, kernel)
  return authors_kernel(kernel)


def as_kernels(
  kernels: KernelsLike, *, authors: bool = False, name: str = "kernels"
) -> list[Kernel]:
  """One or several kernels, each given as to `as_kernel`, as a list.

  Raises:
    TypeError: If one is neither a kernel nor a name.
    ValueError: If there is none, or one is unknown or has a parameter out of range.
  """
  given: list[Any]  # checked one by one
  if isinstance(kernels, Iterable) and not isinstance(kernels, Kernel | str):
    given = [*kernels]
  else:
    given = [kernels]
  if not given:
    raise ValueError(f"{name}: expected at least one kernel, got none")
  return [as_kernel(each, authors=authors, name=name) for each in given]
