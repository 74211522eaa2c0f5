"""The CIFAR-100 pairs of RepDistiller: teacher, student, method.

All rows have the training of Tian et al., "Contrastive representation distillation",
ICLR 2020: 240 epochs in batches of 64, and SGD with momentum 0.9 and weight decay 5e-4.
The rate is divided by ten from epochs 151, 181 and 211 on, and the last epoch counts.
Weights and temperatures are the published ones of a pair. If none are published, they
are those of another pair, or 1, and the title says "untuned".
"""

from collections.abc import Iterable
from typing import Any
from typing import NamedTuple

from experiments.studies import published_cifar100
from experiments.studies import spec

_NETWORKS = {
  "r20": "resnet20x1",
  "r32": "resnet32x1",
  "r56": "resnet56x1",
  "r110": "resnet110x1",
  "r8x4": "resnet8x4",
  "r32x4": "resnet32x4",
  "wrn16_2": "wrn_16_2",
  "wrn40_1": "wrn_40_1",
  "wrn40_2": "wrn_40_2",
  "vgg8": "vgg8",
  "vgg13": "vgg13",
  "mbv2": "mobilenet_v2",
  "shv1": "shufflenet_v1",
  "shv2": "shufflenet_v2",
  "r50": "resnet50",
}
# Students that diverge at the usual rate; RepDistiller uses 0.01 for them.
_SLOW = ("mbv2", "shv1", "shv2")
PAIRS = {
  pair: (pair.removesuffix(f"_{student}"), student)
  for family in published_cifar100.FAMILIES
  for pair in family
  for student in _NETWORKS
  if pair.endswith(f"_{student}") and pair.removesuffix(f"_{student}") in _NETWORKS
}

# Beta of decoupled distillation. No published code has one for the other pairs; they
# use 8.
_BETA = {
  "wrn40_2_wrn16_2": 6,
  "wrn40_2_wrn40_1": 6,
  "vgg13_vgg8": 6,
  "vgg13_mbv2": 6,
  "r56_r20": 2,
  "r110_r20": 2,
  "r110_r32": 2,
}
# Temperature and weight of standardised logits; 2 and 9 if none are published.
_STANDARDIZED = {
  "vgg13_vgg8": (3, 9),
  "r110_r20": (4, 12),
  "vgg13_mbv2": (3, 9),
  "r50_mbv2": (3, 1),
}
# The same for decoupled distillation, with its beta.
_DECOUPLED_STANDARDIZED = {
  "vgg13_vgg8": (2, 15, 2),
  "wrn40_2_wrn40_1": (2, 12, 2),
  "wrn40_2_wrn16_2": (2, 12, 2),
  "r56_r20": (3, 18, 2),
  "r110_r32": (2, 15, 2),
  "r110_r20": (2, 15, 2),
  "vgg13_mbv2": (3, 9, 2),
  "r50_mbv2": (2, 15, 2),
}
# Weight of ReviewKD. It is 5 for its authors' other pairs, and if none is published.
_REVIEW = {"r32x4_shv2": 8, "r56_r20": 0.6, "r110_r32": 1}
_EQUAL_CHANNELS = ("r56_r20", "r110_r20", "r110_r32", "r32x4_r8x4", "vgg13_vgg8")
_FOUR_MAPS = ("vgg13_vgg8", "vgg13_mbv2", "r50_mbv2", "r50_vgg8")


class Row(NamedTuple):
  """A method of the study.

  Attributes:
    name: Name of the method in tables and commands.
    title: Description for readers.
    losses: Losses as `--losses` takes them, with {pair values} to fill in.
    label_weight: Weight of the cross-entropy with the labels.
    stage: Stage that trains it.
    pairs: Pairs that have it; none means all.
  """

  name: str
  title: str
  losses: str
  label_weight: float = 1.0
  stage: str = "student"
  pairs: tuple[str, ...] = ()


