"""Methods: what to initialise, what an update is, what is exported.

One method, one file, readable beside its paper; methods never import one another.

| file | method | paper |
|---|---|---|
| `supervised` | cross-entropy on labels | |
| `information_flow` | information-flow matching | Passalis et al., CVPR 2020 |
| `similarity_preserving` | similarity-preserving distillation | Tung, Mori, ICCV 2019 |
| `knowledge_distillation` | softened logits | Hinton et al., 2015 |
| `hint` | features through a learnt map | Romero et al., ICLR 2015 |
| `online_ensemble` | students of many widths | Walawalkar et al., ECCV 2020 |
| `hierarchical_self_supervised` | classes and rotations | Yang et al., IJCAI 2021 |
| `domain_generalization` | filtered logits, after KDDG | Wang et al., ACM MM 2021 |
| `federated` | averaging of clients, FedProx, FedGen | Zhu et al., ICML 2021 |

`base` is what the training loop knows of a method, `optimizers` how methods call
optimizers, `from_teacher` what methods with a
frozen teacher share, `rotations` what those on rotated images do, `latent_generator`
what FedGen adds to federated averaging; `averaged` wraps weight averaging around any,
`trajectory` measures of the path of its parameters; `telemetry` is what is looked at
beside the losses; `recorded_teacher` stands for a teacher of which there are outputs
alone.
"""

from flowkd_jax.methods.averaged import averaged
from flowkd_jax.methods.base import Method
from flowkd_jax.methods.base import Metrics
from flowkd_jax.methods.base import Network
from flowkd_jax.methods.base import Teacher
from flowkd_jax.methods.base import TrainState
from flowkd_jax.methods.base import Variables
from flowkd_jax.methods.base import gradient_method
from flowkd_jax.methods.domain_generalization import GRADIENT_FILTERS
from flowkd_jax.methods.domain_generalization import filtered_distillation
from flowkd_jax.methods.federated import FederatedState
from flowkd_jax.methods.federated import federated_averaging
from flowkd_jax.methods.from_teacher import TEACHER
from flowkd_jax.methods.from_teacher import Learnt
from flowkd_jax.methods.from_teacher import Outputs
from flowkd_jax.methods.from_teacher import distillation
from flowkd_jax.methods.from_teacher import teacher_outputs
from flowkd_jax.methods.hierarchical_self_supervised import hierarchical_mutual
from flowkd_jax.methods.hierarchical_self_supervised import hierarchical_student
from flowkd_jax.methods.hierarchical_self_supervised import hierarchical_teacher
from flowkd_jax.methods.hint import hint
from flowkd_jax.methods.information_flow import LABELLED_POSTERIOR
from flowkd_jax.methods.information_flow import MATCHINGS
from flowkd_jax.methods.information_flow import POSTERIOR
from flowkd_jax.methods.information_flow import POSTERIORS
from flowkd_jax.methods.information_flow import information_flow
from flowkd_jax.methods.knowledge_distillation import knowledge_distillation
from flowkd_jax.methods.latent_generator import GeneratorOptions
from flowkd_jax.methods.online_ensemble import online_ensemble
from flowkd_jax.methods.optimizers import PerTree
from flowkd_jax.methods.recorded_teacher import RecordedTeacher
from flowkd_jax.methods.recorded_teacher import recorded_teacher
from flowkd_jax.methods.similarity_preserving import similarity_preserving
from flowkd_jax.methods.supervised import supervised
from flowkd_jax.methods.trajectory import with_trajectory

__all__ = [
  "GRADIENT_FILTERS",
  "LABELLED_POSTERIOR",
  "MATCHINGS",
  "POSTERIOR",
  "POSTERIORS",
  "TEACHER",
  "FederatedState",
  "GeneratorOptions",
  "Learnt",
  "Method",
  "Metrics",
  "Network",
  "Outputs",
  "PerTree",
  "RecordedTeacher",
  "Teacher",
  "TrainState",
  "Variables",
  "averaged",
  "distillation",
  "federated_averaging",
  "filtered_distillation",
  "gradient_method",
  "hierarchical_mutual",
  "hierarchical_student",
  "hierarchical_teacher",
  "hint",
  "information_flow",
  "knowledge_distillation",
  "online_ensemble",
  "recorded_teacher",
  "similarity_preserving",
  "supervised",
  "teacher_outputs",
  "with_trajectory",
]
