# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import math

import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from bbb_layers import (BayesDense, BBBLoss, GaussianPrior, LaplacePrior, StudentTPrior, kl_divergence, prune,
                        pruning_curve, signal_to_noise)
from bbb_layers.posterior.gaussian import PRUNED_RHO

SIZE = 5 * 6 + 5 + 3 * 5 + 3


def make(ctx=None):
    net = nn.HybridSequential()
    net.add(BayesDense(5, activation='relu', bias_initializer=mx.init.Normal(0.5), prior=GaussianPrior(), in_units=6),
            nn.Dense(5, in_units=5), BayesDense(3, bias_initializer=mx.init.Normal(0.5), in_units=5))
    net.initialize(mx.init.Normal(0.5), ctx=ctx)
    for param in net.collect_params('.*_rho$').values():
        param.set_data(nd.random.normal(-1, 1, shape=param.shape))
    return net


def ratios(net):
    return np.concatenate([ratio.asnumpy().ravel() for ratio in signal_to_noise(net).values()])


def pruned(net):
    return np.concatenate([value.asnumpy().ravel() == 0 for layer in (net[0], net[2])
                           for value, _ in layer.posterior().values()])


def test_signal_to_noise():
    net = make()
    result = signal_to_noise(net)
    assert list(result) == [net[0].weight.name, net[0].bias.name, net[2].weight.name, net[2].bias.name]
    for layer in (net[0], net[2]):
        for name in ('weight', 'bias'):
            mu, sigma = (value.asnumpy() for value in layer.posterior()[name])
            np.testing.assert_allclose(result[getattr(layer, name).name].asnumpy(), abs(mu) / sigma, rtol=1e-6)


@pytest.mark.parametrize('fraction', [0, 0., 0.1, 0.29, 0.5, 0.75, 0.999, 1, 1.])
def test_prunes_exactly_the_lowest_ratios(fraction):
    net = make()
    before = ratios(net)
    count = math.floor(SIZE * fraction + 1e-9)
    assert prune(net, fraction) == count
    expected = np.zeros(SIZE, bool)
    expected[np.argsort(before)[:count]] = True
    np.testing.assert_array_equal(pruned(net), expected)
    np.testing.assert_array_equal(ratios(net), np.where(expected, 0, before))
    np.testing.assert_array_equal(net[0].weight.data().asnumpy().ravel() == 0, expected[:30])


def test_pruning_in_steps_is_pruning_at_once():
    net, other = make(), make()
    for name, param in net._collect_params_with_prefix().items():
        other._collect_params_with_prefix()[name].set_data(param.data())
    for fraction in (0.1, 0.25, 0.5, 0.5, 0.75):
        prune(net, fraction)
    prune(other, 0.75)
    np.testing.assert_array_equal(pruned(net), pruned(other))
    with pytest.raises(ValueError, match=r'fraction must be at least 39 / 53, .* \(saw: 0.5\)'):
        prune(net, 0.5)


def test_fraction_is_taken_as_written():
    net = BayesDense(10, in_units=9)
    net.initialize(mx.init.Normal(1.))
    assert prune(net, 0.29) == 29       # 0.29 * 100 is 28.999999999999996
    assert prune(net, 29 / 100) == 29


def test_ties_are_pruned_in_the_order_of_the_parameters():
    net = BayesDense(4, in_units=1, weight_initializer='ones', bias_initializer='ones')
    net.initialize()
    assert prune(net, 0.5) == 4
    assert (net.posterior()['weight'][0].asnumpy() == 0).all() and (net.posterior()['bias'][0].asnumpy() == 1).all()
    net = BayesDense(4, in_units=1, weight_initializer='zeros')
    net.initialize()
    assert prune(net, 0.25) == 2    # alive weights with mu = 0 are not taken for pruned ones
    assert (net.posterior()['weight'][1].asnumpy() == 0).sum() == 2


