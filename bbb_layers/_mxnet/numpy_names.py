# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Makes MXNet 1.9.1 importable beside NumPy 1.24 to 1.26; CPython 3.12 has no other NumPy that fits.

MXNet uses ``numpy.bool``, which NumPy 1.24 removed: without this name ``import mxnet`` fails. This module is imported
before MXNet and, where the name is missing, restores it with its old value, Python's own bool. It changes nothing else.
A program must import bbb_layers before mxnet.
"""
import sys

import numpy

__all__ = []


def _restore():
    if 'mxnet' not in sys.modules and any(name.startswith('mxnet.') for name in sys.modules):
        raise ImportError('mxnet was imported before bbb_layers and failed, and half of it is loaded: in a new '
                          'process, import bbb_layers first, which brings back the numpy.bool that mxnet needs '
                          f'(numpy is {numpy.__version__})')
    release = tuple(map(int, numpy.__version__.split('.')[:2]))
    if release >= (2, 0):
        raise ImportError('bbb_layers needs NumPy below 2.0, since MXNet 1.9.1 cannot be imported beside a newer one '
                          f"(numpy is {numpy.__version__}): pip install 'numpy<2'")
    # The version decides, because NumPy 1.20 to 1.23 warn when numpy.bool is read.
    if release >= (1, 24) and 'bool' not in vars(numpy):
        numpy.bool = bool  # type: ignore[attr-defined]


_restore()
