"""How a run trains: the plan, the trainer, checkpoints, resume."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
