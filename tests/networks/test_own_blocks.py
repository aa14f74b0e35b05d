# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Blocks that this package has no layer for: what to_bayesian makes of them, and what it says of the others."""
import copy
import pickle
import warnings

import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import Block, HybridBlock, nn, rnn

from bbb_layers import (BayesBlock, BayesDense, BayesEmbedding, BayesGRUCell, BBBLoss, GaussianNLLLoss, GaussianPrior,
                        SparseDense, checkpoint, draw, kl_divergence, posterior_as_prior, posterior_summary,
                        predict, prune, to_bayesian, to_deterministic)
from bbb_layers.forward.draw import Request
from bbb_layers.forward.frames import one_forward
from bbb_layers.layers.transposed import TransposedByConvolution
from bbb_layers.networks.own_blocks import bayesian_class


class Attention(HybridBlock):
    """Self-attention with Parameters of its own, and, as some libraries' have, own names for files."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.query_weight = self.params.get('query_weight', shape=(units, units))
            self.key_weight = self.params.get('key_weight', shape=(units, units))
            self.scale = self.params.get('scale', shape=(1,), init='ones', grad_req='null')
            self.value = nn.Dense(units, in_units=units, flatten=False)

    def hybrid_forward(self, F, x, query_weight, key_weight, scale):
        query, key = F.dot(x, query_weight), F.dot(x, key_weight)
        scores = F.broadcast_mul(F.batch_dot(query, key, transpose_b=True), F.reshape(scale, shape=(1, 1, 1)))
        return F.batch_dot(F.softmax(scores), self.value(x))

    def _collect_params_with_prefix(self, prefix=''):
        prefix += '.' * bool(prefix)
        names = {'query_weight': 'proj_query.weight', 'key_weight': 'proj_key.weight', 'scale': 'scale'}
        found = {prefix + names[name]: param for name, param in self._reg_params.items()}
        found.update(super()._collect_params_with_prefix.__func__(self.value, prefix + 'value'))
        return found


class Positions(HybridBlock):
    def __init__(self, length, units, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.weight = self.params.get('weight', shape=(1, length, units))

    def hybrid_forward(self, F, x, weight):
        return F.broadcast_add(x, weight)


class MyDense(nn.Dense):
    """As gluonts' and others' layers that only set defaults."""


class Standardized(nn.Dense):
    """Weight standardization: linear in the input, but its weights are not those of a Dense layer."""

    def hybrid_forward(self, F, x, weight, bias=None):
        weight = F.broadcast_sub(weight, F.mean(weight, axis=1, keepdims=True))
        return super().hybrid_forward(F, x, weight, bias) * 2


class MyConv(nn.Conv2D):
    pass


class MyTransposed(nn.Conv2DTranspose):
    pass


class Odd(nn.Conv2DTranspose):
    def hybrid_forward(self, F, x, weight, bias=None):
        return super().hybrid_forward(F, x, F.square(weight), bias)


class MyLSTM(rnn.LSTM):
    pass


class MyCell(rnn.GRUCell):
    pass


class ByForward(Block):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.transitions = self.params.get('transitions', shape=(4, 4))

    def forward(self, x):
        return nd.dot(x, self.transitions.data())


class Hidden(HybridBlock):
    """A block whose Parameter is no attribute: hybrid_forward is not handed it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.params.get('table', shape=(4, 4))

    def hybrid_forward(self, F, x):
        return F.dot(x, self.params.get('table').var() if F is mx.sym else self.params.get('table').data())


BLOCKS = {
    'attention': (lambda: Attention(4), (2, 3, 4)), 'positions': (lambda: Positions(3, 4), (2, 3, 4)),
    'layer norm': (lambda: nn.LayerNorm(in_channels=4), (2, 3, 4)), 'prelu': (lambda: nn.PReLU(), (2, 3, 4)),
    'group norm': (lambda: nn.GroupNorm(num_groups=2), (2, 4, 3)),
    'my dense': (lambda: MyDense(5, in_units=4, activation='relu', flatten=False), (2, 3, 4)),
    'standardized': (lambda: Standardized(5, in_units=4, activation='relu', flatten=False), (2, 3, 4)),
    'my conv': (lambda: MyConv(5, 3, in_channels=2), (2, 2, 5, 5)),
    'my transposed': (lambda: MyTransposed(16, 3, in_channels=16), (2, 16, 4, 4)),
    'my lstm': (lambda: MyLSTM(5, input_size=4), (3, 2, 4)),
}


