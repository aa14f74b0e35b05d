# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Training of bare Parameters, for tests of optimizers and of what a Trainer saves."""
import platform

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

SMALL = [(3, 5), (7,), (2, 3, 4)]
# On x86-64 the operator does what MXNet's does, bit by bit; elsewhere the wheel's may contract to fused multiply-add.
RTOL = 0 if platform.machine() == 'x86_64' else 2e-6


def make_params(shapes, ctx=mx.cpu(), dtype='float32', **kwargs):
    """Parameters with the same values whenever the shapes are the same."""
    random, params = np.random.RandomState(7), []
    for i, shape in enumerate(shapes):
        param = gluon.Parameter('p%d_%s' % (i, 'weight' if i % 2 else 'bias'), shape=shape, dtype=dtype, **kwargs)
        param.initialize(ctx=ctx, init=mx.init.Zero())
        param.set_data(nd.array(random.normal(size=shape), dtype=dtype))
        params.append(param)
    return params


def backward(params, step, which=None):
    """Gradients that depend on the step, through autograd."""
    random, losses = np.random.RandomState(step), []
    with autograd.record():
        for i, param in enumerate(params):
            grad = random.normal(size=param.shape) * 10. ** random.randint(-4, 3)
            if param.grad_req != 'null' and (which is None or i in which):
                for j, data in enumerate(param.list_data()):
                    losses.append((data * nd.array(grad * (j + 1), dtype=param.dtype, ctx=data.context)).sum())
    autograd.backward(losses)


def make_trainer(name, params, kvstore, update_on_kvstore, options):
    if update_on_kvstore:   # a name alone is ignored where there is one context
        kvstore = mx.kv.create(kvstore)
    return gluon.Trainer(params, name, options, kvstore=kvstore, update_on_kvstore=update_on_kvstore)


def train(name, params, steps=20, first=0, trainer=None, which=None, kvstore='device', update_on_kvstore=None,
          **options):
    if trainer is None:
        trainer = make_trainer(name, params, kvstore, update_on_kvstore, options)
    for step in range(first, first + steps):
        backward(params, step, which=None if which is None else which(step))
        trainer.step(3, ignore_stale_grad=which is not None)
    return trainer


def numbers(params, trainer=None):
    """All weights, and the states unless a kvstore has them."""
    arrays = [data.asnumpy() for param in params for data in param.list_data()]
    for updater in [] if trainer is None or trainer._update_on_kvstore else trainer._updaters:
        for index in sorted(updater.states):
            for state in updater.states[index]:
                for array in state if isinstance(state, tuple) else [state]:
                    arrays.append(array.asnumpy())
    return arrays


def assert_same(first, second, rtol=RTOL):
    assert len(first) == len(second) > 0
    worst = 0.
    for a, b in zip(first, second):
        assert a.shape == b.shape and a.dtype == b.dtype
        with np.errstate(invalid='ignore', divide='ignore'):
            worst = max(worst, np.nanmax(np.append(abs(a - b) / abs(b), 0.)))
    print(f'largest relative difference: {worst:g}')
    for a, b in zip(first, second):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=0)
