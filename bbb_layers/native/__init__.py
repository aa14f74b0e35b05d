# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Operators in C++, where there is a compiler; without one, MXNet's own operators do all the work.

The library is compiled when it is first asked for, see :mod:`bbb_layers.native.build`, and not at import. The
environment variable BBB_LAYERS_NATIVE=0 turns it off. The logger ``bbb_layers`` says once, at level INFO, whether it is
in use, and why not.
"""
import ctypes
import logging
import os
import threading
from typing import Iterable, Optional

import numpy as np
from mxnet.base import _LIB, OpHandle, c_str, check_call

from .._mxnet.operators import operator
from .build import BuildError, library

__all__ = ['available', 'operator', 'floats', 'instruction_set']

_LOGGER = logging.getLogger('bbb_layers')


class _State:
    """What is known of the library in this process: ``available`` is None until someone asks."""
    available: Optional[bool] = None
    path: Optional[str] = None
    lock = threading.Lock()


def _new_lock():
    _State.lock = threading.Lock()


# A thread of the parent's may have held it, and does not exist in the child.
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_new_lock)


def _registered():
    """Whether MXNet has the operators already: it can load a library twice at most."""
    return _LIB.NNGetOpHandle(c_str('_bbb_layers_adam'), ctypes.byref(OpHandle())) == 0


def _load():
    """Load the library into MXNet, which then has its operators; returns the path.

    mx.library.load would make Python functions of all of MXNet's operators anew, which undoes what has been done to
    them, as mx.contrib.amp does.
    """
    path = str(library())
    if not _registered():
        check_call(_LIB.MXLoadLib(c_str(path), ctypes.c_uint(0)))
    return path


def available() -> bool:
    """Whether the native operators can be used. The first call compiles them, if the cache does not have them."""
    if _State.available is None:
        with _State.lock:
            if _State.available is None:
                try:
                    if os.environ.get('BBB_LAYERS_NATIVE') == '0':
                        raise BuildError('BBB_LAYERS_NATIVE is 0')
                    _State.path = _load()
                # Whatever is wrong with compiler, cache or library, training goes on without it.
                except Exception as error:  # pylint: disable=broad-except
                    _LOGGER.info("native operators are not in use, but MXNet's: %s", ' '.join(str(error).split()))
                    _State.available = False
                else:
                    _LOGGER.info('native operators are in use: %s, %s', _State.path, instruction_set())
                    _State.available = True
    return _State.available


def floats(numbers: Iterable[float]) -> str:
    """Numbers as the native operators read them from an attribute: float32, in hexadecimal.

    Parameters
    ----------
    numbers : sequence of float
    """
    return np.asarray(numbers, dtype='float32').tobytes().hex()


def instruction_set() -> Optional[str]:
    """'sse2', which stands for the least that an architecture has, 'avx2' or 'avx512'; None if not loaded.

    BBB_LAYERS_ISA, if it is set when the library is loaded, is the most that will be used.
    """
    if _State.path is None:
        return None
    function = ctypes.CDLL(_State.path).bbb_layers_isa
    function.restype = ctypes.c_char_p
    return function().decode('ascii')
