# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import copy
import json
import math
import multiprocessing
import threading
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
import subprocesses
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from scipy import stats
from subprocesses import TESTS

from bbb_layers import (BayesBlock, BayesDense, BBBLoss, GaussianPrior, LaplacePrior, MixturePrior, ScaleMixturePrior,
                        StudentTPrior, kl_divergence, native)
from bbb_layers.forward.draw import Request
from bbb_layers.posterior import gaussian
from bbb_layers.posterior.gaussian import Kind

pytestmark = pytest.mark.usefixtures('compiled')

KINDS = [kind.value for kind in Kind]
PRIORS = {
    'none': None,
    'gaussian': GaussianPrior(0.6).bind({}),
    'gaussian with a mean': GaussianPrior(0.6, mu=-0.3).bind({}),
    'sampled gaussian': GaussianPrior(0.6).bind({}, sampled=True),
    'sampled gaussian with a mean': GaussianPrior(0.6, mu=-0.3).bind({}, sampled=True),
    'scale mixture': ScaleMixturePrior(0.25, 0.9, 0.01).bind({}),
    'mixture of one': MixturePrior([1.], [0.4]).bind({}),
    'mixture of four': MixturePrior([0.1, 0.2, 0.3, 0.4], [0.1, 2., 0.03, 0.5]).bind({}),
    'laplace': LaplacePrior(0.7).bind({}),
    'student': StudentTPrior(3., 0.5).bind({}),
}
SIZES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 2047, 2048, 2049, 4095, 4096, 4097, 10 ** 6]


class _Rho:
    """What a Request asks of a RhoParameter, with a prior that is bound already."""
    class mu:
        _grad_req = 'write'
        dtype = 'float32'
    _grad_req = 'write'

    def __init__(self, prior):
        self._prior = prior

    def bound_prior(self, values):
        return self._prior


def native_draw(kind, mu, rho, prior=None):
    """What the native operator makes of mu and rho, and the KL term from a bound ``prior``."""
    return Request(nd, _Rho(prior), mu, rho, kind=Kind(kind)).make(with_term=prior is not None)


def noise(shape, seed):
    mx.random.seed(seed)
    return native.operator(nd, '_bbb_layers_noise')(nd.zeros(shape))


def run(function, mu, rho, slopes, kl_slope):
    """Parts, KL term and gradients of what ``function(mu, rho)`` makes, under the given gradients of these."""
    mu, rho = mu.copy(), rho.copy()
    mu.attach_grad()
    rho.attach_grad()
    with autograd.record():
        parts, kl = function(mu, rho)
        parts = list(parts) if isinstance(parts, (list, tuple)) else [parts]
        loss = sum((part * slope).sum() for part, slope in zip(parts, slopes))
        loss = loss if kl is None else loss + kl * kl_slope
    loss.backward()
    return [array.asnumpy() for array in parts + ([] if kl is None else [kl]) + [mu.grad, rho.grad]]


def compare(kind, prior, mu, rho, seed, monkeypatch, rtol=1e-5, atol=1e-5):
    """The native draw against posterior/gaussian.py on the same noise."""
    dtype = 'float64'
    slopes = [nd.random.normal(shape=mu.shape) for _ in range(2)]
    eps = noise(mu.shape, seed)

    def natively(mu, rho):
        mx.random.seed(seed)
        return native_draw(kind, mu, rho, prior)

    with monkeypatch.context() as patch:
        if prior is not None and not prior.closed_form and prior.native_form is None and kind == 'spread':
            pytest.skip('has noise of its own')
        fused = run(natively, mu, rho, slopes, 1e-2)
        patch.setattr(gaussian, 'noise_like', lambda F, like: eps.astype(dtype))
        reference = run(lambda mu, rho: Kind(kind).make(nd, mu, rho, prior), mu.astype(dtype), rho.astype(dtype),
                        [slope.astype(dtype) for slope in slopes], 1e-2)
    for name, ours, theirs in zip(['first', 'second', 'third', 'fourth', 'fifth'], fused, reference):
        assert np.array_equal(np.isnan(ours), np.isnan(theirs)), name
        # Where terms cancel, what is left has their rounding; and what float32 has below 1e-38 may count as 0.
        scale = abs(theirs).max()
        np.testing.assert_allclose(ours, theirs.astype('float32'), rtol=rtol, atol=atol * scale + 1e-37, err_msg=name)


