# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The optimizer of this package, under the module name that the files of ``Trainer.save_states`` contain."""
from .training.optimizer import FusedAdam

__all__ = ['FusedAdam']
