# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""MXNet's operators as they are registered, even if the functions with their names have been replaced.

``mx.contrib.amp.init`` replaces functions in ``mx.nd`` and ``mx.sym``. Its ``FullyConnected`` casts the inputs to 16
bits, and a KL divergence must not be summed in 16 bits. Its functions for operators without inputs raise an error.
"""
import ctypes
from types import ModuleType
from typing import Any, Callable, Dict, Tuple

from mxnet import ndarray
from mxnet.base import _LIB, OpHandle, c_str, check_call
from mxnet.ndarray.register import _make_ndarray_function
from mxnet.symbol.register import _make_symbol_function

__all__ = ['operator']

_made: Dict[Tuple[ModuleType, str], Callable] = {}


def operator(F: ModuleType, name: str) -> Callable[..., Any]:
    """The operator ``name`` as a function on NDArrays or on Symbols.

    Parameters
    ----------
    F : mxnet.ndarray or mxnet.symbol
    name : str

    Raises
    ------
    MXNetError
        If MXNet has no operator of this name.
    """
    if (F, name) not in _made:
        handle = OpHandle()
        check_call(_LIB.NNGetOpHandle(c_str(name), ctypes.byref(handle)))
        make = _make_ndarray_function if F is ndarray else _make_symbol_function
        _made[F, name] = make(handle, name, name)
    return _made[F, name]
