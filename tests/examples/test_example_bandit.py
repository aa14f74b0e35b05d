# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import importlib
import re
import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from subprocesses import EXAMPLES, run

sys.path.insert(0, str(EXAMPLES))
bandit = importlib.import_module('bandit')


def easy(count):
    """Contexts that tell the right arm, and the arms."""
    labels = np.random.randint(bandit.ARMS, size=count)
    return nd.array(3 * np.eye(bandit.ARMS)[labels]), labels


def test_quick(tmp_path):
    lines = run(EXAMPLES / 'bandit.py', '--quick', '--output', tmp_path).stdout.splitlines()
    assert (tmp_path / 'bandit.png').read_bytes().startswith(b'\x89PNG\r\n')
    assert lines[0] == 'Regret of 300 interactions over 2 runs; of random arms, expected: 270'
    table = {line[:27].strip(): [float(word) for word in line[27:].split()] for line in lines[2:7]}
    assert list(table) == [bandit.THOMPSON, bandit.MEAN, 'plain, greedy', bandit.MAP, 'plain, epsilon 5 %']
    for mean, sd, least, most, reward in table.values():
        assert 0 < least <= mean <= most < 270 and sd >= 0 and mean == (least + most) / 2
        assert 0.2 < reward < 1     # 0.1 at random
    assert re.fullmatch(r'A draw of the network and its scores of 20 contexts take \d+\.\d ms, the median of 30\.',
                        lines[7])


@pytest.mark.parametrize('flags,message', [
    (['--seed', 'x'], '--seed: must be a whole number from 0 to 2147483647'),
    (['--agent', 'greedy'], 'unrecognized arguments: --agent greedy')])
def test_bad_flags(monkeypatch, capsys, tmp_path, flags, message):
    monkeypatch.setattr(sys, 'argv', ['bandit.py', '--output', str(tmp_path / 'out')] + flags)
    with pytest.raises(SystemExit):
        bandit.main()
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_choose():
    scores = np.random.normal(size=(5000, bandit.ARMS))
    best = scores.argmax(axis=1)
    assert (bandit.choose(scores, 0) == best).all()
    # A random arm is the best one in one case of ten.
    assert (bandit.choose(scores, 0.2) != best).mean() == pytest.approx(0.18, abs=0.03)
    assert np.bincount(bandit.choose(scores, 1), minlength=bandit.ARMS) / 5000 == pytest.approx(0.1, abs=0.03)


def test_cumulative_regret():
    assert bandit.cumulative_regret(np.array([0., 1., 1., 0.])).tolist() == [1, 1, 1, 2]


@pytest.mark.parametrize('agent', bandit.AGENTS)
def test_agents_learn_and_repeat(agent, monkeypatch):
    monkeypatch.setattr(bandit, 'ARMS', 3)
    contexts, labels = easy(240)
    runs = []
    for _ in range(2):
        mx.random.seed(1)
        np.random.seed(1)
        times = []
        runs.append(bandit.play(contexts, labels, agent, times))
        assert len(times) == (12 if agent == bandit.THOMPSON else 0)
    assert (runs[0] == runs[1]).all() and set(runs[0]) == {0, 1}
    assert runs[0][:20].mean() < 0.75 < 0.9 < runs[0][-60:].mean()


def test_kl_counts_once_for_what_was_played(monkeypatch):
    weights = []

    class Recorder(bandit.BBBLoss):
        def forward(self, output, label):
            weights.append((self.kl_weight / self.num_train, output.shape, label.shape))
            return super().forward(output, label)

    monkeypatch.setattr(bandit, 'BBBLoss', Recorder)
    monkeypatch.setattr(bandit, 'STEPS', 1)
    bandit.play(*easy(50), bandit.THOMPSON, [])
    batch = bandit.BATCH_SIZE
    assert weights == [(1 / played, (batch, 1), (batch,)) for played in (20, 40, 50)]


def test_the_plain_networks_weight_decay_is_the_prior(monkeypatch):
    """Where the likelihood has no gradient, a step is that of -log N(w; 0, 1) over the number that was played."""
    steps = []

    class Recorder(bandit.gluon.Trainer):
        def __init__(self, params, *_):
            super().__init__(params, 'sgd', {'learning_rate': 0.5})

        def step(self, batch_size):
            before = [param.data().asnumpy() for param in self._params]
            super().step(batch_size)
            steps.append([(old, param.data().asnumpy()) for old, param in zip(before, self._params)])

    monkeypatch.setattr(bandit.gluon, 'Trainer', Recorder)
    monkeypatch.setattr(bandit, 'BernoulliNLLLoss', lambda: lambda output, label: 0 * output.sum(axis=1))
    monkeypatch.setattr(bandit, 'STEPS', 1)
    for agent, decays in (bandit.MAP, [1 / 20, 1 / 40, 1 / 50]), ('plain, greedy', [0, 0, 0]):
        steps.clear()
        bandit.play(*easy(50), agent, [])
        assert len(steps) == 3
        for step, decay in zip(steps, decays):
            for old, new in step:
                np.testing.assert_allclose(new, old - 0.5 * decay * old, rtol=1e-5)


def test_gallery_and_output_name_the_agents_alike():
    text = (EXAMPLES / 'README.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| (.*?) \|', text[text.index('| agent |'):], re.MULTILINE)
    assert rows[1:1 + len(bandit.AGENTS)] == list(bandit.AGENTS)


def test_only_the_arm_that_was_played_has_a_loss(monkeypatch):
    """Without any reward, the scores of the arms that were played fall and the others' do not."""
    scores = []
    monkeypatch.setattr(bandit, 'choose', lambda values, epsilon: scores.append(values) or np.zeros(len(values)))
    bandit.play(nd.ones((200, 4)), np.full(200, 1), 'plain, greedy', [])
    first, last = scores[0][0], scores[-1][0]
    assert last[0] < first[0] - 1
    assert (last[1:] > first[1:] - 1).all()
