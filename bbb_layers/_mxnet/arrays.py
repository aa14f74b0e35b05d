# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""MXNet's two kinds of arrays: classic ones (``mx.nd``), and np arrays (``mx.np``, under ``npx.set_np()``).

Every formula of this package is written once, for classic NDArrays and Symbols. At the border to user code, np arrays
are converted to classic arrays, and results are converted to the kind that is turned on in Gluon. An array and its
converted form share their memory and their place on the tape of autograd.
"""
import functools
import itertools
from typing import Any

from mxnet import autograd, ndarray, numpy, symbol
from mxnet.util import is_np_array

__all__ = ['classic', 'gluon_kind', 'as_kind_of', 'on_classic_arrays', 'value_of', 'make_writable', 'set_value']


def _convert(value, method):
    if isinstance(value, (ndarray.NDArray, symbol.Symbol)):
        return getattr(value, method)()
    if isinstance(value, dict):
        return {key: _convert(item, method) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_convert(item, method) for item in value)
    return value


def classic(value: Any) -> Any:
    """``value`` with its arrays and Symbols made classic, also in nested lists, tuples and dicts."""
    return _convert(value, 'as_nd_ndarray')


def gluon_kind(value: Any) -> Any:
    """``value`` with its arrays and Symbols in the kind that Gluon's layers take now, also if they are nested."""
    return _convert(value, 'as_np_ndarray' if is_np_array() else 'as_nd_ndarray')


def as_kind_of(original, value):
    """``value``, a classic array or Symbol or a nested list of them, converted to the kind of ``original``."""
    is_np = isinstance(original, (numpy.ndarray, symbol.numpy._Symbol))
    return _convert(value, 'as_np_ndarray') if is_np else value


def on_classic_arrays(function):
    """Turn a method for classic arrays into a method that takes arrays of either kind."""
    @functools.wraps(function)
    def method(self, *args, **kwargs):
        first = next((value for value in itertools.chain(args, kwargs.values())
                      if isinstance(value, (ndarray.NDArray, symbol.Symbol))), None)
        result = function(self, *classic(args), **classic(kwargs))
        return result if first is None else as_kind_of(first, result)
    return method


def value_of(param, context=None):
    """The classic array that ``param`` stores on ``context``, by default on the first context that it has.

    The ``data`` of a subclass may return another array, such as the stored array after dropout.
    """
    contexts = param.list_ctx()     # initializes a rho that is not initialized yet
    # Parameter.data does the same. It is not called, because this module must not import Gluon: MXNet's servers read a
    # pickled FusedAdam while they still import MXNet.
    return param._check_and_get(param._data, context or contexts[0]).as_nd_ndarray()


def make_writable(param):
    """Bring the arrays of ``param`` back into MXNet's layout, so that ``set_data`` can write to them.

    After a forward in predict mode, oneDNN keeps the weight of a plain convolution in a layout of its own. If the
    weight has three or five axes (1D and 3D convolutions), MXNet cannot copy another array into that layout:
    ``set_data`` fails later, in the engine, with "Check failed: to.IsDefaultData()".
    """
    with autograd.pause():
        for array in param._data or ():
            if array.ndim in (3, 5):
                array = array.as_nd_ndarray()
                # identity gives its output MXNet's layout; most operators, such as zeros_like, fail as set_data does.
                ndarray.identity(array.copy(), out=array)


def set_value(param, value):
    """Set ``param`` to ``value``, a classic array, on all its contexts."""
    make_writable(param)
    param.set_data(gluon_kind(value))
