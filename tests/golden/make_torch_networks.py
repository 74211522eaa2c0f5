"""Writes the files torch_*.npz; run by hand where PyTorch is installed.

    python tests/golden/make_torch_networks.py

The networks are written anew after the description of the authors' (layers, names
and order of operations), with random weights and random running statistics. Those of
the CIFAR-100 benchmark are thinner than RepDistiller's, and their weights have few
bits, so that the files stay small.
Names: `state/<key of the state_dict>`, `images` (channels last), `logits` and
`tap/<name>` (channels last).
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

FOLDER = pathlib.Path(__file__).parent


class CNN(nn.Module):
  def __init__(self, width=4, channels=3):
    super().__init__()
    widths = (channels, width, 2 * width, 4 * width)
    for i in range(1, 4):
      setattr(self, f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], 3))
      setattr(self, f"conv{i}_bn", nn.BatchNorm2d(widths[i]))
    self.fc1 = nn.Linear(4 * widths[3], 8 * width)
    self.fc2 = nn.Linear(8 * width, 10)

  def forward(self, x):
    taps = {}
    for i in range(1, 4):
      x = getattr(self, f"conv{i}_bn")(getattr(self, f"conv{i}")(x))
      x = F.max_pool2d(F.relu(x), 2)
      taps[f"block_{i}"] = x
    x = F.relu(self.fc1(x.flatten(1)))
    taps["dense"] = x
    return self.fc2(x), taps


class PreActBlock(nn.Module):
  def __init__(self, inputs, width, stride):
    super().__init__()
    self.bn1 = nn.BatchNorm2d(inputs)
    self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
    if stride != 1 or inputs != width:
      self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False))

  def forward(self, x):
    out = F.relu(self.bn1(x))
    shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
    out = self.conv1(out)
    return self.conv2(F.relu(self.bn2(out))) + shortcut


class PreActResNet(nn.Module):
  def __init__(self, stage_sizes=(2, 2, 2, 2), width=8, channels=3):
    super().__init__()
    self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.stages = len(stage_sizes)
    inputs = width
    for i, size in enumerate(stage_sizes):
      outputs = width * 2**i
      strides = [1 if i == 0 else 2] + [1] * (size - 1)
      blocks = []
      for stride in strides:
        blocks.append(PreActBlock(inputs, outputs, stride))
        inputs = outputs
      setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
    self.linear = nn.Linear(inputs, 10)

  def forward(self, x):
    taps = {}
    x = F.relu(self.bn1(self.conv1(x)))
    for i in range(1, self.stages + 1):
      x = getattr(self, f"layer{i}")(x)
      taps[f"stage_{i}"] = F.adaptive_avg_pool2d(x, min(4, x.shape[-1]))
    x = F.avg_pool2d(x, x.shape[-1]).flatten(1)
    taps["pooled"] = x
    return self.linear(x), taps


def normalized(inputs, outputs, size=3, stride=1, groups=1, bias=False):
  """A convolution padded by half its kernel, and its BatchNorm."""
  options = {"padding": size // 2, "groups": groups, "bias": bias}
  return nn.Conv2d(inputs, outputs, size, stride, **options), nn.BatchNorm2d(outputs)


class NumberedLayers(nn.Module):
  """Convolutions conv1, conv2, ... with BatchNorm bn1, bn2, ..."""

  def add(self, *layers):
    for number, (convolution, norm) in enumerate(layers, start=1):
      setattr(self, f"conv{number}", convolution)
      setattr(self, f"bn{number}", norm)

  def layer(self, number, x):
    return getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))


class ResidualBlock(NumberedLayers):
  """Basic block, or bottleneck with `expansion` 4; result before the last ReLU."""

  def __init__(self, inputs, width, stride, expansion=1, shortcut="downsample"):
    super().__init__()
    outputs = width * expansion
    if expansion == 1:
      self.add(normalized(inputs, width, 3, stride), normalized(width, width))
    else:
      self.add(
        normalized(inputs, width, 1),
        normalized(width, width, 3, stride),
        normalized(width, outputs, 1),
      )
    self.last = 2 if expansion == 1 else 3
    self.shortcut_name = shortcut
    if stride != 1 or inputs != outputs:
      setattr(self, shortcut, nn.Sequential(*normalized(inputs, outputs, 1, stride)))

  def forward(self, x):
    shortcut = getattr(self, self.shortcut_name, nn.Identity())(x)
    for number in range(1, self.last):
      x = F.relu(self.layer(number, x))
    return self.layer(self.last, x) + shortcut


class StagedNetwork(NumberedLayers):
  """Stem conv1 and bn1, stages layer1, layer2, ..., whose blocks end before a ReLU."""

  classifier_name = "linear"

  def finish(self, stages, features, classes=10):
    self.stages = len(stages)
    for number, blocks in enumerate(stages, start=1):
      setattr(self, f"layer{number}", nn.Sequential(*blocks))
    setattr(self, self.classifier_name, nn.Linear(features, classes))

  def after(self, x):
    return F.relu(x)

  def before_pooling(self, x):
    return x

  def forward(self, x):
    x = F.relu(self.layer(1, x))
    taps = {"f0": x}
    for number in range(1, self.stages + 1):
      for block in getattr(self, f"layer{number}"):
        before = block(x)
        x = self.after(before)
      taps |= {f"f{number}": x, f"f{number}_preact": before}
    taps["pooled"] = self.before_pooling(x).mean((2, 3))
    return getattr(self, self.classifier_name)(taps["pooled"]), taps


class ThinResNet(StagedNetwork):
  """RepDistiller's resnet8x4 and the like."""

  classifier_name = "fc"

  def __init__(self, depth, widths):
    super().__init__()
    inputs, *widths = widths
    self.add(normalized(3, inputs))
    stages = []
    for i, width in enumerate(widths):
      stages.append([])
      for j in range((depth - 2) // 6):
        stages[-1].append(ResidualBlock(inputs, width, 2 if i and not j else 1))
        inputs = width
    self.finish(stages, inputs)


class BottleneckResNet(StagedNetwork):
  """RepDistiller's ResNet50, with other numbers of blocks."""

  def __init__(self, stage_sizes, width):
    super().__init__()
    self.add(normalized(3, width))
    stages, inputs = [], width
    for i, size in enumerate(stage_sizes):
      stages.append([])
      for j in range(size):
        stride = 2 if i and not j else 1
        block = ResidualBlock(inputs, width * 2**i, stride, 4, "shortcut")
        stages[-1].append(block)
        inputs = 4 * width * 2**i
    self.finish(stages, inputs)


def shuffle(x, groups):
  batch, channels, height, width = x.shape
  x = x.reshape(batch, groups, channels // groups, height, width)
  return x.transpose(1, 2).reshape(batch, channels, height, width)


class GroupedBlock(NumberedLayers):
  """Block of ShuffleV1."""

  def __init__(self, inputs, outputs, stride):
    super().__init__()
    self.stride, self.groups = stride, 1 if inputs == 24 else 3
    if stride == 2:
      outputs -= inputs
    inner = outputs // 4
    self.add(
      normalized(inputs, inner, 1, groups=self.groups),
      normalized(inner, inner, 3, stride, groups=inner),
      normalized(inner, outputs, 1, groups=3),
    )

  def forward(self, x):
    out = shuffle(F.relu(self.layer(1, x)), self.groups)
    out = self.layer(3, F.relu(self.layer(2, out)))
    if self.stride == 1:
      return out + x
    return torch.cat((out, F.avg_pool2d(x, 3, 2, padding=1)), 1)


class ShuffleV1(StagedNetwork):
  def __init__(self, stage_sizes, width):
    super().__init__()
    self.add(normalized(3, 24, 1))
    stages, inputs = [], 24
    for i, size in enumerate(stage_sizes):
      outputs = width * 2**i
      blocks = [GroupedBlock(inputs, outputs, 2)]
      blocks += [GroupedBlock(outputs, outputs, 1) for _ in range(size - 1)]
      stages.append(blocks)
      inputs = outputs
    self.finish(stages, inputs)


class HalvingBlock(NumberedLayers):
  """First block of a stage of ShuffleV2."""

  def __init__(self, inputs, outputs):
    super().__init__()
    half = outputs // 2
    self.add(
      normalized(inputs, inputs, 3, 2, groups=inputs),
      normalized(inputs, half, 1),
      normalized(inputs, half, 1),
      normalized(half, half, 3, 2, groups=half),
      normalized(half, half, 1),
    )

  def forward(self, x):
    right = self.layer(4, F.relu(self.layer(3, x)))
    return torch.cat((self.layer(2, self.layer(1, x)), self.layer(5, right)), 1)


class SplitBlock(NumberedLayers):
  """Other blocks of ShuffleV2."""

  def __init__(self, channels):
    super().__init__()
    half = channels // 2
    self.add(
      normalized(half, half, 1),
      normalized(half, half, 3, groups=half),
      normalized(half, half, 1),
    )

  def forward(self, x):
    kept, x = x.chunk(2, 1)
    return torch.cat((kept, self.layer(3, self.layer(2, F.relu(self.layer(1, x))))), 1)


class ShuffleV2(StagedNetwork):
  def __init__(self, stage_sizes, width, head):
    super().__init__()
    self.add(normalized(3, 24, 1), normalized(4 * width, head, 1))
    stages, inputs = [], 24
    for i, size in enumerate(stage_sizes):
      outputs = width * 2**i
      blocks = [HalvingBlock(inputs, outputs)]
      stages.append(blocks + [SplitBlock(outputs) for _ in range(size - 1)])
      inputs = outputs
    self.finish(stages, head)

  def after(self, x):
    return shuffle(F.relu(x), 2)

  def before_pooling(self, x):
    return F.relu(self.layer(2, x))


class WideBlock(nn.Module):
  def __init__(self, inputs, width, stride):
    super().__init__()
    self.bn1 = nn.BatchNorm2d(inputs)
    self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
    if inputs != width:
      self.convShortcut = nn.Conv2d(inputs, width, 1, stride, bias=False)

  def forward(self, x):
    out = F.relu(self.bn1(x))
    shortcut = self.convShortcut(out) if hasattr(self, "convShortcut") else x
    return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


class WideResNet(nn.Module):
  """RepDistiller's wrn_d_k."""

  def __init__(self, depth, factor, width):
    super().__init__()
    self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
    inputs = width
    for i in range(1, 4):
      blocks, outputs = [], width * factor * 2 ** (i - 1)
      for j in range((depth - 4) // 6):
        blocks.append(WideBlock(inputs, outputs, 2 if i > 1 and not j else 1))
        inputs = outputs
      group = nn.Module()
      group.layer = nn.Sequential(*blocks)
      setattr(self, f"block{i}", group)
    self.bn1 = nn.BatchNorm2d(inputs)
    self.fc = nn.Linear(inputs, 10)

  def forward(self, x):
    x = self.conv1(x)
    taps = {"f0": x}
    norms = [self.block2.layer[0].bn1, self.block3.layer[0].bn1, self.bn1]
    for i, norm in enumerate(norms, start=1):
      x = getattr(self, f"block{i}").layer(x)
      taps |= {f"f{i}": x, f"f{i}_preact": norm(x)}
    taps["pooled"] = F.relu(self.bn1(x)).mean((2, 3))
    return self.fc(taps["pooled"]), taps


class VGG(nn.Module):
  """RepDistiller's vgg8_bn and the like."""

  def __init__(self, num_convolutions, width):
    super().__init__()
    inputs = 3
    for i, number in enumerate(num_convolutions):
      layers, outputs = [], width * 2 ** min(i, 3)
      for _ in range(number):
        layers += [*normalized(inputs, outputs, bias=True), nn.ReLU()]
        inputs = outputs
      setattr(self, f"block{i}", nn.Sequential(*layers[:-1]))
    self.classifier = nn.Linear(inputs, 10)

  def forward(self, x):
    taps, pools = {}, 4 if x.shape[2] == 64 else 3
    for i in range(5):
      before = getattr(self, f"block{i}")(x)
      x = F.relu(before)
      taps |= {f"f{i}": x} | ({f"f{i}_preact": before} if i else {})
      x = F.max_pool2d(x, 2) if i < pools else x
    taps["pooled"] = x.mean((2, 3))
    return self.classifier(taps["pooled"]), taps


class InvertedResidual(nn.Module):
  def __init__(self, inputs, outputs, stride, expansion):
    super().__init__()
    inner = inputs * expansion
    self.adds = stride == 1 and inputs == outputs
    self.conv = nn.Sequential(
      *normalized(inputs, inner, 1),
      nn.ReLU(),
      *normalized(inner, inner, 3, stride, groups=inner),
      nn.ReLU(),
      *normalized(inner, outputs, 1),
    )

  def forward(self, x):
    return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
  """RepDistiller's mobile_half, with other widths and numbers of blocks."""

  def __init__(self, group_sizes, width, head):
    super().__init__()
    self.conv1 = nn.Sequential(*normalized(3, width, 3, 2), nn.ReLU())
    self.blocks = nn.ModuleList()
    inputs = width
    channels, strides = (16, 24, 32, 64, 96, 160, 320), (1, 1, 2, 2, 1, 2, 1)
    for i, size in enumerate(group_sizes):
      blocks, outputs = [], int(channels[i] * width / 32)
      for j in range(size):
        stride = 1 if j else strides[i]
        blocks.append(InvertedResidual(inputs, outputs, stride, 6 if i else 1))
        inputs = outputs
      self.blocks.append(nn.Sequential(*blocks))
    self.conv2 = nn.Sequential(*normalized(inputs, head, 1), nn.ReLU())
    self.classifier = nn.Sequential(nn.Linear(head, 10))

  def forward(self, x):
    x = self.conv1(x)
    taps = {"f0": x}
    for i, group in enumerate(self.blocks):
      x = group(x)
      if i in (1, 2, 4, 6):
        number = (1, 2, 4, 6).index(i) + 1
        taps |= {f"f{number}": x, f"f{number}_preact": x}
    taps["pooled"] = self.conv2(x).mean((2, 3))
    return self.classifier(taps["pooled"]), taps


def randomize_statistics(network):
  for module in network.modules():
    if isinstance(module, nn.BatchNorm2d):
      nn.init.uniform_(module.weight, 0.5, 1.5)
      nn.init.normal_(module.bias, std=0.2)
      nn.init.normal_(module.running_mean, std=0.2)
      nn.init.uniform_(module.running_var, 0.5, 1.5)


def channels_last(tensor):
  array = tensor.numpy()
  return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def few_bits(network):
  """Rounds weights to multiples of 1/64, which compress."""
  with torch.no_grad():
    for value in network.state_dict().values():
      if value.is_floating_point():
        value.copy_((value * 64).round() / 64)


def save(name, network, images, *, rounded=True):
  randomize_statistics(network)
  if rounded:
    few_bits(network)
  network.eval()
  with torch.no_grad():
    logits, taps = network(images)
  arrays = {f"state/{k}": v.numpy() for k, v in network.state_dict().items()}
  arrays |= {f"tap/{k}": channels_last(v) for k, v in taps.items()}
  arrays |= {"images": channels_last(images), "logits": logits.numpy()}
  np.savez_compressed(FOLDER / name, **arrays)


def save_benchmark_network(name, network, size=8):
  torch.manual_seed(1)
  # Drawn again: a network must not depend on those that were made before it.
  for module in network.modules():
    if isinstance(module, nn.Conv2d | nn.Linear):
      module.reset_parameters()
  save(f"torch_{name}.npz", network, torch.randn(2, 3, size, size))


if __name__ == "__main__":
  torch.manual_seed(0)
  save("torch_cnn.npz", CNN(), torch.randn(3, 3, 32, 32), rounded=False)
  # Small images: the last stage has maps of 2 x 2.
  network = PreActResNet((2, 1, 1, 1))
  save("torch_resnet.npz", network, torch.randn(2, 3, 16, 16), rounded=False)
  save_benchmark_network("resnet14x4", ThinResNet(14, (4, 8, 16, 32)))
  save_benchmark_network("wrn_16_2", WideResNet(16, 2, 4))
  save_benchmark_network("vgg", VGG((2, 1, 1, 1, 2), 4))
  network = MobileNetV2((1, 2, 2, 1, 1, 2, 1), 8, 24)
  save_benchmark_network("mobilenet_v2", network, size=16)
  save_benchmark_network("shufflenet_v1", ShuffleV1((2, 2, 2), 36))
  save_benchmark_network("shufflenet_v2", ShuffleV2((2, 3, 2), 8, 16))
  save_benchmark_network("resnet50", BottleneckResNet((2, 1, 1, 2), 4))
