# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""NumPy as MXNet 1.9.1 knows it: the installed NumPy, with the names that it has lost since.

MXNet was written for NumPy 1.17 to 1.19. Later versions removed names that MXNet reads while it is imported or while
it runs, such as ``numpy.bool`` (1.24) and ``numpy.PZERO`` (2.0). :func:`numpy_view` makes a module that has them all.
NumPy itself stays as it is. :mod:`.import_hook` gives this module to MXNet, and to nobody else.
"""
import functools
import importlib
import types
from typing import Any, Callable, Dict

import numpy

__all__ = ['numpy_view', 'Text', 'NUMPY_2']

#: Whether the installed NumPy is version 2 or later.
NUMPY_2 = int(numpy.__version__.partition('.')[0]) >= 2

#: Removed name -> the value that it had.
_VALUES = {'bool': bool, 'int': int, 'float': float, 'object': object, 'PZERO': 0., 'NZERO': -0., 'PINF': numpy.inf,
           'NINF': -numpy.inf, 'Inf': numpy.inf, 'NAN': numpy.nan, 'NaN': numpy.nan}
#: Removed function -> the name of the function that does the same.
_RENAMED = {'alltrue': 'all', 'sometrue': 'any', 'product': 'prod', 'cumproduct': 'cumprod', 'round_': 'round',
            'trapz': 'trapezoid', 'row_stack': 'vstack'}
#: Functions that NumPy removed without a successor. ``mxnet.numpy`` offers them under the same names.
_REMOVED = ['mirr', 'npv', 'pmt', 'ppmt', 'pv', 'rate']


class _View(types.ModuleType):
    """A module with the names of NumPy and some more."""

    def __getattr__(self, name):
        # NumPy imports some of its modules at their first use, so that the view cannot have them from the beginning.
        return getattr(numpy, name)

    def __dir__(self):
        return sorted({*vars(self), *dir(numpy)})


def numpy_view() -> types.ModuleType:
    """A module that MXNet can use as NumPy.

    It has every name of the installed NumPy. A name that NumPy no longer has is added with its old meaning; the
    functions of finance, which NumPy removed without a successor, raise NotImplementedError when they are called.
    """
    view = _View(numpy.__name__, numpy.__doc__)
    vars(view).update((name, value) for name, value in vars(numpy).items() if name not in ('__getattr__', '__dir__'))
    for name, value in _old_names().items():
        # A look into vars() does not call numpy.__getattr__, which warns of names that are about to be removed.
        vars(view).setdefault(name, value)
    if NUMPY_2:
        normalize_axis_tuple = importlib.import_module('numpy.lib.array_utils').normalize_axis_tuple
        vars(view).update(
            bool=bool,      # NumPy 2 has this name for another type, numpy.bool_
            core=types.SimpleNamespace(numeric=types.SimpleNamespace(normalize_axis_tuple=normalize_axis_tuple)))
    return view


def _old_names() -> Dict[str, Any]:
    names: Dict[str, Any] = dict(_VALUES)
    for name, successor in _RENAMED.items():
        if hasattr(numpy, successor):       # numpy.trapezoid came with NumPy 2
            names[name] = _own_function(name, getattr(numpy, successor))
    names['msort'] = _own_function('msort', functools.partial(numpy.sort, axis=0))
    names['in1d'] = _own_function('in1d', _in1d)
    names['compat'] = types.SimpleNamespace(basestring=str)
    names.update((name, _removed(name)) for name in _REMOVED)
    return names


def _own_function(name: str, successor: Callable) -> Callable:
    """A function of its own that calls ``successor``.

    MXNet uses NumPy's functions as keys of its tables: under the key ``numpy.prod`` is what ``numpy.prod`` does to an
    array of MXNet. If ``product`` were the same object as ``prod``, the entry of one would replace that of the other.
    """
    def function(*args: Any, **kwargs: Any) -> Any:
        return successor(*args, **kwargs)

    function.__name__ = function.__qualname__ = name
    return function


def _in1d(ar1: Any, ar2: Any, *args: Any, **kwargs: Any) -> Any:
    """``numpy.isin`` keeps the axes of its first argument, and ``in1d`` did not."""
    return numpy.isin(ar1, ar2, *args, **kwargs).ravel()


def _removed(name: str) -> Callable:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f'mxnet.numpy.{name} needs numpy.{name}, which NumPy has removed '
                                  f'(numpy is {numpy.__version__}); numpy-financial has it')

    function.__name__ = function.__qualname__ = name
    return function


class _AnyStr(type):
    """Type of :class:`Text`, for which every string is an instance of Text."""

    def __instancecheck__(cls, instance):
        return isinstance(instance, str)

    def __subclasscheck__(cls, subclass):
        return issubclass(subclass, str)


class Text(str, metaclass=_AnyStr):
    """``str`` for modules that hand text over to MXNet's C++ code: NumPy's numbers in a shape look like Python's.

    With NumPy 2, ``str((numpy.int64(2), 3))`` is ``'(np.int64(2), 3)'``, which MXNet's C++ code cannot read, while
    ``Text((numpy.int64(2), 3))`` is ``'(2, 3)'``. It makes plain strings, and type checks with it are those of ``str``.
    """

    def __new__(cls, value: Any = '', *args: Any) -> str:    # type: ignore[misc]
        return str(_plain(value), *args) if type(value) in (tuple, list) else str(value, *args)


def _plain(value: Any) -> Any:
    """``value`` with Python's numbers in place of NumPy's, in nested tuples and lists too."""
    if isinstance(value, numpy.generic):
        return value.item()
    return type(value)(map(_plain, value)) if type(value) in (tuple, list) else value