@pytest.mark.parametrize('size', [40, 1000, 5001])
@pytest.mark.parametrize('steps', [1, 2])
def test_of_many_ties_the_first_are_pruned(size, steps):
    """Catches a sort that is not stable; NumPy's sorts are stable for up to 16 numbers, whatever their kind."""
    net = BayesDense(size, in_units=1, use_bias=False, weight_initializer='ones')
    net.initialize()
    for step in range(1, steps + 1):
        count = size // 2 * step // steps
        assert prune(net, count / size) == count
        values = net.posterior()['weight'][0].asnumpy().ravel()
        np.testing.assert_array_equal(values, np.arange(size) >= count)


@pytest.mark.parametrize('reload', [False, True])
def test_pruned_weights_stay_zero(mode, reload, tmp_path):
    net = hybridize(make(), mode)
    loss_fn = BBBLoss(net, 10)
    x, y = nd.random.normal(shape=(8, 6)), nd.array(np.random.randint(0, 3, 8))
    trainer = gluon.Trainer(net.collect_params(), 'adam', {'learning_rate': 0.01, 'wd': 0.01})

    def step():
        with autograd.record():
            loss = loss_fn(net(x), y)
        loss.backward()
        return loss

    step()      # momentum that moves mu on after pruning
    trainer.step(8)
    prune(net, 0.6)
    mask = pruned(net)
    if reload:
        net.save_parameters(str(tmp_path / 'pruned.params'))
        net = hybridize(make(), mode)
        loss_fn = BBBLoss(net, 10)
        net(x)
        net.load_parameters(str(tmp_path / 'pruned.params'))
        trainer = gluon.Trainer(net.collect_params(), 'adam', {'learning_rate': 0.01, 'wd': 0.01})
    for _ in range(4):
        loss = step()
        gradients = [np.concatenate([getattr(layer, name + suffix).grad().asnumpy().ravel()
                                     for layer in (net[0], net[2]) for name in ('weight', 'bias')])
                     for suffix in ('', '_rho')]
        for gradient in gradients:
            assert (gradient[mask] == 0).all() and abs(gradient[~mask]).max() > 0
        trainer.step(8)
        np.testing.assert_array_equal(pruned(net), mask)
        assert np.isfinite(loss.asnumpy()).all()
    # every draw and the mean: an output depends on no pruned weight
    net[2].weight_rho.set_data(nd.full((3, 5), PRUNED_RHO))
    net[2].bias_rho.set_data(nd.full((3,), PRUNED_RHO))
    for train_mode in (False, True):
        with autograd.train_mode() if train_mode else autograd.predict_mode():
            np.testing.assert_array_equal(net(x).asnumpy(), np.zeros((8, 3)))


def test_pruned_weights_add_no_kl(mode):
    net = hybridize(make(), mode)[0]
    loss_fn = BBBLoss(net, 10, likelihood=gluon.loss.L2Loss())
    prune(net, 0.5)
    mu, sigma = (np.concatenate([pair[i].asnumpy().ravel() for pair in net.posterior().values()]) for i in (0, 1))
    alive = sigma > 0
    expected = (-np.log(sigma[alive]) + (sigma[alive] ** 2 + mu[alive] ** 2) / 2 - 0.5).sum()
    np.testing.assert_allclose(kl_divergence(net).asscalar(), expected, rtol=1e-5)
    for _ in range(2):
        with autograd.record():
            loss_fn(net(nd.ones((2, 6))), nd.ones((2, 5)))
        np.testing.assert_allclose(loss_fn.kl.asscalar(), expected, rtol=1e-5)


def test_everything_pruned(mode):
    net = hybridize(make(), mode)
    loss_fn = BBBLoss(net, 10)
    assert prune(net, 1.) == SIZE
    assert kl_divergence(net).asscalar() == 0
    with autograd.record():
        loss = loss_fn(net(nd.ones((2, 6))), nd.zeros(2))
    loss.backward()
    np.testing.assert_allclose(loss.asnumpy(), math.log(3), rtol=1e-5)
    np.testing.assert_array_equal(net[0].weight.grad().asnumpy(), np.zeros((5, 6)))


