# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The whole network's KL, fresh at every call, however the network is built, hybridized and called."""
import copy
import pickle
import threading
import warnings

import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from bbb_layers import BayesBlock, BayesDense, BBBLoss, GaussianPrior, ScaleMixturePrior, kl_divergence, native
from bbb_layers._mxnet import tree

NUM_TRAIN = 50
BATCH, IN, OUT = 6, 5, 4


def dense(units, **kwargs):
    # A closed form makes the KL exact, so that a stale or missing term shows; 0.3 makes a fresh draw show.
    kwargs.setdefault('prior', GaussianPrior(0.7))
    kwargs.setdefault('initial_sigma', 0.3)
    kwargs.setdefault('bias_initializer', mx.init.Normal(0.3))
    return BayesDense(units, **kwargs)


def batch(ctx=None, dtype='float32'):
    return (nd.random.normal(shape=(BATCH, IN), ctx=ctx).astype(dtype),
            nd.array(np.random.randint(0, OUT, BATCH), ctx=ctx))


def sequential(container=nn.HybridSequential, in_units=True):
    net = container()
    with net.name_scope():
        net.add(dense(7, activation='relu', in_units=IN if in_units else 0),
                dense(OUT, in_units=7 if in_units else 0))
    return net


def deferred():
    return sequential(in_units=False)


def nested():
    inner, outer = nn.HybridSequential(), nn.HybridSequential()
    inner.add(dense(7, activation='tanh'), dense(6))
    outer.add(inner, nn.Dense(5, activation='relu'), dense(OUT))
    return outer


def with_dropout_and_batch_norm():
    net = nn.HybridSequential()
    net.add(dense(7), nn.BatchNorm(), nn.Activation('relu'), nn.Dropout(0.3), dense(OUT), nn.BatchNorm())
    return net


def plain_sequential():
    net = nn.Sequential()
    inner = nn.HybridSequential()
    inner.add(dense(7, activation='relu'), nn.Dropout(0.2))
    net.add(inner, dense(6), nn.Dense(5), dense(OUT))
    return net


class Residual(gluon.HybridBlock):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.first = dense(IN, activation='relu')
            self.scale = self.params.get('scale', shape=(1, IN), init='ones')
            self.last = dense(OUT)

    def hybrid_forward(self, F, x, scale):
        return self.last(x + F.broadcast_mul(self.first(x), scale))


