"""Students of shrinking width behind one stem."""

import numpy as np
import pytest

from flowkd_jax import models
from tests.models.tiny import TINY
from tests.models.tiny import images_of
from tests.models.tiny import parameters_of
from tests.models.tiny import sown_shapes
from tests.models.tiny import variables_of


@pytest.mark.slow
def test_students_have_the_shares_of_the_paper():
  # Walawalkar et al., Table 1, ResNet-110 on CIFAR-10.
  ensemble = models.shrinking_ensemble(models.cifar_resnet(110), 5)
  assert ensemble.student_widths[4] == (3, 6, 12)
  first, *others = (
    parameters_of(models.student_network(ensemble, number)) for number in range(1, 6)
  )
  shares = [round(100 * count / first, 2) for count in others]
  assert shares == [62.79, 35.26, 15.15, 3.64]


@pytest.mark.slow
def test_students_share_the_stem_and_sow_what_trains_them():
  ensemble = models.shrinking_ensemble(TINY, 2)
  assert models.student_network(ensemble, 1) == TINY
  thin = models.student_network(ensemble, 2)
  assert (thin.widths, thin.stem_width) == ((1, 1), 2)
  total = parameters_of(TINY) + parameters_of(thin)
  stem = 9 * 3 * 2 + 2 * 2
  assert parameters_of(ensemble) == total - stem
  assert sown_shapes(ensemble, images_of()) == {"pooled": (4, 3 + 1)}
  taps = (*ensemble.student_logits, *ensemble.student_maps[1])
  assert sown_shapes(ensemble, images_of(), taps) == {
    "student_1_logits": (4, 3),
    "student_2_logits": (4, 3),
    "student_2_stage_1": (4, 8, 8, 1),
    "student_2_stage_2": (4, 4, 4, 1),
  }


@pytest.mark.slow
def test_ensemble_gives_the_mean_of_its_students_each_with_the_stem():
  ensemble, images = models.shrinking_ensemble(TINY, 2), images_of()
  variables = variables_of(ensemble, images)
  alone = [
    models.student_network(ensemble, number).apply(
      models.student_variables(variables, number), images
    )
    for number in (1, 2)
  ]
  np.testing.assert_allclose(
    ensemble.apply(variables, images), (alone[0] + alone[1]) / 2, rtol=1e-5
  )


def test_impossible_ensembles_are_refused():
  with pytest.raises(ValueError, match="num_students: expected 2 or more, got 1"):
    models.shrinking_ensemble(TINY, 1)
  with pytest.raises(ValueError, match=r"3 students need at least 3 channels"):
    models.shrinking_ensemble(TINY, 3)
  with pytest.raises(TypeError, match="network: expected a CifarResNet.*got CNN"):
    models.shrinking_ensemble(models.CNN(), 2)
