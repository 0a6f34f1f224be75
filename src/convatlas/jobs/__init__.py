"""Start trainings: as processes, as SLURM jobs, from a recorded run."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
