"""The authors' values: files of inputs, losses and gradients.

Compiling takes longer than evaluating, so features are widened to the widths that all
files share; columns of zeros change none of the losses that go through here.
"""

import pathlib

import numpy as np
import pytest

PATHS = sorted((pathlib.Path(__file__).parents[1] / "golden").glob("losses_*"))
WIDTHS = {"student": 16, "teacher": 40, "student_same_width": 40}

every_file = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def load(name):
  """The values of one loss, by the name of its file."""
  return np.load(PATHS[0].with_name(f"{name}.npz"))


def channels_last(array):
  """Maps from the layout of PyTorch to ours."""
  return array.transpose(0, 2, 3, 1)


def kernel(weights):
  """Kernel of a convolution from the layout of PyTorch; a matrix if it is 1 x 1."""
  kernel = weights.transpose(2, 3, 1, 0)
  return kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel


def assert_near(actual, expected, tolerance=1e-9):
  """Equality relative to the largest entry."""
  largest = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * largest)


def widened(golden, side):
  rows = golden[side].astype(np.float64)
  return np.pad(rows, ((0, 0), (0, WIDTHS[side] - rows.shape[1])))


def maps(golden, side, index):
  """Maps with channels last."""
  return golden[f"{side}_map{index}_nchw"].astype(np.float64).transpose(0, 2, 3, 1)


def assert_reproduced(golden, name, value, gradient):
  """Both to 1e-9; the gradient relative to its largest entry."""
  np.testing.assert_allclose(value, golden[f"{name}__loss"], rtol=1e-9, err_msg=name)
  expected = golden[f"{name}__grad"]
  if expected.ndim == 4:
    expected = expected.transpose(0, 2, 3, 1)
  np.testing.assert_allclose(
    gradient[..., : expected.shape[-1]],
    expected,
    rtol=0,
    atol=1e-9 * abs(expected).max(),
    err_msg=name,
  )


def second_set(name):
  """Decorator: a test with `golden`, for each file of one loss in the second set."""
  paths = sorted(PATHS[0].parent.glob(f"response_{name}_*.npz"))
  return pytest.mark.parametrize(
    "golden", [dict(np.load(path)) for path in paths], ids=[p.stem for p in paths]
  )


def assert_gradient(actual, expected):
  """Equal to 1e-9 of the largest entry."""
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9 * abs(expected).max())
