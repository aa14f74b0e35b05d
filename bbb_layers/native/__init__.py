# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Operators in C++, for computers with a compiler; without a compiler, MXNet's own operators do all the work.

The library is compiled at its first use (see :mod:`bbb_layers.native.build`) and not at import. The environment
variable BBB_LAYERS_NATIVE=0 turns the library off. The logger ``bbb_layers`` reports once, at level INFO, whether the
library is in use and, if it is not, the reason. The level is WARNING if the log had already announced a compilation.
"""
import ctypes
import logging
import os
import threading
from typing import Iterable, Optional

import numpy as np
from mxnet.base import _LIB, OpHandle, c_str, check_call

from .._mxnet.operators import operator
from .build import BuildError, CompilationError, library

__all__ = ['available', 'operator', 'floats', 'instruction_set']

_LOGGER = logging.getLogger('bbb_layers')


class _State:
    """The state of the library in this process. ``available`` is None until it is first needed."""
    available: Optional[bool] = None
    path: Optional[str] = None
    lock = threading.Lock()


def _new_lock():
    _State.lock = threading.Lock()


# A thread of the parent process may have held the lock at the fork. This thread does not exist in the child.
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_new_lock)


def _registered():
    """Whether MXNet already has the operators. This is checked, because MXNet can load a library at most twice."""
    return _LIB.NNGetOpHandle(c_str('_bbb_layers_adam'), ctypes.byref(OpHandle())) == 0


def _load():
    """Load the library, so that MXNet has its operators, and return its path.

    mx.library.load would also generate the Python functions of all of MXNet's operators again, and so undo changes to
    these functions, such as the changes by mx.contrib.amp.
    """
    path = str(library())
    if not _registered():
        check_call(_LIB.MXLoadLib(c_str(path), ctypes.c_uint(0)))
    return path


def available() -> bool:
    """Whether the native operators can be used. The first call compiles them if they are not in the cache."""
    if _State.available is None:
        with _State.lock:
            if _State.available is None:
                try:
                    if os.environ.get('BBB_LAYERS_NATIVE') == '0':
                        raise BuildError('BBB_LAYERS_NATIVE is 0')
                    _State.path = _load()
                # Whatever is wrong with the compiler, the cache or the library, training goes on without the library.
                except Exception as error:  # pylint: disable=broad-except
                    level = logging.WARNING if isinstance(error, CompilationError) else logging.INFO
                    reason = ' '.join(str(error).split()) or type(error).__name__
                    _LOGGER.log(level, "native operators are not in use, but MXNet's: %s", reason)
                    _State.available = False
                else:
                    _LOGGER.info('native operators are in use: %s, %s', _State.path, instruction_set())
                    _State.available = True
    return _State.available


def floats(numbers: Iterable[float]) -> str:
    """``numbers`` in the form that the native operators read from an attribute: float32, in hexadecimal digits.

    Parameters
    ----------
    numbers : sequence of float
    """
    return np.asarray(numbers, dtype='float32').tobytes().hex()


def instruction_set() -> Optional[str]:
    """The instruction set in use: 'sse2', 'avx2' or 'avx512'; None if the library is not loaded.

    'sse2' stands for the instructions that every processor of the architecture has. If the environment variable
    BBB_LAYERS_ISA is set when the library is loaded, it is the upper limit.
    """
    if _State.path is None:
        return None
    function = ctypes.CDLL(_State.path).bbb_layers_isa
    function.restype = ctypes.c_char_p
    return function().decode('ascii')
