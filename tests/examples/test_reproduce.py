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

import numpy as np
import pytest
import subprocesses
from mxnet import nd
from subprocesses import EXAMPLES

FOLDER = EXAMPLES / 'reproduce'
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


@pytest.fixture
def quick(monkeypatch):
    """As --quick leaves it, whose changes to ``runs`` do not outlast the test."""
    for name in ('UNITS', 'SEEDS', 'SELECTION_EPOCHS', 'FINAL_EPOCHS', 'HELD_OUT'):
        monkeypatch.setattr(runs, name, getattr(runs, name))


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
    command = [FOLDER / 'mnist.py', '--quick', '--work', tmp_path, '--only', 'sgd']
    for _ in range(2):
        with subprocesses.start(*command, start_new_session=True) as process:
            process.stdout.readline()
            time.sleep(random.random() * 0.2)
            os.killpg(process.pid, signal.SIGKILL)
    subprocesses.run(*command)
    names = {path.stem for path in (tmp_path / 'results').glob('*.json')}
    assert len(names) == 3 and sum('-test-' in name for name in names) == 1
    text = (tmp_path / 'RESULTS.md').read_text()
    assert '| SGD | ' in text and '![test error 40](test_error_40.png)' in text
    again = subprocesses.run(*command)
    assert 'epoch' not in again.stdout and (tmp_path / 'RESULTS.md').read_text() == text


def result(run, mean, draws=None):
    evaluation = {'mean': {'error': mean, 'nll': 0.1, 'ece': 0.01, 'auroc': 0.9}}
    if draws is not None:
        evaluation['draws'] = dict(evaluation['mean'], error=draws)
        evaluation['pruned'] = {str(fraction): mean + fraction for fraction in train.PRUNED}
    return dict(run.identity(7), evaluation=evaluation, seconds=60., errors=[3., mean])


def test_candidates_are_chosen_by_the_better_of_mean_and_draws(small):
    every = runs.candidates('mixture')
    names = [run.name for run in every]
    results = {run.name: result(run, 2. + i, 1.5 + i) for i, run in enumerate(every)}
    assert mnist.chosen({name: results[name] for name in names[1:]}) == {}      # one is missing
    results[names[2]] = result(every[2], 9., 1.4)
    assert mnist.chosen(results) == {'mixture': runs.candidates('mixture')[2].candidate}
    found = report.Results(results)
    assert found.best == {'mixture': (runs.candidates('mixture')[2].candidate, 'draws')}
    final, = runs.final_runs(mnist.chosen(results))
    assert final.held_out == 0 and final.candidate == found.best['mixture'][0]


def test_table_has_means_over_seeds_and_targets_that_are_missed(monkeypatch):
    monkeypatch.setattr(runs, 'SEEDS', {('mixture', 400): (0, 1, 2)})
    results = {run.name: result(run, 1.8, 1.7) for run in runs.candidates('mixture')}
    chosen = mnist.chosen(results)
    for run in runs.final_runs(chosen):
        results[run.name] = result(run, 1.6, 1.3 + 0.1 * run.seed)
    earlier = runs.final_runs({'mixture': candidate('mixture', 1)})[0]
    results[earlier.name] = result(earlier, 5., 5.)
    text = report.text(report.Results(results), [])
    print(text)
    assert '| Bayes by Backprop, scale mixture prior, Monte Carlo | **1.40 (1.30, 1.40, 1.50)** | 1.36 |' in text
    assert '| 400 units | 1.40 | 1.40 | - | yes |' in text
    assert '| 1200 units, pruned 95 % | 1.35 | 2.55 | - | no, by 1.20 |' in text
    assert '| test, not chosen now | 5.00 | 5.00 |' in text and text.count('5.00') == 2
    for part in text.split('\n\n'):
        if part.startswith('|'):
            assert len({line.count('|') for line in part.splitlines()}) == 1, part


def test_held_out_runs_never_see_the_test_set(monkeypatch, tmp_path):
    mnist_data = importlib.import_module('mnist_data')
    images, labels = np.zeros((50, 28, 28), np.uint8), np.arange(50) % 10
    test = np.full((20, 28, 28), 126, np.uint8), np.zeros(20)
    monkeypatch.setattr(mnist_data, 'load_mnist', lambda folder: (images, labels) + test)
    monkeypatch.setattr(runs, 'HELD_OUT', 10)
    monkeypatch.setattr(runs, 'BATCH', 5)
    seen = []
    monkeypatch.setattr(train, 'run_once', lambda run, data, *rest: seen.append((run, data)))
    for run in runs.selection_runs():
        mnist.main(['--data', 'x', '--work', str(tmp_path), '--output', str(tmp_path), '--run', run.name])
    assert len(seen) == len(runs.selection_runs())
    for _, parts in seen:
        assert [len(part) for part in parts] == [40, 40, 10, 10] and parts[2].max().asscalar() == 0


@pytest.mark.parametrize('flags, message', [
    ([], '--data or --quick is needed'), (['--quick', '--jobs', '0'], '--jobs must be at least 1'),
    (['--quick', '--only', 'sdg'], "--only: no run has this in its name (saw: 'sdg')")])
