# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Memory of a long training: BBBLoss, Trainer and metric, step after step, hybridized and static.

Prints the resident memory now and then, and fails if after the warm-up it ever rises by more than 2 %.
"""
import argparse
import os
import sys
import time

import all_processors  # noqa: F401 pylint: disable=unused-import  (before mxnet)
from bbb_layers import BayesDense, BBBLoss
import mxnet as mx
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

LIMIT = 1.02


def resident():
    """Resident memory of this process in MB."""
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = dict(steps=(20000, 'training steps'), warmup=(2000, 'steps that the memory may still grow in'),
                   every=(500, 'steps between two readings'), units=(100, 'size of each hidden layer'),
                   batch_size=(64, 'examples in the batch'))
    for name, (default, text) in numbers.items():
        parser.add_argument('--' + name.replace('_', '-'), type=int, default=default, help=text + ' (%(default)s)')
    parser.add_argument('--eager', action='store_true', help='do not hybridize')
    args = parser.parse_args(argv)
    for name in numbers:
        if getattr(args, name) < 1:
            parser.error('argument --%s: must be at least 1 (saw: %d)' % (name.replace('_', '-'), getattr(args, name)))
    if args.steps <= args.warmup:
        parser.error('argument --steps: must be more than those of --warmup (saw: %d)' % args.steps)
    return args


def train(args):
    """Yield (steps done, MB) at each reading."""
    mx.random.seed(0)
    net = nn.HybridSequential()
    net.add(BayesDense(args.units, activation='relu'), nn.BatchNorm(), BayesDense(args.units, activation='relu'),
            nn.Dropout(0.1), BayesDense(10))
    net.initialize(mx.init.Xavier())
    if not args.eager:
        net.hybridize(static_alloc=True, static_shape=True)
    images = nd.random.uniform(shape=(50 * args.batch_size, 100))
    labels = (10 * images[:, :5].mean(axis=1)).floor()
    loader = gluon.data.DataLoader(gluon.data.ArrayDataset(images, labels), args.batch_size, shuffle=True)
    loss_fn, metric, done = BBBLoss(net, len(images)), mx.metric.Accuracy(), 0
    trainer = gluon.Trainer(net.collect_params(), 'fusedadam', {'learning_rate': 1e-3})
    while done < args.steps:
        metric.reset()
        for data, label in loader:
            with autograd.record():
                output = net(data)
                loss = loss_fn(output, label)
            loss.backward()
            trainer.step(len(label))
            metric.update(label, output)
            done += 1
            if done % args.every == 0 or done == args.steps:
                mx.nd.waitall()
                yield done, resident()
            if done == args.steps:
                break
        for data, label in loader:      # a validation
            loss_fn(net(data), label).mean().wait_to_read()
    loss_fn.check_finite()
    print(f'accuracy in training {metric.get()[1]:.3f}, loss {loss.mean().asscalar():.3f} nats')


def report(readings, warmup):
    """Print ``readings``, (steps done, MB), as they come; exits with an error if memory grew after ``warmup`` steps."""
    start, after = time.perf_counter(), []
    for done, size in readings:
        if done >= warmup:
            after.append(size)
        print('%6d steps, %4.0f s: %.1f MB' % (done, time.perf_counter() - start, size), flush=True)
    ratio = max(after) / after[0]
    print(f'largest after the warm-up / right after it: {ratio:.4f}')
    if ratio > LIMIT:
        sys.exit('long_run.py: error: memory grew by more than %.0f %%' % (100 * (LIMIT - 1)))


if __name__ == '__main__':
    args = arguments()
    report(train(args), args.warmup)
