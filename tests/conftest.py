# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import os
import random
import shutil
import zlib
from pathlib import PurePosixPath

# The tests run in as many processes as there are processors.
os.environ.setdefault('OMP_NUM_THREADS', '1')

from bbb_layers import native     # before mxnet, see bbb_layers/_mxnet/import_hook.py
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


def seed_key(node):
    """What the random numbers of a test follow from: the name of its file, in whichever folder, and its own name."""
    path, _, rest = node.nodeid.partition('::')
    marker = node.get_closest_marker('seed_key')
    if marker is None:
        return f'tests/{PurePosixPath(path).name}::{rest}'
    key, = marker.args
    return key + node.name[len(node.originalname):]


@pytest.fixture(autouse=True)
def seed(request):
    """A seed of its own for every test, printed where the test fails.

    It follows from a key, which is ``tests/<name of the file>::<name of the test>[<parameters>]``. A file that moves
    into another folder keeps its random numbers therefore. A test that gets another name, or moves into another file,
    keeps them by a marker with the key that it had, without the parameters, which are added to it:

        @pytest.mark.seed_key('tests/test_layers.py::test_of_old')
    """
    value = zlib.crc32(seed_key(request.node).encode())
    print(f'seed: {value}')
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
