# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""np arrays, under npx.set_np(): the same numbers, bit by bit, as with classic arrays and the same random numbers."""
import contextlib

import numpy as np
import pytest

import bbb_layers
import mxnet as mx
from bbb_layers import (BayesBlock, BayesConv1D, BayesConv1DTranspose, BayesConv2D, BayesConv2DTranspose, BayesConv3D,
                        BayesConv3DTranspose, BayesDense, BayesEmbedding, BayesGRU, BayesGRUCell, BayesLSTM,
                        BayesLSTMCell, BayesRNN, BayesRNNCell, BBBLoss, BernoulliNLLLoss, GaussianNLLLoss,
                        GaussianPrior, HeteroscedasticGaussianNLLLoss, LaplacePrior, MixturePrior, MonteCarlo,
                        PoissonNLLLoss, Prior, ScaleMixturePrior, SparseDense, StudentTNLLLoss, StudentTPrior,
                        SummaryHandler, checkpoint, draw, kl_divergence, metrics, posterior_as_prior, predict, prune,
                        schedules, set_prior, signal_to_noise, to_bayesian, to_deterministic, to_sparse, uncertainty)
from mxnet import autograd, gluon, nd, npx
from mxnet.gluon import nn

MODES = {'eager': None, 'hybridized': {}, 'static': {'static_alloc': True, 'static_shape': True}}


@contextlib.contextmanager
def world(name):
    if name == 'np':
        npx.set_np()
    try:
        yield mx.np.array if name == 'np' else lambda value, dtype='float32': nd.array(value, dtype=dtype)
    finally:
        npx.reset_np()


def both(run):
    """What ``run(array)`` returns, in both worlds: lists of numpy arrays."""
    results = []
    for name in ('classic', 'np'):
        with world(name) as array:
            results.append(run(array))
    return results


def check_equal(run):
    classic, ours = both(run)
    assert len(classic) == len(ours) > 0
    for first, second in zip(classic, ours):
        assert first.dtype == second.dtype and np.isfinite(first).all()
        np.testing.assert_array_equal(first, second)


def kind(array):
    """The type that results must have where ``array`` makes the inputs."""
    return mx.np.ndarray if array is mx.np.array else nd.NDArray


def sequential(*layers):
    net = nn.HybridSequential()
    net.add(*layers)
    return net


def set_values(net, array):
    """Parameters that do not depend on MXNet's initializers, whose random numbers differ between the worlds."""
    random = np.random.RandomState(0)
    for param in net.collect_params().values():
        if not param.name.endswith('rho') and '_prior_' not in param.name:
            param.set_data(array(random.standard_normal(param.shape) * 0.3, dtype=param.dtype))


def train(array, net, inputs, label, mode=None, likelihood=None, optimizer='sgd', steps=3,
          initialized=False):
    """Losses, gradients and Parameters of some steps, and the outputs in predict mode."""
    if not initialized:
        net.initialize(mx.init.Zero())   # under set_np() the default one cannot do float64
    inputs = [array(value, dtype=value.dtype) for value in inputs]
    label = array(label, dtype=label.dtype)
    if mode is not None:
        net.hybridize(**mode)
    net(*inputs)
    if not initialized:
        set_values(net, array)
    loss_fn, found = BBBLoss(net, 50, likelihood), []
    if likelihood is not None:
        likelihood.initialize()
    params = net.collect_params()
    params.update(loss_fn.collect_params())
    trainer = gluon.Trainer(params, optimizer, {'learning_rate': 0.01})
    mx.random.seed(1)
    for _ in range(steps):
        with autograd.record():
            loss = loss_fn(net(*inputs), label)
        loss.backward()
        for value in (loss, loss_fn.nll, loss_fn.kl):
            assert type(value) is kind(array)
            found.append(value)
        found.extend(param.grad() for param in params.values() if param.grad_req != 'null')
        trainer.step(len(label))
    output = net(*inputs)
    for value in output if isinstance(output, (list, tuple)) else [output]:
        assert type(value) is kind(array)
        found.append(value)
    found += [param.data() for param in params.values()] + [loss_fn(output, label), kl_divergence(net)]
    return [value.asnumpy().copy() for value in found]


