# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import os
import random
import shutil
import zlib

# The tests run in as many processes as there are processors.
os.environ.setdefault('OMP_NUM_THREADS', '1')

from bbb_layers import native     # before mxnet, see bbb_layers/_mxnet/numpy_names.py
import mxnet as mx
import numpy as np
import pytest

#: Every way to run a network: eager, hybridized, and with a static graph.
MODES = [None, {}, {'static_alloc': True, 'static_shape': True}]


def hybridize(net, mode):
    """Run ``net`` as ``mode`` says."""
    if mode is not None:
        net.hybridize(**mode)
    return net


@pytest.fixture(params=MODES, ids=['eager', 'hybrid', 'static'])
def mode(request):
    return request.param


@pytest.fixture(autouse=True)
def seed(request):
    """A seed of its own for every test, printed where the test fails."""
    value = zlib.crc32(request.node.nodeid.encode())
    print('seed: %d' % value)
    random.seed(value)
    np.random.seed(value)
    mx.random.seed(value % 2 ** 31)
    return value


@pytest.fixture(scope='session')
def compiled():
    """Loads the native operators; skips where there is no compiler, and only there.

    Of the session, so that fixtures of a whole module can ask for it.
    """
    if os.environ.get('BBB_LAYERS_NATIVE') == '0':
        pytest.skip('BBB_LAYERS_NATIVE is 0')
    if not any(map(shutil.which, [os.environ.get('CXX', 'g++').split()[0], 'clang++', 'c++'])):
        pytest.skip('no C++ compiler')
    assert native.available()
