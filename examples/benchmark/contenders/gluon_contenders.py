# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""This package, the notebook's code and deterministic Gluon, all from step_time.py."""
import os
import sys
import tempfile
from pathlib import Path

import bbb_layers
from bbb_layers import native
import mxnet as mx
from mxnet import nd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import step_time

mx.random.seed(0)


def contender(build, **options):
    """A training step of step_time's or like them, as ``build(data, label, units, **options)`` returns it."""
    def make(data, label, units):
        step = build(nd.array(data), nd.array(label, dtype='float32'), units, **options)
        return step, step.forward
    return make


def num_batches(data):
    return -(-step_time.NUM_TRAIN // len(data))


def notebook(data, label, units):
    return step_time.notebook(data, label, units, num_batches(data))


def bayes(data, label, units, **options):
    return step_time.bayes(data, label, units, num_batches(data), hybridize=True, **options)


def with_native_operators(make):
    """``make``, where the native operators are what it is about."""
    def checked(data, label, units):
        if not native.available():
            raise RuntimeError('the native operators are not available; the logger bbb_layers says why')
        return make(data, label, units)
    return checked


def loaded(build):
    """A network from a file, as an application has it that only predicts; ours never had a BBBLoss."""
    def make(data, label, units):
        data, saved, net = nd.array(data), build(units), build(units)
        saved(data)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'net.params')
            saved.save_parameters(path)
            net.load_parameters(path)
        return None, lambda: net(data)
    return make


def to_deterministic(data, label, units):
    data, net = nd.array(data), step_time.bayes_network(units)
    net(data)
    plain = bbb_layers.to_deterministic(net)
    plain.hybridize(static_alloc=True, static_shape=True)
    return None, lambda: plain(data)

CONTENDERS = {
    'fused': with_native_operators(contender(bayes, optimizer='fusedadam')),
    'operators': contender(bayes),
    'notebook': contender(notebook),
    'gluon': contender(step_time.deterministic),
    'gluon-fusedadam': with_native_operators(contender(step_time.deterministic, optimizer='fusedadam')),
    'gluon-loaded': loaded(step_time.deterministic_network),
    'loaded': loaded(step_time.bayes_network),
    'to-deterministic': to_deterministic}


def wait(result):
    mx.nd.waitall()


def loss(result, batch):
    """The notebook's is the sum over the batch, the others are arrays of one for each example."""
    return float(result.sum().asscalar()) / batch


def threads():
    return int(os.environ['OMP_NUM_THREADS'])


def versions():
    found = {'bbb_layers': bbb_layers.__version__, 'mxnet': mx.__version__}
    if native.instruction_set() is not None:
        found['native operators'] = native.instruction_set()
    return found