def test_on_every_context():
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = make(contexts)
    prune(net, 0.5)
    for layer in (net[0], net[2]):
        for name in ('weight', 'bias'):
            np.testing.assert_array_equal(*[layer.posterior(ctx)[name][0].asnumpy() for ctx in contexts])
    assert pruned(net).sum() == SIZE // 2


def test_shared_parameters_count_once():
    one = BayesDense(4, in_units=4)
    two = BayesDense(4, in_units=4, params=one.params)
    net = nn.HybridSequential()
    net.add(one, two)
    net.initialize(mx.init.Normal(1.))
    assert prune(net, 0.5) == 10


@pytest.mark.parametrize('fraction', [-0.1, 1.0001, math.nan, math.inf, '0.5', True])
def test_bad_fractions(fraction):
    net = make()
    with pytest.raises((ValueError, TypeError), match='fraction must be'):
        prune(net, fraction)
    assert pruned(net).sum() == 0


def test_nan_changes_nothing():
    for param in ('weight', 'bias_rho'):
        net = make()
        net[2].__dict__[param].set_data(nd.full(net[2].__dict__[param].shape, math.nan))
        for function in (lambda: prune(net, 0.5), lambda: signal_to_noise(net)):
            with pytest.raises(ValueError, match='must not be NaN'):
                function()
        assert pruned(net)[:30].sum() == 0


def test_errors():
    with pytest.raises(ValueError, match='at least one Bayesian layer'):
        prune(nn.Dense(3), 0.5)
    layer = BayesDense(3)
    for function in (lambda: prune(layer, 0.5), lambda: signal_to_noise(layer)):
        with pytest.raises(RuntimeError, match='has not been initialized'):
            function()
    layer.initialize()
    with pytest.raises(gluon.parameter.DeferredInitializationError):
        prune(layer, 0.5)


