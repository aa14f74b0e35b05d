# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Networks as ONNX files, run by onnxruntime."""
import os
import subprocess
import sys
import threading

import mxnet as mx
import nets
import numpy as np
import pytest
from conftest import hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn, rnn
from mxnet.gluon.contrib.nn import PixelShuffle2D, SyncBatchNorm
from mxnet.gluon.model_zoo import vision
from onnx_files import BATCH_SIZES, Function, assert_equal, assert_exports, batch, run

import bbb_layers as bbb
from bbb_layers import BayesConv2D, BayesDense, MonteCarlo, export_onnx, to_deterministic, to_sparse

onnx = pytest.importorskip('onnx', reason="needs the extra 'onnx'")
pytest.importorskip('onnxruntime', reason="needs the extra 'onnx'")


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'net.onnx'


def sequential(*layers):
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(*layers)
    return net


def ready(net, *shapes, dtypes=None):
    """``net``, initialized so that no Parameter is 0 or 1, for inputs of these shapes."""
    net.initialize(mx.init.Xavier(magnitude=2))
    net(*(nd.zeros([size or 2 for size in shape], dtype=dtype)
          for shape, dtype in zip(shapes, dtypes or ['float32'] * len(shapes))))
    for name, param in net.collect_params().items():
        if name.endswith(('bias', 'beta', 'running_mean')):
            param.set_data(nd.random.normal(shape=param.shape))
        elif name.endswith(('gamma', 'running_var')):
            param.set_data(nd.random.uniform(0.5, 2, shape=param.shape))
    return net


IMAGE = 1, 3, 32, 32
#: Name -> (the network, the shape of its input).
NETWORKS = {
    'dense': (lambda: sequential(nn.Dense(5, 'relu'), nn.Dense(4, 'tanh', use_bias=False), nn.Dense(3)), (1, 4)),
    'dense of images': (lambda: sequential(nn.Dense(5, 'sigmoid'), nn.Flatten()), (1, 4, 3)),
    'dense without flatten': (lambda: sequential(nn.Dense(5, flatten=False), nn.Dense(3, flatten=False, use_bias=False)),
                              (1, 4, 3)),
    'embedding': (lambda: sequential(nn.Embedding(4, 5), nn.Dense(3)), (1, 3)),
    'conv': (lambda: sequential(
        nn.Conv2D(8, 3, padding=1, activation='relu'), nn.BatchNorm(), nn.MaxPool2D(), nn.Conv2D(
            4, (3, 2), strides=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, use_bias=False), nn.BatchNorm(),
        nn.AvgPool2D(3, 2, 1), nn.Flatten(), nn.Dropout(0.5), nn.Dense(3)), (1, 2, 12, 11)),
    'conv1d': (lambda: sequential(nn.Conv1D(4, 3), nn.BatchNorm(), nn.MaxPool1D(3, 2, 1, ceil_mode=True),
                                  nn.AvgPool1D(2, ceil_mode=True), nn.GlobalAvgPool1D()), (1, 2, 12)),
    'conv3d': (lambda: sequential(nn.Conv3D(4, 3), nn.BatchNorm(), nn.MaxPool3D(2), nn.AvgPool3D(2, 1, 1),
                                  nn.GlobalMaxPool3D()), (1, 2, 8, 7, 6)),
    'batch norms': (lambda: sequential(
        nn.BatchNorm(scale=False), nn.BatchNorm(center=False), nn.BatchNorm(use_global_stats=True, epsilon=0.1),
        nn.BatchNorm(axis=2), nn.BatchNorm(axis=-1), SyncBatchNorm(num_devices=1)), (1, 3, 4, 5)),
    'batch norm of rows': (lambda: sequential(nn.BatchNorm(), nn.BatchNorm(axis=-1)), (1, 4)),
    'norms': (lambda: sequential(
        nn.LayerNorm(), nn.LayerNorm(axis=1, epsilon=0.1), nn.LayerNorm(scale=False), nn.InstanceNorm(scale=True),
        nn.InstanceNorm(axis=2, epsilon=0.1), nn.GroupNorm(2), nn.GroupNorm(4, epsilon=0.1)), (1, 4, 5, 6)),
    'activations': (lambda: sequential(
        nn.LeakyReLU(0.1), nn.PReLU(), nn.PReLU(in_channels=4), nn.ELU(0.3), nn.SELU(), nn.GELU(), nn.Swish(1.5),
        nn.Activation('softrelu'), nn.Activation('softsign')), (1, 4, 5)),
    'pixel shuffle': (lambda: sequential(PixelShuffle2D((2, 3))), (1, 12, 3, 4)),
    'padding': (lambda: sequential(nn.ReflectionPad2D(2)), (1, 2, 4, 5)),
    'lambda': (lambda: sequential(nn.Dense(5), nn.HybridLambda(
        lambda F, x: F.broadcast_sub(F.softmax(x), F.mean(x, axis=0, keepdims=True))), nn.HybridLambda('tanh')), (1, 4)),
    'resnet18_v1': (lambda: vision.resnet18_v1(classes=10), IMAGE),
    'resnet18_v2': (lambda: vision.resnet18_v2(classes=10), IMAGE),
    'mobilenet': (lambda: vision.mobilenet0_25(classes=10), IMAGE),
    'mobilenet_v2': (lambda: vision.mobilenet_v2_0_25(classes=10), IMAGE),
    'squeezenet': (lambda: vision.squeezenet1_1(classes=10), (1, 3, 209, 209)),
    'densenet': (lambda: vision.densenet121(classes=10), (1, 3, 224, 224)),
}
for _name in ('Conv1DTranspose', 'Conv2DTranspose', 'Conv3DTranspose'):
    NETWORKS[_name] = (lambda layer=getattr(nn, _name): sequential(
        layer(4, 3, strides=2, padding=1, output_padding=1, in_channels=2),
        layer(6, 2, groups=2, in_channels=4, activation='relu'), layer(2, 3, use_bias=False, in_channels=6))), (
            1, 2, *(4, 5, 3)[:int(_name[4])])