def test_bad_flags(flags, message, capsys, quick):
    with pytest.raises(SystemExit):
        mnist.arguments(flags)
    assert message in capsys.readouterr().err


def test_committed_table_is_that_of_the_committed_results():
    results = mnist.results_of(str(FOLDER / 'results'))
    assert len(results) >= 13
    pictures = [path.stem for path in sorted(FOLDER.glob('*.png'))]
    assert report.text(report.Results(results), pictures) == (FOLDER / 'RESULTS.md').read_text(encoding='utf-8')


def test_checkpoints_and_results_of_other_settings_or_data_are_refused(tmp_path, small, monkeypatch):
    run = runs.Run('sgd', candidate('sgd'), 6, 0, 0, 2)
    work, results = tmp_path / 'work', tmp_path / 'results'
    for folder in (work, results):
        folder.mkdir()

    class Stopped(Exception):
        pass

    def stop(text):
        raise Stopped

    def once(checksum, say=lambda text: None):
        train.run_once(run, data(), str(work), str(results), say, checksum)
    with pytest.raises(Stopped):
        once(1, stop)
    with pytest.raises(ValueError, match='was made with data 1, and not 2; delete it'):
        once(2)
    with monkeypatch.context() as changed:
        changed.setitem(runs.CANDIDATES['sgd'], run.candidate, {'lr': 1e-3})
        with pytest.raises(ValueError, match="was made with settings {'lr': 0.1}, and not {'lr': 0.001}"):
            once(1)
    once(1)
    assert list(mnist.results_of(results, 1)) == [run.name]
    with pytest.raises(ValueError, match='was made with data 1, and not 2'):
        mnist.results_of(results, 2)
    monkeypatch.setattr(runs, 'BATCH', 50)
    with pytest.raises(ValueError, match='was made with batch 125, and not 50'):
        mnist.results_of(results)


@pytest.mark.parametrize('content', ['', '{', '[]', '{"method": "sgd"}', '{"method": "x", "candidate": "y"}'])
def test_files_that_are_no_results_are_named(content, tmp_path):
    (tmp_path / 'x.json').write_text(content)
    with pytest.raises(ValueError, match='x.json: is no result of a run of runs.py'):
        mnist.results_of(str(tmp_path))


def test_bad_data_is_told_before_anything_is_trained(tmp_path, quick, monkeypatch):
    flags = ['--work', str(tmp_path), '--output', str(tmp_path)]
    monkeypatch.setattr(mnist, 'work_through', lambda *_: pytest.fail('trained'))
    with pytest.raises(SystemExit, match='nowhere'):
        mnist.main(['--data', str(tmp_path / 'nowhere')] + flags)
    monkeypatch.setattr(mnist.mnist_data, 'load_digits', lambda: (np.zeros((1100, 28, 28), np.uint8),) * 4)
    with pytest.raises(SystemExit, match=r'at least 1125 training images, of which 1000 are held out \(saw: 1100\)'):
        mnist.main(['--quick'] + flags)


def test_the_first_failure_ends_all_and_children_end_with_their_parent(tmp_path, monkeypatch):
    """A script in the place of mnist.py, whose second run fails, and whose others wait for their parent's end."""
    script = tmp_path / 'mnist.py'
    script.write_text(f"""import importlib.util, pathlib, sys, time
sys.path.append({str(FOLDER)!r})
spec = importlib.util.spec_from_file_location('real', sys.path[-1] + '/mnist.py')
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
name = sys.argv[-1]
real.end_with_parent()
(pathlib.Path({str(tmp_path)!r}) / name).touch()
if name == 'run1':
    sys.exit(3)
time.sleep(600)
""")
    monkeypatch.setattr(mnist, 'HERE', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['mnist.py'])

    class Named:
        def __init__(self, name):
            self.name = name

    class Args:
        jobs = 2
    start = time.monotonic()
    with pytest.raises(SystemExit, match='run run1 ended with exit status 3'):
        mnist.work_through([Named('run%d' % i) for i in range(5)], Args)
    assert time.monotonic() - start < 300 and not (tmp_path / 'run4').exists()
    with subprocesses.start(script, 'run0', stdin=subprocess.PIPE) as child:
        child.stdin.close()
        assert child.wait(timeout=300) == 1


def test_damaged_checkpoints_and_missing_ones_leave_the_pictures_of_weights_alone(tmp_path, small, capsys):
    chosen = {method: candidate(method) for method in runs.METHODS}
    results = {run.name: result(run, 2., 3.) for run in runs.selection_runs()}
    finals = runs.final_runs(chosen)
    results.update({run.name: result(run, 2., 2.) for run in finals})
    for run in finals:
        results[run.name]['errors'] = [9., 4., 2.]
    (tmp_path / (finals[0].name + '.checkpoint')).write_bytes(b'damaged')

    class Args:
        output, work = str(tmp_path), str(tmp_path)
    report.write(results, Args)
    assert 'No pictures of the weights' in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob('*.png')} == {'test_error_6.png'}
    assert '![test error 6](test_error_6.png)' in (tmp_path / 'RESULTS.md').read_text()
