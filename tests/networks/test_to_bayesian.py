# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import mxnet as mx
import nets
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision

from bbb_layers import (BayesConv2D, BayesDense, BBBLoss, GaussianPrior, LaplacePrior, ScaleMixturePrior, StudentTPrior,
                        kl_divergence, to_bayesian, to_deterministic)
from bbb_layers.networks.own_blocks import BAYESIAN


@pytest.mark.parametrize('name', nets.NETWORKS)
@pytest.mark.parametrize('hybrid_before', [False, True])
def test_every_layer(name, hybrid_before, mode):
    plain, x = nets.make(name, bayesian=False)
    if hybrid_before:
        hybridize(plain, {'static_alloc': True})
        plain(x)
    before, expected = nets.values(plain), plain(x).asnumpy()
    net = to_bayesian(plain, prior=GaussianPrior(), sigma=1e-6, estimator='flipout')
    net.hybridize(active=mode is not None, **(mode or {}))
    names = [type(block).__name__ for block in nets.blocks(net)]
    replaced = {cls.__name__ for cls in BAYESIAN}
    assert names == ['Bayes' * (type(block).__name__ in replaced) + type(block).__name__
                     for block in nets.blocks(plain)]
    assert [name for name in net.collect_params() if not name.endswith('_rho')] == list(before)
    assert [block.prefix for block in nets.blocks(net)] == [block.prefix for block in nets.blocks(plain)]
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-4, atol=1e-5)
    if name not in ('dense', 'tied'):       # which have Dropout
        with autograd.train_mode():
            trained = plain(x).asnumpy()
            # weights of about 0.5 with noise of 1e-6, and BatchNorm's division
            np.testing.assert_allclose(net(x).asnumpy(), trained, rtol=1e-2, atol=1e-3)
    assert type(plain(x)) is nd.NDArray
    # It trains as any Bayesian network does.
    if name not in ('dense', 'tied'):       # where a weight is used twice, which only the estimator 'sample' allows
        loss_fn = BBBLoss(net, 10, likelihood=nets.SumOfSquares())
        with autograd.record():
            loss = loss_fn(net(x), x)
        loss.backward()
        for rho_name, param in net.collect_params('.*_rho').items():
            assert abs(param.grad()).min().asscalar() > 0, rho_name
    names = [name for name in before if 'running' not in name]      # train mode moves those of plain
    assert all((plain.collect_params()[name].data().asnumpy() == before[name]).all() for name in names)
    assert not any('rho' in name for name in plain.collect_params())


def test_attributes_and_aliases():
    plain, _ = nets.make('dense', bayesian=False)
    own = to_bayesian(plain)[1]
    assert own.first is own.alias is own.layers[0] is own._children['first'] and type(own.first) is BayesDense
    assert type(plain[1].first) is nn.Dense


def test_tied_layers_share_one_posterior(mode):
    plain, x = nets.make('tied', bayesian=False)
    net = hybridize(to_bayesian(plain, sigma=0.1), mode)
    assert net[0].weight_rho is net[1].weight_rho
    BBBLoss(net, 10)
    alone = BayesDense(4, in_units=4, initial_sigma=0.1, prior=GaussianPrior())
    alone.initialize()
    for name in ('weight', 'bias'):
        getattr(alone, name).set_data(getattr(plain[0], name).data())
    gaussian = to_bayesian(plain, prior=GaussianPrior(), sigma=0.1)
    np.testing.assert_allclose(kl_divergence(gaussian).asscalar(), kl_divergence(alone).asscalar(), rtol=1e-6)


def test_resnet(tmp_path):
    plain = vision.resnet18_v1(classes=7)
    plain.initialize(mx.init.Xavier())
    plain.hybridize(static_alloc=True)
    x = nd.random.normal(shape=(2, 3, 32, 32))
    expected = plain(x).asnumpy()
    net = to_bayesian(plain, prior=GaussianPrior(), sigma=1e-3, where=lambda name, layer: name != 'features.0')
    assert type(net.features[0]) is nn.Conv2D and type(net.features[4][0].body[0]) is BayesConv2D
    assert type(net.output) is BayesDense and repr(net).count('BayesConv2D(') == 19
    np.testing.assert_array_equal(net(x).asnumpy(), expected)
    loss_fn = BBBLoss(net, 100)
    with autograd.record():
        loss = loss_fn(net(x), nd.array([1, 2]))
    loss.backward()
    assert np.isfinite(loss.asnumpy()).all() and abs(net.output.weight_rho.grad()).min().asscalar() > 0
    to_deterministic(net).save_parameters(str(tmp_path / 'resnet.params'))
    fresh = vision.resnet18_v1(classes=7)
    fresh.load_parameters(str(tmp_path / 'resnet.params'))
    np.testing.assert_allclose(fresh(x).asnumpy(), net(x).asnumpy(), rtol=1e-5, atol=1e-5)


