# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The benchmark's contenders do the work that they are timed for. Nothing here looks at the times."""
import importlib
import json
import sys

import mxnet as mx
import numpy as np
import pytest
import subprocesses
from mxnet import autograd, nd
from subprocesses import EXAMPLES, ROOT

SCRIPT = EXAMPLES / 'benchmark' / 'step_time.py'
BATCH, UNITS = 16, 8
NO_KL = 10 ** 9     # so many batches in the data set that only the likelihood counts

sys.path[:0] = [str(SCRIPT.parent), str(SCRIPT.parent / 'contenders')]
step_time = importlib.import_module('step_time')
architectures = importlib.import_module('architectures')
environments = importlib.import_module('environments')
peers = importlib.import_module('peers')
peers_report = importlib.import_module('peers_report')
worker = importlib.import_module('worker')

# By the names in the script's table: what each makes of (data, label, num_batches).
CONTENDERS = {
    'notebook': lambda data, label, num_batches: step_time.notebook(data, label, UNITS, num_batches),
    'deterministic, hybridized': lambda data, label, num_batches: step_time.deterministic(data, label, UNITS),
    'BayesDense, eager': lambda data, label, num_batches: step_time.bayes(data, label, UNITS, num_batches, False),
    'BayesDense, hybridized': lambda data, label, num_batches: step_time.bayes(data, label, UNITS, num_batches, True)}


def batch():
    return nd.random.uniform(0, 2, shape=(BATCH, step_time.INPUTS)), nd.array(np.random.randint(0, 10, BATCH))


def mus_and_rhos(step):
    rhos = [param for param in step.params if param.name.endswith('rho')]
    return [param for param in step.params if param not in rhos], rhos


def losses(step, draws):
    """The batch's loss at unchanged Parameters, again and again."""
    with autograd.record():
        return np.array([step.loss().sum().asscalar() for _ in range(draws)])


def run(*flags, script=SCRIPT, check=True):
    return subprocesses.run(script, *flags, limit=100, check=check)


@pytest.mark.parametrize('name', CONTENDERS)
def test_trains(name):
    # With the KL divergence out of the way, every gradient has come through the draws and the network.
    step = CONTENDERS[name](*batch(), num_batches=NO_KL)
    course = [step().sum().asscalar() for _ in range(100)]
    print(course[::10])
    assert np.mean(course[-10:]) < 0.85 * np.mean(course[:10])
    mus, rhos = mus_and_rhos(step)
    assert (len(mus), len(rhos)) == (6, 0 if name.startswith('deterministic') else 6)
    for param in mus + rhos:
        assert np.abs(param.grad().asnumpy()).max() > 1e-3, param


def test_notebook_trains_every_mu_and_rho():
    step = CONTENDERS['notebook'](*batch(), num_batches=10)
    before = [param.data().asnumpy() for param in step.params]
    step()
    for old, param in zip(before, step.params):
        moved = param.data().asnumpy() - old
        assert (moved != 0).all() and np.abs(moved).max() < 2e-3, param     # Adam's first step is the learning rate


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('num_batches', [10, NO_KL])
def test_notebook_and_bayes_have_the_same_expected_loss(num_batches, hybridize):
    data, label = batch()
    notebook = step_time.notebook(data, label, UNITS, num_batches)
    bayes = step_time.bayes(data, label, UNITS, num_batches, hybridize)
    bayes.loss()    # its Parameters get their shapes
    for theirs, ours in zip(mus_and_rhos(notebook), mus_and_rhos(bayes)):
        assert len(theirs) == len(ours)
        for source, param in zip(theirs, ours):
            assert source.shape == param.shape
            value = source.data() + 0.1 * nd.random.normal(shape=source.shape)      # every rho its own
            source.set_data(value)
            param.set_data(value)
    theirs, ours = losses(notebook, 200), losses(bayes, 200)
    error = np.sqrt(theirs.var() / theirs.size + ours.var() / ours.size)
    print(f'notebook {theirs.mean():g}, BayesDense {ours.mean():g}, standard error {error:g}')
    assert abs(theirs.mean() - ours.mean()) < 5 * error
    # Sharp enough to tell: sigma2 = 0.012 in place of 0.01 moves the loss by 3 %, pi = 0.25 by 20 %.
    assert 5 * error < 0.02 * ours.mean()


