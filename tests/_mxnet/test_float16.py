# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import json
import textwrap

from bbb_layers import native     # before mxnet, see bbb_layers/_mxnet/import_hook.py
import mxnet as mx
import nets
import numpy as np
import pytest
import subprocesses
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn, rnn

import bbb_layers as bbb
from bbb_layers import (BayesBlock, BayesConv2D, BayesConv2DTranspose, BayesDense, BayesEmbedding, BayesGRUCell,
                        BayesLSTM, BBBLoss, GaussianPrior, LaplacePrior, MixturePrior, MonteCarlo, ScaleMixturePrior,
                        SparseDense, StudentTPrior, checkpoint, draw, kl_divergence, posterior_as_prior, predict, prune,
                        signal_to_noise, to_bayesian, to_deterministic)
from bbb_layers._mxnet import precision

PRIORS = {'gaussian': GaussianPrior(0.7, 0.1), 'mixture': ScaleMixturePrior(), 'three': MixturePrior(
    [0.2, 0.3, 0.5], [1, 0.1, 0.01]), 'laplace': LaplacePrior(0.3), 't': StudentTPrior(), 'learnable': GaussianPrior(
    0.7, 0.1, learnable=True)}


class Mean(gluon.HybridBlock):
    """Of the positions, in a dtype that the CPU has it in."""

    def hybrid_forward(self, F, x):
        return F.mean(x, axis=1)


class BayesPReLU(BayesBlock, nn.PReLU):
    pass


def half(prior=None, mode=None, vocabulary=10, **kwargs):
    """A network that the CPU runs in float16, and its batch."""
    net = nn.HybridSequential()
    net.add(BayesEmbedding(vocabulary, 3, prior=prior, **kwargs), Mean(), BayesPReLU(prior=prior))
    net.initialize(mx.init.Normal(0.5))
    net.cast('float16')
    x = nd.array(np.arange(40).reshape(20, 2) % vocabulary, dtype='float16')
    return hybridize(net, mode), x, nd.array(np.arange(20) % 5 % 3)


@pytest.fixture(params=['native', 'operators'])
def implementation(request, monkeypatch):
    if request.param == 'native' and not native.available():
        pytest.skip('no native operators')
    if request.param == 'operators':
        monkeypatch.setattr(native._State, 'available', False)


@pytest.mark.parametrize('optimizer', ['sgd', 'adam', 'fusedadam'])
def test_training(optimizer, mode):
    net, x, y = half(GaussianPrior(), mode)
    loss_fn = BBBLoss(net, 1000)
    trainer = gluon.Trainer(net.collect_params(), optimizer, {'learning_rate': 0.05, 'multi_precision': True})
    losses = []
    for _ in range(60):
        with autograd.record():
            output = net(x)
            loss = loss_fn(output, y)
        loss.backward()
        trainer.step(2 if optimizer == 'sgd' else 20)
        losses.append(loss.mean().asscalar())
    assert output.dtype == np.float16 and loss.dtype == loss_fn.nll.dtype == loss_fn.kl.dtype == np.float32
    assert np.isfinite(losses).all() and losses[-1] < losses[0] - 0.3
    assert np.mean(net(x).asnumpy().argmax(axis=1) == y.asnumpy()) > 0.8


def test_dtypes():
    net, x, _ = half(GaussianPrior(learnable=True))
    layer = net[0]
    assert {name: np.dtype(param.dtype).name for name, param in layer._reg_params.items()} == {
        'weight': 'float16', 'weight_rho': 'float32', 'weight_prior_mu': 'float32', 'weight_prior_rho': 'float32'}
    assert layer.weight.data().dtype == np.float16 and layer.weight_rho.data().dtype == np.float32
    assert layer.weight_rho.grad().dtype == np.float32
    net.cast('float64')
    assert {np.dtype(param.dtype).name for param in net.collect_params().values()} == {'float64'}
    direct = BayesEmbedding(4, 3, dtype='float16', prior=GaussianPrior(np.ones((4, 3))))
    direct.initialize()
    assert direct.weight_rho.data().dtype == direct.weight_prior_sigma.data().dtype == np.float32
    assert direct(nd.array([1.])).dtype == np.float16


