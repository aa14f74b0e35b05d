# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The transposed convolutions against Gluon's; estimators and training of them are in test_estimators."""
import mxnet as mx
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, nd
from mxnet.gluon import nn
from subprocesses import run

from bbb_layers import BayesConv1DTranspose, BayesConv2DTranspose, BayesConv3DTranspose, to_bayesian, to_deterministic

CLASSES = {1: (BayesConv1DTranspose, nn.Conv1DTranspose), 2: (BayesConv2DTranspose, nn.Conv2DTranspose),
           3: (BayesConv3DTranspose, nn.Conv3DTranspose)}


@pytest.mark.parametrize('ndim', CLASSES)
@pytest.mark.parametrize('kwargs', [
    dict(kernel_size=3), dict(kernel_size=1), dict(kernel_size=4, strides=2, padding=1, activation='relu'),
    dict(kernel_size=3, strides=3, output_padding=2, use_bias=False), dict(kernel_size=2, strides=3, output_padding=1),
    dict(kernel_size=2, strides=2, padding=2), dict(kernel_size=1, strides=2, padding=1, output_padding=1),
    dict(kernel_size=2, dilation=2, padding=1), dict(kernel_size=3, groups=2, in_channels=4, strides=2),
    dict(kernel_size=2, in_channels=4),
], ids=repr)
def test_posterior_mean_is_gluon_s_layer(ndim, kwargs, mode):
    if ndim == 3 and 'dilation' in kwargs:
        pytest.skip('Gluon has no dilated one in 3D')
    bayes, plain = (cls(6, bias_initializer='ones', **kwargs) for cls in CLASSES[ndim])
    for layer in (bayes, plain):
        layer.initialize()
    hybridize(bayes, mode)
    x = nd.random.normal(shape=(2, 4) + (4, 3, 5)[:ndim])
    bayes(x), plain(x)
    assert bayes.weight.shape == bayes.weight_rho.shape == plain.weight.shape
    for name in bayes._rhos:
        getattr(plain, name).set_data(getattr(bayes, name).data())
    for batch in (x, nd.concat(x, 2 * x, dim=0)):
        expected, output = plain(batch), bayes(batch)
        assert output.shape == expected.shape
        np.testing.assert_allclose(output.asnumpy(), expected.asnumpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('ndim', CLASSES)
def test_deferred_shapes_inside_a_network(ndim, mode):
    net = nn.HybridSequential()
    net.add(CLASSES[ndim][0](4, 2, strides=2), CLASSES[ndim][0](3, 2, activation='tanh'), nn.Dense(2))
    net.initialize()
    hybridize(net, mode)
    with autograd.record():
        output = net(nd.ones((2, 5) + (3,) * ndim))
    output.backward()
    assert output.shape == (2, 2) and net[0].weight.shape == (5, 4) + (2,) * ndim
    assert abs(net[0].weight_rho.grad()).sum().asscalar() > 0


@pytest.mark.parametrize('ndim', CLASSES)
@pytest.mark.parametrize('kwargs,message', [
    (dict(output_padding=1), 'output_padding|adj'),     # some of these Gluon's constructor finds, by its operator
    (dict(strides=2, output_padding=2), 'output_padding|adj'),
    (dict(strides=2, output_padding=-1), r'output_padding must be below strides, .* and not negative \(saw: '),
])
def test_bad_output_padding(ndim, kwargs, message):
    with pytest.raises((ValueError, mx.MXNetError), match=message):
        CLASSES[ndim][0](3, 2, **kwargs)


def test_bad_layout():
    with pytest.raises(ValueError, match=r"layout must start with 'NC' \(saw: 'NHWC'\)"):
        BayesConv2DTranspose(3, 2, layout='NHWC')


@pytest.mark.parametrize('ndim', [1, 2])
def test_strides_and_dilation_in_float64(ndim):
    """MXNet's layer then has wrong outputs, and predict and to_deterministic would have them too."""
    bayes, plain = CLASSES[ndim]
    kwargs = dict(kernel_size=2, in_channels=2, strides=2, dilation=2)
    layer = plain(3, **kwargs)
    layer.initialize(mx.init.Normal(1.))
    x = nd.random.normal(shape=(1, 2) + (5, 5)[:ndim])
    expected = layer(x).asnumpy()
    layer.cast('float64')
    assert abs(layer(x.astype('float64')).asnumpy() - expected).max() > 0.1    # else this limit can go
    message = r'dtype of BayesConv\dDTranspose must be float32 where both strides and dilation are above 1'
    for make in (lambda: bayes(3, **kwargs).cast('float64'), lambda: to_bayesian(layer)):
        with pytest.raises(ValueError, match=message):
            make()
    for fine in (dict(kwargs, strides=1), dict(kwargs, dilation=1), dict(kwargs, kernel_size=1)):
        net = bayes(3, **fine)
        net.initialize(mx.init.Normal(1.))
        expected = net(x).asnumpy()
        net.cast('float64')
        for output in (net(x.astype('float64')), to_deterministic(net)(x.astype('float64'))):
            np.testing.assert_allclose(output.asnumpy(), expected, rtol=1e-4, atol=1e-5)


def test_strides_and_dilation_along_one_axis_in_float64():
    """One axis with both is enough for wrong outputs; strides along one axis and dilation along the other are not."""
    bayes, plain = CLASSES[2]
    x = nd.random.normal(shape=(1, 2, 5, 5))
    for strides, right in (((2, 1), False), ((1, 2), True)):
        kwargs = dict(kernel_size=2, in_channels=2, strides=strides, dilation=(2, 1))
        layer = plain(3, **kwargs)
        layer.initialize(mx.init.Normal(1.))
        expected = layer(x).asnumpy()
        layer.cast('float64')
        error = abs(layer(x.astype('float64')).asnumpy() - expected).max()
        if right:
            assert error < 1e-4
            bayes(3, **kwargs).cast('float64')
        else:
            assert error > 0.1
            with pytest.raises(ValueError, match='where both strides and dilation are above 1'):
                bayes(3, **kwargs).cast('float64')


@pytest.mark.parametrize('cls', CLASSES[3])
def test_dilation_in_3d_raises(cls):
    with pytest.raises(mx.MXNetError, match='Dilate is not supported in 3d deconvolution'):
        cls(2, 2, dilation=2)


@pytest.mark.costly
@pytest.mark.parametrize('channels, instructions', [(8, 'AVX2'), (16, 'ALL')])
def test_channels_by_the_block(channels, instructions):
    """Catches a slice that ends inside a block of channels, 8 with AVX2 and 16 with AVX-512: it kills the process in
    the first hybridized forward. This test has a process of its own, which spares the other tests; test_conv_channels
    looks at the numbers."""
    code = f'''if True:
        from bbb_layers import BayesConv2DTranspose
        from mxnet import nd
        layer = BayesConv2DTranspose({channels}, 3, in_channels={channels})
        layer.initialize()
        layer.hybridize()
        print(layer(nd.ones((1, {channels}, 4, 4))).asnumpy().shape)
    '''
    done = run('-W', 'ignore', '-c', code, environment={'DNNL_MAX_CPU_ISA': instructions})
    assert f'(1, {channels}, 6, 6)' in done.stdout


@pytest.mark.parametrize('ndim', CLASSES)
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_is(ndim, value):
    """A graph adds a 0 to all weights, by which Gluon infers shapes, and computes it from the first example. Catches a
    0 that is a product: a number that is not finite in that example would make NaN of all outputs."""
    layer = CLASSES[ndim][0](16, 3, in_channels=16)
    layer.initialize()
    x = nd.random.normal(shape=(2, 16) + (4,) * ndim)
    x[(0,) * (2 + ndim)] = value
    expected = layer(x).asnumpy()
    assert np.isfinite(expected[1]).all() and not np.isfinite(expected[0]).all()
    layer.hybridize()
    np.testing.assert_allclose(layer(x).asnumpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.costly
@pytest.mark.skipif(mx.context.num_gpus() > 0, reason='the fault is in the CPU operator')
def test_mxnet_s_own_operator_fails():
    """Why there is an operator of our own. In a process of its own, since the failure poisons MXNet's engine."""
    code = '''if True:
        import bbb_layers
        from mxnet import autograd, nd
        x, w = nd.ones((2, 4, 5, 5)), nd.ones((4, 3, 3, 3))
        w.attach_grad()
        with autograd.record():
            y = nd.Deconvolution(x, w * 1, kernel=(3, 3), num_filter=3, no_bias=True)
        y.backward()
        w.grad.wait_to_read()
    '''
    assert 'could not execute a primitive' in run('-c', code, check=False).stderr
