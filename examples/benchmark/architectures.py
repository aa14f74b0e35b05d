# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Time of one training step of a perceptron, a convolutional net and an LSTM, with each estimator.

Each is set beside the deterministic Gluon net of the same shape: hybridized, static, Adam, one batch of random data,
Gaussian prior. A recurrent layer has only the estimator 'sample', so that of the LSTM is the output layer's. Prints a
Markdown table.
"""
import all_processors  # noqa: F401 pylint: disable=unused-import  (before mxnet)
import bbb_layers as bbb
import mxnet as mx
from mxnet import gluon, nd
from mxnet.gluon import nn, rnn
from timing import TrainingStep, arguments, describe, in_turn

NUM_TRAIN = 60000
ESTIMATORS = 'sample', 'local', 'flipout'


def perceptron(layers, **estimator):
    net = nn.HybridSequential()
    net.add(layers['Dense'](400, activation='relu', **estimator), layers['Dense'](400, activation='relu', **estimator),
            layers['Dense'](10, **estimator))
    return net


def convolutional(layers, **estimator):
    net = nn.HybridSequential()
    for channels in (16, 32):
        net.add(layers['Conv2D'](channels, 3, activation='relu', **estimator), nn.MaxPool2D())
    net.add(layers['Dense'](100, activation='relu', **estimator), layers['Dense'](10, **estimator))
    return net


def recurrent(layers, **estimator):
    net = nn.HybridSequential()
    net.add(layers['LSTM'](128, layout='NTC'), layers['Dense'](50, flatten=False, **estimator))
    return net


# name: (network, shape of one example, shape of one label, number of classes)
NETWORKS = {
    '784-400-400-10': (perceptron, (784,), (), 10),
    'two convolutions and two dense layers, 28 x 28': (convolutional, (1, 28, 28), (), 10),
    'LSTM of 128 units, 30 steps of 64 features': (recurrent, (30, 64), (30,), 50)}

PLAIN = {'Dense': nn.Dense, 'Conv2D': nn.Conv2D, 'LSTM': rnn.LSTM}
BAYESIAN = {name: getattr(bbb, 'Bayes' + name) for name in PLAIN}


def contender(name, estimator, batch_size):
    """A training step of the network ``name``, deterministic if ``estimator`` is None."""
    build, shape, label_shape, classes = NETWORKS[name]
    data = nd.random.normal(shape=(batch_size,) + shape)
    label = nd.random.randint(0, classes, shape=(batch_size,) + label_shape).astype('float32')
    if estimator is None:
        net = build(PLAIN)
    else:
        net = build(BAYESIAN, estimator=estimator)
        bbb.set_prior(net, bbb.GaussianPrior())
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    loss_fn = gluon.loss.SoftmaxCrossEntropyLoss() if estimator is None else bbb.BBBLoss(net, NUM_TRAIN)
    net(data)
    return TrainingStep(lambda: loss_fn(net(data), label), list(net.collect_params().values()), batch_size)


if __name__ == '__main__':
    args = arguments(__doc__, batch_size=(64, 'examples in the batch'))
    rows = []
    for name in NETWORKS:
        times = in_turn({estimator: contender(name, estimator, args.batch_size) for estimator in (None,) + ESTIMATORS},
                        args)
        for estimator, (low, mid, high) in times.items():
            rows.append((name, estimator or 'deterministic', mid, low, high, mid / times[None][1]))
    describe('batch %d, Adam' % args.batch_size, args)
    print('| network | estimator | median ms | lower quartile | upper quartile | x the deterministic step |\n'
          '|---|---|---:|---:|---:|---:|')
    for row in rows:
        print('| {} | {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |'.format(*row))
