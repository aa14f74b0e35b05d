# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Convolutions with so many channels that oneDNN keeps their arrays in blocks of 8 or 16 channels.

Other tests have few channels, and so arrays in MXNet's own layout. In the blocked layout some of MXNet's operators
kill the process or raise, and which of them do depends on the number of axes and on the graph. So values and gradients
are compared with those of plain Gluon layers, which run eagerly and one by one.
"""
import copy
import itertools

import mxnet as mx
import numpy as np
import pytest
from conftest import MODES, hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from nets import SumOfSquares

import bbb_layers as bbb
from bbb_layers import BBBLoss, GaussianPrior, native, predict, to_deterministic
from bbb_layers._mxnet import tree
from bbb_layers.checkpoint import load_checkpoint, save_checkpoint
from bbb_layers.networks.sparse import to_sparse

SPATIAL = {1: (4,), 2: (3, 2), 3: (2, 2, 3)}
# (input, output) channels, by whether the native operators are on. Without them, draws differ and convolutions do not,
# so that fewer cases serve.
CHANNELS = {True: [(8, 8), (16, 16), (32, 32), (64, 64), (16, 64), (32, 8)], False: [(16, 16), (8, 32)]}
ESTIMATORS = ['sample', 'local', 'flipout']
# With such a sigma every draw is the mean but for rounding, and with so many examples the KL divergence does not count.
SIGMA, NUM_TRAIN = 1e-6, 1e12
# What numbers may differ by, as a part of the largest number of their array. Sums over 64 channels and 27 positions are
# rounded by some 1e-6 in float32; the noise makes as much, in float64 too.
TOLERANCE = {'float32': 1e-4, 'float64': 2e-5}


@pytest.fixture(params=[True, False], ids=['native', 'operators'])
def native_or_not(request, monkeypatch):
    """With the native operators where there are some, and without."""
    if not request.param:
        monkeypatch.setattr(native._State, 'available', False)
    return request.param


def layer(bayesian, ndim, transposed, channels, **kwargs):
    name = f"Conv{ndim}D{'Transpose' * transposed}"
    kwargs.setdefault('bias_initializer', mx.init.Normal(0.5))
    if bayesian:
        return getattr(bbb, 'Bayes' + name)(channels, initial_sigma=SIGMA, prior=GaussianPrior(), **kwargs)
    kwargs.pop('estimator', None)
    return getattr(nn, name)(channels, **kwargs)


def pair(make, x):
    """A network of Bayesian layers, and the same one of plain layers with the same weights."""
    bayes, plain = make(True), make(False)
    for net in (bayes, plain):
        net.initialize(mx.init.Normal(0.2))
        with autograd.train_mode():     # after a forward in predict mode, set_data would fail in 1D and 3D
            net(x)
    means = [rho.mu for block in tree.walk(bayes) if hasattr(block, '_rhos') for rho in block._rhos.values()]
    params = [param for block in tree.walk(plain) for param in block._reg_params.values()]
    assert len(means) == len(params) > 0
    for mean, param in zip(means, params):
        param.set_data(mean.data())
    return bayes, plain, list(zip(means, params))


def check_close(actual, expected, what, scale=1):
    actual, expected = actual.asnumpy(), expected.asnumpy()
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, what
    tolerance = scale * TOLERANCE[str(actual.dtype)] * abs(expected).max()
    assert tolerance > 0, what
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=what)


def gradients(output, head, x, params):
    head.backward()
    return [output.detach(), x.grad.copy()] + [param.grad().copy() for param in params]


def check_all_modes_of_autograd(bayes, plain, params, x, loss_fn, what, scale=1):
    """Predict mode, train mode, and train mode with gradients; with a loss twice, as each may leave another layout."""
    what += ', %s loss' % ('without' if loss_fn is None else 'with')
    for step in range(1 if loss_fn is None else 2):
        batch = (step + 1) * x
        batch.attach_grad()
        with autograd.record():
            output = plain(batch)
            head = output.square()
        expected = gradients(output, head, batch, [param for _, param in params])
        check_close(bayes(batch), plain(batch), what + f', predict mode, step {step}', scale)
        with autograd.train_mode():
            check_close(bayes(batch), expected[0], what + f', train mode, step {step}', scale)
        with autograd.record():
            output = bayes(batch)
            head = output.square() if loss_fn is None else loss_fn(output, output)
        found = gradients(output, head, batch, [mean for mean, _ in params])
        names = ['output', 'gradient of the input'] + ['gradient of ' + mean.name for mean, _ in params]
        for name, one, other in zip(names, found, expected):
            check_close(one, other, what + f', {name}, step {step}', 2 * scale)
        for mean, _ in params:
            gradient = mean._rho.grad().asnumpy()
            assert np.isfinite(gradient).all() and abs(gradient).max() > 0, what + f', gradient of {mean._rho.name}'


@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('transposed', [False, True], ids=['plain', 'transposed'])
@pytest.mark.parametrize('ndim', SPATIAL)
def test_one_layer(ndim, transposed, estimator, mode, native_or_not):
    """Catches operators on the input or the output of one layer that fail in a blocked layout."""
    for inputs, outputs in CHANNELS[native_or_not]:
        x = nd.random.normal(shape=(2, inputs) + SPATIAL[ndim])
        bayes, plain, params = pair(lambda bayesian: layer(bayesian, ndim, transposed, outputs, kernel_size=3,
                                                           padding=0 if transposed else 1, estimator=estimator), x)
        hybridize(bayes, mode)
        what = f'channels {inputs} -> {outputs}'
        # A loss changes the graph of a network.
        for make_loss in (lambda: None, lambda: BBBLoss(bayes, NUM_TRAIN, likelihood=SumOfSquares())):
            check_all_modes_of_autograd(bayes, plain, params, x, make_loss(), what)


def stack(bayesian, ndim, channels, estimator):
    net = nn.HybridSequential()
    conv = [dict(kernel_size=3, padding=1), dict(kernel_size=3, padding=1)]
    # The third cuts the edges off its input, an array in a blocked layout, as it is; the fourth stretches it.
    transposed = [dict(kernel_size=2, padding=2), dict(kernel_size=3, strides=2, padding=1, output_padding=1)]
    for number, kwargs in enumerate(conv + transposed):
        net.add(layer(bayesian, ndim, number >= 2, channels[number], estimator=estimator, **kwargs))
    return net


@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('ndim, dtype', [
    (1, 'float32'), (2, 'float32'), (3, 'float32'),
    (1, 'float64'), (2, 'float64')])     # Gluon has no transposed convolution in 3D in float64 to compare with
def test_layers_one_after_the_other(ndim, estimator, dtype, mode):
    """Catches operators of a layer that fail on what the layer before it hands over, in either direction."""
    for channels, with_loss in (((16, 16, 16, 16), False), ((16, 16, 16, 16), True), ((16, 8, 32, 24), True)):
        x = nd.random.normal(shape=(2, channels[0]) + (4, 5, 4)[:ndim])
        bayes, plain, params = pair(lambda bayesian: stack(bayesian, ndim, channels, estimator), x)
        for net in (bayes, plain):
            net.cast(dtype)
        hybridize(bayes, mode)
        loss_fn = BBBLoss(bayes, NUM_TRAIN, likelihood=SumOfSquares()) if with_loss else None
        check_all_modes_of_autograd(bayes, plain, params, x.astype(dtype), loss_fn, f'channels {channels}', 10)


def generator(estimator):
    net = nn.HybridSequential()
    for channels in (64, 32, 16):
        net.add(layer(True, 2, True, channels, kernel_size=4, strides=2, padding=1, use_bias=False,
                      estimator=estimator), nn.BatchNorm(), nn.Activation('relu'))
    net.add(layer(True, 2, True, 1, kernel_size=3, padding=1, estimator=estimator))
    return net


@pytest.mark.parametrize('estimator', ESTIMATORS)
@pytest.mark.parametrize('mode', MODES[1:], ids=['hybrid', 'static'])
def test_generator(estimator, mode):
    """Catches what the generator of a DCGAN died of: its first hybridized forward, and the backward from its only
    output channel. Gluon's own layer cannot go backward there, so the eager network is the reference for training."""
    eager = generator(estimator)
    eager.initialize(mx.init.Normal(0.2))
    x, target = nd.random.normal(shape=(4, 64, 2, 2)), nd.random.normal(shape=(4, 1, 16, 16))
    eager(x)
    # This keeps all numbers away from the kink of relu, which would enlarge differences of rounding.
    for beta in eager.collect_params('.*beta').values():
        beta.set_data(nd.array(np.random.choice([-6, 6], size=beta.shape)))
    steps = []
    for net in (eager, hybridize(copy.deepcopy(eager), mode)):
        loss_fn = BBBLoss(net, num_train=NUM_TRAIN, likelihood=gluon.loss.L2Loss())
        trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 1e-3})
        steps.append([])
        for _ in range(2):
            with autograd.record():
                loss = loss_fn(net(x), target)
            loss.backward()
            means = [(name, param) for name, param in net.collect_params().items() if not name.endswith('_rho')]
            steps[-1].append([('loss', loss.detach())] + [
                ('gradient of ' + name, param.grad().copy()) for name, param in means if param.grad_req != 'null'])
            trainer.step(4)
            nd.waitall()    # with static_shape, to read BatchNorm's running mean does not wait for backward to write it
            steps[-1].append([(name, param.data().copy()) for name, param in means])
        loss_fn.check_finite()
    for number, (expected, found) in enumerate(zip(*steps)):
        for (name, one), (_, other) in zip(found, expected):
            check_close(one, other, f'{name}, step {number // 2}', 30)     # BatchNorm enlarges rounding
    expected = x
    for block in to_deterministic(net):
        block.hybridize(False)
        expected = block(expected)
    check_close(net(x), expected, 'predict mode')