def normal(*shape, dtype='float32'):
    return np.random.RandomState(7).standard_normal(shape).astype(dtype)


CLASSES = np.array([0, 2, 1, 1], 'float32')
LAYERS = {
    'dense': (lambda **kw: BayesDense(3, **kw), (4, 5), True),
    'dense, in_units': (lambda **kw: BayesDense(3, in_units=5, activation='tanh', **kw), (4, 5), True),
    'positions': (lambda **kw: BayesDense(3, flatten=False, **kw), (4, 2, 5), True),
    'conv1d': (lambda **kw: BayesConv1D(3, 2, **kw), (4, 2, 5), True),
    'conv2d': (lambda **kw: BayesConv2D(2, 3, padding=1, activation='relu', **kw), (4, 2, 5, 5), True),
    'conv3d': (lambda **kw: BayesConv3D(2, 2, **kw), (4, 1, 3, 3, 3), True),
    'transposed 1d': (lambda **kw: BayesConv1DTranspose(2, 3, strides=2, **kw), (4, 2, 3), True),
    'transposed': (lambda **kw: BayesConv2DTranspose(2, 3, strides=2, **kw), (4, 2, 3, 3), True),
    'transposed 3d': (lambda **kw: BayesConv3DTranspose(2, 2, **kw), (4, 1, 2, 2, 2), True),
    'embedding': (lambda **kw: BayesEmbedding(5, 3, **kw), (4, 2), False),
    'rnn': (lambda **kw: BayesRNN(3, layout='NTC', **kw), (4, 2, 5), False),
    'lstm': (lambda **kw: BayesLSTM(3, layout='NTC', bidirectional=True, **kw), (4, 2, 5), False),
    'gru': (lambda **kw: BayesGRU(3, layout='NTC', **kw), (4, 2, 5), False)}
CASES = [(name, estimator) for name, (_, _, linear) in LAYERS.items()
         for estimator in (('sample', 'local', 'flipout') if linear else ('sample',))]


@pytest.mark.parametrize('mode', list(MODES))
@pytest.mark.parametrize('name, estimator', CASES)
def test_layers_train_as_with_classic_arrays(name, estimator, mode):
    make, shape, linear = LAYERS[name]
    data = np.arange(8).reshape(4, 2).astype('float32') % 5 if name == 'embedding' else normal(*shape)
    more = {'estimator': estimator} if linear else {}
    check_equal(lambda array: train(array, sequential(make(**more), nn.Dense(4), BayesDense(3, prior=GaussianPrior())),
                                    [data], CLASSES, MODES[mode]))


@pytest.mark.parametrize('name', ['rnn', 'lstm', 'gru'])
def test_recurrent_layers_alone_hybridized(name):
    class Net(nn.HybridSequential):
        def hybrid_forward(self, F, x, *states):
            return self[1](self[0](x, list(states))[0])

    def run(array):
        layer = LAYERS[name][0]()
        states = [np.zeros((2 if name == 'lstm' else 1, 4, 3), 'float32')] * (2 if name == 'lstm' else 1)
        net = Net()
        net.add(layer, BayesDense(3))
        return train(array, net, [normal(4, 2, 5)] + states, CLASSES, {})
    check_equal(run)


class _Recurrent(nn.HybridSequential):
    """Cells and a BayesDense; ``run(self, x, *inputs)`` gives the outputs of a sequence and the states after it."""

    def __init__(self, run, *layers):
        super().__init__()
        self.run = run
        self.add(*layers)

    def hybrid_forward(self, F, x, *inputs):
        outputs, states = self.run(self, x, *inputs)
        return self[-1](outputs[-1] if isinstance(outputs, list) else outputs) + states[0]


def _two_cells(net, x):
    outputs, _ = net[0].unroll(2, x)
    return net[1].unroll(2, outputs, merge_outputs=True)


def _step_by_step(net, x, *states):
    _, states = net[0](x, list(states))
    return net[0](x, states)


