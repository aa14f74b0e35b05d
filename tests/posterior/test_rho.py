# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import re

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from bbb_layers import BayesDense, BBBLoss, kl_divergence


def bayes_net(**kwargs):
    net = nn.HybridSequential()
    net.add(BayesDense(5, activation='relu', initial_sigma=0.2, **kwargs), BayesDense(3, initial_sigma=0.2))
    return net


@pytest.fixture
def plain_file(tmp_path):
    net = nn.HybridSequential()
    net.add(nn.Dense(5, activation='relu'), nn.Dense(3))
    net.initialize(mx.init.Normal(0.5))
    x = nd.random.normal(shape=(4, 6))
    output = net(x)
    net.save_parameters(str(tmp_path / 'plain.params'))
    return str(tmp_path / 'plain.params'), x, output.asnumpy()


@pytest.mark.parametrize('initialize', ['before', 'never', 'after'])
@pytest.mark.parametrize('tapped', [False, True])
def test_load_a_plain_networks_file(plain_file, mode, initialize, tapped):
    filename, x, expected = plain_file
    net = bayes_net()
    if tapped:
        loss_fn = BBBLoss(net, 10)
    if initialize == 'before':
        net.initialize()
    if mode is not None:
        net.hybridize(**mode)
    net.load_parameters(filename, allow_missing=True)
    assert net[0].weight_rho.shape == (5, 6) and net[1].bias_rho.shape == (3,)
    if initialize == 'after':
        with pytest.warns(UserWarning, match='already initialized'):
            net.initialize()
    np.testing.assert_allclose(net[0].posterior()['weight'][1].asnumpy(), np.full((5, 6), 0.2), rtol=1e-6)
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)
    loss_fn = loss_fn if tapped else BBBLoss(net, 10)
    trainer = gluon.Trainer(net.collect_params(), 'adam')
    for _ in range(3):
        with autograd.record():
            loss = loss_fn(net(x), nd.zeros(4))
        loss.backward()
        assert abs(net[0].weight_rho.grad().asnumpy()).min() > 0
        trainer.step(4)


def test_load_a_plain_networks_file_after_a_forward(plain_file, mode):
    filename, x, expected = plain_file
    net = bayes_net()
    net.initialize()
    if mode is not None:
        net.hybridize(**mode)
    net(x)
    with autograd.train_mode():
        net(x)
    net.load_parameters(filename, allow_missing=True)
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dtype, dtype_of_rho', [('float64', 'float64'), ('float16', 'float32')])
@pytest.mark.parametrize('initialize', [True, False])
def test_load_a_plain_networks_file_in_its_dtype(initialize, dtype, dtype_of_rho, tmp_path):
    """rho has no value yet when mu is loaded, and then takes its dtype from mu."""
    plain = nn.HybridSequential()
    plain.add(nn.Dense(5, activation='relu'), nn.Dense(3))
    plain.initialize(mx.init.Normal(0.5))
    plain(nd.zeros((1, 6)))
    plain.cast(dtype)
    plain.save_parameters(str(tmp_path / 'plain.params'))
    net = bayes_net()
    if initialize:
        net.initialize()
    net.load_parameters(str(tmp_path / 'plain.params'), allow_missing=True, cast_dtype=True, dtype_source='saved')
    for layer in net:
        assert layer.weight.data().dtype == np.dtype(dtype)
        assert layer.weight_rho.data().dtype == np.dtype(dtype_of_rho)
        mu, sigma = layer.posterior()['weight']
        assert mu.dtype == sigma.dtype == np.dtype(dtype_of_rho)
        np.testing.assert_allclose(sigma.asnumpy(), np.full(layer.weight.shape, 0.2), rtol=1e-6)


def test_every_access_finds_rho_initialized(plain_file):
    for access in (lambda rho: rho.set_data(nd.ones(rho.shape)), lambda rho: rho.reset_ctx(mx.cpu(1)),
                   lambda rho: rho.data(), lambda rho: rho.list_data(), lambda rho: rho.grad(),
                   lambda rho: rho.list_grad()):
        for initialized in (False, True):
            net = bayes_net()
            if initialized:
                net.initialize()
            net.load_parameters(plain_file[0], allow_missing=True)
            access(net[0].weight_rho)
    net = bayes_net()
    net.load_parameters(plain_file[0], allow_missing=True)
    assert net[0].weight_rho.list_ctx() == [mx.cpu()]


def test_save_right_after_loading_a_plain_file(plain_file, tmp_path):
    net = bayes_net()
    net.load_parameters(plain_file[0], allow_missing=True)
    net.save_parameters(str(tmp_path / 'bayes.params'))
    other = bayes_net()
    other.load_parameters(str(tmp_path / 'bayes.params'))
    np.testing.assert_array_equal(other(plain_file[1]).asnumpy(), net(plain_file[1]).asnumpy())


