"""Training of a run: the plan, the trainer, checkpoints and resume."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
