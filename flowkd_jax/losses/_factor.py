"""Factor transfer: distance of factors that are extracted from the maps of both sides.

In the paper the factors are the outputs of two small convolutional networks, the
paraphraser of the teacher and the translator of the student. Ports use a simple form
without parameters, in which the factors are the energies of the positions.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Key
from jaxtyping import Shaped

from flowkd_jax import kernels
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise
from flowkd_jax._numerics import renamed
from flowkd_jax.losses import _spatial

Mask = Shaped[Array, " batch"] | None
Parameters = dict[str, Any]
Maps = Float[Array, "batch height width channels"]


@renamed.renamed_arguments(networks="params")
@meshes.on_any_mesh
def factor_transfer(
  student: Float[Array, "batch student_height student_width student_channels"],
  teacher: Float[Array, "batch teacher_height teacher_width teacher_channels"],
  *,
  params: Parameters | None = None,
  exponent: float = 2.0,
  power: float = 1.0,
  reduction: str = "rows",
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Factor transfer: distance between normalised factors of the two maps.

  `mean_i sum_n |f_in^s - f_in^t|^q` with `f = F / |F|` (Kim et al. 2018), where q is
  `power`. With `params` the factors F are those of the paper. The translator computes
  the factors of the student's map and is trained together with the student. The
  paraphraser computes the factors of the teacher's map. It is trained before with
  `factor_reconstruction` and is constant here. Without `params`, F is the energy
  `mean_c |x_c|^p` of each position of a map x. This is the form of RepDistiller (p = 2,
  q = 1), which is attention transfer with absolute differences.

  The loss does not depend on the batch size. For q = 1 it grows with the square root of
  the number of factors, and with `reduction="elements"` it falls with this root.
  Without `params` it is invariant to the scale of each example, to rotation (p = 2) and
  permutation of channels, and to a permutation of positions common to both sides. The
  authors' code and the ports take the mean over all elements, `reduction="elements"`.
  The paper writes the norm, which is the q-th root of the sum.

  Args:
    student: Student maps.
    teacher: Teacher maps. The larger map is average-pooled to the smaller size.
    params: Networks from `factor_transfer_init`. If None, the energies are compared.
    exponent: Exponent p of the energies (`p1` in RepDistiller). It is not used with
      `params`.
    power: Exponent q of the differences, 1 or 2 in the paper (`p2` in RepDistiller).
    reduction: "rows" is the mean over rows of the sum over factors. "elements" is the
      mean over both.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If an input is not a map, batches disagree, a network does not fit, a
      number is not positive, or `reduction` is unknown.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.ones((2, 4, 4, 3)), jnp.ones((2, 8, 8, 6))
    >>> round(float(factor_transfer(student, 5 * teacher)), 6)
    0.0
    >>> params = factor_transfer_init(
    ...   jax.random.key(0), student.shape, teacher.shape
    ... )
    >>> factor_transfer(student, teacher, params=params).shape
    ()

  References:
    Kim, Park and Kwak, "Paraphrasing complex network: network compression via factor
    transfer", NeurIPS 2018.
  """
  checks.check_positive("exponent", exponent)
  checks.check_positive("power", power)
  maps = _spatial.paired_maps(student, teacher, mask)
  if params is None:
    factors = [_spatial.attention_maps(side, exponent) for side in maps]
  else:
    # The paraphraser belongs to the teacher. If this loss could change it, both
    # networks might agree on constant factors.
    paraphraser = lax.stop_gradient(params["paraphraser"]["encoder"])
    factors = [
      _unit_factors(_convolve("translator", maps[0], params["translator"])),
      _unit_factors(_convolve("paraphraser", maps[1], paraphraser)),
    ]
  gaps = factors[0] - factors[1]
  if not isinstance(power, jax.Array) and power == 1:
    terms = jnp.abs(gaps)  # faster than the root of a square
  else:
    terms = pairwise.safe_power(gaps**2, power / 2)
  return _spatial.reduced(terms, reduction, mask, axis_name, student, teacher)


