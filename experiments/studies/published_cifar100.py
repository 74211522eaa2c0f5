"""Published top-1 accuracies of the CIFAR-100 pairs, with the protocol of each.

Numbers of different protocols cannot be compared. In 41 published logs of one code
base, the best test epoch is 0.32 points above the last on average, and up to 0.92.
Methods differ by as much. The letter of a row is its protocol in `PROTOCOLS`.
"""

PROTOCOLS = {
  "L": "last epoch, the training of RepDistiller",
  "B": "best test epoch, the same training",
  "5": "mean of 5 runs of the same training, epoch not stated",
  "R": "the training of ReviewKD: batches of 128, Nesterov, rate 0.1, other teachers, "
  "best test epoch",
  "M": "480 or 960 epochs with a second, strongly augmented view, best test epoch",
  "W": "the same training in half precision, with a weight that decreases to 0, epoch "
  "not stated",
  "S": "the training of SimKD, whose projector is kept in the student",
}

# Columns are pairs, in this order. Rows are a protocol, a method and its numbers.
_SAME_FAMILY = """
pair wrn40_2_wrn16_2 wrn40_2_wrn40_1 r56_r20 r110_r20 r110_r32 r32x4_r8x4 vgg13_vgg8
L teacher 75.61 75.61 72.34 74.31 74.31 79.42 74.64
L labels 73.26 71.98 69.06 69.06 71.14 72.50 70.36
L kd 74.92 73.54 70.66 70.67 73.08 73.33 72.98
L fitnet 73.58 72.24 69.21 68.99 71.06 73.50 71.02
L at 74.08 72.77 70.55 70.22 72.31 73.44 71.43
L sp 73.83 72.43 69.67 70.04 72.69 72.94 72.68
L cc 73.56 72.21 69.63 69.48 71.48 72.97 70.71
L vid 74.11 73.30 70.38 70.16 72.61 73.09 71.23
L rkd 73.35 72.22 69.61 69.25 71.82 71.90 71.48
L pkt 74.54 73.45 70.34 70.25 72.61 73.64 72.88
L ft 73.25 71.59 69.84 70.22 72.37 72.86 70.58
L nst 73.68 72.24 69.60 69.53 71.96 73.30 71.53
L crd 75.48 74.14 71.16 71.46 73.48 75.51 73.94
5 dist 75.51 74.73 71.75 71.65 73.69 76.31 73.89
B dkd 76.24 74.81 71.97 71.06 74.11 76.32 74.68
B kd_standardized 76.11 74.37 71.43 71.48 74.17 76.62 74.36
B dkd_standardized 76.39 74.89 72.32 71.85 74.29 77.01 74.81
5 wttm 76.37 74.58 71.92 71.67 74.13 76.06 74.44
R review_kd 76.12 75.09 71.89 - 73.89 75.63 74.84
M mlkd 76.63 75.35 72.19 71.89 74.11 77.08 75.18
M mlkd_standardized 76.95 75.56 72.33 72.27 74.32 78.28 75.22
W wkd_f - - - - - 76.77 -
S simkd - - - - - 78.08 -
"""
_OTHER_FAMILY = """
pair vgg13_mbv2 r50_mbv2 r50_vgg8 r32x4_shv1 r32x4_shv2 wrn40_2_shv1
L teacher 74.64 79.34 79.34 79.42 79.42 75.61
L labels 64.60 64.60 70.36 70.50 71.82 70.50
L kd 67.37 67.35 73.81 74.07 74.45 74.83
L fitnet 64.14 63.16 70.69 73.59 73.54 73.73
L at 59.40 58.58 71.84 71.73 72.73 73.32
L sp 66.30 68.08 73.34 73.48 74.56 74.52
L cc 64.86 65.43 70.25 71.14 71.29 71.38
L vid 65.56 67.57 70.30 73.38 73.40 73.61
L rkd 64.52 64.43 71.50 72.28 73.21 72.21
L pkt 67.13 66.52 73.01 74.10 74.69 73.89
L ft 61.78 60.99 70.29 71.75 72.50 72.03
L nst 58.16 64.96 71.28 74.12 74.68 74.89
L crd 69.73 69.11 74.30 75.11 75.65 76.05
5 dist 68.50 68.66 74.11 76.34 77.35 76.40
B dkd 69.71 70.35 - 76.45 77.07 76.70
B kd_standardized 68.61 69.02 - - 75.56 -
B dkd_standardized 69.98 70.45 - - 77.37 -
5 wttm 69.16 69.59 74.82 74.37 76.55 75.42
R review_kd 70.37 69.89 - 77.45 77.78 77.14
M mlkd 70.57 71.04 - - 78.44 -
M mlkd_standardized 70.94 71.19 - - 78.76 -
W wkd_f - - - - 77.36 -
"""


def _read(text: str) -> dict[tuple[str, str], tuple[str, float]]:
  first, *lines = text.strip().splitlines()
  pairs = first.split()[1:]
  found = {}
  for line in lines:
    protocol, method, *numbers = line.split()
    for pair, number in zip(pairs, numbers, strict=True):
      if number != "-":
        found[method, pair] = protocol, float(number)
  return found


# Protocol and percent of a method on a pair.
PUBLISHED = _read(_SAME_FAMILY) | _read(_OTHER_FAMILY)
FAMILIES = tuple(
  tuple(text.split("\n")[1].split()[1:]) for text in (_SAME_FAMILY, _OTHER_FAMILY)
)
