"""Pictures of matrices over the taps of two networks."""

import numpy as np
import pytest

from flowkd_jax import report


def test_layer_picture_shows_matrices_and_frames_the_map():
  matrices = {"CKA": np.eye(2, 3), "distance": np.ones((2, 3))}
  names = ["a", "b"], ["x", "y", "z"]
  figure = report.layer_picture(matrices, *names, {"a": "x", "b": "z"})
  first = figure.axes[0]
  assert [text.get_text() for text in first.get_xticklabels()] == names[1]
  assert [text.get_text() for text in first.texts] == ["1", "0", "0", "0", "1", "0"]
  corners = [patch.get_xy() for patch in first.patches]
  assert corners == [(-0.5, -0.5), (1.5, 0.5)]
  (legend,) = figure.legends
  assert [t.get_text() for t in legend.get_texts()] == ["frame: pair of the layer map"]
  assert report.layer_picture(matrices, *names).legends == []


def test_layer_picture_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match=r"CKA: expected shape \(1, 3\), got \(2, 2\)"):
    report.layer_picture({"CKA": np.eye(2)}, ["a"], ["x", "y", "z"])
  with pytest.raises(report.NothingToDrawError, match="matrices: expected at least"):
    report.layer_picture({}, ["a"], ["x"])