CELLS = {'rnn': BayesRNNCell, 'lstm': BayesLSTMCell, 'gru': BayesGRUCell}
WAYS = {
    'unroll': (_two_cells, (4, 2, 5), 2),
    'TNC': (lambda net, x: net[0].unroll(2, x, layout='TNC'), (2, 4, 5), 1),
    'merged': (lambda net, x: net[0].unroll(2, x, merge_outputs=True), (4, 2, 5), 1),
    'lengths': (lambda net, x, lengths: net[0].unroll(2, x, valid_length=lengths, merge_outputs=True), (4, 2, 5), 1),
    'states': (lambda net, x, *states: net[0].unroll(2, x, list(states), merge_outputs=True), (4, 2, 5), 1),
    'steps': (_step_by_step, (4, 5), 1)}


@pytest.mark.parametrize('mode', list(MODES))
@pytest.mark.parametrize('way', list(WAYS))
@pytest.mark.parametrize('name', list(CELLS))
def test_cells_train_as_with_classic_arrays(name, way, mode):
    """In each way that there is to run one. Gluon's own do not take np arrays."""
    way_to_run, shape, num_cells = WAYS[way]
    states = [normal(4, 3)] * (2 if name == 'lstm' else 1)
    more = {'lengths': [np.array([2, 1, 2, 1], 'float32')], 'states': states, 'steps': states}.get(way, [])

    def run(array):
        cells = [CELLS[name](3) for _ in range(num_cells)]
        net = _Recurrent(way_to_run, *cells, BayesDense(3))
        return train(array, net, [normal(*shape)] + more, CLASSES, MODES[mode])
    check_equal(run)


@pytest.mark.parametrize('mode', list(MODES))
def test_gluons_stack_of_cells(mode):
    def run(array):
        stack = gluon.rnn.HybridSequentialRNNCell()
        stack.add(BayesLSTMCell(3))
        stack.add(BayesGRUCell(3))
        net = _Recurrent(WAYS['merged'][0], stack, BayesDense(3))
        return train(array, net, [normal(4, 2, 5)], CLASSES, MODES[mode])

    if mode == 'eager':
        check_equal(run)
    else:       # Gluon's own states have a batch size of 0, for any to be inferred
        with world('np') as array, pytest.raises(ValueError, match=r'expected \[4,12\], got \[0,12\]'):
            run(array)


def test_gluons_bidirectional_cell_fails_as_with_its_own_cells():
    with world('np') as array:
        for cls in (gluon.rnn.LSTMCell, BayesLSTMCell):
            cell = gluon.rnn.BidirectionalCell(cls(3), cls(3))
            cell.initialize()
            with pytest.raises(TypeError, match='legacy'):
                cell.unroll(2, array(normal(4, 2, 5)))


@pytest.mark.parametrize('make', [lambda: BayesLSTM(3, layout='NTC'), lambda: BayesLSTMCell(3)], ids=['layer', 'cell'])
def test_plain_copies_of_recurrent_layers(make):
    """They run hybridized too, and can be made Bayesian again; with classic arrays they are of Gluon's own class."""
    for name in ('np', 'classic'):
        with world(name) as array:
            layer = make()
            own = type(layer).__name__.replace('Bayes', '')
            run = (lambda net, x: (net[0](x), [0])) if own == 'LSTM' else WAYS['merged'][0]
            net = _Recurrent(run, layer, nn.Dense(3))
            net.initialize()
            net.hybridize()
            data = array(normal(4, 2, 5))
            expected = net(data).asnumpy()
            plain = to_deterministic(net)
            assert (type(plain[0]) is getattr(gluon.rnn, own)) == (name == 'classic')
            assert isinstance(plain[0], getattr(gluon.rnn, own)) and type(plain[0]).__name__ == own
            np.testing.assert_array_equal(plain(data).asnumpy(), expected)
            assert draw(net)(data).shape == (4, 3) and predict(net, data, 2).shape == (2, 4, 3)
            again = to_bayesian(plain)
            assert type(again[0]) is type(layer)
            np.testing.assert_array_equal(again(data).asnumpy(), expected)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('kl', ['auto', 'sample'])
