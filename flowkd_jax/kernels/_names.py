"""Kernels by name, and conversion of arguments to kernels."""

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

# Types of arguments that give one kernel, and one or several kernels.
KernelLike = Kernel | str
KernelsLike = KernelLike | Iterable[KernelLike]


def by_name(name: str) -> Kernel:
  """The kernel of a name, with its default parameter or with one after a colon.

  Args:
    name: A key of `KERNELS`, or a key and a parameter as in "rbf:2".

  Raises:
    ValueError: If there is no such kernel (the message lists all kernels), or if the
      parameter is not a number above 0.
  """
  return named_choices.from_text("kernel", name, KERNELS)


def as_kernel(
  kernel: KernelLike | None, *, authors: bool = False, name: str = "kernel"
) -> Kernel:
  """A kernel from a kernel or its name.

  Args:
    kernel: A kernel, or a name in the form of `by_name`. None is the cosine kernel.
    authors: Look names up in `authors_kernel` in place of `by_name`.
    name: Name of the argument or flag in error messages.

  Raises:
    TypeError: If `kernel` is neither a kernel nor a name.
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
  """A list of kernels from one or several kernels or names.

  Args:
    kernels: A kernel or a name, or an iterable of them, each as in `as_kernel`.
    authors: Look names up in `authors_kernel` in place of `by_name`.
    name: Name of the argument or flag in error messages.

  Raises:
    TypeError: If an entry is neither a kernel nor a name.
    ValueError: If there is no entry, or an entry is unknown or has a parameter out of
      range.
  """
  given: list[Any]  # checked one by one
  if isinstance(kernels, Iterable) and not isinstance(kernels, Kernel | str):
    given = [*kernels]
  else:
    given = [kernels]
  if not given:
    raise ValueError(f"{name}: expected at least one kernel, got none")
  return [as_kernel(each, authors=authors, name=name) for each in given]