def make(name, mode=None, wrapped=True):
    make_block, shape = BLOCKS[name]
    net = nn.HybridSequential() if wrapped else make_block()
    if wrapped:
        net.add(make_block())
    net.initialize(mx.init.Normal(0.5))
    x = nd.random.normal(shape=shape)
    net(x)      # GroupNorm finds its shapes out here
    return hybridize(net, mode), x


@pytest.mark.parametrize('wrapped', [True, False], ids=['inside', 'itself'])
@pytest.mark.parametrize('name', BLOCKS)
def test_there_and_back(name, wrapped, mode, tmp_path):
    """The mean is the plain block's output, noise reaches the output and rho, and the plain block comes out again."""
    plain, x = make(name, mode, wrapped)
    kind, expected = type(plain[0] if wrapped else plain), plain(x).asnumpy()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        net = to_bayesian(plain, prior=GaussianPrior(), sigma=0.1, own_blocks=True)
    block = net[0] if wrapped else net
    assert type(block).__name__ == 'Bayes' + kind.__name__ and isinstance(block, kind)
    # Transposed convolutions run another operator.
    close = dict(rtol=1e-4, atol=1e-5) if name == 'my transposed' else dict(rtol=0, atol=0)
    np.testing.assert_allclose(net(x).asnumpy(), expected, **close)
    loss_fn = BBBLoss(net, num_train=100, likelihood=gluon.loss.L2Loss())
    draws = []
    for _ in range(3):
        with autograd.record():
            output = net(x)
            loss = loss_fn(output.reshape((output.shape[0], -1)), nd.zeros((output.shape[0], output[0].size)))
        loss.backward()
        draws.append(output.asnumpy())
        assert loss_fn.kl.asscalar() == pytest.approx(kl_divergence(net).asscalar(), rel=1e-5)
    assert (draws[0] != draws[1]).mean() > 0.3 and (draws[1] != draws[2]).mean() > 0.3
    assert abs(draws[0] - expected).max() < 20
    for param_name, rho in block._rhos.items():
        assert rho.grad().abs().sum().asscalar() > 0, param_name
    assert (net(x).asnumpy() == net(x).asnumpy()).all()
    again = to_deterministic(net)
    assert type(again[0] if wrapped else again) is kind
    np.testing.assert_array_equal(again(x).asnumpy(), expected)
    assert predict(net, x, num_samples=2, batch_axis=1 if name == 'my lstm' else 0).shape == (2,) + expected.shape
    # Another network of this class has the same Bayesian class.
    assert type(to_bayesian(make(name)[0], own_blocks=True)[0]) is type(block)


@pytest.mark.parametrize('name', BLOCKS)
def test_files_and_copies(name, tmp_path):
    plain, x = make(name)
    net = to_bayesian(plain, sigma=0.1, own_blocks=True)
    for rho in net[0]._rhos.values():
        rho.set_data(nd.random.normal(shape=rho.shape))
    other = to_bayesian(make(name)[0], own_blocks=True)
    net.save_parameters(str(tmp_path / 'params'))
    other.load_parameters(str(tmp_path / 'params'))
    third = to_bayesian(make(name)[0], own_blocks=True)
    checkpoint.save_checkpoint(tmp_path / 'checkpoint', net)
    checkpoint.load_checkpoint(tmp_path / 'checkpoint', third)
    fourth = to_bayesian(make(name)[0], own_blocks=True)
    plain.save_parameters(str(tmp_path / 'plain'))
    fourth.load_parameters(str(tmp_path / 'plain'), allow_missing=True)
    np.testing.assert_array_equal(fourth(x).asnumpy(), net(x).asnumpy())
    tapped = copy.deepcopy(net)
    BBBLoss(tapped, 10)
    for new in (other, third, copy.deepcopy(tapped), copy.copy(net), pickle.loads(pickle.dumps(net)),
                posterior_as_prior(net)):
        assert type(new[0]) is type(net[0])
        np.testing.assert_array_equal(new(x).asnumpy(), net(x).asnumpy())
        for param, (mu, sigma) in net[0].posterior().items():
            np.testing.assert_array_equal(new[0].posterior()[param][0].asnumpy(), mu.asnumpy())
            np.testing.assert_array_equal(new[0].posterior()[param][1].asnumpy(), sigma.asnumpy())
    drawn = draw(net)
    assert type(drawn[0]) is type(plain[0]) and (drawn(x) != net(x)).sum().asscalar() > 0
    prune(net, 1.)
    assert all((mu == 0).asnumpy().all() for mu, _ in net[0].posterior().values())