def test_prints_every_contender():
    done = run('--rounds', '2', '--warmup', '1', '--units', '5', '--batch-size', '3', '--seed', '7')
    facts, blank, header, rule = done.stdout.splitlines()[:4]
    for fact in ('mxnet ' + mx.__version__, 'numpy ' + np.__version__, '784-5-5-10', 'batch 3', 'OMP_NUM_THREADS'):
        assert fact in facts
    assert blank == '' and header.count('|') == rule.count('|') == 7
    rows = [line.strip('| ').split(' | ') for line in done.stdout.splitlines()[4:]]
    assert [row[0] for row in rows] == list(CONTENDERS)
    table = np.array([row[1:] for row in rows], dtype=float)
    median, lower, upper, faster, slower = table.T
    assert (0 < lower).all() and (lower <= median).all() and (median <= upper).all()
    np.testing.assert_allclose(faster, median[0] / median, rtol=0.1)
    np.testing.assert_allclose(slower, median / median[1], rtol=0.1)


@pytest.mark.parametrize('flag, value', [
    ('--rounds', '0'), ('--warmup', '0'), ('--units', '-4'), ('--batch-size', '0'), ('--seed', 'x')])
def test_bad_flag(flag, value):
    done = run(flag, value, check=False)
    assert done.returncode != 0 and done.stdout == ''
    message = done.stderr.splitlines()[-1]
    assert f'argument {flag}: ' in message and value in message
    assert ('must be at least 1' in message) == (flag != '--seed')


def test_gradient_variance():
    script = SCRIPT.parent / 'gradient_variance.py'
    done = run('--draws', '30', script=script)
    rows = [line.strip('| ').split(' | ') for line in done.stdout.splitlines() if line.startswith('| ')][1:]
    assert [row[0] for row in rows] == ['sample', 'local', 'flipout'] and rows[0][1:] == ['1.000', '1.000']
    # Independent noise for 128 examples averages out where one draw for all of them does not.
    assert all(float(value) < 0.6 for row in rows[1:] for value in row[1:])
    errors = run('--draws', '1', script=script, check=False).stderr
    assert 'argument --draws: must be at least 2' in errors


