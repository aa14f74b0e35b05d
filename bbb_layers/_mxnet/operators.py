# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""MXNet's operators as they are registered, whatever has been made of the functions of the same names.

``mx.contrib.amp.init`` puts others in the place of the functions in ``mx.nd`` and ``mx.sym``: they cast the inputs of
``FullyConnected`` to 16 bits, which a KL divergence must not be summed in, and those that stand for an operator without
inputs raise.
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
        If there is none.
    """
    if (F, name) not in _made:
        handle = OpHandle()
        check_call(_LIB.NNGetOpHandle(c_str(name), ctypes.byref(handle)))
        make = _make_ndarray_function if F is ndarray else _make_symbol_function
        _made[F, name] = make(handle, name, name)
    return _made[F, name]
