"""Networks with named activations, and import of weights from PyTorch."""

from flowkd_jax import _extra

_extra.require("models")

from flowkd_jax.models._batch_norm import BatchNorm
from flowkd_jax.models._benchmark_network import BenchmarkNetwork
from flowkd_jax.models._bottleneck_resnet import BottleneckResNet
from flowkd_jax.models._branched import BranchedResNet
from flowkd_jax.models._branched import backbone
from flowkd_jax.models._branched import backbone_variables
from flowkd_jax.models._branched import with_branches
from flowkd_jax.models._cifar_resnet import CifarResNet
from flowkd_jax.models._cifar_resnet import cifar_resnet
from flowkd_jax.models._cnn import CNN
from flowkd_jax.models._ensemble import ResNetEnsemble
from flowkd_jax.models._ensemble import shrinking_ensemble
from flowkd_jax.models._ensemble import student_network
from flowkd_jax.models._ensemble import student_variables
from flowkd_jax.models._latent import LatentCNN
from flowkd_jax.models._latent import LatentGenerator
from flowkd_jax.models._mobilenet_v2 import MobileNetV2
from flowkd_jax.models._registry import NAMES
from flowkd_jax.models._registry import Named
from flowkd_jax.models._registry import by_name
from flowkd_jax.models._resnet import PreActBlock
from flowkd_jax.models._resnet import PreActResNet
from flowkd_jax.models._resnet import resnet18
from flowkd_jax.models._shufflenet_v1 import ShuffleNetV1
from flowkd_jax.models._shufflenet_v2 import ShuffleNetV2
from flowkd_jax.models._torch import from_torch
from flowkd_jax.models._vgg import VGG
from flowkd_jax.models._vit import TransformerBlock
from flowkd_jax.models._vit import VisionTransformer
from flowkd_jax.models._wide_resnet import WideResNet
from flowkd_jax.models._wide_resnet import wide_resnet

__all__ = [
  "BatchNorm",
  "BenchmarkNetwork",
  "BottleneckResNet",
  "BranchedResNet",
  "CNN",
  "CifarResNet",
  "LatentCNN",
  "LatentGenerator",
  "MobileNetV2",
  "NAMES",
  "Named",
  "PreActBlock",
  "PreActResNet",
  "ResNetEnsemble",
  "ShuffleNetV1",
  "ShuffleNetV2",
  "TransformerBlock",
  "VGG",
  "VisionTransformer",
  "WideResNet",
  "backbone",
  "backbone_variables",
  "by_name",
  "cifar_resnet",
  "from_torch",
  "resnet18",
  "shrinking_ensemble",
  "student_network",
  "student_variables",
  "wide_resnet",
  "with_branches",
]
