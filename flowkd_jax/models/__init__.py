"""Networks that name their activations, and the weights the authors trained."""

from flowkd_jax.models._cnn import CNN
from flowkd_jax.models._normalization import BatchNorm
from flowkd_jax.models._registry import NAMES
from flowkd_jax.models._registry import by_name
from flowkd_jax.models._resnet import PreActBlock
from flowkd_jax.models._resnet import PreActResNet
from flowkd_jax.models._resnet import resnet18
from flowkd_jax.models._torch import from_torch

__all__ = [
  "CNN",
  "NAMES",
  "BatchNorm",
  "PreActBlock",
  "PreActResNet",
  "by_name",
  "from_torch",
  "resnet18",
]
