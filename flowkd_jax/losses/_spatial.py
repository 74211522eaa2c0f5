"""Losses on maps `[batch, height, width, channels]` without learnt parameters.

Each example is compared with itself only. Channels come last. If student and teacher
differ in height or width, the larger map is average-pooled to the smaller size, for
each axis, as in PyTorch's `adaptive_avg_pool2d`. PyTorch ports compare the heights
only. For square maps the results agree.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Shaped

from flowkd_jax import kernels
from flowkd_jax import parallel
from flowkd_jax import pooling
from flowkd_jax._numerics import checks
from flowkd_jax._numerics import float32
from flowkd_jax._numerics import meshes
from flowkd_jax._numerics import pairwise

Mask = Shaped[Array, " batch"] | None
Maps = Float[Array, "batch height width channels"]
REDUCTIONS = ("rows", "elements")
NST_KERNELS = ("polynomial", "gaussian", "linear")


@meshes.on_any_mesh
def attention_transfer(
  student: Float[Array, "batch student_height student_width student_channels"],
  teacher: Float[Array, "batch teacher_height teacher_width teacher_channels"],
  *,
  exponent: float = 2.0,
  reduction: str = "rows",
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Attention transfer: squared distance of the spatial attention maps.

  `mean_i |a_i^s - a_i^t|^2` with the attention map `a = Q / |Q|` and `Q = sum_c
  |F_c|^p` (Zagoruyko and Komodakis 2017, Eq. 2). The loss is between 0 and 2, whatever
  the batch size, the widths and the size of the maps. It is invariant to the scale of
  each example, to rotation (p = 2) and permutation of channels, and to a permutation of
  positions common to both sides.

  Differs from the paper, whose Eq. 2 has the norm and not its square. The authors' code
  squares. `reduction="elements"` reproduces this code and its ports exactly: it takes
  the mean over positions too, hence their weight of 1000. A map that is zero everywhere
  has an attention of zero, with a gradient of zero.

  Args:
    student: Student maps.
    teacher: Teacher maps, of any size and number of channels.
    exponent: Exponent p of the activations.
    reduction: "rows" is the mean over rows of the sum over positions. "elements" is the
      mean over both.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If an input is not a map, batches disagree, `exponent` is not positive,
      or `reduction` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> maps = jnp.arange(8.0).reshape(1, 2, 2, 2)
    >>> float(attention_transfer(maps, 2 * maps))
    0.0

  References:
    Zagoruyko and Komodakis, "Paying more attention to attention", ICLR 2017.
  """
  checks.check_positive("exponent", exponent)
  maps = paired_maps(student, teacher, mask)
  attention = [attention_maps(side, exponent) for side in maps]
  terms = (attention[0] - attention[1]) ** 2
  return reduced(terms, reduction, mask, axis_name, student, teacher)