@pytest.mark.parametrize('prior', PRIORS)
def test_gradients_are_those_of_float32(prior, mode, implementation):
    net, x, y = half(PRIORS[prior], mode)
    gradients = {}
    for dtype in ('float16', 'float32'):
        net.cast(dtype)
        loss_fn = BBBLoss(net, 20)
        mx.random.seed(1)
        with autograd.record():
            loss = loss_fn(net(x.astype(dtype)), y)
        loss.backward()
        gradients[dtype] = {name: param.grad().asnumpy().astype('float64')
                            for name, param in net.collect_params().items()}
    for name, exact in gradients['float32'].items():
        # As far as the draw is rounded when the operator gets it, and the gradient when mu does.
        np.testing.assert_allclose(gradients['float16'][name], exact, rtol=2e-2, atol=2e-2 * abs(exact).max())
        assert abs(exact).max() > 0


def test_draws(mode, implementation):
    layer = BayesEmbedding(2000, 2, initial_sigma=0.01)
    layer.initialize(mx.init.Constant(0.25))
    layer.cast('float16')
    hybridize(layer, mode)
    x = nd.arange(2000)
    with autograd.train_mode():
        draws = layer(x).astype('float32').asnumpy()
    assert abs(draws.mean() - 0.25) < 6 * 0.01 / np.sqrt(4000)
    assert abs(draws.std() / 0.01 - 1) < 6 / np.sqrt(8000)
    np.testing.assert_array_equal(layer(x).asnumpy(), 0.25)


#: Of the largest weights to the smallest, and some between whose squares float16 does not hold.
WEIGHTS = np.array([65504., -65504., 300., -1., 6e-5, 6e-8, 0., -0.01], dtype='float16').reshape(4, 2)


@pytest.mark.parametrize('prior', PRIORS)
def test_kl_divergence_is_finite_and_that_of_float32(prior, mode, implementation):
    layer = BayesEmbedding(4, 2, prior=PRIORS[prior])
    layer.initialize()
    layer.weight.set_data(nd.array(WEIGHTS))
    terms = {}
    for dtype in ('float16', 'float32'):
        layer.cast(dtype)
        hybridize(layer, mode)
        loss_fn = BBBLoss(layer, 100, nets.SumOfSquares())
        mx.random.seed(1)
        with autograd.record():
            loss = loss_fn(layer(nd.array([3.])), nd.zeros(1))
        loss.backward()
        terms[dtype] = [loss_fn.kl, kl_divergence(layer)]
        assert np.isfinite(layer.weight_rho.grad().asnumpy()).all()
    for narrow, wide in zip(*terms.values()):
        assert narrow.dtype == np.float32 and np.isfinite(narrow.asscalar())
        np.testing.assert_allclose(narrow.asnumpy(), wide.asnumpy(), rtol=1e-6)
    if prior == 'gaussian':
        mu, sigma = WEIGHTS.astype('float64'), 0.05
        exact = np.log(0.7 / sigma) + (sigma ** 2 + (mu - 0.1) ** 2) / (2 * 0.7 ** 2) - 0.5
        assert terms['float16'][0].asscalar() == pytest.approx(exact.sum(), rel=1e-6)


def test_loss_of_float16_outputs_is_computed_in_float32(mode):
    # 300 positions whose sum, and a KL divergence whose share, float16 has not the range for.
    net, _, _ = half(GaussianPrior(0.01), mode)
    net[0].weight.set_data(nd.full((10, 3), 300., dtype='float16'))
    loss_fn = BBBLoss(net, 1)
    with autograd.record():
        loss = loss_fn(net(nd.ones((2, 3), dtype='float16')), nd.zeros(2))
    assert loss.dtype == np.float32 and 1e9 < loss.asnumpy().max() < np.inf
    regression = BBBLoss(net, 1, bbb.GaussianNLLLoss())
    label = nd.array(np.full((2, 3), 700.), dtype='float16')
    loss = regression(net(nd.ones((2, 3), dtype='float16')), label, nd.ones(2, dtype='float16'))
    assert regression.nll.asnumpy() == pytest.approx(3 * (400 ** 2 / 2 + 0.5 * np.log(2 * np.pi)), rel=1e-5)


