"""Pictures of images that a network finds alike."""

import numpy as np
import pytest

from flowkd_jax import report


def test_retrieval_picture_frames_what_is_right_and_wrong():
  images = np.arange(2 * 3 * 16, dtype=np.uint8).reshape(2, 3, 4, 4, 1)
  labels = np.array([[0, 1, 1], [1, 1, 0]])
  figure = report.retrieval_picture(
    images[:, 0],
    labels[:, 0],
    images[:, 1:],
    labels[:, 1:],
    class_names=("cat", "dog"),
  )
  names = [axes.get_title() for axes in figure.axes]
  assert names == ["cat", "dog", "dog", "dog", "dog", "cat"]
  frames = [axes.spines["left"].get_edgecolor()[:3] for axes in figure.axes]
  assert frames[1] == frames[2] == frames[5]
  assert len({frames[0], frames[1], frames[4]}) == 3
  styles = [axes.spines["left"].get_linestyle() for axes in figure.axes]
  dashed = [style == "--" for style in styles]
  assert dashed == [False, True, True, False, False, True]  # not by colour alone
  (legend,) = figure.legends
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels == ["the class of the query", "another class"]
  shown = [axes.get_images()[0].get_array() for axes in figure.axes]
  np.testing.assert_array_equal(shown[4], images[1, 1, ..., 0])


def test_retrieval_picture_names_no_class_without_a_label():
  images = np.zeros((1, 3, 4, 4, 1), np.uint8)
  labels = np.array([[-1, -1, 0]])
  figure = report.retrieval_picture(
    images[:, 0], labels[:, 0], images[:, 1:], labels[:, 1:], class_names=("cat",)
  )
  assert [axes.get_title() for axes in figure.axes] == ["no label", "no label", "cat"]
  frames = [axes.spines["left"].get_edgecolor() for axes in figure.axes]
  assert frames[1] == frames[2]  # neither is right
  with pytest.raises(ValueError, match="found_labels: expected classes from 0 to 0"):
    report.retrieval_picture(
      images[:, 0], labels[:, 0], images[:, 1:], labels[:, 1:] + 1, class_names=("cat",)
    )


def test_retrieval_picture_refuses_what_does_not_fit():
  images, labels = np.zeros((2, 3, 4, 4, 3), np.uint8), np.zeros((2, 3), int)
  with pytest.raises(ValueError, match=r"found_images: expected shape \(2, 1, 4"):
    report.retrieval_picture(
      images[:, 0], labels[:, 0], images, labels[:, :1], class_names="a"
    )
  with pytest.raises(report.NothingToDrawError, match="query_labels"):
    report.retrieval_picture(
      images[:0, 0], labels[:0, 0], images[:0], labels[:0], class_names="a"
    )


def test_long_names_of_classes_have_lines_above_their_image():
  images, labels = np.zeros((1, 3, 4, 4, 1), np.uint8), np.array([[0, 1, 0]])
  figure = report.retrieval_picture(
    images[:, 0],
    labels[:, 0],
    images[:, 1:],
    labels[:, 1:],
    class_names=("cat", " ".join(["a_name"] * 9)),
  )
  assert figure.axes[0].get_title() == "cat"
  assert figure.axes[1].get_title().count("\n") > 0
