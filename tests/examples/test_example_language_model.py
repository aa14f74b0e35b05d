# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import importlib
import re
import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn, rnn
from subprocesses import EXAMPLES, finish, start

from bbb_layers import BayesDense, BayesEmbedding, BayesLSTM, BBBLoss, CategoricalNLLLoss, GaussianPrior, kl_divergence

sys.path.insert(0, str(EXAMPLES))
language_model = importlib.import_module('language_model')
PLAIN, BAYESIAN = (nn.Embedding, rnn.LSTM, nn.Dense), (BayesEmbedding, BayesLSTM, BayesDense)


def quick_run(folder):
    return start('-W', 'error', '-W', 'ignore::DeprecationWarning', EXAMPLES / 'language_model.py', '--quick',
                 '--output', folder)


def make(classes, **posterior):
    net = language_model.LanguageModel(classes, 7, 5, **posterior)
    net.initialize(mx.init.Normal(0.5))
    return net


def text(length):
    return np.random.randint(0, 7, length)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The folder of a quick run, and the outputs of two."""
    folder = tmp_path_factory.mktemp('language_model')
    outputs = []
    for process in [quick_run(folder / name) for name in ('one', 'two')]:
        done = finish(process)
        assert 'Traceback' not in done.stderr
        outputs.append(done.stdout)
    return folder / 'one', outputs


def test_tables(runs):
    lines = runs[1][0].splitlines()
    head = re.fullmatch(r'(\d+) characters, (\d+) kinds; training, validation and test: (\d+), (\d+), (\d+)', lines[0])
    total, kinds, *parts = map(int, head.groups())
    assert total - 3 * language_model.BATCH_SIZE <= sum(parts) < total and parts[0] > 7 * parts[1] > 0 < parts[2]
    uniform = np.log2(kinds)
    for name in 'plain', 'Bayesian', 'tempered':
        epochs = np.array([line.split()[1:] for line in lines if re.match(name + r' +\d+ ', line)], 'float64')
        assert epochs[:, 0].tolist() == list(range(1, len(epochs) + 1)) and len(epochs) > 1
        assert (np.diff(epochs[:, 1]) < 0).all() and 1 < epochs[-1, 1] < uniform and 1 < epochs[-1, 2] < uniform
    rows = [re.fullmatch(r'(.*?) +([\d.]+) +([\d.]+)', line) for line in lines[-6:-1]]
    assert [row.group(1) for row in rows] == ['plain', 'Bayesian, posterior mean', 'Bayesian, 4 draws',
                                              'tempered, posterior mean', 'tempered, 4 draws']
    values = np.array([row.groups()[1:] for row in rows], 'float64')
    assert ((1 < values[:, 0]) & (values[:, 0] < uniform - 1)).all()
    assert len(set(values[:, 0])) >= 4      # two may agree in four digits
    np.testing.assert_allclose(values[:, 1], 2 ** values[:, 0], rtol=1e-3)
    assert (abs(values[[2, 4], 0] - values[[1, 3], 0]) < 0.5).all()


def test_picture(runs):
    assert [path.name for path in runs[0].iterdir()] == ['language_model.png']
    assert (runs[0] / 'language_model.png').read_bytes().startswith(b'\x89PNG')
    assert (EXAMPLES / 'images' / 'language_model.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('epochs,num_draws', [(3, 4), (16, 32)])
def test_legends_cover_no_line_and_counts_are_whole(epochs, num_draws):
    names = 'plain', 'Bayesian', 'tempered'
    curves = {name + part: np.linspace(5, 2, epochs) for name in names for part in (', training', ', validation')}
    results = dict({name + ', posterior mean': 2. for name in names[1:]}, plain=2.)
    figure = language_model.plot(curves, results, {name: np.linspace(2.1, 2, num_draws) for name in names[1:]})
    figure.canvas.draw()
    for ax in figure.axes:
        legend = ax.get_legend().get_window_extent()
        assert 0 <= legend.y0 < legend.y1 < ax.xaxis.label.get_window_extent().y0
        assert 0 <= legend.x0 < legend.x1 <= figure.bbox.x1
        low, high = ax.get_xlim()
        assert all(tick == round(tick) for tick in ax.get_xticks() if low <= tick <= high)


def test_same_seed_same_run(runs):
    one, two = ([line for line in output.splitlines() if not line.startswith('Written')] for output in runs[1])
    assert one == two


def test_each_paragraph_is_in_the_text_once():
    indices, alphabet = language_model.load_text()
    paragraphs = ''.join(alphabet[indices]).split('\n\n')
    assert len(paragraphs) == len(set(paragraphs)) > 1000 and len(indices) > 200000
    assert any('The "assert" statement' in paragraph for paragraph in paragraphs)


@pytest.mark.parametrize('length', [5, 1000, 1001, 1003, 1004])
def test_batches_lose_and_repeat_no_character(length):
    batches = language_model.make_batches(np.arange(length), batch_size=4, chunk=7)
    data, label = (np.concatenate([pair[i].asnumpy() for pair in batches], axis=1) for i in (0, 1))
    assert (label == data + 1).all()
    # Row after row, the streams are the text from its second character on.
    assert label.ravel().tolist() == list(range(1, label.size + 1))
    assert 0 <= length - 1 - label.size < 4
    assert all(pair[0].shape == pair[1].shape == (4, 7) for pair in batches[:-1])


@pytest.mark.parametrize('classes', [PLAIN, BAYESIAN], ids=['plain', 'Bayesian'])
def test_states_are_carried_in_evaluation(classes):
    net, indices = make(classes), text(200)
    net.hybridize()
    whole = language_model.log_probs(net, language_model.make_batches(indices, 4, 1000))
    short = language_model.make_batches(indices, 4, 9)
    np.testing.assert_allclose(language_model.log_probs(net, short), whole, rtol=1e-4, atol=1e-5)
    alone = np.concatenate([language_model.log_probs(net, [batch]) for batch in short], axis=1)
    assert abs(alone - whole)[:, 9:].max() > 1e-3      # what it would be if each chunk began anew
    assert whole.shape == (4, 49) and (whole < 0).all()


@pytest.mark.parametrize('classes', [PLAIN, BAYESIAN], ids=['plain', 'Bayesian'])
def test_states_are_carried_in_training(classes, monkeypatch):
    calls = []

    class Spy(language_model.LanguageModel):
        def __call__(self, data, states):
            output = super().__call__(data, states)
            if autograd.is_training():
                calls.append([[state.asnumpy() for state in each] for each in (states, output[1])])
            return output

    monkeypatch.setattr(language_model, 'LanguageModel', Spy)
    monkeypatch.setattr(language_model, 'BATCH_SIZE', 4)
    net, batches = make(classes), language_model.make_batches(text(200), 4, 20)
    loss_fn = CategoricalNLLLoss() if classes is PLAIN else language_model.negative_elbo(net, batches)
    language_model.train('spied', net, loss_fn, batches, batches, epochs=2)
    assert len(calls) == 2 * len(batches) == 6
    for step, (before, _) in enumerate(calls):
        expected = [np.zeros((1, 4, 5))] * 2 if step % 3 == 0 else calls[step - 1][1]
        np.testing.assert_array_equal(before, expected)
    assert all(abs(state).max() > 0.01 for state in calls[0][1])


def test_kl_counts_once_per_epoch(monkeypatch):
    shares, kls = [], []

    class Spy(BBBLoss):
        def forward(self, output, label, sample_weight=None):
            loss = super().forward(output, label, sample_weight)
            if autograd.is_training():
                shares.append((loss - self.nll).sum().asscalar() / self.kl.asscalar())
                kls.append(self.kl.asscalar())
            return loss

    monkeypatch.setattr(language_model, 'BBBLoss', Spy)
    monkeypatch.setattr(language_model, 'BATCH_SIZE', 4)
    net, batches = make(BAYESIAN, prior=GaussianPrior()), language_model.make_batches(text(230), 4, 20)
    assert batches[-1][0].shape != batches[0][0].shape     # a short chunk has its share too
    loss_fn = language_model.negative_elbo(net, batches)
    language_model.train('spied', net, loss_fn, batches, batches, epochs=1, lr=1e-9)
    assert len(shares) == len(batches) and sum(shares) == pytest.approx(1, rel=1e-3)
    assert kls[0] == pytest.approx(kl_divergence(net).asscalar(), rel=1e-4)


def test_the_best_epoch_is_kept(monkeypatch):
    monkeypatch.setattr(language_model, 'BATCH_SIZE', 4)
    net, batches = make(PLAIN), language_model.make_batches(text(200), 4, 20)
    valid = language_model.make_batches(text(120), 4, 20)
    _, history = language_model.train('overfits noise', net, CategoricalNLLLoss(), batches, valid, epochs=15, lr=0.1)
    assert history[-1] > history.min() + 0.05
    kept = language_model.bits(-language_model.log_probs(net, valid).sum(), valid)
    assert kept == pytest.approx(history.min(), rel=1e-4)