@pytest.mark.parametrize('name', architectures.NETWORKS)
@pytest.mark.parametrize('estimator', (None,) + architectures.ESTIMATORS)
def test_every_architecture_trains(name, estimator):
    step = architectures.contender(name, estimator, 8)
    course = [step().mean().asscalar() for _ in range(25)]
    print(course)
    assert step.loss().shape == (8,) and np.mean(course[-5:]) < 0.97 * np.mean(course[:5])
    rhos = [param for param in step.params if param.name.endswith('rho')]
    assert len(rhos) == (0 if estimator is None else len(step.params) // 2)


def test_architectures_prints_every_contender():
    done = run('--rounds', '1', '--warmup', '1', '--batch-size', '2', script=SCRIPT.parent / 'architectures.py')
    rows = [line.strip('| ').split(' | ') for line in done.stdout.splitlines() if line.startswith('| ')][1:]
    assert [tuple(row[:2]) for row in rows] == [
        (name, estimator or 'deterministic') for name in architectures.NETWORKS
        for estimator in (None,) + architectures.ESTIMATORS]


def test_sparse_prints_sizes_and_times():
    done = run('--units', '60', '--rounds', '1', '--warmup', '1', script=SCRIPT.parent / 'sparse.py')
    sizes, times = ([line.strip('| ').split(' | ') for line in table.splitlines() if line.startswith('| ')][1:]
                    for table in done.stdout.split('\n\n')[1:])
    assert [row[0] for row in sizes] == ['90', '95', '98', '99'] and len(times) == 12
    assert [float(row[3]) for row in sizes] == sorted(float(row[3]) for row in sizes) and float(sizes[2][3]) > 10


def test_deploy_prints_every_network():
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    done = run('--epochs', '1', '--rounds', '1', '--warmup', '1', script=SCRIPT.parent / 'deploy.py')
    rows = [line.strip('| ').split(' | ') for line in done.stdout.splitlines() if line.startswith('| ')][1:]
    accuracy = {row[0]: float(row[1]) for row in rows}
    assert len(accuracy) == 6 and min(accuracy.values()) > 60
    assert len({accuracy[name] for name in ('Bayesian, predict mode', 'to_deterministic', 'plain Gluon')}) == 1
    assert abs(accuracy['to_deterministic, ONNX'] - accuracy['to_deterministic']) <= 0.1
    for name in ('to_deterministic', 'plain Gluon'):
        assert abs(accuracy[name + ', INT8'] - accuracy[name]) < 5


def test_adam_prints_every_network():
    done = run('--rounds', '1', '--warmup', '1', '--batch-size', '2', script=SCRIPT.parent / 'adam.py')
    rows = [line.strip('| ').split(' | ') for line in done.stdout.splitlines() if line.startswith('| ')][1:]
    assert [tuple(row[:2]) for row in rows] == [
        ('784-%d-%d-10' % (units, units), what) for units in (400, 1200) for what in ('Trainer.step', 'training step')]
    assert all(float(value) > 0 for row in rows for value in row[2:])


def test_every_peer_has_a_label_and_a_section():
    assert list(peers_report.LABELS) == list(peers.CONTENDERS) and list(peers_report.TITLES) == list(peers.SECTIONS)
    taking_part = [name for section in peers.SECTIONS.values() for name in section.contenders]
    assert set(taking_part) == set(peers.CONTENDERS)
    assert {each.environment for each in peers.CONTENDERS.values()} == set(environments.ENVIRONMENTS)
    assert {each.package for each in peers.CONTENDERS.values()} == set(environments.PACKAGES) | {None}
    assert {name for name, *_ in peers_report.TARGETS} <= set(peers.SECTIONS)


def test_peers_have_the_notebooks_prior():
    network = importlib.import_module('network')
    w = np.array([0., 1e-3, 0.02, -0.3, 2.])
    ours = step_time.ScaleMixturePrior(step_time.PI, step_time.SIGMA1, step_time.SIGMA2).log_prob(nd.array(w))
    theirs = network.A - network.B * w ** 2 + np.logaddexp(0, network.C - network.D * w ** 2)
    np.testing.assert_allclose(theirs, ours.asnumpy(), rtol=1e-4)


@pytest.mark.parametrize('name', [name for name, each in peers.CONTENDERS.items() if each.environment == 'gluon'])
def test_gluon_peers(name):
    contenders = importlib.import_module('gluon_contenders')
    if name in ('fused', 'gluon-fusedadam') and not contenders.native.available():
        with pytest.raises(RuntimeError, match='native operators are not available'):
            contenders.CONTENDERS[name](*worker.batch_of(3), units=5)
        return
    step, forward = contenders.CONTENDERS[name](*worker.batch_of(3), units=5)
    assert (step is None) == (name in ('loaded', 'to-deterministic', 'gluon-loaded'))
    if step is not None:
        losses = [contenders.loss(step(), 3) for _ in range(3)]
        assert np.isfinite(losses).all() and min(losses) > 0
    first, second = forward().asnumpy(), forward().asnumpy()
    assert first.shape == (3, 10) and (first == second).all()
    assert 'mxnet' in contenders.versions()


def test_peers_take_turns_and_are_left_out_by_name():
    cpus = peers.processors()[:1]
    interpreters = {'operators': sys.executable, 'notebook': sys.executable, 'jax': peers.Failed('no such package'),
                    'torch': 'false'}
    part = peers.measure(('train', 5, 3), interpreters, cpus, rounds=2, warmup=1, turn=0.001, say=lambda text: None)
    assert list(part['milliseconds']) == list(part['memory']) == ['operators', 'notebook']
    assert all(len(times) == 2 and min(times) > 0 for times in part['milliseconds'].values())
    assert all(0 < imported <= peak for imported, peak in part['memory'].values())
    assert all(0 < loss < 1000 for loss in part['loss'].values())
    assert part['left_out'] == {'jax': 'no such package', 'torch': 'it ended with exit status 1'}
    assert part['versions']['mxnet'] == mx.__version__
    assert json.loads(json.dumps(part)) == part


def test_what_cannot_be_installed_is_named(tmp_path, monkeypatch):
    nothing = ['--no-index', 'no-such-distribution-of-ours']
    monkeypatch.setattr(environments, 'ENVIRONMENTS', {'jax': nothing})
    monkeypatch.setattr(environments, 'PACKAGES', {'blitz': ('jax', nothing)})
    said = []
    failures = environments.build(tmp_path, ['jax'], ['blitz'], said.append)
    print(failures)
    assert set(failures) == {'jax', 'blitz'} and 'no-such-distribution-of-ours' in failures['jax']
    assert not (tmp_path / 'jax' / 'installed').exists() and any('jax cannot be had' in text for text in said)
    monkeypatch.setattr(peers, 'build', lambda *args: failures)
    found = peers.interpreters_of(tmp_path, ['jax', 'blitz', 'fused'])
    assert found['fused'] == str(tmp_path / 'gluon' / 'bin' / 'python')
    assert str(found['jax']) == failures['jax'] and str(found['blitz']) == failures['blitz']


def part_of(units, mode='train', **milliseconds):
    return {'setting': [mode, units, 128], 'milliseconds': milliseconds, 'left_out': {'blitz': 'no wheel'},
            'memory': dict.fromkeys(milliseconds, [100, 150]), 'loss': dict.fromkeys(milliseconds, 12.5),
            'versions': {'mxnet': '1.9.1'}}


def test_report():
    facts = {'rounds': 3, 'threads': 2, 'processor': 'a processor', 'python': '3.9', 'date': '2001-01-01', 'minutes': 1,
             'arguments': ['--rounds', '3']}
    times = {'fused': [4., 5., 6.], 'notebook': [120., 120., 120.], 'gluon': [4., 4., 4.], 'jax': [10., 10., 10.],
             'jax-rbg': [8., 8., 8.], 'torch': [20., 20., 20.], 'blitz': []}
    results = {
        'step': dict(facts, parts=[part_of(400, **times)]),
        'width': dict(facts, parts=[part_of(100, fused=[3.], gluon=[2.]), part_of(200, fused=[4.], gluon=[2.])]),
        'predict': dict(facts, parts=[part_of(400, 'predict', fused=[2.], gluon=[1.])])}
    text = peers_report.report(results)
    print(text)
    lines = text.splitlines()
    for row in ("the notebook's code | scale mixture | 120.00 | 120.00, 120.00 | 0.04 | 0.04, 0.05",
                '200 | 128 | deterministic Gluon, `adam` | none | 2.00 | 2.00, 2.00 | 2.00 | 2.00, 2.00'):
        assert f'| {row} | 12.5 | 150 | 100 |' in lines
    assert 'Left out: blitz: no wheel' in lines and 'make benchmark ARGS="--rounds 3"' in text
    reached = {row[0]: row[1:] for row in (line.strip('| ').split(' | ') for line in lines[lines.index('## Targets'):])}
    assert reached["training step / JAX's"] == ['at most 0.6', '0.62', 'no']        # that of the faster generator
    assert reached["training step / the fastest of PyTorch's"] == ['at most 0.4', '0.25', 'yes']
    assert reached["the notebook's training step / ours"] == ['at least 25', '24.00', 'no']
    assert reached['predict mode / deterministic Gluon'] == ['at most 1.25', '2.00', 'no']
    assert reached['training step / deterministic Gluon with `fusedadam`'][1:] == ['not measured', '-']
    widths = reached['largest / smallest ratio to deterministic Gluon with `adam`, over the widths']
    assert widths == ['at most 1.5', '1.33', 'yes']
    for table in text.split('\n\n'):
        if table.startswith('|'):
            assert len({line.count('|') for line in table.splitlines()}) == 1, table


def test_the_page_on_performance_shows_the_measurements():
    results = json.loads((SCRIPT.parent / 'RESULTS.json').read_text(encoding='utf-8'))
    assert (SCRIPT.parent / 'RESULTS.md').read_text(encoding='utf-8') == peers_report.report(results)
    page = (ROOT / 'docs' / 'performance.md').read_text(encoding='utf-8')
    for table in peers_report.summary(results):
        print(table)
        assert table in page


def test_peers_replaces_the_sections_it_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, 'interpreters_of', lambda folder, names: dict.fromkeys(names, 'python'))
    monkeypatch.setattr(peers, 'measure', lambda setting, taking_part, cpus, rounds, warmup, turn: part_of(
        setting[1], setting[0], **{name: [float(rounds)] * rounds for name in taking_part if name != 'blitz'}))
    output = tmp_path / 'new' / 'results.md'
    peers.main(['--sections', 'step', 'width', '--rounds', '7', '--output', str(output)])
    peers.main(['--sections', 'width', '--contenders', 'fused', 'gluon', '--rounds', '9', '--output', str(output)])
    results = json.loads(output.with_suffix('.json').read_text(encoding='utf-8'))
    assert [(name, results[name]['rounds']) for name in results] == [('step', 7), ('width', 9)]
    text = output.read_text(encoding='utf-8')
    assert text == peers_report.report(results) and '9.00' in text and not list(output.parent.glob('*.partial'))


