"""Residual network with an auxiliary classifier (branch) after each stage."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array
from jaxtyping import Bool
from jaxtyping import Float

from flowkd_jax.models._cifar_resnet import CifarResNet
from flowkd_jax.models._cifar_resnet import fields_of


class BranchedResNet(CifarResNet):
  """`CifarResNet` with a branch after each stage.

  Make it with `with_branches`. The branch of a stage has the architecture of the
  following stages, with its own weights, so that all branches are equally deep and wide
  at their ends. The branch of the last stage is one more stage of the same width and
  map size. Logits and taps are those of the backbone, the network without branches. The
  logits of the branches are sown under the names in `branches`.

  Attributes:
    branch_classes: Number of logits of each branch.
    frozen_backbone: True if the backbone stays in evaluation mode in training.
  """

  branch_classes: int = 40
  frozen_backbone: bool = False

  @property
  def branches(self) -> tuple[str, ...]:
    """Taps of the branches' logits, from input to output."""
    return tuple(f"branch_{i + 1}" for i in range(len(self.widths)))

  @nn.compact
  def __call__(
    self,
    images: Float[Array, "batch height width channels"],
    train: bool = False,
    mask: Bool[Array, " batch"] | None = None,
  ) -> Float[Array, "batch classes"]:
    """Logits of the backbone; arguments as in `CifarResNet`."""
    train_backbone = train and not self.frozen_backbone
    x = self.stem(images, train_backbone, mask)
    logits, stages = self.body(self.widths)(x, train_backbone, mask)
    self.sow_taps(x, stages)
    branches = zip(self.branches, stages.maps, strict=True)
    for i, (branch, x) in enumerate(branches, start=1):
      widths = self.widths[i:]
      body = self.body(
        widths or self.widths[-1:],
        strides=(2,) * len(widths) or (1,),
        num_classes=self.branch_classes,
        name=f"{branch}_body",
      )
      self.sow("intermediates", branch, body(x, train, mask)[0])
    return logits


def with_branches(
  network: CifarResNet, branch_classes: int, *, frozen_backbone: bool = False
) -> BranchedResNet:
  """Add a branch after each stage of a network.

  Args:
    network: The backbone.
    branch_classes: Number of logits of each branch.
    frozen_backbone: True if the backbone stays in evaluation mode in training.

  Raises:
    TypeError: If `network` is not a `CifarResNet`, or has branches.
  """
  if type(network) is not CifarResNet:
    raise TypeError(
      "network: expected a CifarResNet without branches, such as resnet20, got "
      f"{type(network).__name__}"
    )
  return BranchedResNet(
    **fields_of(network, CifarResNet),
    branch_classes=branch_classes,
    frozen_backbone=frozen_backbone,
  )


def backbone(network: BranchedResNet) -> CifarResNet:
  """Network without its branches."""
  return CifarResNet(**fields_of(network, CifarResNet))


def backbone_variables(variables: Any) -> dict[str, Any]:
  """Variables of `backbone`, taken from the variables of the network with branches."""
  return {
    collection: {name: tree[name] for name in ("stem", "body")}
    for collection, tree in variables.items()
  }
