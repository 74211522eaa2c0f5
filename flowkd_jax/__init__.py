"""Knowledge distillation by information-flow matching, for JAX."""

__version__ = "0.1.0"