ROWS = (
  Row("kd", "KD, T = 4", "kd:0.9", 0.1),
  Row(
    "fitnet",
    "FitNet, one stage",
    "hint(reduction=elements,convolution=true,rectify=true):100",
  ),
  Row("at", "AT", "at(reduction=elements):1000"),
  Row("sp", "SP", "sp(reduction=matrix):3000"),
  Row("cc", "CC, as in the authors' code", "cc(authors=true,width=128):0.02"),
  Row("vid", "VID", "vid(reduction=elements):1"),
  Row("rkd", "RKD, distances and angles", "rkd(reduction=matrix):1"),
  Row("pkt", "PKT, as in the authors' code", "pkt(authors=true):30000"),
  Row("nst", "NST", "nst:50"),
  Row(
    "ft",
    "FT, paraphraser trained beside the student",
    "ft(reduction=elements):200",
  ),
  Row("crd", "CRD, memory bank, negatives of any class", "crd_bank:0.8"),
  Row("dkd", "DKD", "dkd(beta={beta}):warmup(1,20)"),
  Row("dist", "DIST, T = 4", "dist(temperature=4):1"),
  Row(
    "kd_standardized",
    "KD of standardised logits",
    "kd(standardize=true,temperature={temperature}):{weight}",
    0.1,
  ),
  Row(
    "dkd_standardized",
    "DKD of standardised logits",
    "dkd(standardize=true,temperature={dkd_temperature},alpha={dkd_alpha},"
    "beta={dkd_beta}):warmup(1,20)",
  ),
  Row(
    "ttm",
    "TTM, as published for vgg13 → vgg8",
    "wttm(weighted=false,temperature=10):45",
  ),
  Row("wttm", "WTTM, as published beside CRD", "wttm(temperature=5):4"),
  Row("jsd", "Jensen-Shannon, beta 0.5, untuned", "jsd(temperature=4):0.9", 0.1),
  Row("reverse_kl", "reverse KL, untuned", "reverse_kl(temperature=4):0.9", 0.1),
  Row("skew_kl", "skewed KL, untuned", "skew_kl(temperature=4):0.9", 0.1),
  Row("review_kd", "ReviewKD", "review_kd[{levels}]:warmup({review_weight},20)"),
  Row("mlkd", "MLKD, one view", "mlkd:0.9", 0.1),
  Row(
    "mlkd_standardized",
    "MLKD of standardised logits, one view",
    "mlkd(standardize=true):9",
    0.1,
  ),
  Row("kdsvd", "KDSVD", "kdsvd:1", pairs=_EQUAL_CHANNELS),
  Row("cwd", "channel-wise distillation, untuned", "cwd:1"),
  Row("ickd", "ICKD", "ickd:2.5"),
  Row(
    "mgd",
    "MGD, as published for ImageNet",
    "mgd(hidden=channels,hidden_share=0.15):7e-5",
  ),
  Row("wkd_f", "WKD-F, as published for r32x4 → r8x4", "wkd_f:cosine(0.08,150,240)"),
  Row("simkd", "SimKD, factor 2", "", stage="student_simkd"),
  Row("cosine", "cosine regression, untuned", "cosine_regression:1"),
  Row("rrd", "RRD", "rrd:1"),
  Row("cka", "linear CKA, debiased, untuned", "linear_cka(debiased=true):1"),
  Row("patch_gram", "Gram matrix of patches, untuned", "patch_relations:1"),
  Row(
    "patch_flow",
    "information flow over patches, untuned",
    "patch_relations(relation=information_flow):1",
  ),
  Row(
    "information_flow",
    "information flow, critical period, untuned",
    "information_flow[taps]:critical_period(100,0.7),information_flow[pooled]:1",
  ),
  Row(
    "recipe",
    "our recipe: flow, last tap from labelled posterior, untuned",
    "information_flow[taps]:critical_period(1,0.7),information_flow(kernels="
    "[von_mises_fisher,student_t])[pooled:labelled_posterior]:1",
  ),
)


def _phases(rate: float) -> str:
  return ",".join(
    f"{epochs}@{rate * 10.0**-place:g}"
    for place, epochs in enumerate((150, 30, 30, 30))
  )