# Each kind with each prior has code of its own; how numbers are cut into vectors and chunks depends on the size alone.
@pytest.mark.parametrize('kind, prior, size', [(kind, prior, 2049) for kind in KINDS for prior in PRIORS] + [
    (kind, prior, size) for kind, prior in (('draw', 'scale mixture'), ('split', 'none'), ('spread', 'gaussian'))
    for size in SIZES if size != 2049])
def test_same_as_the_reference(kind, prior, size, seed, monkeypatch):
    mu, rho = nd.random.normal(0, 0.3, shape=size), nd.random.normal(-3, 2, shape=size)
    compare(kind, PRIORS[prior], mu, rho, seed % 2 ** 31, monkeypatch)


@pytest.mark.parametrize('prior', PRIORS)
@pytest.mark.parametrize('kind', KINDS)
def test_all_of_rho(kind, prior, seed, monkeypatch):
    rho = nd.array(np.concatenate([np.linspace(-100, 100, 4001), np.linspace(-87.4, -87.3, 101), [0., -0., 1e-30]]))
    # Each by itself, so that small gradients do not hide behind large ones.
    for part in np.array_split(np.arange(rho.size), 20):
        mu = nd.random.normal(0, 0.3, shape=len(part))
        compare(kind, PRIORS[prior], mu, rho[part[0]:part[-1] + 1], seed % 2 ** 31, monkeypatch, rtol=2e-5)


@pytest.mark.parametrize('prior', PRIORS)
@pytest.mark.parametrize('kind', KINDS)
def test_extreme_and_pruned_weights(kind, prior, seed, monkeypatch):
    mus = [0., -0., 1e-45, -1e-38, 1e-20, 1e-3, 5., -20., 1e4, 1e15, -1e17]
    mu, rho = (nd.array(values.ravel()) for values in np.meshgrid(mus, [-1e30, -1.1e29, -9e28, -1e4, -3., 0., 4.]))
    for i in range(mu.size):
        compare(kind, PRIORS[prior], mu[i:i + 1], rho[i:i + 1], seed % 2 ** 31, monkeypatch, rtol=1e-5)


@pytest.mark.parametrize('prior', ['none', 'gaussian', 'scale mixture', 'mixture of four'])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, 1e30, -1e38, 3e38])
@pytest.mark.parametrize('place', [0, 40])
def test_not_finite_stays_so(kind, prior, value, place, monkeypatch):
    for which in range(2):
        arrays = [nd.zeros(50), nd.full(50, -3.)]
        arrays[which][place] = value
        mx.random.seed(3)
        parts, kl = native_draw(kind, *arrays, PRIORS[prior])
        with monkeypatch.context() as patch:
            eps = noise(50, 3)
            patch.setattr(gaussian, 'noise_like', lambda F, like: eps)
            expected, expected_kl = Kind(kind).make(nd, *arrays, PRIORS[prior])
        for ours, theirs in zip(parts if kind != 'draw' else [parts], expected if kind != 'draw' else [expected]):
            ours, theirs = ours.asnumpy(), theirs.asnumpy()
            assert np.isfinite(ours[place]) == np.isfinite(theirs[place])
            np.testing.assert_allclose(np.delete(ours, place), np.delete(theirs, place), rtol=1e-5, atol=1e-7)
            if math.isnan(value) or (np.isfinite(theirs[place]) and kind != 'spread'):
                np.testing.assert_allclose(ours[place], theirs[place], rtol=1e-5)
        if kl is not None:
            assert np.isfinite(kl.asscalar()) == np.isfinite(expected_kl.asscalar())


# ---- random numbers

@pytest.fixture(scope='module')
def ten_million(compiled):
    return noise(10 ** 7, 11).asnumpy().astype('float64')


def test_moments(ten_million):
    n = ten_million.size
    # The variance of the k-th power's mean is (E[x^2k] - E[x^k]^2) / n; each within 5 standard errors.
    moment = {k: 0. if k % 2 else float(np.prod(np.arange(k - 1, 0, -2))) for k in range(1, 13)}
    for k in range(1, 7):
        error = ((moment[2 * k] - moment[k] ** 2) / n) ** 0.5
        assert abs((ten_million ** k).mean() - moment[k]) < 5 * error, k