def test_names_in_files_are_the_blocks_own():
    """Some blocks name their Parameters anew in files, by tables that know of no rho."""
    net = to_bayesian(make('attention')[0], prior=GaussianPrior(learnable=True), own_blocks=True)
    names = set(net._collect_params_with_prefix())
    for name in ('0.proj_query.weight', '0.proj_key.weight'):
        assert names.issuperset({name, name + '_rho', name + '_prior_mu', name + '_prior_rho'})
    assert '0.value.weight_rho' in names and '0.scale' in names and '0.scale_rho' not in names
    assert len(names) == len(net.collect_params().keys())


def test_names_in_files_after_weight_dropout():
    """A Parameter that was put in the place of a mean has its rho in the files all the same."""
    net = to_bayesian(make('attention')[0], own_blocks=True)
    block = net[0]

    class Other(gluon.Parameter):
        pass

    old = block._reg_params['query_weight']
    new = Other(old.name, shape=old.shape)
    new.initialize()
    block._reg_params['query_weight'] = block.params._params[old.name] = new
    assert {'0.proj_query.weight', '0.proj_query.weight_rho'} <= set(net._collect_params_with_prefix())


def test_cells_that_compute_otherwise():
    """A derived cell has one draw for an unrolled sequence, also where it overrides hybrid_forward."""
    class Halved(rnn.GRUCell):
        def hybrid_forward(self, F, inputs, states, **params):
            output, states = super().hybrid_forward(F, inputs, states, **params)
            return output * 0.5, states

    class Squared(nn.Embedding):
        def hybrid_forward(self, F, x, weight):
            return super().hybrid_forward(F, x, weight).square()

    for plain, bayesian in ((Halved(5, input_size=4), BayesGRUCell), (Squared(3, 2), BayesEmbedding)):
        assert bayesian_class(plain, own_blocks=True).__bases__[:-1] == bayesian.__bases__[:-1]
    plain = Halved(5, input_size=4)
    plain.initialize()
    net = to_bayesian(plain, sigma=0.5, own_blocks=True)
    inputs, states = nd.ones((2, 4)), [nd.zeros((2, 5))]
    with autograd.train_mode(), one_forward(net, [inputs]):
        first, second = net(inputs, states)[0], net(inputs, states)[0]
    assert (first == second).asnumpy().all() and (first != plain(inputs, states)[0]).asnumpy().any()


def test_weights_beside_the_attributes_of_a_chosen_block():
    """A block can hold weights that hybrid_forward is not handed, beside those that it is."""
    class Both(Positions):
        def __init__(self, **kwargs):
            super().__init__(3, 4, **kwargs)
            with self.name_scope():
                self.params.get('table', shape=(4, 4))

    net = nn.HybridSequential()
    net.add(Both())
    net.initialize()
    with pytest.warns(UserWarning, match=r'in 1 layer: 0 \(Both: both\d+_table\)\. They do not take'):
        assert type(to_bayesian(net, own_blocks=True)[0]).__name__ == 'BayesBoth'


def test_cells():
    plain = MyCell(5, input_size=4)
    plain.initialize()
    net = to_bayesian(plain, sigma=0.3, own_blocks=True)
    inputs = nd.random.normal(shape=(2, 3, 4))
    np.testing.assert_array_equal(net.unroll(3, inputs, merge_outputs=True)[0].asnumpy(),
                                  plain.unroll(3, inputs, merge_outputs=True)[0].asnumpy())
    with autograd.train_mode():     # one draw serves all steps: equal steps of equal states have equal outputs
        first, states = net(inputs[:, 0], net.begin_state(2))
        assert (first != plain(inputs[:, 0], plain.begin_state(2))[0]).asnumpy().all()
    assert type(to_deterministic(net)) is MyCell


