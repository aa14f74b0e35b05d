# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The reproduction of the paper goes on after it was killed, chooses on held-out digits, and reports what it has."""
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mxnet import nd

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'examples' / 'reproduce'
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
runs, train, report = (importlib.import_module(name) for name in ('runs', 'train', 'report'))
reproduce = importlib.util.spec_from_file_location('reproduce', str(FOLDER / 'mnist.py'))
mnist = importlib.util.module_from_spec(reproduce)
reproduce.loader.exec_module(mnist)


@pytest.fixture
def small(monkeypatch):
    for name, value in (('UNITS', (6,)), ('SEEDS', {}), ('SELECTION_EPOCHS', 1), ('FINAL_EPOCHS', {6: 3}),
                        ('HELD_OUT', 9)):
        monkeypatch.setattr(runs, name, value)


def data(n=1600):
    labels = np.arange(n) % 10
    images = np.random.RandomState(0).rand(n, 784) * 0.1
    images[np.arange(n)[:, None], (labels * 70)[:, None] + np.arange(20)] = 2.
    return [nd.array(array) for array in (images[:-100], labels[:-100], images[-100:], labels[-100:])]


def candidate(method, index=0):
    return list(runs.CANDIDATES[method])[index]


@pytest.mark.parametrize('method', list(runs.METHODS))
def test_a_run_that_was_stopped_ends_as_one_that_was_not(method, tmp_path, small):
    run = runs.Run(method, candidate(method, -1), 6, 3, 0, 3)
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    for folder in (whole, parts):
        folder.mkdir()
    train.run_once(run, data(), str(whole), str(whole), lambda text: None)

    class Stopped(Exception):
        pass

    def stop(text):
        if 'epoch 2 of 3' in text:
            raise Stopped
    with pytest.raises(Stopped):
        train.run_once(run, data(), str(parts), str(parts), stop)
    said = []
    train.run_once(run, data(), str(parts), str(parts), said.append)
    assert said[0] == 'goes on after epoch 2'
    first, second = (json.loads((folder / (run.name + '.json')).read_text()) for folder in (whole, parts))
    assert first.pop('seconds') > 0 and second.pop('seconds') > 0
    assert first == second and len(first['errors']) == 3 and first['losses'][-1] < first['losses'][0]
    assert ('draws' in first['evaluation']) == (method in ('gaussian', 'mixture'))


def test_killed_and_started_again(tmp_path):
    command = [sys.executable, str(FOLDER / 'mnist.py'), '--quick', '--work', str(tmp_path), '--only', 'sgd']
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    for _ in range(2):
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, start_new_session=True) as process:
            process.stdout.readline()
            time.sleep(random.random() * 0.2)
            os.killpg(process.pid, signal.SIGKILL)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 0
    names = {path.stem for path in (tmp_path / 'results').glob('*.json')}
    assert len(names) == 3 and sum('-test-' in name for name in names) == 1
    text = (tmp_path / 'RESULTS.md').read_text()
    assert '| SGD | ' in text and '![test error 40](test_error_40.png)' in text
    again = subprocess.run(command, env=env, stdout=subprocess.PIPE, universal_newlines=True)
    assert 'epoch' not in again.stdout and (tmp_path / 'RESULTS.md').read_text() == text


def result(mean, draws=None, **more):
    evaluation = {'mean': {'error': mean, 'nll': 0.1, 'ece': 0.01, 'auroc': 0.9}}
    if draws is not None:
        evaluation['draws'] = dict(evaluation['mean'], error=draws)
        evaluation['pruned'] = {str(fraction): mean + fraction for fraction in train.PRUNED}
    return dict({'evaluation': evaluation, 'seconds': 60., 'errors': [3., mean]}, **more)


def test_candidates_are_chosen_by_the_better_of_mean_and_draws(small):
    names = [run.name for run in runs.candidates('mixture')]
    results = {name: result(2. + i, 1.5 + i) for i, name in enumerate(names)}
    assert mnist.chosen({name: results[name] for name in names[1:]}) == {}      # one is missing
    results[names[2]] = result(9., 1.4)
    assert mnist.chosen(results) == {'mixture': runs.candidates('mixture')[2].candidate}
    found = report.Results(results)
    assert found.best == {'mixture': (runs.candidates('mixture')[2].candidate, 'draws')}
    final, = runs.final_runs(mnist.chosen(results))
    assert final.held_out == 0 and final.candidate == found.best['mixture'][0]


def test_table_has_means_over_seeds_and_targets_that_are_missed(monkeypatch):
    monkeypatch.setattr(runs, 'SEEDS', {('mixture', 400): (0, 1, 2)})
    results = {run.name: result(1.8, 1.7) for run in runs.candidates('mixture')}
    chosen = mnist.chosen(results)
    for run in runs.final_runs(chosen):
        results[run.name] = result(1.6, 1.3 + 0.1 * run.seed)
    text = report.text(report.Results(results), [])
    print(text)
    assert '| Bayes by Backprop, scale mixture prior, Monte Carlo | **1.40 (1.30, 1.40, 1.50)** | 1.36 |' in text
    assert '| 400 units | 1.40 | 1.40 | yes |' in text
    assert '| 1200 units, pruned 95 % | 1.35 | 2.55 | no, by 1.20 |' in text
    for part in text.split('\n\n'):
        if part.startswith('|'):
            assert len({line.count('|') for line in part.splitlines()}) == 1, part


def test_held_out_runs_never_see_the_test_set(monkeypatch, tmp_path):
    mnist_data = importlib.import_module('mnist_data')
    images, labels = np.zeros((50, 28, 28), np.uint8), np.arange(50) % 10
    test = np.full((20, 28, 28), 126, np.uint8), np.zeros(20)
    monkeypatch.setattr(mnist_data, 'load_mnist', lambda folder: (images, labels) + test)
    monkeypatch.setattr(runs, 'HELD_OUT', 10)
    seen = []
    monkeypatch.setattr(train, 'run_once', lambda run, data, *rest: seen.append((run, data)))
    for run in runs.selection_runs():
        mnist.main(['--data', 'x', '--work', str(tmp_path), '--results', str(tmp_path), '--run', run.name])
    assert len(seen) == len(runs.selection_runs())
    for _, parts in seen:
        assert [len(part) for part in parts] == [40, 40, 10, 10] and parts[2].max().asscalar() == 0


@pytest.mark.parametrize('flags, message', [
    ([], '--data or --quick is needed'), (['--quick', '--jobs', '0'], '--jobs must be at least 1')])
def test_bad_flags(flags, message, capsys):
    with pytest.raises(SystemExit):
        mnist.arguments(flags)
    assert message in capsys.readouterr().err


def test_committed_table_is_that_of_the_committed_results():
    results = mnist.results_of(str(FOLDER / 'results'))
    assert len(results) >= 13
    pictures = [path.stem for path in sorted(FOLDER.glob('*.png'))]
    assert report.text(report.Results(results), pictures) == (FOLDER / 'RESULTS.md').read_text(encoding='utf-8')