def _values(pair: str) -> dict[str, Any]:
  """Numbers that differ between pairs."""
  temperature, weight = _STANDARDIZED.get(pair, (2, 9))
  beta = _BETA.get(pair, 8)
  names = [f"f{number}" for number in range(1, 5 if pair in _FOUR_MAPS else 4)]
  of_dkd = _DECOUPLED_STANDARDIZED.get(pair, (2, 9, beta))
  return {
    "beta": beta,
    "temperature": temperature,
    "weight": weight,
    "dkd_temperature": of_dkd[0],
    "dkd_alpha": of_dkd[1],
    "dkd_beta": of_dkd[1] * of_dkd[2],
    # The teacher's maps are those before the last ReLU.
    "levels": ",".join([*(f"{n}:{n}_preact" for n in names), "pooled:pooled"]),
    "review_weight": _REVIEW.get(pair, 5),
  }


# Only accuracy is compared. It is measured every epoch, to record the best one too.
_DATA = ("--dataset=cifar100", "--data_dir={data_dir}", "--measure=", "--nodiagnostics")


def teacher_run(name: str, extra: tuple[str, ...] = ()) -> spec.Run:
  """The launch that trains a teacher, once for all pairs with this teacher.

  Args:
    name: Short name of the network.
    extra: Further flags, which come last.
  """
  flags = (*_DATA, f"--teacher_network={_NETWORKS[name]}", "--stages=teacher", *extra)
  title = f"teacher {_NETWORKS[name]}"
  return spec.Run(f"teacher_{name}", title, flags, "teacher", "distill", seeds=1)


def pair_runs(pair: str, extra: tuple[str, ...] = ()) -> list[spec.Run]:
  """Launches of all methods on a pair, labels first.

  Args:
    pair: Name of the pair.
    extra: Further flags, which come last.
  """
  teacher, student = PAIRS[pair]
  shared = (
    *_DATA,
    f"--teacher_network={_NETWORKS[teacher]}",
    f"--student_network={_NETWORKS[student]}",
    f"--student_epochs={_phases(0.01 if student in _SLOW else 0.05)}",
  )
  taught = f"--networks_from={{workdir}}/teacher_{teacher}/0"
  runs = [
    spec.Run(
      f"{pair}_labels",
      f"{pair}: labels",
      (*shared, "--stages=student_labels", *extra),
      "student_labels",
      "distill",
    )
  ]
  for row in ROWS:
    if row.pairs and pair not in row.pairs:
      continue
    losses = row.losses.format(**_values(pair))
    flags = (taught, f"--losses={losses}", f"--label_weight={row.label_weight:g}")
    stages = f"--stages=teacher,{row.stage}"
    runs.append(
      spec.Run(
        f"{pair}_{row.name}",
        f"{pair}: {row.title}",
        (*shared, *(flags if row.losses else flags[:1]), stages, *extra),
        row.stage,
        job="distill",
      )
    )
  return runs


def _grid(families: tuple[tuple[str, ...], ...], **published: Any) -> spec.Grid:
  pairs = [pair for family in families for pair in family]
  own = [(row.name, row.title) for row in ROWS]
  return spec.Grid(
    (("teacher", "teacher"), ("labels", "labels only"), *own),
    {pair: " → ".join(_NETWORKS[name] for name in PAIRS[pair]) for pair in pairs},
    {pair: f"teacher_{PAIRS[pair][0]}" for pair in pairs},
    families,
    **published,
  )


def _runs(pairs: Iterable[str], extra: tuple[str, ...] = ()) -> tuple[spec.Run, ...]:
  pairs = [*pairs]
  teachers = dict.fromkeys(PAIRS[pair][0] for pair in pairs)
  runs = [teacher_run(name, extra) for name in teachers]
  return (*runs, *(run for pair in pairs for run in pair_runs(pair, extra)))


STUDY = spec.Study(
  "CIFAR-100, 240 epochs",
  _runs(PAIRS),
  grid=_grid(
    published_cifar100.FAMILIES,
    published=published_cifar100.PUBLISHED,
    protocols=published_cifar100.PROTOCOLS,
  ),
)
_REHEARSED = "r56_r20"
REHEARSAL = spec.Study(
  "Rehearsal: 2 epochs, 2,000 images of 16 pixels",
  _runs(
    [_REHEARSED],
    (
      "--image_size=16",
      "--crop_padding=2",
      "--train_split=train[:2000]",
      "--test_split=test[:1000]",
      "--teacher_epochs=2@0.05",
      "--student_epochs=2@0.05",
    ),
  ),
  grid=_grid(((_REHEARSED,),)),
)