for _name in ('LSTM', 'GRU', 'RNN'):
    for _text, _options in (
            ('', {}), (', 2 layers', dict(num_layers=2)), (', both directions', dict(bidirectional=True)),
            (', 3 layers, both directions, NTC', dict(num_layers=3, bidirectional=True, layout='NTC', dropout=0.5))):
        NETWORKS[_name + _text] = (lambda layer=getattr(rnn, _name), options=_options: layer(5, **options)), (
            (1, 4, 6) if 'layout' in _options else (4, None, 6))
    NETWORKS[f'{_name}Cell'] = (lambda cell=getattr(rnn, f'{_name}Cell'): nets.Unrolled(cell)), (1, 4, 3)
NETWORKS['RNN, tanh'] = (lambda: rnn.RNN(5, activation='tanh', bidirectional=True)), (4, None, 6)


@pytest.mark.parametrize('name', NETWORKS)
def test_plain_network(name, path):
    build, shape = NETWORKS[name]
    assert_exports(ready(build(), shape), path, shape)


@pytest.mark.parametrize('name', nets.NETWORKS)
def test_bayesian_network(name, mode, path):
    net, x = nets.make(name)
    hybridize(net, mode)
    assert_exports(net, path, x.shape)


@pytest.mark.parametrize('ceil', [False, True])
@pytest.mark.parametrize('pad', [0, 1])
@pytest.mark.parametrize('size', range(6, 12))
@pytest.mark.parametrize('layer', [nn.MaxPool2D, nn.AvgPool2D, lambda *args, **kwargs: nn.AvgPool2D(
    *args, count_include_pad=False, **kwargs)], ids=['max', 'average', 'average without padding'])
def test_pooling(layer, size, pad, ceil, path):
    assert_exports(sequential(layer(3, 2, pad, ceil_mode=ceil)), path, (1, 2, size, 9))
