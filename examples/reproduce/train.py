# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Trains and evaluates one network. Killed at any moment, it goes on from its last epoch to the same result."""
import json
import os
import time

from bbb_layers import (BayesDense, BBBLoss, GaussianPrior, ScaleMixturePrior, metrics, predict, prune, schedules,
                        uncertainty)
from bbb_layers.checkpoint import load_checkpoint, save_checkpoint, write_atomically
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from runs import BATCH, check_identity

DRAWS = 32
PRUNED = 0.5, 0.75, 0.95, 0.98, 0.99
SCHEDULES = {'blundell': schedules.blundell}
INITIAL_SIGMA = float(np.log1p(np.exp(-5.)))


def build(run):
    settings, net, in_units = run.settings, nn.HybridSequential(), 784
    dropout = settings.get('dropout', (0., 0.))
    if run.method == 'gaussian':
        posterior = {'prior': GaussianPrior(settings['sigma'])}
    elif run.method == 'mixture':
        posterior = {'prior': ScaleMixturePrior(*(settings[name] for name in ('pi', 'sigma1', 'sigma2')))}
    if run.bayesian:
        posterior.update(initial_sigma=settings.get('initial_sigma', INITIAL_SIGMA),
                         estimator=settings.get('estimator', 'sample'))
    else:
        posterior = {}
    kind = BayesDense if run.bayesian else nn.Dense
    for units, rate, activation in ((run.units, dropout[0], 'relu'), (run.units, dropout[1], 'relu'),
                                    (10, dropout[1], None)):
        if rate:
            net.add(nn.Dropout(rate))
        net.add(kind(units, activation=activation, in_units=in_units, **posterior))
        in_units = units
    net.initialize(mx.init.MSRAPrelu(slope=0.))
    if run.bayesian:
        net.collect_params('.*rho$').setattr('lr_mult', settings.get('rho_lr_mult', 1.))
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def make_trainer(run, net, steps):
    schedule = mx.lr_scheduler.CosineScheduler(steps, base_lr=run.settings['lr'])
    if run.method == 'sgd':
        return gluon.Trainer(net.collect_params(), 'sgd', {'lr_scheduler': schedule, 'momentum': 0.9,
                                                           'learning_rate': run.settings['lr']})
    return gluon.Trainer(net.collect_params(), 'fusedadam', {'lr_scheduler': schedule,
                                                             'learning_rate': run.settings['lr']})


def output(net, images):
    return nd.concat(*[net(images[i:i + 1000]) for i in range(0, len(images), 1000)], dim=0)


def error(net, images, labels):
    """In %, in predict mode: of the posterior mean."""
    return 100 * (1 - (output(net, images).argmax(axis=1) == labels).mean().asscalar())


def train(run, data, folder, say, checksum=None):
    """Train ``run`` on ``data`` = (training images, labels, other images, labels), NDArrays; returns its history."""
    images, labels, other_images, other_labels = data
    steps = len(images) // BATCH
    mx.random.seed(run.seed)
    np.random.seed(run.seed)
    net = build(run)
    if run.bayesian:
        loss_fn = BBBLoss(net, len(images))
    else:
        loss_fn = gluon.loss.SoftmaxCrossEntropyLoss()
    trainer = make_trainer(run, net, run.epochs * steps)
    path = os.path.join(folder, run.name + '.checkpoint')
    identity = run.identity(checksum)
    facts = {'epoch': 0, 'seconds': 0., 'errors': [], 'losses': [], 'identity': identity}
    if os.path.exists(path):
        check_identity(path, load_checkpoint(path, net).get('identity'), identity)
        facts = load_checkpoint(path, net, trainer)
        say('goes on after epoch %d' % facts['epoch'])
    for epoch in range(facts['epoch'], run.epochs):
        start, total = time.perf_counter(), nd.zeros((1,))
        # Seeded in each epoch: all that is random in it depends on nothing that was before.
        mx.random.seed(1000 * run.seed + epoch)
        order = nd.array(np.random.RandomState((run.seed, epoch)).permutation(len(images)), dtype='int32')
        for step in range(steps):
            if 'kl_weight' in run.settings:
                loss_fn.kl_weight = SCHEDULES[run.settings['kl_weight']](steps)(step)
            chosen = order[step * BATCH:(step + 1) * BATCH]
            with autograd.record():
                loss = loss_fn(net(images.take(chosen)), labels.take(chosen))
            loss.backward()
            trainer.step(BATCH)
            total += loss.mean()
            if step % 50 == 49:
                total.wait_to_read()    # so that memory for steps that wait does not grow
        facts['losses'].append(float(total.asscalar()) / steps)
        if not np.isfinite(facts['losses'][-1]):
            raise FloatingPointError('%s: the loss of epoch %d is %s' % (run.name, epoch + 1, facts['losses'][-1]))
        facts['errors'].append(round(float(error(net, other_images, other_labels)), 2))
        facts['epoch'] = epoch + 1
        facts['seconds'] += time.perf_counter() - start
        save_checkpoint(path, net, trainer, **facts)
        say('epoch %d of %d: loss %.4f, error %.2f %%' % (
            epoch + 1, run.epochs, facts['losses'][-1], facts['errors'][-1]))
    return net, facts


def scores(draws, rotated, labels):
    """Error in %, NLL in nats and ECE of probabilities (draws, examples, classes), and the AUROC of their entropy."""
    nll, ece, auroc = metrics.MonteCarloNLL(), metrics.ExpectedCalibrationError(), metrics.OutOfDistributionAUROC()
    inside, outside = uncertainty(draws), uncertainty(rotated)
    for metric in (nll, ece):
        metric.update(labels, draws)
    auroc.update(nd.zeros(len(labels)), inside.total)
    auroc.update(nd.ones(len(labels)), outside.total)
    wrong = (inside.mean.argmax(axis=1) != labels).mean().asscalar()
    return {'error': round(100 * float(wrong), 2), 'nll': nll.get()[1], 'ece': ece.get()[1], 'auroc': auroc.get()[1]}


def evaluate(run, net, images, labels):
    """What the table and the pictures show of a trained network."""
    rotated = nd.array(np.rot90(images.asnumpy().reshape(-1, 28, 28), axes=(1, 2)).reshape(-1, 784).copy())
    results = {'mean': scores(*(output(net, x).softmax().expand_dims(0) for x in (images, rotated)), labels)}
    if run.bayesian:
        mx.random.seed(run.seed)
        results['draws'] = scores(*(predict(net, x, DRAWS, batch_size=1000).softmax() for x in (images, rotated)),
                                  labels)
        pruned = {}
        for fraction in PRUNED:
            prune(net, fraction)        # for good: what follows prunes more
            pruned[str(fraction)] = round(float(error(net, images, labels)), 2)
        results['pruned'] = pruned
    return results


def run_once(run, data, work, results, say, checksum=None):
    """Train and evaluate ``run``; its results go to a file in the folder ``results``, its state to ``work``."""
    net, facts = train(run, data, work, say, checksum)
    facts.update(facts.pop('identity'), draws=DRAWS, evaluation=evaluate(run, net, *data[2:]))
    write_atomically(os.path.join(results, run.name + '.json'),
                     (json.dumps(facts, indent=1) + '\n').encode('utf-8'))
