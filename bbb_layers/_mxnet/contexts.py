# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Contexts of one processor.

MXNet has three contexts for the memory of a CPU: ``cpu`` for all that operators compute, ``cpu_shared`` for what the
workers of a ``DataLoader`` hand over, and ``cpu_pinned`` for what ``pin_memory=True`` makes. Operators take arrays from
any of them and leave their results on ``cpu`` under the same number; Parameters are on ``cpu`` too. Cached graphs
refuse arrays that are elsewhere.
"""
from typing import Any

from mxnet import cpu
from mxnet.context import Context
from mxnet.ndarray import NDArray

__all__ = ['computed_on', 'moved_to']


def _is_cpu(context):
    return context.device_type.startswith('cpu')


def computed_on(context: Context) -> Context:
    """The context on which an operator leaves what it computes from arrays on ``context``."""
    return cpu(context.device_id) if context.device_type in ('cpu_shared', 'cpu_pinned') else context


def moved_to(context: Context, value: Any) -> Any:
    """``value`` with the arrays in it that are in other memory of a CPU on ``context``, if that is a CPU too.

    Also in nested lists and tuples. Arrays on other processors stay where they are, so that MXNet refuses them as ever.
    """
    if isinstance(value, NDArray):
        there = value.context
        if there == context or not (_is_cpu(there) and _is_cpu(context)):
            return value
        return value.as_in_context(context)
    if type(value) in (list, tuple):
        return type(value)(moved_to(context, item) for item in value)
    return value
