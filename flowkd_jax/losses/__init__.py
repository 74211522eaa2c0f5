"""Distillation losses: `(student, teacher, *, options) -> scalar`.

Losses are pure functions of arrays and work with any library of networks. They are not
compiled here: the caller uses `jax.jit`.

**Shapes of logits.** Losses on logits take `[batch, classes]`, or arrays with any
number of axes in between, such as `[batch, tokens, vocabulary]` or maps with channels
last. Each position is a row. Labels and temperatures may have one entry per row. A mask
has one entry per example (`[batch]`) or per row (`[batch, tokens]`). The mean is over
the real rows of the global batch, so an example without a real row does not count.

**Standardised logits.** With `standardize=True` a loss on logits reads
`(z - mean z) / (1e-7 + std z)` in place of the logits z of a row. Both sides are
standardised, before the temperature is applied (Sun et al., "Logit standardization in
knowledge distillation", CVPR 2024). The student then need not match the range of the
teacher's logits. As in the authors' code, the standard deviation is that of a sample
(ddof 1) and has a gradient. Classes at minus infinity count in neither moment. A row
that is constant up to rounding becomes 0 and has no gradient. The authors use
temperatures of 2 or 3 and weights from 6 to 15.

**Labels, NaN and infinities.** Every loss, every metric of `flowkd_jax.evaluation` and
every method follows the same rules:

- Labels are integers of any width. They are widened to int32 first, so 255 in uint8 is
  class 255.
- A negative label marks a row without a label, as -100 does in PyTorch. A term that
  reads labels leaves this row out of the sum and of the mean, as if it were masked.
  Terms that compare only with the teacher keep the row. If no row has a label, the loss
  and its gradient are 0.
- A label at or above the number of classes raises ValueError in a NumPy array or a
  list. In a JAX array the result is NaN, because an error would have to wait for the
  device.
- The loss is NaN if a row of logits holds NaN or plus infinity, or if all its logits
  are minus infinity. Metrics follow this rule with one exception: the largest of
  logits that are all minus infinity is the first.
- A logit of minus infinity rules out a class: its probability is 0. A class that both
  sides rule out is left out of the sum, as if it did not exist. If only the teacher
  rules it out, its term is 0. If only the student rules it out, a divergence is
  infinite where the teacher's probability is above 0; the gradient with respect to the
  other logits is still finite.
- The loss is NaN if the features of a row hold NaN or infinity, even if no other row is
  compared with this row. It is never NaN for finite features. A value too large for its
  dtype is infinite.
- Masked rows are not read and may hold anything, including NaN.

**Options.** Every option that is a number may be traced, follow a schedule inside
`scan`, or be learnt: it has a gradient. Python and NumPy numbers are checked. The
values of JAX arrays are not, because a check would wait for the device.

**Cost.** The table has the cost of value and gradient on a device that holds n of the N
rows of the batch. D is the sum of both widths, C the sum of both numbers of classes or
channels, P the number of positions of a map, and b the number of rows in a block
(`block_size`). By default a block has 2^18 pairs on a CPU and 2^26 on other devices, or
one row. Memory does not include the arguments.

| losses | time | memory |
|---|---|---|
| `decoupled_kd`, `dist` | n C | n C |
| `cross_entropy`, `knowledge_distillation`, `reverse_kl` | n C | n C |
| `jensen_shannon`, `skew_kl` | n C | n C |
| `transformed_teacher_matching`, `top_k_distillation` | n C | n C |
| the three lines above with `block_size` b, in classes | n C | n b |
| `multi_level_distillation`, for each temperature | n C (N + C) | N (C + b) + C^2 |
| `conditional_divergence` for each kernel, `pkt` | n N D | N (D + b) |
| `similarity_preserving` | n N D | N (D + b) |
| `correlation_congruence`, `rkd_distance`, `rbf_cka`, `crd` | n N D | N (D + b) |
| `linear_cka`, both widths below N, debiased N / 2 | N D + n D^2 | N D + D^2 |
| `linear_cka`, other widths | n N D | N (D + b) |
| `rkd_angle` | N^2 D + n N^2 | N (D + N b) |
| `information_flow`, D of all taps, T taps | n N D | N D + T N b |
| `quadratic_flow`, cosine kernel, D of all taps | (n + C) D | (n + C) D |
| `quadratic_flow`, other kernels, D of all taps | n N D + C | N D + T N b + C |
| `attention_transfer`, `factor_transfer` without networks | n P C | n P C |
| `hierarchical_context`, `channel_wise_distillation` | n P C | n P C |
| `channel_wise_distillation` with a projection | n P C^2 | n P C + C^2 |
| `nst`, `ickd` | n P C^2 | n (P C + C^2) |
| `fsp` | n P C^2 | n (P C + C^2) |
| `kdsvd` | n (P C^2 + C^3) | n (P C + C^2) |
| `cosine_regression`, `normalized_regression`, `gaussian_wasserstein` | n P C | n P C |
| these three with a projection | n P C^2 | n P C + C^2 |
| `hint`, `vid`, `mgd`, `factor_transfer` with networks | n P C^2 | n P C + C^2 |
| `token_relations`, T tokens, H heads, b examples | n T^2 (D + H) | n T D + b T^2 H |
| `patch_relations`, T patches, b images | n T^2 D | n T D + b T^2 |
| `review_kd`, W fused channels, P of all taps | n P W (C + W) | n P (C + W) + W C |
| `rrd`, K rows of width W in the queue, b rows | n K W | K W + b K |
| `crd_bank`, K negatives, M rows of width W in the bank | n K W | n K W |
| `crd_bank` where M is at most 4 K | n M W | n M |

**Devices.** Losses accept arrays that are sharded over meshes of any axis type, with
and without `jit`. Inside `pmap` and `shard_map` pass `axis_name`. The result equals
that of one device with the whole batch.
"""

