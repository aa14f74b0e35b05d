# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Lets MXNet 1.9.1 be imported beside NumPy 1.24 to 1.26, the only ones for CPython 3.12.

MXNet uses ``numpy.bool``, which NumPy 1.24 removed: without it ``import mxnet`` fails. So this module, imported before
MXNet, brings it back, as what it was before, Python's own bool; and nothing else, and only where it is missing. A
program imports bbb_layers before mxnet.
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
    # By version: to ask NumPy 1.20 to 1.23 for it makes them warn.
    if release >= (1, 24) and 'bool' not in vars(numpy):
        numpy.bool = bool  # type: ignore[attr-defined]


_restore()