def test_fraction():
    plain, x = nets.make('embedding', bayesian=False)
    weight = plain[0].weight.data()
    weight[0] = 0
    weight[1] = 1e-4
    plain[0].weight.set_data(weight)
    net = to_bayesian(plain, fraction=0.2, floor=1e-3)
    mu, sigma = net[0].posterior()['weight']
    np.testing.assert_array_equal(mu.asnumpy(), weight.asnumpy())
    expected = np.maximum(0.2 * abs(weight.asnumpy()), 1e-3)
    np.testing.assert_allclose(sigma.asnumpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(kl_divergence(net).asscalar(), 0, atol=1e-5)
    np.testing.assert_array_equal(net[0].weight_prior_mu.data().asnumpy(), weight.asnumpy())
    np.testing.assert_allclose(net[0].weight_prior_sigma.data().asnumpy(), expected, rtol=1e-6)
    net[0].weight.set_data(weight + nd.array(expected))     # each weight one prior sigma away: 1/2 nat
    np.testing.assert_allclose(kl_divergence(net).asscalar(), weight.size / 2, rtol=1e-3)
    given = to_bayesian(plain, fraction=0.2, prior=LaplacePrior(), bias_prior=GaussianPrior(3.))
    assert given[1].priors == {'weight': LaplacePrior(), 'bias': GaussianPrior(3.)}
    np.testing.assert_allclose(given[0].posterior()['weight'][1].asnumpy(), np.maximum(expected, 1e-3), rtol=1e-5)


def test_priors_and_estimators():
    plain, _ = nets.make('dense', bayesian=False)
    net = to_bayesian(plain, bias_prior=StudentTPrior(), estimator='local', kl='sample')
    assert net[0].priors == {'weight': ScaleMixturePrior(), 'bias': StudentTPrior()} and net[0]._estimator == 'local'
    assert net[0].weight_rho.sampled_kl
    lstm, _ = nets.make('LSTM', bayesian=False)
    net = to_bayesian(lstm, estimator='local')
    assert (net[0]._estimator, net[1]._estimator) == ('sample', 'local')


def test_there_and_back():
    plain, x = nets.make('dense', bayesian=False)
    again = to_deterministic(to_bayesian(plain, fraction=0.1))
    np.testing.assert_array_equal(again(x).asnumpy(), plain(x).asnumpy())
    twice = to_bayesian(again, sigma=0.02)
    assert twice[0].weight_rho.mu is twice[0].weight
    np.testing.assert_array_equal(twice(x).asnumpy(), plain(x).asnumpy())


def test_network_that_is_bayesian_already():
    with pytest.raises(ValueError, match='at least one layer to become .*saw: a network that is Bayesian already'):
        to_bayesian(nets.make('dense')[0])


def test_names_that_where_sees():
    plain, _ = nets.make('dense', bayesian=False)
    seen = []
    to_bayesian(plain, where=lambda name, layer: not seen.append((name, layer)))
    assert [name for name, _ in seen] == ['0', '1.first', '1.rest.1', '2']
    assert all(type(layer) is nn.Dense for _, layer in seen)
    params = plain._collect_params_with_prefix()
    assert all(params[name + '.weight'] is layer.weight for name, layer in seen)
    single = nn.Dense(2, in_units=3)
    single.initialize()
    assert type(to_bayesian(single, where=lambda name, layer: name == '')) is BayesDense


def test_derived_classes_stay():
    class Mine(nn.Dense):
        pass

    net = nn.HybridSequential()
    net.add(Mine(3, in_units=2), nn.Dense(2, in_units=3))
    net.initialize()
    with pytest.warns(UserWarning, match=r'in 1 layer: 0 \(Mine: weight\)\. own_blocks=True makes') as caught:
        new = to_bayesian(net)
    assert [warning.filename for warning in caught] == [__file__]
    assert type(new[0]) is Mine and type(new[1]) is BayesDense


def test_bad_arguments():
    plain, _ = nets.make('dense', bayesian=False)
    for kwargs, error, message in (
            (dict(sigma=0), ValueError, 'sigma must be positive'), (dict(sigma=np.nan), ValueError, 'sigma must be p'),
            (dict(fraction=-1.), ValueError, 'fraction must be positive'),
            (dict(fraction=0.1, floor=0), ValueError, 'floor must be positive'),
            (dict(prior=3), TypeError, 'prior must be an instance of Prior'),
            (dict(fraction=0.1, bias_prior=GaussianPrior()), ValueError, 'bias_prior needs a prior'),
            (dict(estimator='x'), ValueError, "estimator must be one of 'sample', 'local', 'flipout'"),
            (dict(kl='x'), ValueError, "kl must be 'auto' or 'sample'"),
            (dict(where=lambda name, layer: False), ValueError, 'at least one layer to become Bayesian')):
        with pytest.raises(error, match=message):
            to_bayesian(plain, **kwargs)
    with pytest.raises(TypeError, match='net must be a Gluon block'):
        to_bayesian('net')
    with pytest.raises(ValueError, match='at least one layer to become Bayesian'):
        to_bayesian(nn.BatchNorm())
    with pytest.raises(RuntimeError, match='initialize'):
        to_bayesian(nn.Dense(3, in_units=2))
    deferred = nn.Dense(3)
    deferred.initialize()
    with pytest.raises(gluon.parameter.DeferredInitializationError):
        to_bayesian(deferred)
    tied, _ = nets.make('tied', bayesian=False)
    with pytest.raises(ValueError, match='where must choose all layers that share Parameter .*weight'):
        to_bayesian(tied, where=lambda name, layer: name == '0')
    sparse = nn.Embedding(3, 2, sparse_grad=True)
    sparse.initialize()
    with pytest.raises(ValueError, match='dense gradients'):
        to_bayesian(sparse)
    half = nn.Dense(3, in_units=2, dtype='float16')
    half.initialize()
    with pytest.raises(ValueError, match='float32 or float64'):
        to_bayesian(half)
    plain[0].weight.set_data(nd.full(plain[0].weight.shape, np.nan))
    with pytest.raises(ValueError, match='weight must be finite'):
        to_bayesian(plain)