@pytest.mark.parametrize('cell, shape', [
    (lambda: gluon.contrib.rnn.LSTMPCell(3, 2, input_size=4), (4, 2, 4)),
    (lambda: gluon.contrib.rnn.Conv1DGRUCell((2, 5), 2, 3, 3, i2h_pad=1), (4, 2, 2, 5))], ids=['LSTMP', 'Conv1DGRU'])
def test_other_cells_have_one_draw(cell, shape, monkeypatch):
    """An unrolled sequence has one draw also in cells that derive from none that this package has, and without a
    BBBLoss."""
    drawn, make = [], Request.make
    monkeypatch.setattr(Request, 'make', lambda self, *args: drawn.append(self.rho) or make(self, *args))
    plain = cell()
    plain.initialize()
    net = to_bayesian(plain, sigma=0.3, own_blocks=True)
    with autograd.train_mode():
        net.unroll(4, nd.ones(shape), layout='TNC')
    assert len(drawn) == len(set(drawn)) == len(net._rhos) > 0
    assert type(to_deterministic(net)) is type(plain)


def test_names_of_a_bayesian_layer_that_mean_something_else():
    """The layer's own would replace a block's method or hide its attribute."""
    class WithAttribute(Positions):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.prior = True

        def hybrid_forward(self, F, x, weight):
            return super().hybrid_forward(F, x, weight) * (2 if self.prior is True else 1)

    class WithMethod(Positions):
        def posterior(self, ctx=None):
            return 2

        def hybrid_forward(self, F, x, weight):
            return super().hybrid_forward(F, x, weight) * self.posterior()

    for cls in (WithAttribute, WithMethod):
        net = nn.HybridSequential()
        net.add(cls(3, 4), nn.Dense(2, in_units=4, flatten=False))
        net.initialize(mx.init.Normal(0.5))
        x = nd.random.normal(shape=(2, 3, 4))
        with pytest.warns(UserWarning, match=r'in 1 layer: 0 \(With\w+: weight\).* have a name of a Bayesian layer'):
            new = to_bayesian(net, own_blocks=True)
        assert type(new[0]) is cls
        np.testing.assert_allclose(new(x).asnumpy(), net(x).asnumpy(), rtol=1e-5)
    with pytest.raises(TypeError, match=r'must have its own posterior, .* \(saw: WithMethod.posterior\)'):
        type('BayesWithMethod', (BayesBlock, WithMethod), {})


def test_estimators_of_derived_layers():
    """A class that computes its output in another way than the layer may not be linear in its weights."""
    def estimator_of(name):
        return to_bayesian(make(name)[0], own_blocks=True, estimator='flipout')[0]._estimator

    assert [estimator_of(name) for name in ('my dense', 'my conv', 'my transposed', 'standardized', 'positions')] == [
        'flipout', 'flipout', 'flipout', 'sample', 'sample']
    # The activation of the layer, and what the class does after it, come in the right order.
    plain, x = make('standardized')
    net = to_bayesian(plain, sigma=1e-6, own_blocks=True)
    with autograd.train_mode():
        np.testing.assert_allclose(net(x).asnumpy(), plain(x).asnumpy(), atol=1e-3)
    assert TransposedByConvolution in type(to_bayesian(make('my transposed')[0], own_blocks=True)[0]).__mro__


def test_what_stays_plain_is_named():
    net = nn.Sequential()
    net.add(nn.Dense(4, in_units=4), ByForward(), Hidden(), nn.BatchNorm(in_channels=4), nn.LayerNorm(in_channels=4),
            Odd(2, 3, in_channels=2), MyDense(3, in_units=2), nn.Embedding(3, 2))
    net.initialize()
    net[7].weight.grad_req = 'null'
    message = (r'without a posterior in 4 layers: 1 \(ByForward: transitions\); 2 \(Hidden: hidden\d+_table\); '
               r'5 \(Odd: weight\); 6 \(MyDense: weight\)\. own_blocks=True makes')
    with pytest.warns(UserWarning, match=message) as caught:
        new = to_bayesian(net)
    assert len(caught) == 1
    assert [type(block).__name__ for block in new._children.values()] == [
        'BayesDense', 'ByForward', 'Hidden', 'BatchNorm', 'LayerNorm', 'Odd', 'MyDense', 'BayesEmbedding']
    message = (r'without a posterior in 3 layers: 1 \(ByForward: transitions\); 2 \(Hidden: hidden\d+_table\); '
               r'5 \(Odd: weight, bias\)\. They do not take their Parameters as arguments of hybrid_forward')
    with pytest.warns(UserWarning, match=message):
        new = to_bayesian(net, own_blocks=True)
    assert [type(block).__name__ for block in new._children.values()] == [
        'BayesDense', 'ByForward', 'Hidden', 'BatchNorm', 'BayesLayerNorm', 'Odd', 'BayesMyDense', 'BayesEmbedding']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        asked = []
        to_bayesian(net, where=lambda name, layer: asked.append((name, layer)) or name in ('0', '7'))
    # Each once, and the blocks are those of the network that the user has.
    assert asked == [(name, net[int(name)]) for name in '012567']