def test_distribution(ten_million):
    assert stats.kstest(ten_million, 'norm').pvalue > 1e-3
    for bound in (2, 3, 4, 4.5, 5):
        for tail in (ten_million > bound, ten_million < -bound):
            expected = stats.norm.sf(bound) * ten_million.size
            assert abs(tail.sum() - expected) < 5 * expected ** 0.5 + 1
    assert 5 < abs(ten_million).max() < 6.7
    # Within a ten thousandth of a sigma around 0, where a generator of few digits would have gaps.
    expected = ten_million.size * 2e-4 * stats.norm.pdf(0)
    assert abs((abs(ten_million) < 1e-4).sum() - expected) < 5 * expected ** 0.5


def uncorrelated(a, b):
    for f in (lambda x: x, lambda x: x ** 2 - 1, np.sign, abs):
        x, y = f(a) - f(a).mean(), f(b) - f(b).mean()
        if not x.std() or not y.std():      # the sign of a radius
            continue
        assert abs((x * y).mean()) < 5 * (x.std() * y.std()) / x.size ** 0.5


@pytest.mark.parametrize('lag', [1, 2, 15, 16, 17, 31, 32, 33, 48, 64, 2032, 2048, 2064, 4096])
def test_neighbours_are_uncorrelated(ten_million, lag):
    uncorrelated(ten_million[:-lag], ten_million[lag:])


