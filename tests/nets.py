# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Networks with every layer of the package, for tests of what takes any network."""
import mxnet as mx
from mxnet import gluon, nd
from mxnet.gluon import nn, rnn

import bbb_layers as bbb


class Own(gluon.HybridBlock):
    """A block of a user's: layers as attributes under other names than they have as children, one of them twice."""

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.first = dense(4, in_units=4, activation='relu')
            self.alias = self.first
            self.rest = nn.HybridSequential(prefix='rest_')
            with self.rest.name_scope():
                self.rest.add(nn.BatchNorm(), dense(4), nn.Dropout(0.5))
            self.layers = [self.first, self.rest]

    def hybrid_forward(self, F, x):
        return self.rest(self.alias(self.first(x)))


def dense(layers):
    net = nn.HybridSequential(prefix='net_')
    with net.name_scope():
        net.add(layers['Dense'](4, activation='relu'), Own(layers['Dense']), layers['Dense'](3, use_bias=False))
    return net


def tied(layers):
    net = nn.HybridSequential(prefix='tied_')
    with net.name_scope():
        net.add(layers['Dense'](4, in_units=4))
        net.add(layers['Dense'](4, in_units=4, params=net[0].params), nn.Dropout(0.3))
    return net


def conv(kind, transposed):
    def build(layers):
        name = 'Conv%dD%s' % (kind, 'Transpose' if transposed else '')
        net = nn.HybridSequential(prefix=name.lower() + '_')
        with net.name_scope():
            net.add(layers[name](3, 2, activation='relu'), nn.BatchNorm(), layers[name](2, 2, use_bias=False))
        return net
    return build


def embedding(layers):
    net = nn.HybridSequential(prefix='embedding_')
    with net.name_scope():
        net.add(layers['Embedding'](7, 4), layers['Dense'](3))
    return net


def fused(name):
    def build(layers):
        net = nn.HybridSequential(prefix=name.lower() + '_')
        with net.name_scope():
            net.add(layers[name](4, num_layers=2, bidirectional=True, layout='NTC'), layers['Dense'](3, flatten=False))
        return net
    return build


class Unrolled(gluon.HybridBlock):
    def __init__(self, cell, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.cell = cell(4, input_size=3)

    def hybrid_forward(self, F, x):
        return self.cell.unroll(4, x, merge_outputs=True)[0]


def cell(name):
    return lambda layers: Unrolled(layers[name], prefix=name.lower() + '_')


class _Classes:
    def __init__(self, bayesian, options):
        self.bayesian, self.options = bayesian, options

    def __getitem__(self, name):
        if not self.bayesian:
            return getattr(nn, name, None) or getattr(rnn, name)
        return lambda *args, **kwargs: getattr(bbb, 'Bayes' + name)(*args, **dict(kwargs, **self.options))


# name: (network of a dict name -> layer class, batch of 4 examples)
NETWORKS = {
    'dense': (dense, lambda: nd.random.normal(shape=(4, 6))),
    'tied': (tied, lambda: nd.random.normal(shape=(4, 4))),
    'embedding': (embedding, lambda: nd.random.randint(0, 7, shape=(4, 3)).astype('float32')),
}
for _ndim in (1, 2, 3):
    for _transposed in (False, True):
        NETWORKS['conv%dd%s' % (_ndim, ' transposed' * _transposed)] = (
            conv(_ndim, _transposed), lambda ndim=_ndim: nd.random.normal(shape=(4, 2) + (4, 5, 3)[:ndim]))
for _name in ('RNN', 'LSTM', 'GRU'):
    NETWORKS[_name] = fused(_name), lambda: nd.random.normal(shape=(4, 4, 3))
    NETWORKS[_name + 'Cell'] = cell(_name + 'Cell'), lambda: nd.random.normal(shape=(4, 4, 3))


def make(name, bayesian=True, **options):
    """A network, initialized so that no two Parameters are alike, and a batch of 4 that it has seen."""
    build, batch = NETWORKS[name]
    net, x = build(_Classes(bayesian, options)), batch()
    net.initialize(mx.init.Normal(0.5))
    net(x)
    for param in net.collect_params('.*bias|.*beta|.*running_mean').values():
        param.set_data(nd.random.normal(shape=param.shape))
    return net, x


def values(net):
    """All Parameters of a network as numpy arrays, by name."""
    return {name: param.data().asnumpy() for name, param in net.collect_params().items()}


def blocks(net):
    """``net`` and all blocks below it, children first."""
    found = []
    net.apply(found.append)
    return found


class SumOfSquares(gluon.loss.Loss):
    """A likelihood that needs no labels."""

    def __init__(self):
        super().__init__(None, 0)

    def hybrid_forward(self, F, output, label):
        return F.sum(F.square(output), axis=0, exclude=True)