@pytest.mark.parametrize('flag, value, message', [
    ('--rounds', '0', 'must be at least 1'), ('--warmup', '-1', 'must be at least 0'),
    ('--threads', '10000', 'must be at most'), ('--sections', 'all', 'invalid choice'),
    ('--contenders', 'keras', 'invalid choice')])
def test_bad_flag_of_peers(flag, value, message, capsys):
    with pytest.raises(SystemExit):
        peers.arguments([flag, value])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('steps', [300, pytest.param(20000, marks=pytest.mark.slow)])
def test_memory_of_a_long_run_is_flat(steps):
    done = subprocesses.run(SCRIPT.parent / 'long_run.py', '--steps', steps, '--warmup', steps // 3, '--every', 50,
                            '--units', 16, '--batch-size', 16, limit=None)
    assert 'largest after the warm-up / right after it: 1.0' in done.stdout


def test_memory_that_grows_is_told(capsys):
    long_run = importlib.import_module('long_run')
    before = long_run.resident()
    room = np.ones(10 ** 7)
    assert 60 < long_run.resident() - before < 120 and room.any()
    long_run.report(iter([(1, 100.), (2, 200.), (3, 203.9), (4, 200.)]), 2)
    with pytest.raises(SystemExit, match='memory grew by more than 2 %'):
        long_run.report(iter([(1, 100.), (2, 200.), (3, 204.1), (4, 200.)]), 2)
    assert '204.1 MB' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        long_run.arguments(['--steps', '10', '--warmup', '10'])
