# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Makes MXNet 1.9.1 importable beside every NumPy from 1.17 on, and on CPython 3.12 and later.

``import numpy`` in a module of MXNet gives that module :func:`~bbb_layers._mxnet.numpy_view.numpy_view`, which has the
names that NumPy removed; all other modules get NumPy itself, which is never changed. The few places of MXNet that need
more than a name have a function in the table ``_REPAIRS`` below.

The hook is installed when this module is imported. Modules of MXNet that were loaded before do without it, therefore a
program imports bbb_layers before mxnet. MXNet can still come first if it works with the installed NumPy as it is.
"""
import builtins
import copy
import functools
import importlib.abc
import importlib.util
import re
import sys
import types
from typing import Any, Callable, Dict

try:
    import numpy
except ImportError as error:
    raise ImportError('bbb_layers needs NumPy, which is not installed: pip install numpy') from error

from .numpy_view import NUMPY_2, Text, numpy_view

__all__ = ['installed']


class _Version(tuple):
    """A version such as '1.17.3', which is compared by its numbers."""

    def __new__(cls, text: str) -> '_Version':
        return super().__new__(cls, map(int, re.findall(r'\d+', text)[:3]))


#: What MXNet uses of distutils, which CPython 3.12 no longer has.
_DISTUTILS_VERSION = types.SimpleNamespace(LooseVersion=_Version, StrictVersion=_Version)


def _mxnets_builtins() -> Dict[str, Any]:
    """Python's builtins with an import function that gives the view in place of NumPy.

    Python takes the import function from the global name ``__builtins__`` of the module that has the import statement.
    """
    view = numpy_view()

    def import_(name, globals=None, locals=None, fromlist=(), level=0):
        if name == 'distutils.version':
            return _DISTUTILS_VERSION
        module = builtins.__import__(name, globals, locals, fromlist, level)
        return view if module is numpy else module

    return {**vars(builtins), '__import__': import_}


def _tells_overflow(function, argument):
    """``function`` with an error that tells of numbers out of range, which NumPy 2 does not let wrap around.

    MXNet answers every error of NumPy with a TypeError such as 'source_array must be array like object'.
    """
    @functools.wraps(function)
    def telling(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            reason = error.__context__      # the exception during whose handling MXNet raised its own
            if not isinstance(reason, OverflowError):
                raise
            reason = reason.__cause__ or reason     # NumPy's own, where one such function calls another
            raise OverflowError(f'{argument} must have numbers within the range of its dtype (saw: {reason}; '
                                f'numpy is {numpy.__version__})') from reason

    return telling


def _repair_dense_arrays(module):
    module.array = _tells_overflow(module.array, 'source_array')
    module.NDArray._prepare_value_nd = _tells_overflow(module.NDArray._prepare_value_nd, 'value')


def _repair_sparse_arrays(module):
    module._prepare_src_array = _tells_overflow(module._prepare_src_array, 'values')


def _repair_c_arrays(module):
    """The newest NumPy does not convert arrays of shape (1,) to Python numbers. MXNet's quantization relies on it."""
    original = module.c_array

    @functools.wraps(original)
    def c_array(ctype, values):
        return original(ctype, [value.item() if isinstance(value, numpy.ndarray) else value for value in values])

    module.c_array = c_array


def _repair_np_arrays(module):
    module.array = _tells_overflow(module.array, 'object')
    _repair_results(module)


def _repair_results(module):
    """From NumPy 1.25 on, numpy.linalg.qr and others return named tuples; MXNet rebuilds only tuples and lists."""
    original = module._as_mx_np_array

    def _as_mx_np_array(object, ctx=None):
        if isinstance(object, tuple) and hasattr(object, '_make'):
            return object._make(_as_mx_np_array(each, ctx) for each in object)
        return original(object, ctx)

    module._as_mx_np_array = _as_mx_np_array


def _repair_records(module):
    """Arrays have no method ``tostring`` from NumPy 2.3 on, only ``tobytes``, which does the same."""
    source = module.__loader__.get_source(module.__name__)
    exec(compile(source.replace('.tostring()', '.tobytes()'), module.__file__, 'exec'), vars(module))


def _repair_metrics(module):
    """Metrics keep their sums in float64, as with NumPy 1, where a Python float plus a float32 was a float64.

    With NumPy 2 it is a float32, in which the sum over many batches loses digits, or in float16 even stands still.
    """
    def __setattr__(self, name, value):
        if name in ('sum_metric', 'global_sum_metric', 'num_inst', 'global_num_inst') and isinstance(
                value, (float, numpy.floating)):
            value = numpy.float64(value)
        object.__setattr__(self, name, value)

    module.EvalMetric.__setattr__ = __setattr__


#: Module of MXNet -> what is done to it once it has been loaded.
_REPAIRS: Dict[str, Callable[[types.ModuleType], None]] = {
    'mxnet.base': _repair_c_arrays,
    'mxnet.ndarray.ndarray': _repair_dense_arrays,
    'mxnet.ndarray.sparse': _repair_sparse_arrays,
    'mxnet.numpy.multiarray': _repair_np_arrays,
    'mxnet.recordio': _repair_records,
}
if NUMPY_2:
    _REPAIRS['mxnet.metric'] = _repair_metrics
#: Modules whose ``str(shape)`` is read by C++ code.
_TEXT_FOR_C = ('mxnet._ctypes.ndarray', 'mxnet._ctypes.symbol', 'mxnet.io.io', 'mxnet.symbol.symbol')


class _Finder(importlib.abc.MetaPathFinder):
    """Finds MXNet's modules as Python does, and loads them with the view of NumPy."""

    def __init__(self):
        self._builtins = _mxnets_builtins()

    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] != 'mxnet':
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self and hasattr(finder, 'find_spec') else None
            if spec is not None:
                if hasattr(spec.loader, 'exec_module'):
                    spec.loader = self._with_view(spec.loader)
                return spec
        return None

    def _with_view(self, loader):
        """A copy of ``loader`` whose ``exec_module`` gives the module the view first. All else stays as it is."""
        def exec_module(module):
            vars(module)['__builtins__'] = self._builtins
            if NUMPY_2 and module.__name__ in _TEXT_FOR_C:
                vars(module)['str'] = Text
            loader.exec_module(module)
            if module.__name__ in _REPAIRS:
                _REPAIRS[module.__name__](module)

        loader_with_view = copy.copy(loader)
        loader_with_view.exec_module = exec_module
        return loader_with_view


def installed() -> bool:
    """Whether the hook is in place, which it is not where MXNet was imported first and works without it."""
    return any(type(finder).__name__ == _Finder.__name__ and type(finder).__module__ == __name__
               for finder in sys.meta_path)


def _install():
    if 'mxnet' in sys.modules or installed():
        return
    if importlib.util.find_spec('mxnet') is None:
        raise ImportError('bbb_layers needs MXNet 1.9.1, which is not installed: pip install --no-deps mxnet==1.9.1, '
                          'and pip install . in the folder of bbb_layers if that was not done yet')
    # What an import of MXNet has left behind that failed, for want of the hook.
    for name in [name for name in sys.modules if name.startswith('mxnet.')]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder())


_install()
