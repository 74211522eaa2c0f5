"""Networks that name their activations, and the weights the authors trained."""

from flowkd_jax.models._cnn import CNN
from flowkd_jax.models._normalization import BatchNorm
from flowkd_jax.models._resnet import PreActBlock
from flowkd_jax.models._resnet import PreActResNet
from flowkd_jax.models._resnet import resnet18
from flowkd_jax.models._torch import from_torch

__all__ = [
  "CNN",
  "BatchNorm",
  "PreActBlock",
  "PreActResNet",
  "from_torch",
  "resnet18",
]
