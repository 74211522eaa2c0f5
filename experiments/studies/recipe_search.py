"""Search for the recipes beyond the paper, one change after another.

The full method is trained from the authors' auxiliary, for 15 epochs with one seed. It
is measured on 5,000 held-out training images, so the test set has no influence.
"""

from experiments.studies import spec

_ALL = (
  "--dataset=cifar10",
  "--data_dir={data_dir}",
  "--auxiliary_checkpoint={auxiliary_checkpoint}",
  "--stages=auxiliary,student",
  "--train_split=train[:45000]",
  "--test_split=train[45000:]",
)
_DECAY = "--noreset_optimizer --learning_rate_decay=cosine"
_STEADY = f"{_DECAY} --normalize_flow_weights --adam_beta2=0.99"
_NO_CROPS = f"{_STEADY} --crop_padding=0"
_POSTERIOR = f"{_NO_CROPS} --last_tap_from=posterior"

# Name, title, learning rate, flags.
_TRIED = (
  ("paper", "the paper's settings, corrected loss", "1e-3", ""),
  ("average", "the same, weights averaged", "1e-3", "--average=0.999"),
  ("decay_reset", "cosine decay, Adam reset", "1e-3", "--learning_rate_decay=cosine"),
  ("decay", "cosine decay, Adam not reset", "1e-3", _DECAY),
  ("decay_3", "the same, three times the rate", "3e-3", _DECAY),
  ("steady", "the same, weights of the taps add up to one", "3e-3", _STEADY),
  ("no_crops", "the same, no random crops", "3e-3", _NO_CROPS),
  ("no_crops_10", "the same, a higher rate", "1e-2", _NO_CROPS),
  ("posterior_3", "no crops, last tap from class probabilities", "3e-3", _POSTERIOR),
  (
    "posterior_no_flips",
    "the same, a higher rate, no flips",
    "1e-2",
    f"{_POSTERIOR} --noflip",
  ),
  ("posterior", "recipe posterior: a sharper kernel", "1e-2", "--recipe=posterior"),
  (
    "posterior_all_taps",
    "the sharper kernel on all taps",
    "1e-2",
    "--recipe=posterior --kernels=von_mises_fisher,student_t",
  ),
  (
    "posterior_recipe_no_flips",
    "recipe posterior, no flips",
    "1e-2",
    "--recipe=posterior --noflip",
  ),
  (
    "labelled_flips",
    "recipe labelled, with flips",
    "1e-2",
    "--recipe=labelled --flip",
  ),
  (
    "labelled_gamma_50",
    "the same, gamma 0.5",
    "1e-2",
    "--recipe=labelled --flip --flow_weight_gamma=0.5",
  ),
  ("labelled", "recipe labelled: no flips", "1e-2", "--recipe=labelled"),
  ("labelled_20", "the same, twice the rate", "2e-2", "--recipe=labelled"),
)


def _run(name: str, title: str, rate: str, flags: str) -> spec.Run:
  epochs = f"--student_epochs=15@{rate}"
  return spec.Run(name, title, (*_ALL, epochs, *flags.split()), seeds=1)


STUDY = spec.Study(
  "Search for the recipes: CNN1, 15 epochs, on 5,000 held-out training images",
  tuple(_run(*tried) for tried in _TRIED),
  baseline="paper",
  pictured=("paper", "decay", "steady", "no_crops_10", "posterior", "labelled"),
)
