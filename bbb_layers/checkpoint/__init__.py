# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checkpoints of a training run: one file that is complete at any time, and verified by a checksum."""
from .file import write_atomically
from .training import load_checkpoint, save_checkpoint

__all__ = ['save_checkpoint', 'load_checkpoint', 'write_atomically']
