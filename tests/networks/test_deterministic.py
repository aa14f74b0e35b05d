# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import copy

import mxnet as mx
import nets
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from bbb_layers import (BayesBlock, BayesConv2D, BayesDense, BBBLoss, GaussianPrior, draw, kl_divergence,
                        posterior_as_prior, predict, prune, pruning_curve, to_deterministic)
from bbb_layers._mxnet import tree
from bbb_layers.networks.plain import PlainCopy


@pytest.mark.parametrize('name', nets.NETWORKS)
@pytest.mark.parametrize('trained', [False, True])
def test_equals_predict_mode(name, trained, mode, tmp_path):
    net, x = nets.make(name)
    hybridize(net, mode)
    if trained:
        loss_fn = BBBLoss(net, 10, likelihood=nets.SumOfSquares())
        trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 1e-3})
        with autograd.record():
            loss = loss_fn(net(x), x)
        loss.backward()
        trainer.step(4)
    before, expected = nets.values(net), net(x).asnumpy()
    plain = to_deterministic(net)
    assert not any(isinstance(block, BayesBlock) for block in nets.blocks(plain))
    assert [type(block).__name__.replace('Bayes', '') for block in nets.blocks(net)] == [
        type(block).__name__ for block in nets.blocks(plain)]
    for _ in range(2):
        if 'transposed' in name:
            np.testing.assert_allclose(plain(x).asnumpy(), expected, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(plain(x).asnumpy(), expected)
        plain.hybridize()
    # A plain Gluon network of that shape has the same Parameters by the same names, and loads the file.
    fresh, _ = nets.make(name, bayesian=False)
    assert list(plain._collect_params_with_prefix()) == list(fresh._collect_params_with_prefix())
    plain.save_parameters(str(tmp_path / 'plain.params'))
    fresh.load_parameters(str(tmp_path / 'plain.params'))
    np.testing.assert_array_equal(fresh(x).asnumpy(), plain(x).asnumpy())
    names = list(plain.collect_params())
    assert names == [name for name in before if not name.endswith('_rho')]
    after = nets.values(net)
    assert before.keys() == after.keys() and all((before[key] == after[key]).all() for key in before)
    np.testing.assert_array_equal(net(x).asnumpy(), expected)


def test_references_stay_one():
    net, x = nets.make('dense')
    plain = to_deterministic(net)
    own = plain[1]
    assert own.first is own.alias is own.layers[0] is own._children['first'] and own.rest is own.layers[1]
    assert type(own.first) is nn.Dense and own.first.prefix == net[1].first.prefix
    assert repr(plain).count('Dense(') == 5 and 'prior' not in repr(plain)


def test_trains_on_as_a_plain_network(mode):
    net, x = nets.make('dense', prior=GaussianPrior(learnable=True))
    net = posterior_as_prior(net)       # its priors have Parameters
    plain = hybridize(to_deterministic(net), mode)
    trainer = gluon.Trainer(plain.collect_params(), 'sgd', {'learning_rate': 0.1})
    before = nets.values(plain)
    with autograd.record():
        loss = plain(x).square().sum()
    loss.backward()
    trainer.step(1)
    changed = {name for name, value in nets.values(plain).items() if (value != before[name]).any()}
    assert changed == {name for name in before if 'rho' not in name}
    assert not any('prior' in name or 'rho' in name for name in before)


def test_pruned_weights_are_zero(mode):
    net, x = nets.make('dense')
    hybridize(net, mode)
    prune(net, 0.5)
    # mu of a pruned weight can drift; its mean stays 0
    weight = net[0].weight
    weight.set_data(weight.data() + (weight.data() == 0))
    for plain in (to_deterministic(net), draw(net)):
        zeros = (plain[0].weight.data() == 0).asnumpy()
        assert zeros.sum() == (net[0].weight_rho.data() < -1e29).asnumpy().sum() > 0
    np.testing.assert_array_equal(to_deterministic(net)(x).asnumpy(), net(x).asnumpy())


def test_moments_of_draw():
    net, x = nets.make('tied', initial_sigma=0.3)
    n = 400
    draws = np.stack([draw(net)[0].weight.data().asnumpy() for _ in range(n)])
    mu = net[0].weight.data().asnumpy()
    assert abs(draws.mean(axis=0) - mu).max() < 5 * 0.3 / n ** 0.5
    assert abs(draws.std(axis=0) - 0.3).max() < 5 * 0.3 / (2 * n) ** 0.5
    correlation = np.corrcoef(draws.reshape(n, -1).T)
    assert abs(correlation - np.eye(16)).max() < 5 / n ** 0.5
    one = draw(net)
    assert one[0].weight is one[1].weight       # tied layers have one draw


def test_draw_follows_the_seed_and_is_the_same_on_all_contexts():
    net, _ = nets.make('tied')
    net.collect_params().reset_ctx([mx.cpu(0), mx.cpu(1)])
    mx.random.seed(5)
    first = draw(net)[0].weight
    assert [array.context for array in first.list_data()] == [mx.cpu(0), mx.cpu(1)] == [
        array.context for array in first.list_grad()]
    np.testing.assert_array_equal(first.data(mx.cpu(0)).asnumpy(), first.data(mx.cpu(1)).asnumpy())
    mx.random.seed(5)
    second, third = draw(net)[0].weight, draw(net)[0].weight
    np.testing.assert_array_equal(first.data(mx.cpu(0)).asnumpy(), second.data(mx.cpu(0)).asnumpy())
    assert (second.data(mx.cpu(0)) != third.data(mx.cpu(0))).asnumpy().all()


def test_draws_of_neighbouring_seeds_have_nothing_in_common():
    plain = PlainCopy(nets.make('tied')[0])

    def draws(seed):
        return [plain.net[0].weight.data().asnumpy() for _ in plain.draws(3, seed)]

    np.testing.assert_array_equal(draws(1), draws(1))
    each = [weight.tobytes() for seed in range(3) for weight in draws(seed)]
    assert len(set(each)) == 9


@pytest.mark.filterwarnings('ignore:Cannot decide type')
def test_exports(tmp_path):
    net, x = nets.make('conv2d')
    plain = to_deterministic(net)
    plain.hybridize()
    expected = plain(x).asnumpy()
    plain.export(str(tmp_path / 'net'))
    block = gluon.SymbolBlock.imports(str(tmp_path / 'net-symbol.json'), ['data'], str(tmp_path / 'net-0000.params'))
    np.testing.assert_array_equal(block(x).asnumpy(), expected)
    copy.deepcopy(to_deterministic(net)).summary(x)


@pytest.mark.filterwarnings('ignore:Cannot decide type')
def test_int8():
    from mxnet.contrib import quantization
    net = nn.HybridSequential()
    net.add(BayesConv2D(8, 3, activation='relu'), nn.MaxPool2D(), BayesDense(20, activation='relu'), BayesDense(10))
    net.initialize(mx.init.Xavier())
    x = nd.random.uniform(shape=(64, 1, 12, 12))
    net(x)
    plain = to_deterministic(net)
    plain.hybridize()
    expected = plain(x).asnumpy()
    loader = gluon.data.DataLoader(x, 16, batchify_fn=lambda items: [nd.stack(*items)])
    small = quantization.quantize_net_v2(plain, quantized_dtype='auto', calib_data=loader, calib_mode='naive',
                                         num_calib_examples=64, ctx=mx.cpu())
    output = small(x).asnumpy()
    assert 'quantized' in small._cached_graph[1].tojson()
    error = abs(output - expected).max() / abs(expected).max()
    assert 0 < error < 0.1
    assert (output.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.8


def test_a_layer_with_another_base_raises():
    class Loud:
        def hybrid_forward(self, F, x, **params):
            return 2 * super().hybrid_forward(F, x, **params)

    class Layer(BayesBlock, Loud, nn.Dense):
        pass

    net = Layer(3, in_units=2)
    net.initialize()
    with pytest.raises(TypeError, match='Layer, which derives from Loud too'):
        to_deterministic(net)


def test_own_block_becomes_plain():
    class Scale(gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.gain = self.params.get('gain', shape=(1, 3), init='ones')
                self.fixed = self.params.get_constant('fixed', nd.ones((1, 3)) * 2)

        def hybrid_forward(self, F, x, gain, fixed):
            return F.broadcast_mul(F.broadcast_mul(x, gain), fixed)

    class BayesScale(BayesBlock, Scale):
        pass

    net = BayesScale()
    net.initialize()
    plain = to_deterministic(net)
    assert type(plain) is Scale and list(plain.collect_params()) == [net.gain.name, net.fixed.name]
    np.testing.assert_array_equal(plain(nd.ones((1, 3))).asnumpy(), 2)


@pytest.mark.parametrize('convert', [to_deterministic, draw])
def test_bad_networks(convert):
    with pytest.raises(ValueError, match='at least one Bayesian layer'):
        convert(nn.Dense(3))
    with pytest.raises(TypeError, match='must be a Gluon block'):
        convert(3)
    with pytest.raises(RuntimeError, match='initialize'):
        convert(BayesDense(3, in_units=2))
    deferred = BayesDense(3)
    deferred.initialize()
    with pytest.raises(gluon.parameter.DeferredInitializationError):
        convert(deferred)
    net = BayesDense(3, in_units=2)
    net.initialize()
    for name, value in (('weight', np.nan), ('weight', np.inf), ('weight_rho', np.nan), ('bias_rho', np.inf)):
        broken = copy.deepcopy(net)
        param = getattr(broken, name)
        param.set_data(nd.full(param.shape, value))
        what = '{} of Parameter {} must be finite'.format(
            'sigma' if name.endswith('rho') else 'mu', getattr(broken, name.replace('_rho', '')).name)
        with pytest.raises(ValueError, match=what):
            convert(broken)
    assert np.isfinite(kl_divergence(net).asscalar())


@pytest.mark.parametrize('copied', [to_deterministic, draw, posterior_as_prior])
def test_a_copy_made_while_recording_can_be_trained(copied, mode):
    net, x = nets.make('dense')
    hybridize(net, mode)
    with autograd.record():
        output = net(x)
        new = copied(net)
    output.backward()
    for _ in range(2):
        with autograd.record():
            loss = new(x).sum()
        loss.backward()
    assert abs(new[0].weight.grad()).sum().asscalar() > 0


def test_a_loss_that_comes_before_its_network(mode):
    """The copy of a loss must not keep the copy of what holds both from having a network of its own."""
    class Both(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            net = BayesDense(3, in_units=4)
            self.loss = BBBLoss(net, 10)
            self.net = net

        def hybrid_forward(self, F, x):
            return self.net(x)

    both, x = Both(), nd.ones((2, 4))
    both.initialize()
    hybridize(both, mode)
    both(x)
    for copied in (to_deterministic, posterior_as_prior, draw, lambda net: tree.copy_block(net, {})):
        new = copied(both)
        assert new.net is not both.net and new.net.weight is not both.net.weight
        new(x)
    assert new.loss._net.block is new.net
    before = both(x).asnumpy()
    pruning_curve(both, [0.9], lambda net: net(x))
    np.testing.assert_array_equal(both(x).asnumpy(), before)
    assert copy.deepcopy(both.loss)._net.block is both.net      # of a loss alone


def test_methods_that_a_bayesian_class_overrides():
    class Doubled(BayesDense):
        def forward(self, x):
            return 2 * super().forward(x)

    net = Doubled(3, in_units=2)
    net.initialize()
    with pytest.raises(TypeError, match=r'then class Doubled\(BayesBlock, X\) \(saw: Doubled.forward\)'):
        to_deterministic(net)

    class Named(BayesDense):
        def __init__(self, units):
            super().__init__(units, in_units=2)

        def width(self):
            return self._units

    net = Named(3)
    net.initialize()
    assert type(to_deterministic(net)) is nn.Dense


def test_two_attributes_for_one_parameter():
    class Gain(gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.w = self.params.get('w', shape=(1, 3), init='ones')
                self.again = self.w

        def hybrid_forward(self, F, x, w, again):
            return F.broadcast_mul(F.broadcast_mul(x, w), again)

    class BayesGain(BayesBlock, Gain):
        pass

    net = BayesGain(prior=GaussianPrior(learnable=True))
    net.initialize()
    for new in (to_deterministic(net), posterior_as_prior(posterior_as_prior(net))):
        np.testing.assert_array_equal(new(nd.ones((1, 3))).asnumpy(), 1)
    drawn = draw(net)
    assert drawn.w is drawn.again
    np.testing.assert_allclose(drawn(nd.ones((1, 3))).asnumpy(), drawn.w.data().asnumpy() ** 2, rtol=1e-6)


@pytest.mark.filterwarnings('ignore:Cannot decide type')
def test_imported_network_with_a_bayesian_head(tmp_path):
    features = nn.HybridSequential()
    features.add(nn.Dense(5, activation='relu', in_units=4))
    features.initialize()
    features.hybridize()
    x = nd.random.normal(shape=(2, 4))
    features(x)
    features.export(str(tmp_path / 'features'))
    net = nn.HybridSequential()
    net.add(gluon.SymbolBlock.imports(str(tmp_path / 'features-symbol.json'), ['data'],
                                      str(tmp_path / 'features-0000.params')), BayesDense(3, in_units=5))
    net[1].initialize()
    for hybrid in (False, True):
        net.hybridize(hybrid)
        expected = net(x).asnumpy()
        for new in (to_deterministic(net), posterior_as_prior(net)):
            np.testing.assert_array_equal(new(x).asnumpy(), expected)
        assert predict(net, x, num_samples=2).shape == (2, 2, 3)


def test_a_plain_layer_that_shares_a_drawn_parameter():
    net = nn.HybridSequential()
    net.add(BayesDense(3, in_units=3))
    net.add(nn.Dense(3, in_units=3, params=net[0].params))
    net.initialize()
    x = nd.ones((2, 3))
    np.testing.assert_array_equal(to_deterministic(net)(x).asnumpy(), net(x).asnumpy())
    with pytest.raises(ValueError, match='must not share Parameter .*_weight, which is drawn, with a'):
        draw(net)


def test_drawn_parameter_in_a_list_of_a_plain_block():
    class Tied(gluon.Block):
        def __init__(self, params):
            super().__init__(params=params)
            self.weights = [self.params.get('weight')]

        def forward(self, x):
            return nd.dot(x, self.weights[0].data())

    net = nn.Sequential()
    net.add(BayesDense(4, in_units=4))
    net.add(Tied(net[0].params))
    net.initialize()
    with pytest.raises(ValueError, match='must not share Parameter .*_weight, which is drawn, with a'):
        draw(net)
