# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The layout of MXNet's files of Parameters: which bytes are numbers of the header, which are names, which are data."""
import struct
from typing import List, NamedTuple, Tuple

import numpy as np

__all__ = ['Layout', 'layout', 'joined']

_SIZES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8}     # type_flag of mshadow -> bytes of a number


class Layout(NamedTuple):
    """The parts of a file, in its order.

    Attributes
    ----------
    fields : list of (place, number of bytes)
        The numbers of the header and of the arrays' headers.
    arrays : list of (place, length)
        Each array, with its header.
    data : list of (place, length)
    names : list of (place, length)
        Each name, without the number of its letters.
    """
    fields: List[Tuple[int, int]]
    arrays: List[Tuple[int, int]]
    data: List[Tuple[int, int]]
    names: List[Tuple[int, int]]


def layout(content: bytes) -> Layout:
    """The layout of a file that MXNet 1.9.1 wrote for dense arrays."""
    found, place = Layout([], [], [], []), 0

    def take(size):
        nonlocal place
        found.fields.append((place, size))
        place += size
        return int.from_bytes(content[place - size:place], 'little')

    take(8)     # the magic number
    take(8)     # reserved
    for _ in range(take(8)):
        begin = place
        take(4)     # the magic number of an array
        take(4)     # storage type
        shape = [take(8) for _ in range(take(4))]
        take(4)     # context
        take(4)
        size = _SIZES[take(4)] * int(np.prod(shape))
        found.data.append((place, size))
        place += size
        found.arrays.append((begin, place - begin))
    for _ in range(take(8)):
        size = take(8)
        found.names.append((place, size))
        place += size
    assert place == len(content)
    return found


def joined(content: bytes, arrays: List[bytes], names: List[bytes]) -> bytes:
    """A file with the header of ``content``, these arrays with their headers, and these names."""
    return b''.join([content[:16], struct.pack('<Q', len(arrays)), *arrays, struct.pack('<Q', len(names)),
                     *[struct.pack('<Q', len(name)) + name for name in names]])
