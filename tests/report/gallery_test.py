"""All pictures of a run."""

from flowkd_jax.report import _gallery


def test_files_and_titles_are_named_once():
  files = [picture.file for picture in _gallery.PICTURES]
  titles = [picture.title for picture in _gallery.PICTURES]
  assert len({*files}) == len(files)
  assert len({*titles}) == len(titles)
