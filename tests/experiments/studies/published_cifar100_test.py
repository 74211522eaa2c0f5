"""Published numbers of the CIFAR-100 pairs."""

from experiments.studies import published_cifar100 as published


def test_every_number_has_a_protocol_and_is_a_percentage():
  for (method, pair), (protocol, percent) in published.PUBLISHED.items():
    assert protocol in published.PROTOCOLS, method
    assert 50 < percent < 85, (method, pair)


def test_known_numbers_are_at_their_places():
  assert published.PUBLISHED["kd", "r32x4_r8x4"] == ("L", 73.33)
  assert published.PUBLISHED["crd", "wrn40_2_shv1"] == ("L", 76.05)
  assert published.PUBLISHED["mlkd_standardized", "r32x4_r8x4"] == ("M", 78.28)
  assert ("dkd", "r50_vgg8") not in published.PUBLISHED
  assert sum(map(len, published.FAMILIES)) == 13
