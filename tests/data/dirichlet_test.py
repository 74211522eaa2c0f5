import numpy as np
import pytest

from flowkd_jax import data
from flowkd_jax.data._dirichlet import _dirichlet

LABELS = np.arange(600) % 6


def counts(clients):
  """Examples of every label (column) at every client (row)."""
  return np.stack([np.bincount(LABELS[client], minlength=6) for client in clients])


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 100.0])
def test_every_example_goes_to_one_client_and_each_gets_the_minimum(alpha):
  clients = data.dirichlet_split(LABELS, 8, alpha, seed=1, minimum=10)
  assert len(clients) == 8
  np.testing.assert_array_equal(np.sort(np.concatenate(clients)), np.arange(600))
  for client in clients:
    assert client.dtype == np.int32
    assert len(client) >= 10
    assert (np.diff(client) > 0).all()


def test_small_alpha_gives_few_labels_and_large_alpha_all_alike():
  def labels_of_most(alpha):
    """The share of a client's examples that its most frequent label has."""
    table = counts(data.dirichlet_split(LABELS, 8, alpha, seed=1))
    return (table.max(1) / table.sum(1)).mean()

  shares = [labels_of_most(alpha) for alpha in (0.05, 1.0, 1e4)]
  assert shares[0] > 0.6
  assert shares[0] > shares[1] > shares[2]
  assert shares[2] < 0.2  # 1 / 6 if all were exactly alike


def test_no_client_outgrows_its_equal_share_by_more_than_a_label():
  table = counts(data.dirichlet_split(LABELS, 8, 0.1, seed=3))
  assert table.sum(1).max() < 600 / 8 + 100


def test_split_is_a_function_of_the_seed():
  first = data.dirichlet_split(LABELS, 8, 0.3, seed=1)
  again = data.dirichlet_split(LABELS, 8, 0.3, seed=1)
  other = data.dirichlet_split(LABELS, 8, 0.3, seed=2)
  assert all(map(np.array_equal, first, again))
  assert not all(map(np.array_equal, first, other))
  # A resumed run must find the same clients in years to come.
  assert [len(client) for client in first] == [114, 55, 53, 105, 78, 70, 34, 91]
  assert first[0][:5].tolist() == [5, 10, 11, 14, 17]


@pytest.mark.parametrize("alpha", [0.2, 3.0])
def test_draws_have_the_moments_of_a_dirichlet_distribution(alpha):
  draws = _dirichlet(0, 0, 20_000, 5, alpha)
  np.testing.assert_allclose(draws.sum(1), 1, rtol=1e-12)
  np.testing.assert_allclose(draws.mean(0), 0.2, atol=0.01)
  variance = 0.2 * 0.8 / (5 * alpha + 1)
  np.testing.assert_allclose(draws.var(0), variance, rtol=0.05)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"num_clients": 0}, "num_clients: expected a number above 0, got 0"),
    ({"alpha": 0.0}, r"alpha: expected a number above 0, got 0\.0"),
    ({"minimum": 80}, "minimum: 8 clients cannot have 80 each of 600 examples"),
    ({"minimum": 75, "alpha": 0.1}, "minimum: in 200 draws with alpha 0.1 .* lower it"),
  ],
)
def test_impossible_splits_are_refused(changes, message):
  arguments = {"num_clients": 8, "alpha": 1.0, "seed": 0, **changes}
  with pytest.raises(ValueError, match=message):
    data.dirichlet_split(LABELS, **arguments)