def factor_transfer_init(
  key: Key[Array, ""],
  student_shape: Sequence[int],
  teacher_shape: Sequence[int],
  *,
  rate: float = 0.5,
) -> Parameters:
  """Paraphraser and translator of `factor_transfer`.

  Each has three 3 x 3 convolutions with leaky rectifiers, as in the authors' code. The
  paraphraser has three more convolutions that reconstruct the teacher's map.

  Args:
    key: Random key.
    student_shape: Shape of the student maps. Only the number of channels is used.
    teacher_shape: Shape of the teacher maps.
    rate: Number of factors per teacher channel, k in the paper.

  Returns:
    `{"translator": layers, "paraphraser": {"encoder": layers, "decoder": layers}}` in
    float32. Each layer has a "kernel" and a "bias".

  Raises:
    ValueError: If `rate` times the number of teacher channels is below 1.
  """
  channels, teacher_channels = student_shape[-1], teacher_shape[-1]
  factors = int(teacher_channels * rate)
  checks.check_count("teacher channels times rate", factors)
  keys = jax.random.split(key, 3)
  encoder = teacher_channels, teacher_channels, factors, factors
  return {
    "translator": _layers(keys[0], (channels, channels, factors, factors)),
    "paraphraser": {
      "encoder": _layers(keys[1], encoder),
      "decoder": _layers(keys[2], encoder[::-1]),
    },
  }


@renamed.renamed_arguments(networks="params")
@meshes.on_any_mesh
def factor_reconstruction(
  teacher: Float[Array, "batch height width channels"],
  *,
  params: Parameters,
  reduction: str = "rows",
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Reconstruction loss that trains the paraphraser before any student.

  `mean_i |x_i - P(x_i)|^2`, where P is the paraphraser (Kim et al. 2018). It does not
  depend on the batch size. It grows with the size of the maps, except with
  `reduction="elements"`. It is invariant to a permutation of rows.

  Args:
    teacher: Teacher maps.
    params: Networks from `factor_transfer_init`. The translator is not used.
    reduction: "rows" is the mean over rows of the sum over all entries of a map.
      "elements" is the mean over both.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If `teacher` is not floating point.
    ValueError: If `teacher` is not a map, the paraphraser does not fit, or `reduction`
      is unknown.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> teacher = jnp.zeros((2, 4, 4, 6))
    >>> params = factor_transfer_init(jax.random.key(0), (2, 4, 4, 3), teacher.shape)
    >>> float(factor_reconstruction(teacher, params=params))
    0.0
  """
  maps, _ = _spatial.paired_maps(teacher, teacher, mask)
  factors = _convolve("paraphraser", maps, params["paraphraser"]["encoder"])
  restored = _convolve("paraphraser", factors, params["paraphraser"]["decoder"])
  return _spatial.reduced((maps - restored) ** 2, reduction, mask, axis_name, teacher)


def _layers(key, widths):
  initializer = jax.nn.initializers.he_normal()
  return [
    {
      "kernel": initializer(layer_key, (3, 3, *pair), jnp.float32),
      "bias": jnp.zeros(pair[1]),
    }
    for layer_key, *pair in zip(
      jax.random.split(key, len(widths) - 1), widths[:-1], widths[1:], strict=True
    )
  ]


def _convolve(name: str, maps: Maps, layers: Sequence[Parameters]) -> Maps:
  for layer in layers:
    kernel = jnp.asarray(layer["kernel"]).astype(maps.dtype)
    fitting = (*kernel.shape[:2], maps.shape[-1], kernel.shape[-1])
    checks.check_shape(f"{name} kernel", kernel, fitting)
    maps = lax.conv_general_dilated(
      maps,
      kernel,
      window_strides=(1, 1),
      padding="SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=lax.Precision.HIGHEST,
    )
    maps = maps + jnp.asarray(layer["bias"]).astype(maps.dtype)[None, None, None, :]
    maps = jax.nn.leaky_relu(maps, 0.1)
  return maps


def _unit_factors(maps):
  return kernels.unit_rows(maps.reshape(maps.shape[0], -1))