@pytest.mark.parametrize('prior', [
    GaussianPrior(0.5, 0.1), GaussianPrior(0.5, learnable=True), GaussianPrior(np.full((3, 5), 0.5), np.ones((3, 5))),
    ScaleMixturePrior(), MixturePrior([0.2, 0.3, 0.5], [1, 0.1, 0.01]), LaplacePrior(), StudentTPrior()],
    ids=lambda prior: repr(prior) if isinstance(prior, Prior) else None)
def test_priors(prior, kl, dtype):
    for mode in (None, {}):
        check_equal(lambda array: train(
            array, BayesDense(3, in_units=5, dtype=dtype, prior=prior, bias_prior=StudentTPrior(), kl=kl),
            [normal(4, 5, dtype=dtype)], CLASSES.astype(dtype), mode))


class _Cauchy(Prior):
    def log_prob(self, w):
        return -(1 + w.square()).log() - np.log(np.pi)


@pytest.mark.parametrize('prior', [GaussianPrior(0.5), ScaleMixturePrior(), LaplacePrior(), StudentTPrior(), _Cauchy()],
                         ids=lambda prior: type(prior).__name__)
def test_densities_take_arrays_of_both_kinds(prior):
    def run(array):
        mu, sigma, w = (array(value) for value in ([0.1, -2.], [0.3, 0.1], [0.5, -2.5]))
        results = prior.log_prob(w), prior.kl(mu, sigma, w), prior.kl(mu=mu, sigma=sigma, w=w)
        assert all(type(value) is kind(array) for value in results)
        return [value.asnumpy() for value in results]
    check_equal(run)


def test_prior_with_np_arrays():
    with world('np') as array:
        prior = GaussianPrior(array([[1., 2.]]), array([[0., 1.]]))
    assert prior == GaussianPrior(np.array([[1., 2.]]), np.array([[0., 1.]]))


class _Two(nn.HybridSequential):
    def hybrid_forward(self, F, x):
        return self[0](x), self[1](x)


@pytest.mark.parametrize('mode', list(MODES))
@pytest.mark.parametrize('make', [
    lambda: GaussianNLLLoss(0.3), lambda: GaussianNLLLoss(0.3, learnable=True), StudentTNLLLoss, BernoulliNLLLoss,
    PoissonNLLLoss, lambda: gluon.loss.SigmoidBinaryCrossEntropyLoss(), HeteroscedasticGaussianNLLLoss],
    ids=['gaussian', 'learnable', 'student', 'bernoulli', 'poisson', 'gluon', 'heteroscedastic'])
def test_likelihoods(make, mode):
    def run(array):
        likelihood = make()
        if isinstance(likelihood, HeteroscedasticGaussianNLLLoss):
            net = _Two()
            net.add(BayesDense(1), BayesDense(1))
        else:
            net = BayesDense(1)
        return train(array, net, [normal(4, 5)], np.array([0., 1., 1., 0.], 'float32'), MODES[mode], likelihood)
    check_equal(run)


def test_sample_weights():
    def run(array):
        net = BayesDense(3, in_units=5)
        net.initialize()
        set_values(net, array)
        loss_fn, data, label = BBBLoss(net, 10, weight=2.), array(normal(4, 5)), array(CLASSES)
        mx.random.seed(1)
        found = []
        for weight in ([1., 0., 2., 3.], [[1.], [0.], [2.], [3.]]):
            with autograd.record():
                loss = loss_fn(net(data), label, array(weight))
            assert type(loss) is kind(array)
            found.append(loss.asnumpy())
        return found
    check_equal(run)


@pytest.mark.parametrize('optimizer', ['adam', 'fusedadam'])
def test_adam(optimizer):
    def run(array):
        return train(array, sequential(BayesDense(6), BayesDense(3)), [normal(4, 5)], CLASSES, {}, optimizer=optimizer)
    check_equal(run)


def trained(array):
    net = sequential(BayesDense(6, activation='relu', in_units=5), nn.Dense(4, in_units=6), BayesDense(3, in_units=4))
    train(array, net, [normal(4, 5)], CLASSES, {})
    return net