from flowkd_jax.losses._alignment import linear_cka
from flowkd_jax.losses._alignment import rbf_cka
from flowkd_jax.losses._channel import channel_wise_distillation
from flowkd_jax.losses._channel import ickd
from flowkd_jax.losses._channel import ickd_init
from flowkd_jax.losses._contrastive import crd
from flowkd_jax.losses._contrastive import crd_init
from flowkd_jax.losses._decoupled import decoupled_kd
from flowkd_jax.losses._dist import dist
from flowkd_jax.losses._divergences import jensen_shannon
from flowkd_jax.losses._divergences import reverse_kl
from flowkd_jax.losses._divergences import skew_kl
from flowkd_jax.losses._factor import factor_reconstruction
from flowkd_jax.losses._factor import factor_transfer
from flowkd_jax.losses._factor import factor_transfer_init
from flowkd_jax.losses._feature import hint
from flowkd_jax.losses._feature import hint_init
from flowkd_jax.losses._feature import vid
from flowkd_jax.losses._feature import vid_init
from flowkd_jax.losses._flow import information_flow
from flowkd_jax.losses._flow import information_flow_terms
from flowkd_jax.losses._flow import quadratic_flow
from flowkd_jax.losses._flow import quadratic_flow_terms
from flowkd_jax.losses._masked_generation import mgd
from flowkd_jax.losses._masked_generation import mgd_init
from flowkd_jax.losses._memory_bank import crd_bank
from flowkd_jax.losses._memory_bank import crd_bank_init
from flowkd_jax.losses._memory_bank import crd_bank_update
from flowkd_jax.losses._memory_bank import crd_negatives
from flowkd_jax.losses._multi_level import multi_level_distillation
from flowkd_jax.losses._patch_relations import patch_relations
from flowkd_jax.losses._probabilistic import conditional_divergence
from flowkd_jax.losses._probabilistic import pkt
from flowkd_jax.losses._regression import cosine_regression
from flowkd_jax.losses._regression import normalized_regression
from flowkd_jax.losses._relational import correlation_congruence
from flowkd_jax.losses._relational import similarity_preserving
from flowkd_jax.losses._response import cross_entropy
from flowkd_jax.losses._response import knowledge_distillation
from flowkd_jax.losses._review import hierarchical_context
from flowkd_jax.losses._review import review_kd
from flowkd_jax.losses._review import review_kd_init
from flowkd_jax.losses._rkd import rkd_angle
from flowkd_jax.losses._rkd import rkd_distance
from flowkd_jax.losses._rrd import rrd
from flowkd_jax.losses._rrd import rrd_init
from flowkd_jax.losses._rrd import rrd_queue_init
from flowkd_jax.losses._rrd import rrd_queue_update
from flowkd_jax.losses._spatial import attention_transfer
from flowkd_jax.losses._spatial import fsp
from flowkd_jax.losses._spatial import nst
from flowkd_jax.losses._svd import kdsvd
from flowkd_jax.losses._tap_weights import weighted_sum
from flowkd_jax.losses._token_relations import token_relations
from flowkd_jax.losses._top_k import top_k_distillation
from flowkd_jax.losses._transformed_teacher import transformed_teacher_matching
from flowkd_jax.losses._wasserstein import gaussian_wasserstein
from flowkd_jax.losses._wasserstein import gaussian_wasserstein_init

__all__ = [
  "attention_transfer",
  "channel_wise_distillation",
  "conditional_divergence",
  "correlation_congruence",
  "cosine_regression",
  "crd",
  "crd_bank",
  "crd_bank_init",
  "crd_bank_update",
  "crd_init",
  "crd_negatives",
  "cross_entropy",
  "decoupled_kd",
  "dist",
  "factor_reconstruction",
  "factor_transfer",
  "factor_transfer_init",
  "fsp",
  "gaussian_wasserstein",
  "gaussian_wasserstein_init",
  "hierarchical_context",
  "hint",
  "hint_init",
  "ickd",
  "ickd_init",
  "information_flow",
  "information_flow_terms",
  "jensen_shannon",
  "kdsvd",
  "knowledge_distillation",
  "linear_cka",
  "mgd",
  "mgd_init",
  "multi_level_distillation",
  "normalized_regression",
  "nst",
  "patch_relations",
  "pkt",
  "quadratic_flow",
  "quadratic_flow_terms",
  "rbf_cka",
  "reverse_kl",
  "review_kd",
  "review_kd_init",
  "rkd_angle",
  "rkd_distance",
  "rrd",
  "rrd_init",
  "rrd_queue_init",
  "rrd_queue_update",
  "similarity_preserving",
  "skew_kl",
  "token_relations",
  "top_k_distillation",
  "transformed_teacher_matching",
  "vid",
  "vid_init",
  "weighted_sum",
]