class Imperative(gluon.Block):
    """Calls its parts from Python, some of them more than once."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.step = dense(IN, activation='tanh', in_units=IN)
            self.last = sequential()

    def forward(self, x):
        for _ in range(3):
            x = self.step(x)
        return self.last(x)


NETS = [sequential, deferred, nested, with_dropout_and_batch_norm, plain_sequential, Residual, Imperative]


@pytest.fixture(params=NETS, ids=lambda build: build.__name__)
def build(request):
    return request.param


def make(build, mode, ctx=None):
    net = build()
    net.initialize(mx.init.Xavier(), ctx=ctx)
    return hybridize(net, mode)


def rhos(net):
    return [param for name, param in net.collect_params().items() if name.endswith('_rho')]


def forward_and_loss(net, loss_fn, x, y):
    with autograd.record():
        output = net(x)
        loss = loss_fn(output, y)
    return output, loss


def check_step(net, loss_fn, x, y, trainer=None):
    """One training step: the output alone, the whole KL at the present Parameters, gradients to every mu and rho."""
    for param in net.collect_params().values():
        param.zero_grad()
    output, loss = forward_and_loss(net, loss_fn, x, y)
    assert isinstance(output, nd.NDArray) and output.shape == (BATCH, OUT)
    assert loss.shape == (BATCH,)
    np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)
    np.testing.assert_allclose(loss.asnumpy(), (loss_fn.nll + loss_fn.kl / NUM_TRAIN).asnumpy(), rtol=1e-5)
    loss.backward()
    params = list(net.collect_params().values())
    for rho in rhos(net):
        assert rho.mu in params
        assert abs(rho.grad().asnumpy()).min() > 0
        assert abs(rho.mu.grad().asnumpy()).max() > 0
    if trainer is not None:
        trainer.step(BATCH)
    return output.asnumpy()


def check_training(net, loss_fn, steps=4, ctx=None):
    x, y = batch(ctx)
    trainer = None
    before = None
    for step in range(steps):
        output = check_step(net, loss_fn, x, y, trainer)
        if trainer is None:     # the first step leaves the Parameters alone: only the draw can change the output
            trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.05})
        elif step == 1:
            assert abs(output - before).max() > 1e-3
        before = output
        mean = net(x)
        assert isinstance(mean, nd.NDArray)
        np.testing.assert_array_equal(mean.asnumpy(), net(x).asnumpy())


def test_training(build, mode):
    net = make(build, mode)
    check_training(net, BBBLoss(net, NUM_TRAIN))


@pytest.mark.parametrize('order', ['loss first', 'loss before hybridize', 'loss after forward', 'loss after training'])
def test_loss_made_at_any_time(build, mode, order):
    net = build()
    if order == 'loss first':
        loss_fn = BBBLoss(net, NUM_TRAIN)
    net.initialize()
    if order == 'loss before hybridize':
        loss_fn = BBBLoss(net, NUM_TRAIN)
    hybridize(net, mode)
    x, y = batch()
    if order == 'loss after forward':
        net(x)
        loss_fn = BBBLoss(net, NUM_TRAIN)
    if order == 'loss after training':
        for _ in range(2):
            with autograd.record():
                out = net(x)
            out.backward()
        loss_fn = BBBLoss(net, NUM_TRAIN)
    check_training(net, loss_fn)


def test_rehybridized(build):
    net = make(build, None)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    for again in [{'static_alloc': True}, {'active': False}, {}, {}]:
        net.hybridize(**again)
        check_training(net, loss_fn, steps=3)


def test_one_sample_kl_is_fresh(mode):
    net = nn.HybridSequential()
    net.add(BayesDense(8), BayesDense(OUT))
    net.initialize()
    hybridize(net, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    seen = set()
    for _ in range(5):
        forward_and_loss(net, loss_fn, x, y)
        seen.add(loss_fn.kl.asscalar())
    assert len(seen) == 5
    many = [kl_divergence(net).asscalar() for _ in range(200)]
    assert abs(np.mean(list(seen)) - np.mean(many)) < 6 * np.std(many) / np.sqrt(5)


def test_two_contexts(build, mode):
    ctx = [mx.cpu(0), mx.cpu(1)]
    net = make(build, mode, ctx)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = (nd.concat(*parts, dim=0) for parts in zip(batch(), batch()))
    trainer = None
    for _ in range(3):
        xs, ys = (gluon.utils.split_and_load(array, ctx) for array in (x, y))
        with autograd.record():
            outputs = [net(part) for part in xs]
            losses, kls = [], []
            for output, label in zip(outputs, ys):
                losses.append(loss_fn(output, label))
                kls.append(loss_fn.kl)
        for loss in losses:
            loss.backward()
        for where, kl in zip(ctx, kls):
            assert kl.context == where
            np.testing.assert_allclose(kl.asscalar(), kl_divergence(net, where).asscalar(), rtol=1e-5)
        for rho in rhos(net):
            for grad in rho.list_grad() + rho.mu.list_grad():
                assert abs(grad.asnumpy()).max() > 0
        trainer = trainer or gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.05})
        trainer.step(2 * BATCH)
        for rho in rhos(net):
            np.testing.assert_array_equal(*[data.asnumpy() for data in rho.list_data()])
    with pytest.raises(RuntimeError, match='already used'):
        with autograd.record():
            loss_fn(outputs[1], ys[1])


def test_one_forward_on_two_contexts(mode):
    """A block whose forward runs on both contexts: on each of them, the Parameters have a draw and a KL term."""
    class Both(gluon.Block):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.body = sequential()

        def forward(self, xs):
            return [self.body(x) for x in xs]

    ctx = [mx.cpu(0), mx.cpu(1)]
    net = make(Both, mode, ctx)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    for _ in range(3):
        with autograd.record():
            outputs = net([x.as_in_context(where) for where in ctx])
            losses = []
            for output, where in zip(outputs, ctx):
                assert output.context == where
                losses.append(loss_fn(output, y.as_in_context(where)))
                np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net, where).asscalar(), rtol=1e-5)
        autograd.backward(losses)
        assert abs(outputs[0].asnumpy() - outputs[1].asnumpy()).max() > 1e-3    # two draws
        for rho in rhos(net):
            for grad in rho.list_grad() + rho.mu.list_grad():
                assert abs(grad.asnumpy()).max() > 0


def test_several_draws_in_one_step(mode):
    net = make(sequential, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    forward_and_loss(net, loss_fn, x, y)
    gradients = []
    for together in (True, False):
        mx.random.seed(11)
        net.collect_params().setattr('grad_req', 'write' if together else 'add')
        net.collect_params().zero_grad()
        if together:
            with autograd.record():
                losses = [loss_fn(net(x), y) for _ in range(3)]
                total = losses[0] + losses[1] + losses[2]
            total.backward()
        else:
            for _ in range(3):
                forward_and_loss(net, loss_fn, x, y)[1].backward()
        gradients.append([param.grad().asnumpy() for param in net.collect_params().values()])
    for one, other in zip(*gradients):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_batches_of_changing_size(mode):
    net = make(deferred, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    for size in (6, 1, 4, 6, 2):
        _, loss = forward_and_loss(net, loss_fn, x[:size], y[:size])
        loss.backward()
        assert loss.shape == (size,)
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)


def test_second_network_on_the_same_parameters(mode):
    net = make(Residual, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    check_training(net, loss_fn, steps=2)
    other = hybridize(Residual(prefix=net.prefix, params=net.collect_params()), mode)
    assert other.first.weight_rho is net.first.weight_rho
    x, y = batch()
    other(x)
    with autograd.record():
        output = net(x)
        with autograd.pause():
            np.testing.assert_array_equal(other(x).asnumpy(), other(x).asnumpy())
        loss_fn(output, y)      # the other network is not part of this loss, and leaves its terms alone
    np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)
    np.testing.assert_array_equal(other(x).asnumpy(), net(x).asnumpy())
    with pytest.raises(RuntimeError, match='no KL terms'):
        forward_and_loss(other, loss_fn, x, y)


def test_estimator(mode):
    from mxnet.gluon.contrib.estimator import BatchEnd, Estimator
    kls = []

    class Kls(BatchEnd):
        priority = -3000    # before the update of the Parameters

        def batch_end(self, estimator, *args, **kwargs):
            kls.append((estimator.loss.kl.asscalar(), kl_divergence(estimator.net).asscalar()))

    data = gluon.data.ArrayDataset(nd.random.normal(shape=(20, IN)), nd.array(np.random.randint(0, OUT, 20)))
    net = make(deferred, mode)
    loss_fn = BBBLoss(net, 20)
    trainer = gluon.Trainer(net.collect_params(), 'adam', {'learning_rate': 0.01})
    metric = mx.metric.Accuracy()
    estimator = Estimator(net, loss_fn, train_metrics=[metric], trainer=trainer, context=mx.cpu())
    estimator.logger.handlers = []
    loader = gluon.data.DataLoader(data, 8)     # the last batch is smaller
    net(data[:1][0])
    params = net.collect_params().values()
    before = [param.data().asnumpy() for param in params]
    estimator.fit(loader, val_data=loader, epochs=3, event_handlers=[Kls()])
    assert len(kls) == 9 and metric.get()[1] >= 0
    for kl, exact in kls:       # the evaluations in between leave no terms behind
        np.testing.assert_allclose(kl, exact, rtol=1e-5)
    # Nine steps of Adam, each at most about as long as the learning rate
    for param, old in zip(params, before):
        moved = abs(param.data().asnumpy() - old)
        assert (moved > 0).all() and 0.03 < moved.max() < 0.15, param
    check_training(net, BBBLoss(net, NUM_TRAIN), steps=2)


@pytest.mark.parametrize('which', [0, 1, 2])
def test_only_a_child_hybridized(mode, which):
    net = make(nested, None)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    hybridize(net[which], mode)
    check_training(net, loss_fn)


@pytest.mark.parametrize('new', [lambda: dense(OUT), nested], ids=['layer', 'block'])
def test_layer_added_after_the_loss(mode, new):
    net = nn.HybridSequential()
    net.add(dense(7))
    loss_fn = BBBLoss(net, NUM_TRAIN)
    net.add(new())
    net.initialize()
    hybridize(net, mode)
    check_training(net, loss_fn)
    net.add(dense(OUT, in_units=OUT))
    net[-1].initialize()
    check_training(net, loss_fn)


def test_hybridized_block_added_after_the_loss(mode):
    net = nn.HybridSequential()
    net.add(dense(7, in_units=IN))
    net.initialize()
    loss_fn = BBBLoss(net, NUM_TRAIN)
    late = make(nested, mode)
    net.add(late)       # net itself is eager: its frame cannot see into the new block's graph at the first step
    check_training(net, loss_fn)


def test_two_losses_on_one_network(mode):
    net = make(sequential, mode)
    losses = [BBBLoss(net, NUM_TRAIN), BBBLoss(net, NUM_TRAIN, kl_weight=1.)]
    for _ in range(3):
        for loss_fn in losses:
            check_training(net, loss_fn, steps=2)
    x, y = batch()
    with autograd.record():
        output = net(x)
        losses[0](output, y)
        with pytest.raises(RuntimeError, match='already used'):
            losses[1](output, y)


def test_loss_on_a_part(mode):
    net = make(nested, mode)
    whole, part, last = BBBLoss(net, NUM_TRAIN), BBBLoss(net[0], NUM_TRAIN), BBBLoss(net[2], NUM_TRAIN)
    x, y = batch()
    for _ in range(3):
        forward_and_loss(net, whole, x, y)
        with autograd.record():
            output = net(x)
            part(output, y)
            last(output, y)
            np.testing.assert_allclose(part.kl.asscalar(), kl_divergence(net[0]).asscalar(), rtol=1e-5)
            np.testing.assert_allclose(last.kl.asscalar(), kl_divergence(net[2]).asscalar(), rtol=1e-5)
            with pytest.raises(RuntimeError, match='already used'):
                whole(output, y)
    np.testing.assert_allclose(whole.kl.asscalar(), part.kl.asscalar() + last.kl.asscalar(), rtol=1e-5)


@pytest.mark.parametrize('part', [0, 2])
def test_loss_of_the_whole_after_that_of_a_part_raises(mode, part):
    """Catches a check that raises only when every KL term was used: the terms of the part would then count twice."""
    net = make(nested, mode)
    losses = [BBBLoss(net[part], NUM_TRAIN), BBBLoss(net, NUM_TRAIN)]
    x, y = batch()
    for first, second in (losses, losses[::-1]):
        with autograd.record():
            output = net(x)
            first(output, y)
            with pytest.raises(RuntimeError, match='already used'):
                second(output, y)
    check_training(net, losses[1], steps=2)


class Branches(gluon.HybridBlock):
    """One of two branches, chosen from Python."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left = True
        with self.name_scope():
            self.a = dense(OUT, in_units=IN)
            self.b = dense(OUT, in_units=IN)

    def hybrid_forward(self, F, x):
        return (self.a if self.left else self.b)(x)