def test_after_training():
    def run(array):
        net, data = trained(array), array(normal(4, 5))
        mx.random.seed(3)
        draws = predict(net, data, num_samples=3, batch_size=3)
        loader = gluon.data.DataLoader(gluon.data.ArrayDataset(data, array(CLASSES)), 3)
        from_loader, labels = predict(net, loader, num_samples=3, with_labels=True, progress=False)
        results = [draws, from_loader, labels, MonteCarlo(net, 3)(data), MonteCarlo(net, 3, link='sigmoid')(data),
                   draw(net)(data), to_deterministic(net)(data), net(data)]
        assert (results[-1] == results[-2]).asnumpy().all()
        probs = npx.softmax(draws) if array is mx.np.array else draws.softmax()
        results.extend(uncertainty(probs))
        results.extend(signal_to_noise(net).values())
        results.extend(value for pair in net[0].posterior().values() for value in pair)
        copy = posterior_as_prior(net)
        assert kl_divergence(copy).asnumpy()[0] < 1e-3 < kl_divergence(net).asnumpy()[0]
        assert prune(net, 0.5) == np.floor((6 * 6 + 5 * 3) / 2)
        results += [net(data), kl_divergence(net), signal_to_noise(net)[f'{net[0].weight.name}']]
        assert all(type(value) is kind(array) for value in results)
        nll = metrics.MonteCarloNLL()
        nll.update(labels, probs)
        return [value.asnumpy() for value in results] + [np.array(nll.get()[1])]
    check_equal(run)


@pytest.mark.parametrize('fraction', [None, 0.1])
def test_conversion(fraction):
    def run(array):
        net = sequential(nn.Conv2D(3, 2, in_channels=1), nn.Dense(4, in_units=12), nn.Dense(3, in_units=4))
        net.initialize()
        set_values(net, array)
        data = normal(4, 1, 3, 3)
        bayesian = to_bayesian(net, fraction=fraction)
        np.testing.assert_array_equal(bayesian(array(data)).asnumpy(), net(array(data)).asnumpy())
        if fraction is None:
            set_prior(bayesian, GaussianPrior(0.7, learnable=True))
        return train(array, bayesian, [data], CLASSES, {}, initialized=True)
    check_equal(run)


def test_checkpoints_serve_both_worlds(tmp_path):
    outputs = []
    for saved, loaded in (('np', 'np'), ('np', 'classic'), ('classic', 'np')):
        with world(saved) as array:
            net = trained(array)
            trainer = gluon.Trainer(net.collect_params(), 'fusedadam')
            train_step(net, trainer, array)
            checkpoint.save_checkpoint(str(tmp_path / 'checkpoint'), net, trainer)
            expected = train_step(net, trainer, array)
        with world(loaded) as array:
            net = sequential(BayesDense(6, activation='relu', in_units=5), nn.Dense(4, in_units=6),
                             BayesDense(3, in_units=4))
            net.initialize()
            net.hybridize()     # as the other: eager and hybridized networks draw other random numbers
            trainer = gluon.Trainer(net.collect_params(), 'fusedadam')
            checkpoint.load_checkpoint(str(tmp_path / 'checkpoint'), net, trainer)
            np.testing.assert_array_equal(train_step(net, trainer, array), expected)
        outputs.append(expected)
    np.testing.assert_array_equal(outputs[0], outputs[2])


def train_step(net, trainer, array):
    loss_fn = BBBLoss(net, 50)
    mx.random.seed(5)
    with autograd.record():
        loss = loss_fn(net(array(normal(4, 5))), array(CLASSES))
    loss.backward()
    trainer.step(4)
    return net(array(normal(4, 5))).asnumpy()


def test_sparse_layers_say_that_there_are_no_sparse_np_arrays():
    with world('np') as array:
        net = trained(array)
        for make in (lambda: SparseDense(3), lambda: to_sparse(net)):
            with pytest.raises(RuntimeError, match='no sparse np arrays'):
                make()


class Writer:
    """What SummaryHandler uses of a summary writer."""

    def __init__(self):
        self.written = []

    def add_scalar(self, tag, value, step):
        self.written.append(value)

    add_histogram = add_scalar


