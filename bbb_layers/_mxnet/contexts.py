# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The contexts that belong to one processor.

MXNet has three contexts for the memory of a CPU: ``cpu`` for the results of operators, ``cpu_shared`` for the batches
from the workers of a ``DataLoader``, and ``cpu_pinned`` for the batches of a ``DataLoader`` with ``pin_memory=True``.
Operators take arrays from all three contexts and leave their results on ``cpu`` with the same number. Parameters are on
``cpu`` too, and a cached graph refuses arrays that are on another context than its Parameters.
"""
from typing import Any

from mxnet import cpu
from mxnet.context import Context
from mxnet.ndarray import NDArray

__all__ = ['computed_on', 'moved_to']


def _is_cpu(context):
    return context.device_type.startswith('cpu')


def computed_on(context: Context) -> Context:
    """The context on which an operator leaves its result if its arrays are on ``context``."""
    return cpu(context.device_id) if context.device_type in ('cpu_shared', 'cpu_pinned') else context


def moved_to(context: Context, value: Any) -> Any:
    """``value`` with its arrays moved to ``context``, if the array and ``context`` are both in the memory of a CPU.

    Arrays in nested lists and tuples are moved as well. Arrays on other processors stay where they are, so that MXNet
    refuses them as usual.
    """
    if isinstance(value, NDArray):
        there = value.context
        if there == context or not (_is_cpu(there) and _is_cpu(context)):
            return value
        return value.as_in_context(context)
    if type(value) in (list, tuple):
        return type(value)(moved_to(context, item) for item in value)
    return value