def test_branch_not_taken(mode):
    net = make(Branches, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Parameter .* is not used by any computation')
        check_training(net, loss_fn)
        # Forwards without a loss leave terms of the other branch behind, which must not be taken for fresh ones.
        x, y = batch()
        with autograd.record():
            net(x)
        net.left = False
        net._clear_cached_op()
        check_training(net, loss_fn)


class Outside(gluon.HybridBlock):
    """A network none of whose Bayesian layers takes part."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.plain = nn.Dense(OUT, in_units=IN)
            self.unused = dense(OUT, in_units=IN)

    def hybrid_forward(self, F, x):
        return self.plain(x)


def test_no_bayesian_layer_takes_part(mode):
    net = make(Outside, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Parameter .* is not used by any computation')
        for _ in range(3):
            check_step(net, loss_fn, *batch())


class Twice(gluon.HybridBlock):
    """One layer called twice on the same input."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.layer = dense(OUT, in_units=IN)

    def hybrid_forward(self, F, x):
        return self.layer(x) - self.layer(x)


class Tied(gluon.HybridBlock):
    """Two layers that share their Parameters."""

    def __init__(self, prior=GaussianPrior(0.7), **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.one = dense(OUT, in_units=IN)
            self.two = dense(OUT, in_units=IN, params=self.one.params, prior=prior)

    def hybrid_forward(self, F, x):
        return self.one(x) - self.two(x)


@pytest.mark.parametrize('build', [Twice, Tied])
@pytest.mark.parametrize('hybridized', ['whole', 'children'])
def test_one_draw_per_parameter(build, hybridized, mode):
    net = make(build, mode if hybridized == 'whole' else None)
    if hybridized == 'children':
        for child in net._children.values():
            hybridize(child, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    for _ in range(3):
        output, _ = forward_and_loss(net, loss_fn, x, y)
        assert abs(output.asnumpy()).max() < 1e-6
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)
    with autograd.train_mode():     # draws without a gradient are shared as well
        assert abs(net(x).asnumpy()).max() < 1e-6


class Difference(gluon.HybridBlock):
    """One Parameter under two names."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.one = self.params.get('one', shape=(OUT,), init=mx.init.One())
            self.two = self.one

    def hybrid_forward(self, F, x, one, two):
        return F.broadcast_add(x, one - two)


class BayesDifference(BayesBlock, Difference):
    pass


def test_draws_of_a_layer_that_runs_alone(mode):
    layer, x = BayesDifference(), nd.zeros((1, OUT))
    layer.initialize()
    hybridize(layer, mode)
    with autograd.train_mode():
        assert abs(layer(x).asnumpy()).min() > 0    # without a frame, each attribute has a draw of its own
    BBBLoss(layer, NUM_TRAIN)
    with autograd.train_mode():
        assert abs(layer(x).asnumpy()).max() == 0


def test_draw_without_gradient_is_not_reused_under_record():
    class Net(gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.layer = dense(OUT, in_units=IN)

        def forward(self, x):
            with autograd.pause(train_mode=True):
                self.layer(x)
            return self.layer(x)

    net = make(Net, None)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    with autograd.record():
        nll = loss_fn.likelihood(net(x), y)
    nll.backward()
    assert abs(net.layer.weight.grad().asnumpy()).min() > 0


class WithoutGradient(gluon.HybridBlock):
    """Draws the weights of its body, in train mode, in a part of the forward that is not recorded."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.body, self.head = sequential(), dense(OUT, in_units=OUT)

    def forward(self, x):
        with autograd.pause(train_mode=True):
            hidden = self.body(x)
        return self.head(hidden)


def test_kl_of_a_draw_without_gradient_has_its_gradient_all_the_same(mode):
    """Catches KL terms that are taken from a forward that was not recorded: rho would get no gradient from them."""
    net = make(WithoutGradient, None)
    hybridize(net.body, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    for _ in range(3):
        net.collect_params().zero_grad()
        _, loss = forward_and_loss(net, loss_fn, x, y)
        loss.backward()
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)
        ours = [rho.grad().asnumpy() for rho in rhos(net.body)]
        # The likelihood does not reach the body, so all that it gets is the gradient of KL / N for each example.
        net.collect_params().zero_grad()
        with autograd.record():
            kl = kl_divergence(net.body) * BATCH / NUM_TRAIN
        kl.backward()
        for rho, grad in zip(rhos(net.body), ours):
            assert abs(grad).min() > 0
            np.testing.assert_allclose(grad, rho.grad().asnumpy(), rtol=1e-4, atol=1e-6)


def test_tied_layers_share_their_prior():
    with pytest.raises(ValueError, match=r'prior must be that of the layer which shares Parameter .*_weight'):
        Tied(prior=GaussianPrior(0.8))
    net = Tied(prior=None)
    assert net.two.prior == GaussianPrior(0.7) and net.two.weight_rho is net.one.weight_rho


class SharedBody(gluon.HybridBlock):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.body = sequential()

    def hybrid_forward(self, F, x):
        return self.body(x) - self.body(2 * x)


def test_body_called_twice(mode):
    net = make(SharedBody, mode)
    check_training(net, BBBLoss(net, NUM_TRAIN))


def test_body_hybridized_for_itself_and_called_twice_raises():
    net = make(SharedBody, None)
    net.body.hybridize()
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    net(x)      # predict mode has no draws to share
    with pytest.raises(RuntimeError, match='independent draws. Hybridize the outer block'):
        forward_and_loss(net, loss_fn, x, y)
    net.hybridize()
    check_training(net, loss_fn)


def test_control_flow_raises(mode):
    class Loop(gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.layer = dense(IN, in_units=IN)

        def hybrid_forward(self, F, x):
            return F.contrib.foreach(lambda step, state: (self.layer(step), state), x, [x])[0]

    net = make(Loop, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x = nd.random.normal(shape=(3, BATCH, IN))
    if mode is None:
        with autograd.record():
            loss_fn(net(x), nd.zeros((3, BATCH)))
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)
    else:
        with pytest.raises(RuntimeError, match='foreach'):
            net(x)


def test_deepcopy(build, mode):
    net = make(build, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    check_training(net, loss_fn, steps=2)
    other = copy.deepcopy(net)
    x, y = batch()
    np.testing.assert_array_equal(other(x).asnumpy(), net(x).asnumpy())
    before = {name: param.data().asnumpy() for name, param in net.collect_params().items()}
    with pytest.raises(RuntimeError, match='no KL terms'):
        forward_and_loss(other, loss_fn, x, y)
    check_training(other, BBBLoss(other, NUM_TRAIN))
    for name, param in net.collect_params('.*(weight|bias|rho|scale)$').items():
        np.testing.assert_array_equal(param.data().asnumpy(), before[name])
    check_training(net, loss_fn, steps=2)


def test_deepcopy_before_the_loss(build):
    net = copy.deepcopy(make(build, None))
    check_training(net, BBBLoss(net, NUM_TRAIN))


def test_a_copy_leaves_behind_another_network_around_it(mode):
    body, x, y = dense(3, in_units=IN), *batch()
    heads = [dense(OUT, in_units=3) for _ in range(2)]
    first, second = nn.HybridSequential(), nn.HybridSequential()
    for net, head in (first, heads[0]), (second, heads[1]):
        net.add(body, head)
        hybridize(net, mode)
    for part in [body] + heads:
        part.initialize()
    forward_and_loss(first, BBBLoss(first, NUM_TRAIN), x, y)
    for part in body, second:
        other = copy.deepcopy(part)
        np.testing.assert_array_equal(other(x).asnumpy(), part(x).asnumpy())
        for block in tree.walk(other):
            assert getattr(block._scope._old_scope, '_block', other) in tree.walk(other)


def test_deepcopy_of_the_loss(mode):
    net = make(sequential, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    check_training(net, loss_fn, steps=2)
    other_net, other_loss = copy.deepcopy((net, loss_fn))
    check_training(other_net, other_loss)


@pytest.mark.parametrize('container', [nn.HybridSequential, Residual])
def test_float64(container, mode):
    net = container()
    if container is nn.HybridSequential:
        net.add(dense(7, in_units=IN, dtype='float64'), dense(OUT, in_units=7, dtype='float64'))
    net.initialize()
    net.cast('float64')
    hybridize(net, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch(dtype='float64')
    for _ in range(3):
        check_step(net, loss_fn, x, y)
    _, loss = forward_and_loss(net, loss_fn, x, y)
    assert loss.dtype == np.float64 and loss_fn.kl.dtype == np.float64


@pytest.mark.parametrize('dtypes', [('float32', np.dtype('float32')), (np.float32, 'float32'),
                                    (np.dtype('float64'), 'float64')], ids=str)
def test_dtypes_of_several_kinds(dtypes, mode):
    net = nn.HybridSequential()
    net.add(dense(7, in_units=IN, dtype=dtypes[0]), dense(OUT, in_units=7, dtype=dtypes[1]))
    net.initialize()
    hybridize(net, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    for _ in range(2):
        check_step(net, loss_fn, *batch(dtype=dtypes[0]))


def test_cast_after_training(mode):
    net = make(sequential, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    check_training(net, loss_fn, steps=2)
    net.cast('float64')
    for _ in range(2):
        check_step(net, loss_fn, *batch(dtype='float64'))


def test_grad_req_add(mode):
    net = make(sequential, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    net.collect_params().setattr('grad_req', 'add')

    def gradient():
        mx.random.seed(3)
        forward_and_loss(net, loss_fn, x, y)[1].backward()
        return {name: param.grad().asnumpy() for name, param in net.collect_params().items()}

    gradient()
    net.collect_params().zero_grad()
    once = gradient()
    twice = gradient()
    for name in once:
        assert abs(once[name]).max() > 0
        np.testing.assert_allclose(twice[name], 2 * once[name], rtol=1e-4, atol=1e-6)


def test_grad_req_null(mode):
    net = make(sequential, mode)
    net[0].weight.grad_req = 'null'
    net[1].weight_rho.grad_req = 'null'
    loss_fn = BBBLoss(net, NUM_TRAIN)
    for _ in range(2):
        forward_and_loss(net, loss_fn, *batch())[1].backward()
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)
        assert abs(net[0].weight_rho.grad().asnumpy()).min() > 0
        assert abs(net[1].weight.grad().asnumpy()).min() > 0


@pytest.mark.parametrize('estimator', ['sample', 'flipout'])
@pytest.mark.parametrize('prior', [ScaleMixturePrior(), GaussianPrior()], ids=['sampled', 'closed form'])
@pytest.mark.parametrize('with_loss', [False, True])
@pytest.mark.parametrize('use_native', [False, True])
def test_gradients_do_not_depend_on_grad_req(use_native, with_loss, prior, estimator, mode, monkeypatch):
    if not use_native:
        monkeypatch.setattr(native._State, 'available', False)
    net = make(lambda: dense(OUT, in_units=IN, prior=prior, estimator=estimator), mode)
    loss_fn = BBBLoss(net, NUM_TRAIN) if with_loss else None
    x, y = batch()

    def gradients(mu_req, rho_req, seeds=(1, 2)):
        for param in net.collect_params().values():
            param.grad_req = rho_req if param.name.endswith('_rho') else mu_req
            param.zero_grad()
        hybridize(net, mode)
        for seed in seeds:
            mx.random.seed(seed)
            with autograd.record():
                loss = loss_fn(net(x), y) if with_loss else net(x).square()
            loss.backward()
        params = net.collect_params().items()
        return {name: param.grad().asnumpy() for name, param in params if param.grad_req != 'null'}

    first, second = (gradients('write', 'write', [seed]) for seed in (1, 2))
    for reqs in (('add', 'add'), ('add', 'write'), ('write', 'add'), ('null', 'write'), ('write', 'null')):
        for name, array in gradients(*reqs).items():
            added = reqs[name.endswith('_rho')] == 'add'
            np.testing.assert_allclose(array, second[name] + added * first[name], rtol=1e-4, atol=1e-5,
                                       err_msg=f'{reqs} {name}')


def two_networks(mode):
    """Two networks whose KL divergences have closed forms and differ by far, with losses and Trainers."""
    pairs = []
    for sigma in (0.1, 1000.):
        net = hybridize(nn.HybridSequential(), mode)
        net.add(BayesDense(6, activation='relu', in_units=4, prior=GaussianPrior(sigma)),
                BayesDense(3, in_units=6, prior=GaussianPrior(sigma)))
        net.initialize(mx.init.Normal(0.3))
        pairs.append((net, BBBLoss(net, 10), gluon.Trainer(net.collect_params(), 'adam', {'learning_rate': 0.01})))
    return pairs


def assert_own_kl(net, loss_fn, expected):
    assert abs(loss_fn.kl.asscalar() - expected) < 1e-4 * expected


def test_two_networks_in_turn_keep_their_kl_terms_apart(mode):
    x, label, pairs = nd.random.normal(shape=(5, 4)), nd.array([0, 1, 2, 0, 1]), two_networks(mode)
    for _ in range(4):
        expected = [kl_divergence(net).asscalar() for net, _, _ in pairs]
        assert abs(expected[0] - expected[1]) > 0.1 * expected[0]
        with autograd.record():
            outputs = [net(x) for net, _, _ in pairs]       # both forwards before both losses
            losses = [loss_fn(output, label) for output, (_, loss_fn, _) in zip(outputs, pairs)]
        autograd.backward(losses)
        for (net, loss_fn, trainer), value in zip(pairs, expected):
            assert_own_kl(net, loss_fn, value)
            trainer.step(5)


def test_two_networks_in_two_threads_keep_their_kl_terms_apart(mode):
    pairs, errors, turn = two_networks(mode), [], threading.Barrier(2)

    def train(net, loss_fn, trainer):
        try:
            x, label = nd.random.normal(shape=(5, 4)), nd.array([0, 1, 2, 0, 1])
            for _ in range(20):
                expected = kl_divergence(net).asscalar()
                turn.wait(60)       # so that the forwards do come at once
                with autograd.record():
                    loss = loss_fn(net(x), label)
                loss.backward()
                assert_own_kl(net, loss_fn, expected)
                trainer.step(5)
        except Exception as error:
            errors.append(error)
            turn.abort()
    threads = [threading.Thread(target=train, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_threads_with_a_context_each():
    net = make(sequential, {'static_alloc': True}, ctx=[mx.cpu(0), mx.cpu(1)])
    BBBLoss(net, NUM_TRAIN)
    net(batch(mx.cpu(0))[0])
    errors = []

    def work(ctx):
        try:
            x, _ = batch(ctx)
            for _ in range(200):
                assert net(x).shape == (BATCH, OUT)
        except Exception as error:  # pylint: disable=broad-except
            errors.append(error)

    threads = [threading.Thread(target=work, args=(mx.cpu(i),)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.parametrize('between', ['predict', 'pause', 'recorded predict', 'train without record', 'part'])
def test_other_forward_between_forward_and_loss(mode, between):
    net = make(nested, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    for _ in range(3):
        with autograd.record():
            output = net(x)
        if between == 'predict':
            net(x)
        elif between == 'recorded predict':
            with autograd.record(train_mode=False):
                net(x)
        elif between == 'train without record':
            with autograd.train_mode():
                net(x)
        with autograd.record():
            if between == 'pause':
                with autograd.pause():
                    net(x)
            if between == 'part':
                with autograd.pause():
                    net[0](x)
                loss_fn(output, y)
                np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)
            else:
                with pytest.raises(RuntimeError, match='Call the loss right after each forward'):
                    loss_fn(output, y)
        check_training(net, loss_fn, steps=2)


def test_loss_without_forward_and_twice(build, mode):
    net = make(build, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    output = net(x)
    with autograd.record():
        with pytest.raises(RuntimeError, match='no KL terms'):
            loss_fn(output, y)
    for _ in range(2):
        with autograd.record():
            output = net(x)
            loss_fn(output, y)
            with pytest.raises(RuntimeError, match='already used'):
                loss_fn(output, y)


def test_failed_forward_leaves_no_terms(mode):
    net = make(sequential, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    with autograd.record():
        output = net(x)
        with pytest.raises(mx.MXNetError, match='Shape inconsistent'):
            net(nd.zeros((BATCH, IN + 1))).wait_to_read()
        with pytest.raises(RuntimeError, match='no KL terms'):
            loss_fn(output, y)
    check_training(net, loss_fn)


def test_training_alone_decides(build, mode):
    net = make(build, mode)
    BBBLoss(net, NUM_TRAIN)
    x, _ = batch()
    net(x)
    mean = net(x).asnumpy()

    def is_mean():
        return abs(net(x).asnumpy() - mean).max() < 1e-5

    for _ in range(2):
        assert is_mean()
        with autograd.record(train_mode=False):
            assert is_mean()
        with autograd.pause():
            assert is_mean()
        if build is not with_dropout_and_batch_norm:    # whose running statistics move the mean
            with autograd.record():
                assert not is_mean()
                with autograd.pause():
                    assert is_mean()
                with autograd.predict_mode():
                    assert is_mean()
            with autograd.train_mode():
                assert not is_mean()


def test_wrapped_afterwards(mode):
    net = make(sequential, mode)
    old = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    check_training(net, old)
    outer = nn.HybridSequential()
    outer.add(net, dense(OUT, in_units=OUT))
    outer[1].initialize()
    outer.hybridize()
    outer(x)
    for _ in range(3):
        assert isinstance(outer(x), nd.NDArray)
        with pytest.raises(RuntimeError, match='bigger hybridized block'):
            forward_and_loss(outer, old, x, y)
    # Terms of a direct forward do not stand in for those of the bigger block's first one.
    with autograd.record():
        net(x)
    outer.hybridize()
    with pytest.raises(RuntimeError, match='bigger hybridized block'):
        forward_and_loss(outer, old, x, y)
    new = BBBLoss(outer, NUM_TRAIN)
    check_training(outer, new)
    forward_and_loss(outer, old, x, y)      # now a loss on a part
    np.testing.assert_allclose(old.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)


def test_wrapped_in_an_eager_block(mode):
    net = make(sequential, mode)
    old = BBBLoss(net, NUM_TRAIN)
    outer = nn.HybridSequential()
    outer.add(net, nn.Dense(OUT, in_units=OUT))
    outer[1].initialize()
    for _ in range(2):
        forward_and_loss(outer, old, *batch())
        np.testing.assert_allclose(old.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)


def test_several_inputs_and_outputs(mode):
    class Net(gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.body, self.one, self.two = dense(7), dense(OUT), dense(1)

        def hybrid_forward(self, F, a, b):
            hidden = self.body(F.concat(a, b, dim=1))
            return self.one(hidden), self.two(hidden)

    class Both(gluon.loss.Loss):
        def __init__(self):
            super().__init__(None, 0)

        def hybrid_forward(self, F, outputs, labels):
            nll = -F.pick(F.log_softmax(outputs[0]), labels[0])
            return nll + 0.5 * F.sum(F.square(F.broadcast_sub(outputs[1], labels[1])), axis=1)

    net = make(Net, mode)
    loss_fn = hybridize(BBBLoss(net, NUM_TRAIN, likelihood=Both()), mode)
    x, y = batch()
    for _ in range(3):
        with autograd.record():
            outputs = net(x, 2 * x)
            assert [output.shape for output in outputs] == [(BATCH, OUT), (BATCH, 1)]
            loss = loss_fn(outputs, [y, nd.ones((BATCH, 1))])
        loss.backward()
        assert loss.shape == (BATCH,)
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)
        for rho in rhos(net):
            assert abs(rho.grad().asnumpy()).min() > 0
    one = BBBLoss(net, NUM_TRAIN)
    with autograd.record():
        assert one(net(x, x)[0], y).shape == (BATCH,)
        with pytest.raises(TypeError, match='likelihood'):
            one(net(x, x), y)


def test_layer_alone_as_network(mode):
    net = make(lambda: dense(OUT), mode)
    check_training(net, BBBLoss(net, NUM_TRAIN))


def test_own_block_made_bayesian(mode):
    class Scale(gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.gain = self.params.get('gain', shape=(1, OUT), init='ones')
                self.fixed = self.params.get_constant('fixed', nd.ones((1, OUT)))

        def hybrid_forward(self, F, x, gain, fixed):
            return F.broadcast_mul(F.broadcast_mul(x, gain), fixed)

    class BayesScale(BayesBlock, Scale):
        pass

    net = nn.HybridSequential()
    net.add(nn.Dense(OUT), BayesScale(prior=GaussianPrior(2.), initial_sigma=0.5))
    net.initialize()
    hybridize(net, mode)
    assert list(net[1].posterior()) == ['gain']
    check_training(net, BBBLoss(net, NUM_TRAIN))


def test_export_of_a_tapped_network_has_the_output_alone(tmp_path):
    net = make(deferred, {})
    loss_fn = BBBLoss(net, NUM_TRAIN)
    check_training(net, loss_fn)
    x, _ = batch()
    net.export(str(tmp_path / 'net'))
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Cannot decide type')
        block = gluon.SymbolBlock.imports(
            str(tmp_path / 'net-symbol.json'), ['data'], str(tmp_path / 'net-0000.params'))
    np.testing.assert_allclose(block(x).asnumpy(), net(x).asnumpy(), rtol=1e-5, atol=1e-6)
    check_training(net, loss_fn)


def test_forward_set_on_an_instance_is_not_overridden():
    net = make(sequential, None)
    net.forward = lambda x: x
    with pytest.raises(RuntimeError, match='forward of its own'):
        BBBLoss(net, NUM_TRAIN)


class TwoOutputs(gluon.HybridBlock):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.a, self.b = dense(OUT, in_units=IN), dense(OUT, in_units=IN)

    def hybrid_forward(self, F, x):
        return self.a(x), self.b(x)


def test_format_of_the_outputs_stays_the_blocks_own(tmp_path):
    """Block.save writes it into a file, and Block.load takes it from there."""
    net = TwoOutputs()
    net.initialize()
    net.hybridize()
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()
    for _ in range(2):
        with autograd.record():
            outputs = net(x)
            assert len(outputs) == 2
            loss_fn(outputs[0], y)
        assert net._out_format == [0, 0] and len(net._cached_graph[1].list_outputs()) == 2
    net.save(str(tmp_path / 'net'))
    net.load(str(tmp_path / 'net'))
    for _ in range(2):
        assert len(net(x)) == 2
        with autograd.record():
            loss_fn(net(x)[0], y)
        np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)


@pytest.mark.parametrize('loss_first', [True, False])
def test_block_load_of_another_prefix(loss_first, tmp_path):
    """Gluon cannot trace a graph anew where Block.load has renamed Parameters; the error says what to do, and it helps.
    """
    def net_with_prefix(prefix):
        net = nn.HybridSequential(prefix=prefix)
        with net.name_scope():
            net.add(dense(5, in_units=IN), dense(OUT, in_units=5))
        net.initialize()
        net.hybridize()
        return net

    saved, path = net_with_prefix('saved_'), str(tmp_path / 'net')
    x, y = batch()
    saved(x)
    saved.save(path)
    for prefix in ('other_', 'saved_'):
        net = net_with_prefix(prefix)
        if loss_first:
            BBBLoss(net, NUM_TRAIN)
        net.load(path)
        loss_fn = BBBLoss(net, NUM_TRAIN)
        for _ in range(2):
            with autograd.record():
                if prefix == 'other_':
                    with pytest.raises(RuntimeError, match='given Parameter other_.*the name saved_.*save_parameters'):
                        net(x)
                else:
                    loss_fn(net(x), y)
        if prefix == 'saved_':
            np.testing.assert_array_equal(net(x).asnumpy(), saved(x).asnumpy())
            np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)


def test_block_load_and_a_kl_divergence_of_draws(tmp_path):
    """Catches a graph of Block.load, which has no KL terms, that is kept: the terms would come from other draws."""
    net = BayesDense(1, in_units=1, use_bias=False, prior=ScaleMixturePrior(0.5, 1., 0.1), initial_sigma=0.3)
    net.initialize(mx.init.Constant(0.2))
    net.hybridize()
    x = nd.ones((1, 1))
    net(x)
    net.save(str(tmp_path / 'net'))
    loss_fn = BBBLoss(net, NUM_TRAIN, likelihood=gluon.loss.L2Loss())
    net.load(str(tmp_path / 'net'))
    for _ in range(3):
        with autograd.record():
            w = net(x)
            loss_fn(w, x)
        entropy = 0.5 + np.log(0.3 * np.sqrt(2 * np.pi))
        log_p = net.weight_rho.prior.log_prob(w.reshape((1,))).asscalar()
        np.testing.assert_allclose(loss_fn.kl.asscalar(), -entropy - log_p, rtol=1e-4)


def test_gradient_buffers_that_are_made_anew(mode):
    """A static graph of MXNet's goes on writing into the old ones: all gradients would stay 0 without a word."""
    net = make(sequential, mode)
    net.add(nn.BatchNorm(in_channels=OUT))
    net[-1].initialize()
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()

    def gradients():
        mx.random.seed(3)
        with autograd.record():
            loss = loss_fn(net(x), y)
        loss.backward()
        return [param.grad().asnumpy() for param in net.collect_params().values() if param.grad_req != 'null']

    gradients()
    expected = gradients()
    assert all(abs(values).sum() > 0 for values in expected)
    learn = [param for param in net.collect_params().values() if param.grad_req != 'null']
    for grad_req in ('null', 'write'):
        for param in learn:
            param.grad_req = grad_req
    for _ in range(2):
        for values, other in zip(gradients(), expected):
            np.testing.assert_allclose(values, other, rtol=1e-5, atol=1e-6)
    net.initialize(mx.init.Normal(0.5), force_reinit=True)
    assert all(abs(values).sum() > 0 for values in gradients())


@pytest.mark.parametrize('part', [False, True])
def test_gradients_after_a_loss_of_ones_own(part, mode):
    """Where the gradients of a forward are added to those of kl_divergence, a static graph of MXNet's writes them to
    another place from then on, and the Parameters keep the gradients of that step for ever."""
    net = nn.HybridSequential()
    net.add(dense(40, in_units=IN, activation='relu'), dense(OUT, in_units=40))
    net.initialize(mx.init.Normal(0.5))
    hybridize(net, mode)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch()

    def gradients(own=False):
        mx.random.seed(3)
        with autograd.record():
            if own:
                loss = gluon.loss.SoftmaxCrossEntropyLoss()(net(x), y) + kl_divergence(net[0] if part else net) / 7
            else:
                loss = loss_fn(net(x), y)
        loss.backward()
        return [param.grad().asnumpy() for param in net.collect_params().values()]

    for _ in range(3):
        expected = gradients()
    net(x)      # after this, the next backward sets up where the graph's gradients go
    for _ in range(2):
        own = gradients(own=True)
    assert not all(np.allclose(values, other, rtol=1e-3) for values, other in zip(own, expected))
    for _ in range(3):
        for values, other in zip(gradients(), expected):
            np.testing.assert_allclose(values, other, rtol=1e-4, atol=1e-5)


def test_a_network_with_a_loss_is_not_pickled():
    net = make(sequential, None)
    pickle.loads(pickle.dumps(net))
    BBBLoss(net, NUM_TRAIN)
    with pytest.raises(TypeError, match='cannot be pickled'):
        pickle.dumps(net)
    pickle.loads(pickle.dumps(copy.deepcopy(net)))


def test_arrays_hidden_in_a_dict():
    class Net(gluon.Block):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.layer = dense(OUT, in_units=IN)

        def forward(self, inputs):
            return self.layer(inputs['x'])

    ctx = mx.cpu(1)
    net = Net()
    net.initialize(ctx=ctx)
    loss_fn = BBBLoss(net, NUM_TRAIN)
    x, y = batch(ctx)
    with autograd.record():
        output = net({'x': x})
    net({'x': x})
    with autograd.record():
        with pytest.raises(RuntimeError, match='no KL terms'):
            loss_fn(output, y)
        loss_fn(net({'x': x}), y)
    np.testing.assert_allclose(loss_fn.kl.asscalar(), kl_divergence(net).asscalar(), rtol=1e-5)


def test_layer_that_a_block_calls_without_having_it():
    """A forward of one block runs a layer beside it in the network: the layer's KL term is that of the draw there."""
    class Calling(gluon.Block):
        def __init__(self, call):
            super().__init__()
            self.call, self.own = call, dense(1, in_units=1)

        def forward(self, x):
            return self.call(x) + 0 * self.own(x)

    layer = BayesDense(1, in_units=1, use_bias=False, prior=GaussianPrior(1.), kl='sample', initial_sigma=0.3)
    calling, net = Calling(lambda x: layer(x)), nn.Sequential()
    net.add(layer, calling)
    net.initialize()
    loss_fn = BBBLoss(net, NUM_TRAIN, gluon.loss.L2Loss())
    for _ in range(3):
        with autograd.record():
            output = calling(nd.ones((1, 1)))
            loss_fn(output, nd.ones((1, 1)))
        weight = output.asscalar()
        expected = weight ** 2 / 2 - np.log(0.3) - 0.5     # the entropy of the posterior is exact
        np.testing.assert_allclose(loss_fn.kl.asscalar() - kl_divergence(calling).asscalar(), expected, rtol=1e-3)


def test_layer_tied_to_a_frozen_one():
    one = dense(OUT, in_units=IN)
    one.initialize()
    one.weight.grad_req = 'null'
    two = dense(OUT, in_units=IN, params=one.params)
    assert sorted(two.posterior()) == ['bias', 'weight'] and two.weight_rho is one.weight_rho


def test_own_hybrid_forward_would_replace_the_draw():
    with pytest.raises(TypeError, match='Own must not define hybrid_forward itself'):
        class Own(BayesBlock, gluon.HybridBlock):
            def hybrid_forward(self, F, x):
                return x


@pytest.mark.parametrize('context', [mx.cpu(0), mx.cpu(1)])
@pytest.mark.parametrize('first', ['mean', 'draw'])
def test_modes_that_follow_each_other_do_not_mix(first, context, mode):
    net = hybridize(nn.HybridSequential(), mode)
    net.add(BayesDense(300, in_units=300, initial_sigma=0.5), BayesDense(2, in_units=300, initial_sigma=0.5))
    contexts = [mx.cpu(0), mx.cpu(1)]
    net.initialize(ctx=contexts)
    BBBLoss(net, NUM_TRAIN)
    x, other = nd.ones((64, 300), ctx=context), nd.ones((64, 300), ctx=contexts[context == contexts[0]])
    mean = net(x).asnumpy()
    # Without a look at the outputs in between, which would wait for them; with static_alloc each overwrites the last.
    for _ in range(20):
        for what in (first, 'draw' if first == 'mean' else 'mean'):
            if what == 'mean':
                output = net(x) * 1
            else:
                with autograd.train_mode():
                    drawn = net(x) * 1
                    net(other)      # on another context, in between
        np.testing.assert_allclose(output.asnumpy(), mean, rtol=1e-5, atol=1e-5)
        assert abs(drawn.asnumpy() - mean).max() > 1