@meshes.on_any_mesh
def nst(
  student: Float[Array, "batch student_height student_width student_channels"],
  teacher: Float[Array, "batch teacher_height teacher_width teacher_channels"],
  *,
  kernel: str = "polynomial",
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Neuron selectivity transfer: maximum mean discrepancy between the channels.

  The channels of an example are samples from a distribution. Each channel is a vector
  of positions, divided by its norm. The loss is the squared maximum mean discrepancy
  between the channels of student and teacher (Huang and Wang 2017), averaged over rows:

      mean_ij k(s_i, s_j) + mean_ij k(t_i, t_j) - 2 mean_ij k(s_i, t_j)

  The kernel `k` is polynomial, `(a . b)^2`, linear, `a . b`, or Gaussian, `exp(-|a -
  b|^2 / (2 v))`. Here `v` is the mean squared distance between the student's and the
  teacher's channels of the example, a constant to the gradient.

  The loss is 0 or above. By its reduction it depends neither on the batch size nor on
  the widths. It is invariant to a positive scale of each channel (with the polynomial
  kernel to its sign too), to a permutation of the channels of either side, and to a
  rotation of positions common to both sides.

  RepDistiller has the same loss with the polynomial kernel, including the constant term
  of the teacher. The paper trains with half of this loss. A channel that is zero
  everywhere stays zero, with a gradient of zero.

  Args:
    student: Student maps.
    teacher: Teacher maps, of any size and number of channels.
    kernel: "polynomial" (the paper's best), "gaussian" or "linear".
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If an input is not a map, batches disagree, or `kernel` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> maps = jnp.eye(4).reshape(1, 2, 2, 4)
    >>> float(nst(maps, maps)), float(nst(maps, maps[..., :2]))
    (0.0, 0.25)

  References:
    Huang and Wang, "Like what you like: knowledge distill via neuron selectivity
    transfer", arXiv 1707.01219.
  """
  checks.check_choice("kernel", kernel, NST_KERNELS)
  channels = [_channel_vectors(maps) for maps in paired_maps(student, teacher, mask)]
  if kernel == "linear":
    # The discrepancy under this kernel is the distance between the means: no pairs.
    rows = ((channels[0].mean(1) - channels[1].mean(1)) ** 2).sum(1)
  else:
    similarity = _polynomial if kernel == "polynomial" else _gaussian(*channels)
    within = [similarity(side, side) for side in channels]
    rows = within[0] + within[1] - 2 * similarity(*channels)
  return parallel.global_mean(rows, mask, axis_name, student, teacher)


@meshes.on_any_mesh
def fsp(
  student: tuple[
    Float[Array, "batch height width earlier"], Float[Array, "batch height width later"]
  ],
  teacher: tuple[
    Float[Array, "batch height width earlier"], Float[Array, "batch height width later"]
  ],
  *,
  reduction: str = "rows",
  mask: Mask = None,
  axis_name: str | None = None,
) -> Float[Array, ""]:
  """Flow of solution procedure (FSP): inner products between channels of two layers.

  `mean_i |G_i^s - G_i^t|^2` with `G_jk = mean_hw A_hwj B_hwk` for an earlier layer A
  and a later layer B of one network (Yim et al. 2017, Eq. 1-2, with weight 1). The loss
  does not depend on the batch size. It grows with the fourth power of the scale of the
  features, and with the number of pairs of channels (not with `reduction="elements"`).
  It is invariant to a permutation of positions common to A and B.

  In each layer, student and teacher must have the same number of channels, but may
  differ in size. If A and B differ in size, the larger is average-pooled. For several
  pairs of layers, call this function several times and add the results. The paper
  trains in two stages, of which the first has this loss alone. Ports train jointly.

  torchdistill differs in two ways. It pools by the maximum, and its loss is the mean
  over rows i of `sum_k |G^s_ik - G^t_ik|`, where `G_ik` is column k of the matrix of
  row i. The norms are not squared.

  Args:
    student: Student maps of an earlier and of a later layer.
    teacher: Teacher maps of the corresponding layers.
    reduction: "rows" is the mean over rows of the sum over pairs of channels, as in the
      paper. "elements" is the mean over both, as in the ports.
    mask: True for real rows. Masked rows do not count.
    axis_name: Name of the mapped axis over which the batch is split, if any.

  Raises:
    TypeError: If an input is not floating point.
    ValueError: If an input is not a pair of maps, batches or channels disagree, or
      `reduction` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> pair = (jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2, 2, 3)))
    >>> float(fsp(pair, (2 * pair[0], pair[1])))
    6.0

  References:
    Yim et al., "A gift from knowledge distillation: fast optimization, network
    minimization and transfer learning", CVPR 2017.
  """
  _check_pairs(student=student, teacher=teacher)
  sides = [paired_maps(*pair, mask) for pair in (student, teacher)]
  channels = [(side[0].shape[3], side[1].shape[3]) for side in sides]
  if channels[0] != channels[1]:
    raise ValueError(
      "student, teacher: expected the same numbers of channels, but the student has "
      f"{channels[0]} and the teacher {channels[1]}; project one of them first"
    )
  terms = _squared_flow_differences(*sides)
  return reduced(terms, reduction, mask, axis_name, *student, *teacher)


def paired_maps(student: Maps, teacher: Maps, mask: Mask) -> tuple[Maps, Maps]:
  """Both maps after checks, in float32 or wider, pooled to one height and width.

  Masked rows are zero.
  """
  checks.check_maps(student=student, teacher=teacher)
  checks.check_mask(mask, student)
  height, width = (min(student.shape[axis], teacher.shape[axis]) for axis in (1, 2))
  student, teacher = (
    pooling.average_pool(zero_masked(maps, mask), height, width)
    for maps in (student, teacher)
  )
  return student, teacher


def zero_masked(
  features: Float[Array, "batch ..."], mask: Mask
) -> Float[Array, "batch ..."]:
  """Features in float32 or wider, with masked rows set to zero."""
  return kernels.flatten(features, mask).reshape(features.shape)


def attention_maps(
  maps: Maps, exponent: float | Float[Array, ""]
) -> Float[Array, "batch positions"]:
  """Energies `mean_c |F_c|^exponent` of the positions, with norm one per row."""
  maps = rescaled(maps.reshape(maps.shape[0], -1)).reshape(maps.shape)
  energy = maps**2
  if isinstance(exponent, jax.Array) or exponent != 2:
    # From the square, so that the power is that of a number of 0 or above.
    energy = pairwise.safe_power(energy, exponent / 2)
  return kernels.unit_rows(energy.mean(3).reshape(maps.shape[0], -1))


def reduced(
  terms: Float[Array, "batch ..."],
  reduction: str,
  mask: Mask,
  axis_name: str | None,
  *features: Float[Array, "batch ..."],
) -> Float[Array, ""]:
  """Mean over rows of the sum ("rows") or the mean ("elements") of a row's terms.

  It is NaN if a real row of the `features` holds NaN or infinity.
  """
  checks.check_choice("reduction", reduction, REDUCTIONS)
  rows = terms.reshape(terms.shape[0], -1)
  rows = rows.sum(1) if reduction == "rows" else rows.mean(1)
  return parallel.global_mean(rows, mask, axis_name, *features)


def rescaled(rows):
  """Rows divided by their largest magnitude, for functions that ignore the scale.

  Powers of the result neither overflow nor underflow. The divisor is a constant to the
  gradient. The gradient is exact nevertheless, because such a function has no
  derivative with respect to the scale.
  """
  largest = float32.largest_entries(rows)[:, None]
  return rows / jnp.where(largest == 0, 1, largest)


def _channel_vectors(maps):
  """Channels as unit vectors over the positions, `[batch, channels, positions]`."""
  batch, _, _, channels = maps.shape
  vectors = jnp.moveaxis(maps.reshape(batch, -1, channels), 2, 1)
  rows = rescaled(vectors.reshape(batch * channels, -1))
  return kernels.unit_rows(rows).reshape(vectors.shape)


def _products(left, right):
  return jnp.einsum("bip,bjp->bij", left, right, precision=lax.Precision.HIGHEST)


def _polynomial(left, right):
  return (_products(left, right) ** 2).mean((1, 2))


def _gaussian(student, teacher):
  variance = lax.stop_gradient(_squared_distances(student, teacher).mean((1, 2)))
  variance = jnp.where(variance == 0, 1, variance)[:, None, None]

  def similarity(left, right):
    return jnp.exp(-_squared_distances(left, right) / (2 * variance)).mean((1, 2))

  return similarity


def _squared_distances(left, right):
  squares = [(side**2).sum(2) for side in (left, right)]
  sums = squares[0][:, :, None] + squares[1][:, None, :]
  # Rounding may make the distance of near vectors negative.
  return jax.nn.relu(sums - 2 * _products(left, right))


def _check_pairs(**pairs):
  for name, pair in pairs.items():
    if not isinstance(pair, tuple | list) or len(pair) != 2:
      raise ValueError(
        f"{name}: expected a pair of maps, of an earlier and a later layer, got a "
        f"{type(pair).__name__}"
      )
  checks.check_maps(
    **{
      f"{name}[{index}]": maps
      for name, pair in pairs.items()
      for index, maps in enumerate(pair)
    }
  )


def _squared_flow_differences(student, teacher):
  """Terms `(G^s - G^t)^2`, computed in units in which no inner product overflows.

  A gradient that would overflow is reduced to a size that the dtype holds. Infinities
  of both signs would otherwise add up to NaN.
  """
  layers = list(zip(student, teacher, strict=True))
  units = [_unit_of_layer(*layer) for layer in layers]
  differences = jnp.subtract(
    *(_flow_matrix(*side, *units) for side in (student, teacher))
  )
  greatest = float32.largest_entries(differences)
  sizes = [
    float32.largest_entries(maps) / unit
    for layer, unit in zip(layers, units, strict=True)
    for maps in layer
  ]
  # Gradients are sums over channels of differences times entries. `bound` is the
  # largest factor for which such a sum is finite.
  bound = float(jnp.finfo(differences.dtype).max) / (8 * differences[0].size)
  for size in (greatest, functools.reduce(jnp.maximum, sizes)):
    bound = bound / jnp.where(size == 0, 1, size)
  unit = (units[0] * units[1])[:, None, None]
  factor = jnp.minimum(unit**2, bound[:, None, None])
  constants = lax.stop_gradient(differences)
  squares = (unit * constants) ** 2
  overflows = (factor < unit**2) | (squares == jnp.inf)
  # The value is 0, and the derivative is that of the square with a smaller factor.
  tangents = 2 * factor * constants * (differences - constants)
  return jnp.where(
    overflows, squares + tangents, (unit * jnp.where(overflows, 0, differences)) ** 2
  )


def _unit_of_layer(student, teacher):
  """A power of two for each example by which entries are divided, at least 1."""
  largest = jnp.maximum(*map(float32.largest_entries, (student, teacher)))
  bound = 2.0 ** (jnp.finfo(student.dtype).maxexp // 2 - 8)
  return jnp.maximum(float32.power_of_two(largest) / bound, 1)


def _flow_matrix(earlier, later, earlier_unit, later_unit):
  """Matrix `mean_hw A_hwi B_hwj` of each example, divided by both units."""
  positions = earlier.shape[1] * earlier.shape[2]
  earlier, later = (
    maps * factor[:, None, None, None]
    for maps, factor in (
      (earlier, 1 / (earlier_unit * positions)),
      (later, 1 / later_unit),
    )
  )
  return jnp.einsum("bhwi,bhwj->bij", earlier, later, precision=lax.Precision.HIGHEST)
