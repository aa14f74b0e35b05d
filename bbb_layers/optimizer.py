# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The optimizer of this package, under the name by which files of ``Trainer.save_states`` refer to it."""
from .training.optimizer import FusedAdam

__all__ = ['FusedAdam']