def test_everything_after_training(tmp_path):
    net, x, y = half(initial_sigma=0.3)
    predictions = predict(net, x, num_samples=50)
    assert predictions.dtype == np.float32 and predictions.shape == (50, 20, 3)
    assert predictions.asnumpy().std(axis=0).min() > 0.05
    assert np.isfinite(MonteCarlo(net, num_samples=3)(x).asnumpy()).all()
    plain = to_deterministic(net)
    assert type(plain[0]) is nn.Embedding
    np.testing.assert_array_equal(plain(x).asnumpy(), net(x).asnumpy())
    assert draw(net)[0].weight.data().dtype == np.float16
    mu, sigma = net[0].posterior()['weight']
    np.testing.assert_array_equal(mu.asnumpy(), net[0].weight.data().asnumpy())
    np.testing.assert_allclose(sigma.asnumpy(), 0.3, rtol=1e-5)
    # A pruned weight's mark survives: -1e30 is no float16.
    prune(net, 0.5)
    pruned = {name: ratio.asnumpy() == 0 for name, ratio in signal_to_noise(net).items()}
    assert sum(mask.sum() for mask in pruned.values()) == 15
    net.save_parameters(str(tmp_path / 'net.params'))
    checkpoint.save_checkpoint(tmp_path / 'net.checkpoint', net)
    for load in (lambda other: other.load_parameters(str(tmp_path / 'net.params')),
                 lambda other: checkpoint.load_checkpoint(tmp_path / 'net.checkpoint', other)):
        again = half()[0]
        load(again)
        with autograd.train_mode():
            drawn = again[0](nd.arange(10))
        np.testing.assert_array_equal(drawn.asnumpy() == 0, pruned[net[0].weight.name])
    assert abs(kl_divergence(posterior_as_prior(net)).asscalar()) < 1e-4


def test_to_bayesian_of_a_float16_network():
    plain = nn.Embedding(5, 3, dtype='float16')
    plain.initialize(mx.init.Normal(0.5))
    bayes = to_bayesian(plain, fraction=0.1)
    assert bayes.weight.dtype == 'float16' and bayes.weight_rho.data().dtype == np.float32
    np.testing.assert_allclose(bayes.posterior()['weight'][1].asnumpy(),
                               np.maximum(abs(plain.weight.data().asnumpy().astype('float32')) * 0.1, 1e-3), rtol=1e-2)
    dense = nn.HybridSequential()
    dense.add(nn.Embedding(5, 3), nn.Dense(2, dtype='float16', in_units=15))
    dense.initialize()
    with pytest.raises(ValueError, match='no FullyConnected in float16 .* for dense'):
        to_bayesian(dense)


REFUSED = [(BayesDense, (3,), 'FullyConnected'), (BayesConv2D, (3, 2), 'Convolution'),
           (BayesConv2DTranspose, (3, 2), 'Convolution'), (BayesLSTM, (3,), 'RNN'),
           (BayesGRUCell, (3,), 'FullyConnected')]


@pytest.mark.parametrize('layer,arguments,operator', REFUSED, ids=[case[0].__name__ for case in REFUSED])
def test_what_the_cpu_lacks_raises_and_leaves_the_network_alone(layer, arguments, operator, mode):
    net = nn.HybridSequential()
    inner = nn.HybridSequential()
    inner.add(layer(*arguments))
    net.add(nn.BatchNorm(in_channels=4), BayesEmbedding(4, 2), nn.Dense(3, in_units=2), inner)
    net.initialize(mx.init.Normal(0.5))
    if mode is not None:
        BBBLoss(net, 10)
    hybridize(net, mode)
    before = {name: (param.dtype, param.shape) for name, param in net.collect_params().items()}
    values = net[1].weight.data().asnumpy()
    message = (rf'if it is a {layer.__name__}, since MXNet 1.9.1 has no {operator} in float16 there '
               rf'\(saw: float16 for {inner[0].name}\)')
    for target in (net, inner, inner[0]):
        for dtype in ('float16', np.float16, np.dtype('float16')):
            with pytest.raises(ValueError, match=message):
                target.cast(dtype)
    assert before == {name: (param.dtype, param.shape) for name, param in net.collect_params().items()}
    np.testing.assert_array_equal(net[1].weight.data().asnumpy(), values)
    assert net[1].weight.data().dtype == np.float32
    if 'dtype' in str(layer.__signature__):
        with pytest.raises(ValueError, match=f'no {operator} in float16'):
            layer(*arguments, dtype='float16')


@pytest.mark.parametrize('dtype,build', [
    ('float64', lambda: BayesLSTM(3, num_layers=2)), ('int32', lambda: BayesDense(3)),
    ('bfloat16', lambda: BayesEmbedding(3, 2)), ('float16', lambda: SparseDense(3, in_units=2))])
def test_other_dtypes_leave_the_network_alone_too(dtype, build):
    net = nn.HybridSequential()
    net.add(nn.Dense(3, in_units=2), build())
    net.initialize()
    with pytest.raises(ValueError, match='dtype of .* must be .*float32'):
        net.cast(dtype)
    assert {param.dtype for param in net.collect_params().values()} <= {'float32', np.float32}
    assert net[0].weight.data().dtype == np.float32


