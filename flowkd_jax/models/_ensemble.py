"""Residual networks of shrinking width behind one stem, applied in one pass."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax.models._cifar_resnet import CifarResNet
from flowkd_jax.models._cifar_resnet import fields_of
from flowkd_jax.models._cifar_resnet import pooled


class ResNetEnsemble(CifarResNet):
  """Students of shrinking width on one stem; the logits are their mean.

  Make it with `shrinking_ensemble`. The stem and student 1 are a network of the
  inherited fields; student j of S has `c (S - j + 1) / S` channels where that has c,
  rounded down. Student j and the stem are a network of their own: `student_network`.

  Sown for training: under `student_logits` and `student_maps`, the logits of each
  student and its map after each stage. The tap `pooled` has the representations of
  all students, side by side.

  Attributes:
    num_students: S.
  """

  num_students: int = 5

  @property
  def taps(self) -> tuple[str, ...]:
    """Names of the activations to be measured."""
    return ("pooled",)

  @property
  def maps(self) -> tuple[str, ...]:
    """Empty: the maps are those of several students, under `student_maps`."""
    return ()

  @property
  def preactivations(self) -> tuple[str, ...]:
    """Empty, as `maps`."""
    return ()

  @property
  def student_logits(self) -> tuple[str, ...]:
    """Taps of the students' logits, from the widest to the thinnest."""
    return tuple(f"student_{j + 1}_logits" for j in range(self.num_students))

  @property
  def student_maps(self) -> tuple[tuple[str, ...], ...]:
    """Taps of every student's maps, from input to output."""
    stages = range(1, len(self.widths) + 1)
    return tuple(
      tuple(f"student_{j + 1}_stage_{i}" for i in stages)
      for j in range(self.num_students)
    )

  @property
  def student_widths(self) -> tuple[tuple[int, ...], ...]:
    """Channels of every student's stages."""
    students = self.num_students
    return tuple(
      tuple(width * (students - j) // students for width in self.widths)
      for j in range(students)
    )

  @nn.compact
  def __call__(
    self,
    images: Float[Array, "batch height width channels"],
    train: bool = False,
    mask: Bool[Array, " batch"] | None = None,
  ) -> Float[Array, "batch classes"]:
    """Mean of the students' logits; arguments as in `CifarResNet`."""
    x = self.stem(images, train, mask)
    all_logits, representations = [], []
    for j, widths in enumerate(self.student_widths):
      body = self.body(widths, name=f"student_{j + 1}")
      logits, (maps, _) = body(x, train, mask)
      self.sow("intermediates", self.student_logits[j], logits)
      for tap, map_ in zip(self.student_maps[j], maps, strict=True):
        self.sow("intermediates", tap, map_)
      all_logits.append(logits)
      representations.append(pooled(maps[-1]))
    self.sow("intermediates", "pooled", jnp.concatenate(representations, axis=1))
    return jnp.stack(all_logits).mean(0)


def shrinking_ensemble(network: CifarResNet, num_students: int) -> ResNetEnsemble:
  """The network and thinner ones like it, behind one stem.

  Args:
    network: the widest, student 1.
    num_students: S.

  Raises:
    TypeError: if `network` is not a `CifarResNet`.
    ValueError: if there are fewer than two students, or the thinnest would have a
      stage without channels.
  """
  if type(network) is not CifarResNet:
    raise TypeError(
      f"network: expected a CifarResNet, such as resnet20, got {type(network).__name__}"
    )
  if num_students < 2:
    raise ValueError(f"num_students: expected 2 or more, got {num_students}")
  if min(network.widths) < num_students:
    raise ValueError(
      f"num_students: {num_students} students need at least {num_students} channels "
      f"in every stage of the widest, got {network.widths}; take a wider network or "
      "fewer students"
    )
  return ResNetEnsemble(**fields_of(network, CifarResNet), num_students=num_students)


def student_network(ensemble: ResNetEnsemble, number: int) -> CifarResNet:
  """Student `number` (from 1, the widest) with the stem, as a network of its own."""
  fields = fields_of(ensemble, CifarResNet)
  return CifarResNet(**{**fields, "widths": ensemble.student_widths[number - 1]})


def student_variables(variables: Any, number: int) -> dict[str, Any]:
  """Variables of `student_network`, out of those of the ensemble."""
  return {
    collection: {"stem": tree["stem"], "body": tree[f"student_{number}"]}
    for collection, tree in variables.items()
  }