def test_many_plain_layers():
    net = nn.HybridSequential()
    net.add(nn.Dense(2, in_units=2), *[MyDense(2, in_units=2) for _ in range(25)])
    net.initialize()
    with pytest.warns(UserWarning, match=r'in 25 layers: 1 \(MyDense: weight\);.* 20 \(MyDense: weight\); and 5 more\. '
                                         '.*posterior_summary lists all'):
        to_bayesian(net)


def test_backbone_of_symbols():
    """A backbone that was imported holds all its weights itself, and none of them can be Bayesian."""
    backbone = nn.HybridSequential()
    backbone.add(nn.Dense(3, in_units=4), nn.Dense(3, in_units=3), nn.Dense(3, in_units=3), nn.Dense(3, in_units=3))
    data = mx.sym.var('data', dtype='float32')
    net = nn.HybridSequential()
    net.add(gluon.SymbolBlock(backbone(data), data, params=backbone.collect_params()), nn.Dense(2, in_units=3))
    net.initialize()
    expected = net(nd.ones((2, 4))).asnumpy()
    with pytest.warns(UserWarning, match=r'in 1 layer: 0 \(SymbolBlock: \S*weight, \S*weight, \S*weight, and 1 more\)'):
        new = to_bayesian(net)
    assert type(new[1]) is BayesDense
    np.testing.assert_array_equal(new(nd.ones((2, 4))).asnumpy(), expected)


def test_never_bayesian():
    """BatchNorm and what derives from it, constants, and this package's own blocks."""
    class MyBatchNorm(nn.BatchNorm):
        pass

    fixed = Positions(3, 4)
    fixed.weight.grad_req = 'null'
    for block in (nn.BatchNorm(), MyBatchNorm(), gluon.contrib.nn.SyncBatchNorm(num_devices=1), fixed,
                  nn.InstanceNorm(center=False), SparseDense(3, in_units=2), BayesDense(3), nn.HybridSequential(),
                  ByForward(), Hidden(), GaussianNLLLoss(learnable=True)):
        assert bayesian_class(block, own_blocks=True) is None
    with pytest.raises(ValueError, match='at least one layer to become Bayesian'):
        to_bayesian(fixed, own_blocks=True)


@pytest.mark.parametrize('attribute', [True, False], ids=['as attribute', 'in a list'])
def test_shared_with_a_block_that_cannot_be(attribute):
    net = nn.Sequential()
    class Tied(Block):
        def __init__(self, table):
            super().__init__(params=table.params)
            self.weights = [self.params.get('weight')]
            if attribute:
                self.weight = self.weights[0]

        def forward(self, x):
            return nd.dot(x, self.weights[0].data()[0])

    table = Positions(4, 4)
    net.add(table, Tied(table))
    net.initialize()
    with pytest.raises(ValueError, match='where must choose all layers that share Parameter'):
        to_bayesian(net, own_blocks=True)


