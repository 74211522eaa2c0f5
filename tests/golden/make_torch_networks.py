"""Writes torch_cnn.npz and torch_resnet.npz; run by hand where PyTorch is installed.

    python tests/golden/make_torch_networks.py

The networks are written anew after the description of the authors' (layers, names
and order of operations), with random weights and random running statistics.
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


def save(name, network, images):
  randomize_statistics(network)
  network.eval()
  with torch.no_grad():
    logits, taps = network(images)
  arrays = {f"state/{k}": v.numpy() for k, v in network.state_dict().items()}
  arrays |= {f"tap/{k}": channels_last(v) for k, v in taps.items()}
  arrays |= {"images": channels_last(images), "logits": logits.numpy()}
  np.savez_compressed(FOLDER / name, **arrays)


if __name__ == "__main__":
  torch.manual_seed(0)
  save("torch_cnn.npz", CNN(), torch.randn(3, 3, 32, 32))
  # Small images: the last stage has maps of 2 x 2.
  save("torch_resnet.npz", PreActResNet((2, 1, 1, 1)), torch.randn(2, 3, 16, 16))
