"""Ensemble of residual networks of decreasing width with a shared stem."""

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
  """Students of decreasing width on a shared stem; the logits are their mean.

  Make it with `shrinking_ensemble`. Stem and student 1 form a network with the
  inherited fields. A layer with c channels in student 1 has `c (S - j + 1) / S`
  channels, rounded down, in student j of S. `student_network` returns student j with
  the stem as a network of its own.

  For training, the logits of each student are sown under `student_logits`, and its map
  after each stage under `student_maps`. The tap `pooled` concatenates the inputs of all
  classifiers.

  Attributes:
    num_students: Number of students `S`.
  """

  num_students: int = 5

  @property
  def taps(self) -> tuple[str, ...]:
    """Names of the default taps."""
    return ("pooled",)

  @property
  def maps(self) -> tuple[str, ...]:
    """Empty; the maps of the students are in `student_maps`."""
    return ()

  @property
  def preactivations(self) -> tuple[str, ...]:
    """Empty, like `maps`."""
    return ()

  @property
  def student_logits(self) -> tuple[str, ...]:
    """Taps of the students' logits, from the widest to the narrowest student."""
    return tuple(f"student_{j + 1}_logits" for j in range(self.num_students))

  @property
  def student_maps(self) -> tuple[tuple[str, ...], ...]:
    """Taps of the maps of each student, from input to output."""
    stages = range(1, len(self.widths) + 1)
    return tuple(
      tuple(f"student_{j + 1}_stage_{i}" for i in stages)
      for j in range(self.num_students)
    )

  @property
  def student_widths(self) -> tuple[tuple[int, ...], ...]:
    """Channels of the stages of each student."""
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
  """Make an ensemble of a network and narrower copies with a shared stem.

  Args:
    network: The widest student, student 1.
    num_students: Number of students `S`.

  Raises:
    TypeError: If `network` is not a `CifarResNet`.
    ValueError: If there are fewer than two students, or the narrowest would have a
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
  """Student `number` with the stem, as a network of its own; 1 is the widest."""
  fields = fields_of(ensemble, CifarResNet)
  return CifarResNet(**{**fields, "widths": ensemble.student_widths[number - 1]})


def student_variables(variables: Any, number: int) -> dict[str, Any]:
  """Variables of `student_network`, taken from the variables of the ensemble."""
  return {
    collection: {"stem": tree["stem"], "body": tree[f"student_{number}"]}
    for collection, tree in variables.items()
  }