def test_training():
    """A network of own blocks learns: attention that picks the marked position."""
    class Net(HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.positions, self.norm = Positions(3, 4), nn.LayerNorm(in_channels=4)
                self.attention, self.out = Attention(4), nn.Dense(2, in_units=12)

        def hybrid_forward(self, F, x):
            return self.out(self.attention(self.norm(self.positions(x))))

    plain = Net()
    plain.initialize(mx.init.Xavier())
    net = to_bayesian(plain, prior=GaussianPrior(), sigma=0.01, own_blocks=True)
    net.hybridize(static_alloc=True)
    x = nd.random.normal(shape=(200, 3, 4))
    y = x[:, 0, 0] > x[:, 0, 1]     # which the normalization of each position keeps
    loss_fn = BBBLoss(net, num_train=2000)
    trainer = gluon.Trainer(net.collect_params(), 'adam', {'learning_rate': 1e-2})
    for _ in range(300):
        with autograd.record():
            loss = loss_fn(net(x), y)
        loss.backward()
        trainer.step(200)
    assert (net(x).argmax(axis=1) == y).mean().asscalar() > 0.95


def test_summary(capsys):
    net = nn.HybridSequential(prefix='net_')
    with net.name_scope():
        net.add(BayesDense(3, in_units=2, prior=GaussianPrior(sigma=2.)), nn.BatchNorm(in_channels=3),
                MyDense(4, in_units=3), nn.Dense(1000, in_units=4), BayesDense(3), Hidden())
        net.add(BayesDense(3, in_units=2, params=net[0].params))
    summary = posterior_summary(net)
    table = str(summary)
    assert capsys.readouterr().out == table + '\n'
    rows = {row.name: row for row in summary.rows}
    assert list(rows) == ['0.weight', '0.bias', '1.gamma', '1.beta', '1.running_mean', '1.running_var', '2.weight',
                          '2.bias', '3.weight', '3.bias', '4.weight', '4.bias', 'net_hidden0_table']
    assert rows['0.weight'][1:] == ('BayesDense', (3, 2), 6, GaussianPrior(sigma=2.), True)
    assert [rows[name].kind for name in ('0.weight', '1.gamma', '1.running_mean', '2.weight')] == [
        'posterior', 'plain', 'constant', 'plain']
    assert rows['4.weight'].size is None and rows['4.bias'].size == 3
    assert [summary.count(kind) for kind in ('posterior', 'plain', 'constant')] == [6 + 3 + 3, 6 + 16 + 5000 + 16, 6]
    lines = table.splitlines()
    words = [line.split() for line in lines]
    assert words[0] == ['Parameter', 'layer', 'shape', 'weights', 'posterior']
    assert ['3.weight', 'Dense', '1000x4', '4,000', 'none'] in words
    assert ['1.running_var', 'BatchNorm', '3', '3', 'none,', 'no', 'gradient'] in words
    assert '4.weight BayesDense 3x? ? prior ScaleMixturePrior(pi=0.5, sigma1=0.75, sigma2=0.01)'.split() in words
    assert lines[-3:] == ['With a posterior: 12 weights in 4 Parameters, 1 of unknown shape',
                          'Without, learnable: 5,038 weights in 7 Parameters',
                          'Without, no gradient: 6 weights in 2 Parameters']
    assert repr(summary) == 'PosteriorSummary(posterior=12, plain=5038, constant=6)'
    with pytest.raises(ValueError, match="kind must be one of 'posterior', 'plain', 'constant'"):
        summary.count('Bayesian')
    with pytest.raises(TypeError, match='net must be a Gluon block'):
        posterior_summary('net')


def test_summary_of_a_frozen_mean():
    """A mean that is frozen has a posterior all the same."""
    layer = BayesDense(3, in_units=2)
    layer.weight.grad_req = 'null'
    assert [(row.kind, row.learns) for row in posterior_summary(layer).rows] == [('posterior', True)] * 2


@pytest.mark.parametrize('around', [rnn.ResidualCell, lambda cell: rnn.ZoneoutCell(cell, 0.1, 0.1),
                                    gluon.contrib.rnn.VariationalDropoutCell], ids=['Residual', 'Zoneout', 'Dropout'])
def test_cells_around_another(around):
    """The Parameters of such a cell are those of the one that it is around, which has a posterior for them."""
    plain = around(rnn.LSTMCell(3, input_size=3))
    plain.initialize()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        net = to_bayesian(plain)
    summary = posterior_summary(net)
    assert {row.name for row in summary.rows} == {'base_cell.' + name for name in net.base_cell._rhos}
    assert summary.count('posterior') == 96 and summary.count('plain') == 0
    assert posterior_summary(plain).count('plain') == 96
    assert draw(net).unroll(2, nd.ones((1, 2, 3)), merge_outputs=True)[0].shape == (1, 2, 3)
