"""The tiny data set of the training loop's tests."""

from tests.train.conftest import batches
from tests.train.conftest import method
from tests.train.conftest import split

__all__ = ["batches", "method", "split"]