@pytest.mark.parametrize('transposed', [False, True], ids=['plain', 'transposed'])
@pytest.mark.parametrize('ndim', SPATIAL)
def test_predict_has_the_weights_of_each_draw(ndim, transposed, mode):
    """Catches a second draw that does not reach the weights: after a forward in predict mode, plain convolutions in 1D
    and 3D keep them in a layout that MXNet cannot copy into."""
    x = nd.random.normal(shape=(3, 16) + SPATIAL[ndim])
    bayes, plain, _ = pair(lambda bayesian: layer(bayesian, ndim, transposed, 32, kernel_size=3, padding=1), x)
    hybridize(bayes, mode)
    expected, draws = plain(x), predict(bayes, x, num_samples=3, batch_size=2)
    for draw in draws:
        check_close(draw, expected, 'draws that are all the mean')
    for rho in bayes._rhos.values():
        rho.set_data(nd.ones(rho.shape))
    draws = predict(bayes, x, num_samples=3, batch_size=2).asnumpy()
    assert all(abs(one - other).max() > 1 for one, other in itertools.combinations(draws, 2))


@pytest.mark.parametrize('ndim', SPATIAL)
def test_checkpoint_is_loaded_after_a_forward(ndim, tmp_path, mode):
    """Catches values of a checkpoint that do not reach the weights of a plain convolution beside a Bayesian one, for
    the same reason."""
    x = nd.random.normal(shape=(2, 16) + SPATIAL[ndim])
    net = nn.HybridSequential()
    net.add(layer(False, ndim, False, 16, kernel_size=3, padding=1), layer(True, ndim, False, 16, kernel_size=1))
    net.initialize(mx.init.Normal(0.2))
    hybridize(net, mode)
    expected = net(x).asnumpy()
    save_checkpoint(str(tmp_path / 'file'), net)
    net.initialize(mx.init.Normal(0.2), force_reinit=True)
    assert abs(net(x).asnumpy() - expected).max() > 0.1
    load_checkpoint(str(tmp_path / 'file'), net)
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('flatten', [True, False])
@pytest.mark.parametrize('ndim', SPATIAL)
def test_sparse_layer_after_a_convolution(ndim, flatten):
    """Catches a transpose that fails on the output of a 3D convolution in a graph."""
    x = nd.random.normal(shape=(2, 16) + SPATIAL[ndim])
    net = nn.HybridSequential()
    net.add(layer(False, ndim, False, 16, kernel_size=3, padding=1), nn.Dense(5, flatten=flatten, activation='relu'),
            nn.Dense(3, flatten=flatten))
    net.initialize(mx.init.Normal(0.2))
    expected = net(x)
    for mode in MODES:
        sparse = hybridize(to_sparse(net), mode)
        for _ in range(2):
            check_close(sparse(x), expected, str(mode))