def test_weights_that_float16_cannot_hold():
    net = nn.HybridSequential()
    net.add(BayesEmbedding(3, 2), BayesEmbedding(3, 2))
    net.initialize()
    net[1].weight.set_data(nd.full((3, 2), 7e4))
    with pytest.raises(ValueError, match=rf'between -65504 and 65504 .*saw: 70000 in Parameter {net[1].weight.name}'):
        net.cast('float16')
    assert {param.data().dtype for param in net.collect_params().values()} == {np.float32}
    net[1].weight.set_data(nd.full((3, 2), -65504))
    net.cast('float16')
    assert net[1].weight.data().asnumpy().min() == -65504


@pytest.mark.parametrize('sign', [1, -1])
def test_the_largest_weight_that_float16_can_hold(sign):
    """Catches a bound that is too high or too low: float16 ends at 65504, and makes infinity of 65520."""
    layer = BayesEmbedding(2, 2)
    layer.initialize()
    weights = [[0.5, -0.25], [sign * 65520., 1.]]
    layer.weight.set_data(nd.array(weights))
    with pytest.raises(ValueError, match=f'between -65504 and 65504 .*saw: 65520 in Parameter {layer.weight.name}'):
        layer.cast('float16')
    np.testing.assert_array_equal(layer.weight.data().asnumpy(), weights)
    weights[1][0] = sign * 65504.
    layer.weight.set_data(nd.array(weights))
    layer.cast('float16')
    assert layer.weight.data().dtype == np.float16
    np.testing.assert_array_equal(layer.weight.data().asnumpy(), weights)


def test_plain_networks_are_cast_as_ever():
    net = nn.HybridSequential()
    net.add(nn.Dense(3, in_units=2), nn.BatchNorm(in_channels=3), rnn.LSTM(3, num_layers=2, input_size=3))
    net.initialize()
    net.cast('float16')
    assert net[0].weight.data().dtype == net[2].l1_i2h_weight.data().dtype == np.float16
    assert net[1].gamma.data().dtype == np.float32
    assert gluon.Block.cast.__doc__.startswith('Cast this Block')


def test_where_there_may_be_a_gpu(monkeypatch):
    monkeypatch.setattr(precision, 'num_gpus', lambda: 1)
    layer = BayesDense(3, in_units=2, dtype='float16')
    assert layer.weight.dtype == 'float16' and layer.weight_rho.dtype == 'float32'
    with pytest.raises(ValueError, match="estimator of BayesDense must be 'sample' or 'flipout' in float16"):
        BayesDense(3, dtype='float16', estimator='local')
    layer = BayesDense(3, in_units=2)
    layer.initialize(ctx=mx.cpu())
    with pytest.raises(ValueError, match='no FullyConnected in float16'):
        layer.cast('float16')


@pytest.fixture(scope='module')
def bfloat16_on_cpu():
    """Skips the test where MXNet itself has no products in bfloat16."""
    dtype = np.dtype([('bfloat16', np.uint16)])     # MXNet's own name for it
    x = nd.amp_cast(nd.ones((2, 4)), dtype=dtype)
    try:
        nd.FullyConnected(x, x, no_bias=True, num_hidden=2).wait_to_read()
    except mx.MXNetError as error:
        assert 'could not create a primitive descriptor' in str(error)
        pytest.skip('MXNet has bfloat16 on processors with AVX-512 only')