def test_pairs_are_independent(ten_million):
    # The two numbers of one pair, sine and cosine: their angle must be uniform, and independent of their radius.
    pairs = ten_million[:ten_million.size // 32 * 32].reshape(-1, 2, 16)
    angle = np.arctan2(pairs[:, 1], pairs[:, 0]).ravel()
    assert stats.kstest(angle / (2 * math.pi) + 0.5, 'uniform').pvalue > 1e-3
    uncorrelated(angle, (pairs ** 2).sum(axis=1).ravel())


def test_calls_and_layers_are_uncorrelated():
    mx.random.seed(4)
    draws = [native.operator(nd, '_bbb_layers_noise')(nd.zeros(10 ** 6)).asnumpy()
             for _ in range(4)]
    for i in range(4):
        for j in range(i):
            uncorrelated(draws[i].astype('float64'), draws[j].astype('float64'))
            uncorrelated(draws[i][2048:].astype('float64'), draws[j][:-2048].astype('float64'))


def test_neighbouring_seeds_are_uncorrelated():
    first, second = (noise(10 ** 6, seed).asnumpy().astype('float64') for seed in (7, 8))
    uncorrelated(first, second)


#: A hash of draws, KL terms and gradients.
HASH = '''
import hashlib, sys
sys.path[:0] = sys.argv[1:]
from bbb_layers import GaussianPrior, MixturePrior, ScaleMixturePrior, native
from test_native_draw import native_draw
import mxnet as mx, numpy as np
from mxnet import autograd, nd
digest, random = hashlib.sha256(), np.random.RandomState(1)
mx.random.seed(9)
for size in [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 2049, 4097, 300001]:
    for kind in ('draw', 'split', 'spread'):
        for prior in (GaussianPrior(0.3), ScaleMixturePrior(), MixturePrior([0.2, 0.3, 0.5], [1., 0.1, 2.])):
            mu, rho, slope = (nd.array(random.normal(size=size, scale=5)) for _ in range(3))
            mu.attach_grad(), rho.attach_grad()
            with autograd.record():
                parts, kl = native_draw(kind, mu, rho, prior.bind({}))
                parts = [parts] if kind == 'draw' else list(parts)
                loss = sum((part * slope).sum() for part in parts) + kl
            loss.backward()
            for array in parts + [kl, mu.grad, rho.grad]:
                digest.update(array.asnumpy().tobytes())
print(native.instruction_set(), digest.hexdigest())
'''


def test_instruction_sets_and_threads_agree_in_every_bit():
    def hashed(wanted, threads):
        environment = dict(OMP_NUM_THREADS=threads, BBB_LAYERS_ISA=wanted,
                           BBB_LAYERS_CACHE=str(Path(native._State.path).parent))
        folders = TESTS, Path(__file__).parent
        return subprocesses.run('-c', HASH, *folders, environment=environment).stdout.split()

    known = ['sse2', 'avx2', 'avx512']
    best, digest = hashed('avx512', '2')
    for wanted, threads in (('sse2', '1'), ('avx2', '2'), ('avx512', '1')):
        assert hashed(wanted, threads) == [known[min(known.index(wanted), known.index(best))], digest]


# ---- in networks

def operators(graph):
    return [node['op'] for node in json.loads(graph.tojson())['nodes'] if node['op'] != 'null']


def build(in_units=0, **options):
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(BayesDense(8, activation='relu', in_units=in_units, **options), BayesDense(3, in_units=8, **options))
    net.initialize(mx.init.Normal(0.5))
    return net


def train(net, steps=1, x=None, prepare=None, ctx=None):
    """Losses and gradients of ``steps`` steps."""
    mx.random.seed(1)
    x = nd.array(np.random.RandomState(0).normal(size=(4, 6)), ctx=ctx) if x is None else x
    label = nd.array([0, 1, 2, 0], ctx=ctx)
    loss_fn = BBBLoss(net, num_train=100)
    found = []
    for _ in range(steps):
        with autograd.record():
            loss = loss_fn(net(x), label)
        loss.backward()
        found.append(loss.asnumpy())
    return found


def gradients(net):
    return {name[len(net.prefix):]: param.grad().asnumpy() for name, param in net.collect_params().items()
            if param.grad_req != 'null'}


def copied(net):
    new = copy.deepcopy(net)
    return new


@pytest.mark.parametrize('static', [False, True])
def test_it_is_in_the_graph_of_a_network_with_deferred_shapes(static):
    net = build()
    net.hybridize(static_alloc=static, static_shape=static)
    train(net)
    found = operators(net._kl_tap.graph[1])
    assert found.count('_bbb_layers_draw') == 4 and found.count('FullyConnected') == 2
    assert 'identity' not in found and '_copy' not in found
    assert set(found) <= {'_ones', 'Dropout', '_bbb_layers_draw', 'FullyConnected', 'Activation', 'Concat'}


def test_a_network_without_loss_has_it_too():
    net = build(in_units=6)
    net.hybridize()
    net(nd.ones((4, 6)))
    assert operators(net._cached_graph[1]).count('_bbb_layers_draw') == 4


@pytest.mark.parametrize('with_loss', [False, True])
def test_a_graph_that_nobody_hybridized_is_made_of_mxnets_operators(with_loss):
    net = build(in_units=6)
    if with_loss:       # its tap opens a frame of its own for the trace
        BBBLoss(net, num_train=10)
    assert not any('bbb_layers' in name for name in operators(net(mx.sym.var('data'))))


@pytest.mark.parametrize('options', [{'dtype': 'float64'}], ids=str)
def test_what_it_does_not_serve(options):
    net = build(**options)
    net.hybridize()
    train(net, x=nd.ones((4, 6), dtype='float64'))
    assert '_bbb_layers_draw' not in operators(net._kl_tap.graph[1])


def test_turned_off_in_mid_process(monkeypatch):
    monkeypatch.setattr(native._State, 'available', False)
    net = build()
    net.hybridize()
    train(net)
    assert '_bbb_layers_draw' not in operators(net._kl_tap.graph[1])


@pytest.mark.parametrize('prior', [GaussianPrior(), ScaleMixturePrior(), LaplacePrior(), GaussianPrior(learnable=True)],
                         ids=repr)
@pytest.mark.parametrize('estimator', ['sample', 'local', 'flipout'])
def test_modes_agree(prior, estimator):
    eager = build(in_units=6, prior=prior, estimator=estimator)
    nets = [eager] + [hybridize(copied(eager), mode) for mode in ({}, {'static_alloc': True, 'static_shape': True})]
    results = []
    for net in nets:
        # The gradient of what does not depend on the noise: that of the KL divergence, if it has a closed form.
        loss_fn = BBBLoss(net, num_train=1)
        for param in net.collect_params('.*bias$').values():
            param.set_data(nd.full(param.shape, 0.2))
        for _ in range(3):
            with autograd.record():
                output = net(nd.ones((4, 6)))
                loss = loss_fn(output, nd.zeros(4))
            loss.backward()
        results.append((loss_fn.kl.asscalar(), gradients(net)))
        assert all(np.isfinite(array).all() and abs(array).sum() > 0 for array in results[-1][1].values())
    if prior.closed_form:
        for kl, _ in results[1:]:
            np.testing.assert_allclose(kl, results[0][0], rtol=1e-5)


def closed_form_gradients(net):
    """Of kl_divergence with GaussianPrior()."""
    expected = {}
    for name, param in net.collect_params().items():
        value = param.data().asnumpy().astype('float64')
        if name.endswith('_rho'):
            sigma = np.log1p(np.exp(value))
            expected[name] = (sigma - 1 / sigma) / (1 + np.exp(-value))
        else:
            expected[name] = value
    return expected


class OnlyKL(gluon.loss.Loss):
    def __init__(self):
        super().__init__(None, 0)

    def hybrid_forward(self, F, output, label):
        return F.sum(output, axis=1) * 0


@pytest.mark.parametrize('before', ['write', 'add', 'null'])
@pytest.mark.parametrize('after', ['write', 'add', 'null'])
@pytest.mark.parametrize('which', ['.*', '.*_rho', '.*(weight|bias)$'])
def test_grad_req(before, after, which, mode):
    # MXNet tells an operator of a library nothing of grad_req.
    net = hybridize(build(in_units=6, prior=GaussianPrior()), mode)
    loss_fn = BBBLoss(net, num_train=1, likelihood=OnlyKL())
    expected = closed_form_gradients(net)
    for req in (before, after):
        net.collect_params(which).setattr('grad_req', req)
        if all(param.grad_req == 'null' for param in net.collect_params().values()):
            continue
        for param in net.collect_params().values():
            param.zero_grad()
        for count in (1, 2, 3):
            with autograd.record():
                loss = loss_fn(net(nd.ones((1, 6))), nd.zeros(1))
            loss.backward()
            for name, param in net.collect_params().items():
                if param.grad_req != 'null':
                    times = count if param.grad_req == 'add' else 1
                    np.testing.assert_allclose(param.grad().asnumpy(), times * expected[name], rtol=2e-5, atol=1e-6)


def test_grad_req_add_in_a_network_without_loss(mode):
    net = hybridize(build(in_units=6), mode)
    x = nd.ones((1, 6))
    net(x)
    mx.random.seed(3)
    parts = []
    for _ in range(2):
        with autograd.record():
            net(x).backward()
        parts.append(gradients(net))
    net.collect_params().setattr('grad_req', 'add')
    mx.random.seed(3)
    for _ in range(2):
        with autograd.record():
            net(x).backward()
    for name, array in gradients(net).items():
        np.testing.assert_allclose(array, parts[0][name] + parts[1][name], rtol=1e-4, atol=1e-6)


class Repeated(gluon.HybridBlock):
    """One layer, many times, with a KL term of the user's beside it."""

    def __init__(self, times, **kwargs):
        super().__init__(**kwargs)
        self.times = times
        with self.name_scope():
            self.layer = BayesDense(6, in_units=6, prior=GaussianPrior())

    def hybrid_forward(self, F, x):
        for _ in range(self.times):
            x = self.layer(x) * 0.9
        return x


class Tied(gluon.HybridBlock):
    """A Bayesian layer, and many times a plain one with the same mu."""

    def __init__(self, times, **kwargs):
        super().__init__(**kwargs)
        self.times = times
        with self.name_scope():
            self.first = BayesDense(6, in_units=6)
            self.second = nn.Dense(6, in_units=6, params=self.first.params)

    def hybrid_forward(self, F, x):
        x = self.first(x)
        for _ in range(self.times):
            x = self.second(x) * 0.9
        return x


@pytest.mark.parametrize('network', [Repeated, Tied])
@pytest.mark.parametrize('times', [2, 8, 12])
@pytest.mark.parametrize('with_loss', [True, False])
def test_the_same_layer_many_times(network, times, with_loss, mode):
    net = hybridize(network(times), mode)
    net.initialize(mx.init.Normal(0.5))
    x = nd.array(np.random.normal(size=(4, 6)))
    if with_loss:
        BBBLoss(net, num_train=100)

    def value():
        mx.random.seed(7)       # holds the noise
        with autograd.record():
            loss = net(x).square().sum()
        return loss

    value()
    for _ in range(2):
        value().backward()
        for name, array in gradients(net).items():
            param = net.collect_params()[net.prefix + name]
            centre, direction = param.data().copy(), nd.array(array / np.linalg.norm(array))
            step = 2e-3
            losses = []
            for sign in (1, -1):
                param.set_data(centre + sign * step * direction)
                losses.append(value().asscalar())
            param.set_data(centre)
            np.testing.assert_allclose((losses[0] - losses[1]) / (2 * step), np.linalg.norm(array), rtol=0.05)


def test_seed_reproduces_a_run(mode):
    net = hybridize(build(in_units=6), mode)
    first = train(net, 4)
    second = train(net, 4)
    np.testing.assert_array_equal(first, second)
    assert len({loss.tobytes() for loss in first}) == 4


def test_predict_mode_is_the_mean_and_leaves_the_random_numbers_alone(mode):
    net = hybridize(build(), mode)
    x = nd.ones((4, 6))
    train(net)
    mean = net(x).asnumpy()
    reference = copied(net)
    reference.hybridize(False)
    np.testing.assert_allclose(mean, reference(x).asnumpy(), rtol=1e-6)
    mx.random.seed(5)
    for _ in range(3):
        np.testing.assert_array_equal(net(x).asnumpy(), mean)
    after = nd.random.normal(shape=3).asnumpy()
    mx.random.seed(5)
    np.testing.assert_array_equal(nd.random.normal(shape=3).asnumpy(), after)


def test_gradients_in_predict_mode(mode):
    # Recorded in predict mode: those of the posterior mean, and none for rho.
    net = hybridize(build(in_units=6), mode)
    BBBLoss(net, num_train=10)
    with autograd.record(train_mode=False):
        loss = net(nd.ones((4, 6))).sum()
    loss.backward()
    for name, array in gradients(net).items():
        assert (abs(array).sum() > 0) == (not name.endswith('_rho')), name


def test_several_contexts(mode):
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = build(in_units=6)
    net.collect_params().reset_ctx(contexts)
    hybridize(net, mode)
    losses = [train(net, 2, nd.ones((4, 6), ctx=context), ctx=context)[-1] for context in contexts]
    assert np.isfinite(losses).all()
    for param in net.collect_params().values():
        assert all(abs(param.grad(context).asnumpy()).sum() > 0 for context in contexts)


def test_cast_and_back(mode):
    net = hybridize(build(in_units=6), mode)
    for dtype in ('float32', 'float64', 'float32'):
        net.cast(dtype)
        losses = train(net, 2, nd.ones((4, 6), dtype=dtype))
        assert losses[0].dtype == np.dtype(dtype) and np.isfinite(losses).all()


def test_cast_of_a_layer_alone(mode):
    net = hybridize(build(in_units=6), mode)
    train(net)
    for layer in net:       # as Gluon does it, the network's graph is not told
        layer.cast('float64')
    assert train(net, 2, nd.ones((4, 6), dtype='float64'))[0].dtype == np.float64


def test_a_layer_that_is_added_later(mode):
    net = hybridize(build(), mode)
    train(net)
    net.add(BayesDense(3), nn.Dense(3))
    for layer in net[-2:]:
        layer.initialize()
    train(net, 3)
    if mode is not None:
        assert operators(net._kl_tap.graph[1]).count('_bbb_layers_draw') == 6


@pytest.mark.parametrize('deferred', [False, True])
def test_a_plain_layer_that_is_added_to_a_network_without_loss(deferred, mode):
    net = hybridize(build(in_units=0 if deferred else 6), mode)
    x = nd.ones((4, 6))
    net(x)
    net.add(nn.Dense(5))
    net[2].initialize()
    for _ in range(3):
        assert net(x).shape == (4, 5)
    if mode is not None:
        assert operators(net._cached_graph[1]).count('_bbb_layers_draw') == 4


class Cauchy(ScaleMixturePrior):
    def log_prob(self, w):
        return -(1 + w.square()).log() - math.log(math.pi)


class Shifted(GaussianPrior):
    def kl(self, mu, sigma, w, **values):
        return super().kl(mu, sigma, w, **values) + 1000.


@pytest.mark.parametrize('prior', [Cauchy(), Shifted()], ids=['log_prob', 'kl'])
def test_a_prior_that_overrides_a_formula_keeps_it(prior, mode):
    net = hybridize(build(in_units=6, prior=prior), mode)
    loss_fn = BBBLoss(net, num_train=1, likelihood=OnlyKL())
    with autograd.record():
        loss_fn(net(nd.ones((1, 6))), nd.zeros(1))
    kls = np.mean([kl_divergence(net).asscalar() for _ in range(20)])
    plain = build(in_units=6, prior=GaussianPrior())
    np.testing.assert_allclose(loss_fn.kl.asscalar(), kls, rtol=0.2)
    assert prior.native_form(False) is not None and prior.bind({}).native_form is None
    if isinstance(prior, Shifted):
        assert kls > 1000 * sum(param.data().size for param in plain.collect_params('.*rho').values())


def test_wrong_arrays_raise_before_anything_is_read():
    draw = native.operator(nd, '_bbb_layers_draw')
    good = dict(kind='draw', switched=0, prior='none', components=0, numbers='')
    for mu, rho, message in ((nd.ones(3), nd.ones(4), 'rho must have the shape of mu'),
                             (nd.ones((2, 3)), nd.ones((3, 2)), 'rho must have the shape of mu'),
                             (nd.ones(3, dtype='float64'), nd.ones(3, dtype='float64'), 'must be float32'),
                             (nd.ones(3), nd.ones(3, dtype='float16'), 'must be float32')):
        with pytest.raises(mx.MXNetError, match=message):
            draw(mu, rho, **good)
            nd.waitall()
    for changed, message in (({'kind': 'x'}, 'kind must be'), ({'prior': 'x'}, 'prior must be'),
                             ({'prior': 'gaussian'}, 'numbers must be 24'), ({'switched': 'x'}, 'switched must be'),
                             ({'prior': 'mixture'}, 'components must be at least 1'),
                             ({'prior': 'pair', 'components': 3}, 'components must be 2 for a pair'),
                             ({'prior': 'mixture', 'components': 2, 'numbers': '00'}, 'numbers must be 56'),
                             ({'switched': 2}, 'switched must be at most 1'),
                             # No memory is taken for numbers that are not there.
                             ({'prior': 'mixture', 'components': 2 ** 20}, 'numbers must be 16777240'),
                             ({'prior': 'mixture', 'components': 2 ** 20 + 1}, 'components must be at most 1048576')):
        with pytest.raises(mx.MXNetError, match=message):
            draw(nd.ones(3), nd.ones(3), **dict(good, **changed))
    with pytest.raises(mx.MXNetError):
        draw(nd.ones(3), nd.ones(3), nd.ones(2), **dict(good, switched=1))
        nd.waitall()
    assert np.isfinite(draw(nd.ones(3), nd.ones(3), **good)[0].asnumpy()).all()


def test_two_threads_train_their_own_networks():
    nets = [hybridize(build(in_units=6), {'static_alloc': True}) for _ in range(2)]
    found = [None, None]

    def work(i):
        try:
            found[i] = train(nets[i], 30)[-1]
        except Exception as error:  # pylint: disable=broad-except
            found[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(result, np.ndarray) and np.isfinite(result).all() for result in found), found


def _in_child(queue):
    net = hybridize(build(in_units=6), {})
    queue.put(float(np.mean(train(net, 2)[-1])))


def test_fork():
    net = build(in_units=6)
    train(net)
    nd.waitall()
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    process = context.Process(target=_in_child, args=(queue,))
    process.start()
    assert math.isfinite(queue.get(timeout=60))
    process.join(60)
    assert process.exitcode == 0
    assert np.isfinite(train(net)[0]).all()


class _Draws(gluon.data.Dataset):
    """A data set whose items are draws."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return native_draw('draw', nd.zeros(5000), nd.zeros(5000))[0]


def test_data_loader_workers():
    batches = list(gluon.data.DataLoader(_Draws(), batch_size=4, num_workers=2))
    assert all(np.isfinite(batch.asnumpy()).all() for batch in batches) and len(batches) == 2


def test_a_bayesian_block_of_ones_own(mode):
    class Gain(gluon.HybridBlock):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            with self.name_scope():
                self.gain = self.params.get('gain', shape=(1, 6), init='ones')

        def hybrid_forward(self, F, x, gain):
            return F.broadcast_mul(x, gain)

    class BayesGain(BayesBlock, Gain):
        pass

    net = nn.HybridSequential()
    net.add(BayesGain(), BayesDense(3))
    net.initialize()
    hybridize(net, mode)
    assert np.isfinite(train(net, 3)).all()
    assert abs(net[0].gain.grad().asnumpy()).sum() > 0
