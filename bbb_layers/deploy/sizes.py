# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Sizes of axes, which are numbers or depend on the batch size."""
from typing import NamedTuple, Optional, Sequence, Tuple, Union

__all__ = ['Linear', 'Size', 'Shape', 'fixed', 'at', 'joined']


class Linear(NamedTuple):
    """The size ``factor * batch_size + offset``."""

    factor: int
    offset: int


Size = Union[int, Linear]
Shape = Tuple[Size, ...]


def fixed(shape: Sequence[Size]) -> bool:
    """Whether a shape is the same for all batch sizes."""
    return all(isinstance(size, int) for size in shape)


def at(shape: Sequence[Size], batch_size: int) -> Tuple[int, ...]:
    """A shape at one batch size."""
    return tuple(size.factor * batch_size + size.offset if isinstance(size, Linear) else size for size in shape)


def joined(batch_sizes: Sequence[int], shapes: Sequence[Tuple[int, ...]]) -> Optional[Shape]:
    """One shape for all batch sizes, made from the shapes that an array has with some of them.

    Parameters
    ----------
    batch_sizes : sequence of int
    shapes : sequence of tuple of int
        One for each batch size.

    Returns
    -------
    Shape, or None if the number of axes differs, or a size is no linear function of the batch size
    """
    if len({len(shape) for shape in shapes}) > 1:
        return None
    sizes = [_joined(batch_sizes, values) for values in zip(*shapes)]
    return None if None in sizes else tuple(sizes)


def _joined(batch_sizes, values):
    if len(set(values)) == 1:
        return values[0]
    factor, rest = divmod(values[1] - values[0], batch_sizes[1] - batch_sizes[0])
    offset = values[0] - factor * batch_sizes[0]
    fits = not rest and all(factor * batch + offset == value for batch, value in zip(batch_sizes, values))
    return Linear(factor, offset) if fits else None