def test_estimator():
    from mxnet.gluon.contrib.estimator import Estimator
    with world('np') as array:
        net = sequential(BayesDense(8, activation='relu'), BayesDense(2))
        net.initialize()
        net.hybridize()
        labels = np.arange(32) % 2
        data = gluon.data.ArrayDataset(array((normal(32, 3) + 4 * labels[:, None]).astype('float32')),
                                       array(labels.astype('float32')))
        trainer = gluon.Trainer(net.collect_params(), 'fusedadam', {'learning_rate': 0.02})
        loss_fn = BBBLoss(net, 32)
        estimator = Estimator(net, loss_fn, trainer=trainer, train_metrics=[
            metrics.MonteCarloNLL(logits=True), metrics.NLL(loss_fn), metrics.KL(loss_fn), metrics.ELBO(loss_fn)])
        estimator.logger.setLevel('ERROR')
        loader, writer = gluon.data.DataLoader(data, 8), Writer()
        estimator.fit(loader, val_data=loader, epochs=20, event_handlers=[
            schedules.KLWeightHandler(schedules.linear(8000)), SummaryHandler(writer, estimator.train_metrics)])
        assert estimator.train_metrics[0].get()[1] < 0.3
        for nll, kl, elbo in estimator.train_metrics[1:4], estimator.val_metrics[1:4]:
            assert np.isclose(elbo.get()[1], -nll.get()[1] - kl.get()[1] / 32)
        assert np.isclose(estimator.train_metrics[0].get()[1], estimator.train_metrics[1].get()[1], atol=1e-5)
        # Each of them is of one draw of the weights.
        assert np.isclose(estimator.val_metrics[2].get()[1], kl_divergence(net, num_samples=100).item(), rtol=0.2)
        assert len(writer.written) > 20 * 4 and all(np.isfinite(values).all() for values in writer.written)


def test_metrics_of_a_loss():
    def run(array):
        net = BayesDense(3, in_units=5, prior=GaussianPrior())
        net.initialize(mx.init.Zero())
        set_values(net, array)
        loss_fn, x, label = BBBLoss(net, 50), array(normal(4, 5)), array(CLASSES)
        found = [metrics.NLL(loss_fn), metrics.KL(loss_fn), metrics.ELBO(loss_fn)]
        mx.random.seed(1)
        for scope in (autograd.record, autograd.pause):
            with scope():
                output = net(x)
                loss_fn(output, label)
            for metric in found:
                metric.update(label, output)
        return [np.array(metric.get()[1]) for metric in found]
    check_equal(run)


def test_float16():
    """Cast after it is initialized: Gluon's initializers have no float16 there."""
    def run(array):
        net = BayesEmbedding(5, 3)
        net.initialize(mx.init.Zero())
        set_values(net, array)
        net.cast('float16')
        net.weight.grad_req = 'write'
        loss_fn, data = BBBLoss(net, 50, gluon.loss.L2Loss()), array(np.arange(4))
        mx.random.seed(1)
        with autograd.record():
            loss = loss_fn(net(data), array(np.zeros((4, 3)), dtype='float16'))
        loss.backward()
        assert net.weight.data().dtype == np.float16 and type(loss) is kind(array)
        return [value.asnumpy() for value in (loss, loss_fn.kl, net.weight.grad(), net.weight_rho.grad(), net(data))]
    check_equal(run)
    with world('np') as array:
        net = BayesEmbedding(2, 2)
        net.initialize(mx.init.Zero())
        net.weight.set_data(array([[1e5, 0.], [0., 0.]]))
        with pytest.raises(ValueError, match='must be between -65504 and 65504 to be cast to float16'):
            net.cast('float16')


def test_public_layers_are_covered():
    """Every layer that is public is in a test above."""
    layers = {getattr(bbb_layers, name) for name in bbb_layers.__all__ if name.startswith('Bayes')} - {BayesBlock}
    assert {type(make()) for make, _, _ in LAYERS.values()} | set(CELLS.values()) == layers