def test_parts_are_ranked_for_themselves():
    net = make()
    first, last = (np.concatenate([value.asnumpy().ravel() for value in signal_to_noise(layer).values()])
                   for layer in (net[0], net[2]))
    assert prune(net, {net[0]: 0.5, net[2]: 0.25}) == 17 + 4
    expected = [np.isin(np.arange(part.size), np.argsort(part)[:count]) for part, count in ((first, 17), (last, 4))]
    np.testing.assert_array_equal(pruned(net), np.concatenate(expected))
    # What is not named stays; what was pruned counts.
    assert prune(net, {net[2]: 0.5}) == 17 + 9
    np.testing.assert_array_equal(pruned(net)[:35], expected[0])
    with pytest.raises(ValueError, match='fraction must be at least 9 / 18'):
        prune(net, {net[2]: 0.4})
    other = make()
    values = ratios(other)
    assert prune(other, {other: 0.5}) == SIZE // 2      # a part may be all of it
    np.testing.assert_array_equal(pruned(other), np.isin(np.arange(SIZE), np.argsort(values)[:SIZE // 2]))


def test_threshold():
    net = make()
    before = ratios(net)
    cut = float(np.sort(before)[20])
    assert prune(net, threshold=cut) == 20
    np.testing.assert_array_equal(pruned(net), before < np.float32(cut))
    assert prune(net, threshold=0) == 20        # those that were pruned stay so
    assert prune(net, 0.5) == SIZE // 2
    assert prune(net, threshold=1e9) == SIZE


@pytest.mark.parametrize('kwargs,error,message', [
    (dict(), TypeError, 'either fraction or threshold'),
    (dict(fraction=0.5, threshold=1.), TypeError, 'either fraction or threshold'),
    (dict(threshold=-1), ValueError, 'threshold must be finite and at least 0'),
    (dict(threshold=float('nan')), ValueError, 'threshold must be finite and at least 0'),
])
def test_bad_thresholds(kwargs, error, message):
    net = make()
    with pytest.raises(error, match=message):
        prune(net, **kwargs)
    assert not pruned(net).any()


def test_bad_parts_change_nothing():
    net, other = make(), make()
    tied = nn.HybridSequential()
    tied.add(net, nn.HybridSequential())
    tied[1].add(net[0])
    for whole, fraction, message in ((net, {other[0]: 0.5}, 'must be of parts of net'),
                                     (net, {net[0]: 0.5, net[1]: 0.5}, 'at least one Bayesian layer'),
                                     (net, {net[0]: 0.5, net: 0.5}, 'share no Parameter'),
                                     (net, {net[0]: 0.5, net[2]: 1.5}, 'fraction must be between 0 and 1'),
                                     (tied, {tied[0]: 0.5, tied[1]: 0.5}, 'share no Parameter')):
        with pytest.raises(ValueError, match=message):
            prune(whole, fraction)
        assert not pruned(net).any()


def test_pruning_curve(mode):
    net = hybridize(make(), mode)
    x = nd.ones((2, 6))
    net(x)
    before = net(x).asnumpy()
    seen = []

    def evaluate(new):
        seen.append(new)
        new.collect_params().setattr('grad_req', 'null')        # whatever it does to its network
        result = pruned(new).sum(), new(x).asnumpy()
        new[0].weight.set_data(nd.zeros((5, 6)))
        return result

    counts, outputs = zip(*pruning_curve(net, [0.9, 0, 0.5], evaluate))
    assert counts == (math.floor(SIZE * 0.9), 0, SIZE // 2) and len(set(seen)) == 3 and net not in seen
    np.testing.assert_array_equal(outputs[1], before)
    np.testing.assert_array_equal(net(x).asnumpy(), before)
    assert not pruned(net).any() and net[0].weight.grad_req == 'write'
    prune(net, 0.5)
    np.testing.assert_array_equal(outputs[2], net(x).asnumpy())
    seen.clear()
    for fractions, message in (([0.6, 0.4], 'at least 26 / 53'), ([0.6, 2], 'between 0 and 1')):
        with pytest.raises(ValueError, match=message):
            pruning_curve(net, fractions, evaluate)
        assert not seen


@pytest.mark.costly
def test_fine_tuning():
    """A pruned network learns what it has left to learn with, and stays pruned."""
    net, x = make(), nd.random.normal(shape=(32, 6))
    label = (x[:, 0] > 0) * 2
    prune(net, 0.5)
    zeros = pruned(net)
    loss_fn = BBBLoss(net, 1000)
    trainer = gluon.Trainer(net.collect_params(), 'adam', {'learning_rate': 0.02})
    course = []
    for _ in range(150):
        with autograd.record():
            loss = loss_fn(net(x), label)
        loss.backward()
        trainer.step(32)
        course.append(loss_fn.nll.mean().asscalar())
    np.testing.assert_array_equal(pruned(net), zeros)
    assert np.mean(course[-10:]) < 0.6 * np.mean(course[:10])


@pytest.mark.parametrize('prior', [LaplacePrior(), StudentTPrior(), GaussianPrior(learnable=True)], ids=repr)
def test_training_on_with_other_priors(prior, mode):
    net = BayesDense(2, in_units=3, prior=prior)
    net.initialize()
    hybridize(net, mode)
    loss_fn = BBBLoss(net, 10)
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.01})
    assert prune(net, 0.5) == 4
    for _ in range(3):
        with autograd.record():
            loss = loss_fn(net(nd.ones((4, 3))), nd.zeros(4))
        loss.backward()
        trainer.step(4)
    assert all(np.isfinite(param.data().asnumpy()).all() for param in net.collect_params().values())
    assert prune(net, 0.5) == 4 and np.isfinite(net(nd.ones((4, 3))).asnumpy()).all()


def test_under_record():
    net, x = make(), nd.ones((2, 6))
    with autograd.record():
        output = net(x)
        assert prune(net, 0.5) == SIZE // 2
    output.backward()
    assert pruned(net).sum() == SIZE // 2