# mx.contrib.amp.init cannot be taken back: each in a process of its own.
AMP = '''
    import json, sys
    import bbb_layers as bbb
    import mxnet as mx, numpy as np
    from mxnet import autograd, gluon, nd
    from mxnet.contrib import amp
    from mxnet.gluon import nn
    amp.init(target_dtype=sys.argv[1])
    mx.random.seed(3)

    def network(kind, **kwargs):
        net = nn.HybridSequential()
        net.add({'dense': lambda: bbb.BayesDense(16, activation='relu', **kwargs),
                 'conv': lambda: bbb.BayesConv1D(4, 3, activation='relu', **kwargs),
                 'transposed': lambda: bbb.BayesConv1DTranspose(4, 3, activation='relu', **kwargs),
                 'lstm': lambda: bbb.BayesLSTM(4, layout='NTC', **kwargs)}[kind](),
                bbb.BayesDense(3, prior=bbb.GaussianPrior()))
        net.initialize(mx.init.Normal(0.3))
        return net

    def kl_in_numpy(net):
        total = 0.
        for block in net:
            for rho in getattr(block, '_rhos', {}).values():
                mu, sigma = rho.mu.data().asnumpy().astype(float), np.log1p(np.exp(rho.data().asnumpy().astype(float)))
                total += ((mu ** 2 + sigma ** 2 - 1) / 2 - np.log(sigma)).sum()
        return total
'''
TRAIN = '''
    results = []
    x, y = nd.random.normal(shape=(32, 3, 8)), nd.array(np.arange(32) % 3)
    for kind, estimator, flags in [
            ('dense', 'sample', None), ('dense', 'sample', dict(static_alloc=True, static_shape=True)),
            ('dense', 'local', {}), ('dense', 'flipout', None), ('conv', 'sample', {}), ('transposed', 'sample', {}),
            ('lstm', 'sample', None)]:
        net = network(kind, prior=bbb.GaussianPrior(), estimator=estimator)
        if flags is not None:
            net.hybridize(**flags)
        loss_fn = bbb.BBBLoss(net, 2000)
        trainer = gluon.Trainer(net.collect_params(), 'fusedadam', {'learning_rate': 0.05})
        amp.init_trainer(trainer)
        losses = []
        for _ in range(15):
            with autograd.record():
                output = net(x)
                loss = loss_fn(output, y)
                before = kl_in_numpy(net)
                with amp.scale_loss(loss, trainer) as scaled:
                    autograd.backward(scaled)
            trainer.step(32)
            losses.append(float(loss.mean().asscalar()))
        results.append(dict(
            kind=kind, estimator=estimator, output=str(output.dtype), loss=loss.dtype.__name__, losses=losses,
            kl=float(loss_fn.kl.asscalar()), exact=before, scale=trainer._amp_loss_scaler.loss_scale,
            alone=float(bbb.kl_divergence(net).asscalar()), exact_alone=kl_in_numpy(net),
            draws=bbb.predict(net, x, num_samples=3).asnumpy().std(axis=0).mean().item(),
            mean=str(bbb.MonteCarlo(net, num_samples=2)(x).dtype)))
    print(json.dumps(results))
'''


def run(code, *args, **environment):
    return subprocesses.run('-W', 'ignore', '-c', textwrap.dedent(AMP) + textwrap.dedent(code), *args,
                            environment=dict(environment, OMP_NUM_THREADS='1')).stdout


@pytest.mark.parametrize('use_native', ['1', '0'])
def test_amp_in_bfloat16(use_native, bfloat16_on_cpu):
    out = run(TRAIN, 'bfloat16', BBB_LAYERS_NATIVE=use_native)
    for result in json.loads(out.splitlines()[-1]):
        print(result)
        assert 'bfloat16' in result['output'] or result['estimator'] != 'sample'
        assert result['loss'] == result['mean'][8:-2].split('.')[-1] == 'float32'
        # In bfloat16 it would be off by 1e-3.
        assert result['kl'] == pytest.approx(result['exact'], rel=2e-5)
        assert result['alone'] == pytest.approx(result['exact_alone'], rel=2e-5)
        assert np.isfinite(result['losses']).all() and np.mean(result['losses'][-5:]) < result['losses'][0] - 0.2
        assert result['scale'] >= 1 and result['draws'] > 1e-3


def test_amp_converts_a_deterministic_copy(bfloat16_on_cpu):
    out = run('''
        net = network('dense', prior=bbb.GaussianPrior())
        x = nd.random.normal(shape=(32, 3, 8))
        net(x)
        plain = bbb.to_deterministic(net)
        plain.hybridize()
        exact = plain(x)
        converted = amp.convert_hybrid_block(plain, target_dtype='bfloat16', ctx=mx.cpu())
        print(json.dumps(float((abs(converted(x).astype('float32') - exact.astype('float32'))).max().asscalar())))
        '''.replace('amp.init', 'print'), 'bfloat16')
    assert float(out.splitlines()[-1]) < 0.05


def test_amp_in_float16_raises_on_a_cpu():
    out = run('''
        net = network('dense', prior=bbb.GaussianPrior())
        try:
            net(nd.random.normal(shape=(32, 3, 8))).wait_to_read()
        except mx.MXNetError as error:
            print('raised', error)
        ''', 'float16')
    assert 'raised' in out and 'float16 fully connected' in out
