# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import importlib
import re
import sys

import numpy as np
import pytest
import subprocesses
from mxnet.gluon import nn
from subprocesses import EXAMPLES

from bbb_layers import BayesDense, BBBLoss, GaussianPrior, kl_divergence

sys.path.insert(0, str(EXAMPLES))
finetune = importlib.import_module('finetune')
PICTURES = ['continual.png', 'finetune.png']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The folder and the output of a quick run."""
    folder = tmp_path_factory.mktemp('finetune')
    done = subprocesses.run('-W', 'error', '-W', 'ignore::DeprecationWarning', EXAMPLES / 'finetune.py', '--quick',
                            '--output', folder)
    assert 'Traceback' not in done.stderr
    return folder, done.stdout


def test_table_of_the_unknown(run):
    lines = run[1].splitlines()
    first = lines.index('Out of distribution')
    assert lines[first + 1].startswith('800 known test digits; AUROC against 200 of the unseen classes')
    rows = [re.split(r' {2,}', line) for line in lines[first + 3:first + 6]]
    assert [row[0] for row in rows] == ['plain', 'posterior mean', 'Monte Carlo, 4 draws']
    for row in rows:
        accuracy, unseen, turned = map(float, row[1:4])
        assert 0.7 < accuracy <= 1 and 0.6 < unseen < 1 and 0.6 < turned < 1
    assert rows[0][4:] == rows[1][4:] == ['-', '-']
    assert all(0.6 < float(score) < 1 for score in rows[2][4:]) and rows[2][2:4] != rows[2][4:]


def test_table_of_the_tasks(run):
    lines = run[1].splitlines()
    first = lines.index('Continual learning')
    for name, start in (('plain', first + 2), ('old posterior as prior', first + 4)):
        for task, line in enumerate(lines[start:start + 2], start=1):
            row = re.split(r' {2,}', line)
            accuracies = np.array(row[3:], 'float64')
            assert row[:2] == [name, str(task)] and len(accuracies) == task
            assert float(row[2]) == pytest.approx(accuracies.mean(), abs=1e-3)
            assert accuracies[-1] > 0.7 and (0.3 < accuracies).all() and (accuracies <= 1).all()


def test_pictures(run):
    assert sorted(path.name for path in run[0].iterdir()) == PICTURES
    for folder in run[0], EXAMPLES / 'images':
        for name in PICTURES:
            assert (folder / name).read_bytes().startswith(b'\x89PNG')


def test_auroc():
    low, high = np.arange(5.), np.arange(5.) + 10
    assert finetune.auroc(low, high) == 1 and finetune.auroc(high, low) == 0 and finetune.auroc(low, low) == 0.5


@pytest.fixture
def few():
    """Eight random images of each class in training, four in the test, in the shape of the example's."""
    labels = [np.random.permutation(np.tile(np.arange(10, dtype='uint8'), count)) for count in (8, 4)]
    return [part for label in labels for part in (np.random.rand(len(label), 1, 28, 28).astype('float32'), label)]


@pytest.fixture
def calls(monkeypatch):
    """What each call of ``train`` got, and what it did with it."""
    calls, train = [], finetune.train

    def spy(net, loss_fn, images, labels, epochs):
        kl = float(kl_divergence(net).asscalar()) if isinstance(loss_fn, BBBLoss) else None
        train(net, loss_fn, images, labels, epochs)
        calls.append({'net': net, 'loss_fn': loss_fn, 'labels': labels, 'images': images, 'kl': kl})

    monkeypatch.setattr(finetune, 'train', spy)
    return calls


def test_the_unseen_classes_are_in_no_training(few, calls, capsys):
    known, unseen, turned = finetune.detect_the_unknown(few, epochs=1, num_draws=2)
    assert [len(part) for part in (known, unseen, turned)] == [32, 8, 32]
    assert len(calls) == 3 and all(set(call['labels']) == set(range(8)) for call in calls)
    assert calls[1]['loss_fn'].num_train == 64
    assert calls[2]['net'] is calls[0]['net'] is not calls[1]['net']       # as many epochs for both
    assert 'Monte Carlo, 2 draws' in capsys.readouterr().out


def test_same_seed_same_table(few, capsys):
    tables = []
    for seed in 1, 1, 2:
        finetune.example.seed_all(seed)
        finetune.detect_the_unknown(few, epochs=1, num_draws=2)
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] != tables[2]


@pytest.fixture
def flat(few):
    return [part if part.ndim == 1 else part.reshape(-1, 784) for part in few]


@pytest.fixture
def orders():
    return [np.arange(784)] + [np.random.permutation(784) for _ in range(2)]


def test_the_old_posterior_is_the_prior_of_the_next_task(flat, orders, calls):
    accuracies = finetune.learn_one_after_the_other(flat, orders, BayesDense, epochs=2, num_draws=2,
                                                    prior=GaussianPrior(sigma=1.), initial_sigma=0.02)
    assert [len(row) for row in accuracies] == [1, 2, 3]
    assert all(call['loss_fn'].num_train == len(call['labels']) == 80 for call in calls)
    assert calls[0]['kl'] > 1000        # from N(0, 1)
    for old, new in zip(calls, calls[1:]):
        assert new['kl'] == pytest.approx(0, abs=1)
        for old_layer, new_layer in zip(old['net'], new['net']):
            (mu, sigma), prior = old_layer.posterior()['weight'], new_layer.prior
            np.testing.assert_array_equal(prior.mu, mu.asnumpy())
            np.testing.assert_allclose(prior.sigma, sigma.asnumpy(), rtol=1e-5)
            assert abs(new_layer.weight.data() - mu).max().asscalar() > 1e-4       # and it has learned since


def test_plain_trains_one_net_on_and_on(flat, orders, calls):
    finetune.learn_one_after_the_other(flat, orders, nn.Dense, epochs=1, num_draws=2)
    assert len({id(call['net']) for call in calls}) == 1 and len(calls) == 3
    for call, order in zip(calls, orders):
        np.testing.assert_array_equal(call['images'], flat[0][:, order])


@pytest.mark.parametrize('dense', [nn.Dense, BayesDense])
def test_each_task_is_tested_in_its_own_order(flat, orders, dense, monkeypatch):
    """A net that knows each digit by one pixel, and is trained in the first order alone, is right in that one alone."""
    train, trained = finetune.train, []

    def once(*args):
        if not trained:
            train(*args)
        trained.append(True)

    monkeypatch.setattr(finetune, 'train', once)
    for images, labels in (flat[:2], flat[2:]):
        images[:] = 0
        images[np.arange(len(labels)), labels] = 5
    orders = [np.arange(784), np.roll(np.arange(784), 1), np.arange(784)]
    posterior = {'initial_sigma': 1e-3} if dense is BayesDense else {}
    accuracies = finetune.learn_one_after_the_other(flat, orders, dense, 40, 2, **posterior)
    assert accuracies[0] == [1] and accuracies[2] == [1, accuracies[2][1], 1] and accuracies[2][1] < 0.5