@pytest.mark.parametrize('initialize', [False, True])
def test_save_and_load(tmp_path, mode, initialize):
    x = nd.random.normal(shape=(4, 6))
    net = bayes_net()
    net.initialize()
    loss_fn = BBBLoss(net, 10)
    if mode is not None:
        net.hybridize(**mode)
    with autograd.record():
        loss_fn(net(x), nd.zeros(4)).backward()
    net[0].weight_rho.set_data(nd.random.normal(shape=(5, 6)))
    net.save_parameters(str(tmp_path / 'net.params'))
    other = bayes_net()
    if initialize:
        other.initialize()
    if mode is not None:
        other.hybridize(**mode)
    other.load_parameters(str(tmp_path / 'net.params'))
    for name, param in net._collect_params_with_prefix().items():
        loaded = other._collect_params_with_prefix()[name].data()
        np.testing.assert_array_equal(param.data().asnumpy(), loaded.asnumpy())
    np.testing.assert_array_equal(other(x).asnumpy(), net(x).asnumpy())
    assert kl_divergence(other).asscalar() > 0
    other_loss = BBBLoss(other, 10)
    for _ in range(2):
        with autograd.record():
            other_loss(other(x), nd.zeros(4)).backward()


def test_a_bayesian_file_in_a_plain_network(tmp_path):
    x = nd.random.normal(shape=(4, 6))
    net = bayes_net()
    net.initialize()
    expected = net(x).asnumpy()
    net.save_parameters(str(tmp_path / 'net.params'))
    plain = nn.HybridSequential()
    plain.add(nn.Dense(5, activation='relu'), nn.Dense(3))
    plain.load_parameters(str(tmp_path / 'net.params'), ignore_extra=True)
    np.testing.assert_allclose(plain(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)


def test_file_of_another_shape_is_refused(plain_file):
    net = bayes_net(in_units=7)
    net.initialize()
    with pytest.raises(AssertionError, match='shape incompatible'):
        net.load_parameters(plain_file[0], allow_missing=True)


def test_not_weight_decayed():
    net = bayes_net()
    net.initialize()
    net(nd.ones((1, 6)))
    before = {name: param.data().asnumpy() for name, param in net.collect_params().items()}
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.1, 'wd': 0.5})
    with autograd.record():
        loss = net(nd.ones((1, 6))).sum() * 0
    loss.backward()
    trainer.step(1)
    for name, param in net.collect_params().items():
        if name.endswith('_rho'):
            np.testing.assert_array_equal(param.data().asnumpy(), before[name])
        else:
            np.testing.assert_allclose(param.data().asnumpy(), before[name] * 0.95, rtol=1e-6)


def test_patterns_for_rho_alone_and_mu_alone():
    net = bayes_net()
    net.add(nn.Dense(2))
    rho, mu = net.collect_params('.*(weight|bias)_rho$'), net.collect_params('.*(weight|bias)$')
    assert all(re.search('_rho$', name) for name in rho) and len(rho.keys()) == 4
    assert sorted(list(rho) + list(mu)) == sorted(net.collect_params())


def test_set_data_on_a_deferred_mu():
    net = bayes_net()
    net.initialize()
    net[0].weight.set_data(nd.ones((5, 6)))
    assert net[0].weight_rho.shape == (5, 6)
    net(nd.ones((1, 6)))
    np.testing.assert_array_equal(net[0].weight.data().asnumpy(), np.ones((5, 6)))


def test_reinitialize_and_reset_ctx():
    net = bayes_net()
    net.initialize()
    net(nd.ones((1, 6)))
    net[0].weight_rho.set_data(nd.ones((5, 6)))
    net.initialize(force_reinit=True)
    np.testing.assert_allclose(net[0].posterior()['weight'][1].asnumpy(), np.full((5, 6), 0.2), rtol=1e-6)
    net.collect_params().reset_ctx([mx.cpu(1)])
    assert net(nd.ones((1, 6), ctx=mx.cpu(1))).context == mx.cpu(1)
    assert kl_divergence(net).context == mx.cpu(1)


def test_layer_tied_to_a_plain_one(mode):
    plain = nn.Dense(4, in_units=4)
    layer = BayesDense(4, in_units=4, params=plain.params, initial_sigma=0.2)
    assert layer.weight is plain.weight and layer.weight_rho.mu is plain.weight
    net = nn.HybridSequential()
    net.add(plain, layer)
    net.initialize()
    if mode is not None:
        net.hybridize(**mode)
    loss_fn = BBBLoss(net, 10)
    for _ in range(2):
        with autograd.record():
            loss = loss_fn(net(nd.ones((2, 4))), nd.zeros(2))
        loss.backward()
        assert abs(layer.weight_rho.grad().asnumpy()).min() > 0
