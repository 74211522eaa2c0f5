"""Distillation methods: initial state, update step and exported networks.

Each method has a file of its own, which can be read beside its paper. Methods do not
import one another.

| method | purpose | paper |
|---|---|---|
| `supervised` | cross-entropy on labels | |
| `information_flow` | information-flow matching | Passalis et al., CVPR 2020 |
| `similarity_preserving` | similarity-preserving distillation | Tung, Mori, ICCV 2019 |
| `knowledge_distillation` | softened logits | Hinton et al., 2015 |
| `combined_losses` | any losses of the library, by name | |
| `hint` | features through a learnt map | Romero et al., ICLR 2015 |
| `simkd` | the teacher's classifier on the student's maps | Chen et al., CVPR 2022 |
| `online_ensemble` | students of many widths | Walawalkar et al., ECCV 2020 |
| `hierarchical_student` and others | classes and rotations | Yang et al., IJCAI 2021 |
| `filtered_distillation` | filtered logits, after KDDG | Wang et al., ACM MM 2021 |
| `federated_averaging` | FedAvg, FedProx, FedGen | Zhu et al., ICML 2021 |

`averaged` adds an exponential moving average of the weights to any method.
`with_trajectory` adds metrics of the path that the parameters take.

To write your own method, make a `Method`. `gradient_method` makes one from a loss and
an optimizer; `distillation` makes one from loss terms that compare a student with a
frozen teacher. `LossFunction`, `FeatureLoss` and `Terms` define the functions that they
call. `forward` and `weighted_loss` are building blocks of a loss. The guide "Extend it"
has an example of each.
"""

from flowkd_jax import _extra

_extra.require("methods")

from flowkd_jax.methods._averaged import averaged
from flowkd_jax.methods._combined_losses import LossTerm
from flowkd_jax.methods._combined_losses import combined_losses
from flowkd_jax.methods._distillation import LossParams
from flowkd_jax.methods._distillation import Outputs
from flowkd_jax.methods._distillation import Terms
from flowkd_jax.methods._distillation import distillation
from flowkd_jax.methods._domain_generalization import GRADIENT_FILTERS
from flowkd_jax.methods._domain_generalization import filtered_distillation
from flowkd_jax.methods._federated import FederatedState
from flowkd_jax.methods._federated import federated_averaging
from flowkd_jax.methods._hierarchical_self_supervised import hierarchical_mutual
from flowkd_jax.methods._hierarchical_self_supervised import hierarchical_student
from flowkd_jax.methods._hierarchical_self_supervised import hierarchical_teacher
from flowkd_jax.methods._hint import hint
from flowkd_jax.methods._information_flow import MATCHINGS
from flowkd_jax.methods._information_flow import information_flow
from flowkd_jax.methods._knowledge_distillation import knowledge_distillation
from flowkd_jax.methods._latent_generator import GeneratorOptions
from flowkd_jax.methods._method import Batch
from flowkd_jax.methods._method import LossFunction
from flowkd_jax.methods._method import Method
from flowkd_jax.methods._method import Metrics
from flowkd_jax.methods._method import TrainState
from flowkd_jax.methods._method import Variables
from flowkd_jax.methods._method import forward
from flowkd_jax.methods._method import gradient_method
from flowkd_jax.methods._method import weighted_loss
from flowkd_jax.methods._micro_batches import FeatureLoss
from flowkd_jax.methods._named_losses import NamedLoss
from flowkd_jax.methods._named_losses import loss_by_name
from flowkd_jax.methods._named_losses import loss_names
from flowkd_jax.methods._online_ensemble import online_ensemble
from flowkd_jax.methods._optimizers import PerTree
from flowkd_jax.methods._similarity_preserving import similarity_preserving
from flowkd_jax.methods._simkd import simkd
from flowkd_jax.methods._supervised import supervised
from flowkd_jax.methods._tap_roles import TAP_ROLES
from flowkd_jax.methods._tap_roles import is_tap_role
from flowkd_jax.methods._tap_roles import layer_names
from flowkd_jax.methods._tap_roles import tap_pairs
from flowkd_jax.methods._targets import LABELLED_POSTERIOR
from flowkd_jax.methods._targets import POSTERIOR
from flowkd_jax.methods._targets import POSTERIORS
from flowkd_jax.methods._trajectory import with_trajectory
from flowkd_jax.teacher_cache import Network
from flowkd_jax.teacher_cache import Teacher

__all__ = [
  "GRADIENT_FILTERS",
  "LABELLED_POSTERIOR",
  "MATCHINGS",
  "POSTERIOR",
  "POSTERIORS",
  "TAP_ROLES",
  "Batch",
  "FeatureLoss",
  "FederatedState",
  "GeneratorOptions",
  "LossFunction",
  "LossParams",
  "LossTerm",
  "Method",
  "Metrics",
  "NamedLoss",
  "Network",
  "Outputs",
  "PerTree",
  "Teacher",
  "Terms",
  "TrainState",
  "Variables",
  "averaged",
  "combined_losses",
  "distillation",
  "federated_averaging",
  "filtered_distillation",
  "forward",
  "gradient_method",
  "hierarchical_mutual",
  "hierarchical_student",
  "hierarchical_teacher",
  "hint",
  "information_flow",
  "is_tap_role",
  "knowledge_distillation",
  "layer_names",
  "loss_by_name",
  "loss_names",
  "online_ensemble",
  "simkd",
  "similarity_preserving",
  "supervised",
  "tap_pairs",
  "weighted_loss",
  "with_trajectory",
]
