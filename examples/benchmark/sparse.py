# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Size of the file and time of the forward of a perceptron with zeros, as nn.Dense and as SparseDense layers.

Both are hybridized and static, the zeros are spread at random over all weights and biases, and the data is random.
Prints two Markdown tables.
"""
import os
import tempfile

import all_processors  # noqa: F401 pylint: disable=unused-import  (before mxnet)
from bbb_layers.networks.sparse import to_sparse
import mxnet as mx
import numpy as np
from mxnet import nd
from mxnet.gluon import nn
from timing import arguments, describe, in_turn

INPUTS = 784
ZEROS = 90, 95, 98, 99      # percent
BATCHES = 1, 128, 1024


def perceptron(units, zeros, seed):
    """The dense network with ``zeros`` percent of all its weights and biases, chosen together, set to 0."""
    net = nn.HybridSequential()
    for inputs, outputs, activation in ((INPUTS, units, 'relu'), (units, units, 'relu'), (units, 10, None)):
        net.add(nn.Dense(outputs, activation=activation, in_units=inputs, bias_initializer=mx.init.Normal(0.1)))
    net.initialize(mx.init.Xavier())
    params = list(net.collect_params().values())
    kept = np.ones(sum(int(np.prod(param.shape)) for param in params), bool)
    kept[np.random.RandomState(seed).permutation(kept.size)[:kept.size * zeros // 100]] = False
    for param, mask in zip(params, np.split(kept, np.cumsum([np.prod(param.shape) for param in params])[:-1])):
        param.set_data(param.data() * nd.array(mask.reshape(param.shape)))
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def file_size(net):
    """Bytes that ``net.save_parameters`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'net.params')
        net.save_parameters(path)
        return os.path.getsize(path)


if __name__ == '__main__':
    args = arguments(__doc__, units=(1200, 'units of each hidden layer'))
    sizes, times = [], []
    for zeros in ZEROS:
        dense = perceptron(args.units, zeros, args.seed)
        sparse = to_sparse(dense)
        sizes.append((zeros, file_size(dense), file_size(sparse)))
        for batch in BATCHES:
            data = nd.random.normal(shape=(batch, INPUTS))
            np.testing.assert_allclose(sparse(data).asnumpy(), dense(data).asnumpy(), rtol=1e-3, atol=1e-5)
            low, mid, high = zip(*in_turn({'dense': lambda: dense(data), 'sparse': lambda: sparse(data)},
                                          args).values())
            times.append((zeros, batch, mid[0], low[0], high[0], mid[1], low[1], high[1], mid[0] / mid[1]))
    describe('%d-%d-%d-10, float32' % (INPUTS, args.units, args.units), args)
    print('| zeros % | file, dense, bytes | file, sparse, bytes | x smaller |\n|---:|---:|---:|---:|')
    for zeros, dense, sparse in sizes:
        print('| %d | %d | %d | %.2f |' % (zeros, dense, sparse, dense / sparse))
    print('\n| zeros % | batch | dense, median ms | quartiles | sparse, median ms | quartiles | x faster |\n'
          '|---:|---:|---:|---:|---:|---:|---:|')
    for row in times:
        print('| %d | %d | %.2f | %.2f, %.2f | %.2f | %.2f, %.2f | %.2f |' % row)
