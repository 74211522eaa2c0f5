"""Cases of checkpoints and retrieval."""

from experiments.benchmarks.growth import storing


def test_checkpoint_can_be_repeated():
  save = storing.CASES["checkpoint"].make(2)
  save()
  save()


def test_retrieval_has_queries_of_all_classes():
  assert storing.CASES["retrieval"].make(100)().unmatched_queries == 0
