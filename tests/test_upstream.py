# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The comparison with MXNet's own tests finds what differs, explains it, and loses nothing to a crash."""
import importlib
import json
import signal
import sys
import time

import mxnet as mx
import pytest
from subprocesses import TESTS

sys.path.insert(0, str(TESTS / 'upstream'))
compare, exchange = (importlib.import_module(name) for name in ('compare', 'exchange'))

TESTS = '''
import mxnet as mx
from mxnet.gluon import nn
from nose.tools import assert_raises, ok_, raises

def test_same():
    net = nn.Dense(2, in_units=3)
    net.initialize()
    ok_(net(mx.nd.ones((4, 3))).shape == (4, 2))

def test_draws():
    net = nn.Dense(2, in_units=3)
    net.initialize()
    with mx.autograd.train_mode():
        first, second = net(mx.nd.ones((4, 3))), net(mx.nd.ones((4, 3)))
    assert abs((first - second).asnumpy()).max() < 1e-6

def test_names():
    assert len(nn.Dense(2).params.keys()) == 2

@raises(ValueError)
def test_without():
    raise ValueError

def test_fails():
    assert_raises(ValueError, mx.gluon.utils.download, 'http://localhost/file', retries=0)
    assert False
'''


@pytest.fixture
def source(tmp_path):
    """A source tree with one file of tests."""
    for name, text in (('python/mxnet/libinfo.py', f"__version__ = '{mx.__version__}'\n"),
                       ('tests/python/unittest/test_tiny.py', TESTS)):
        path = tmp_path / 'source' / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding='utf-8')
    return tmp_path / 'source'


def test_verdicts(source, tmp_path, capsys):
    """Catches a difference that goes unnoticed, a reason that is not needed, layers that are not exchanged, and a
    stopped run that starts from the beginning."""
    reasons = tmp_path / 'reasons.json'

    def run(**explained):
        reasons.write_text(json.dumps({f'test_tiny.py::{test}': reason for test, reason in explained.items()}))
        status = compare.main([str(source), '--files', 'test_tiny.py', '--output', str(tmp_path / 'output'),
                               '--reasons', str(reasons)])
        return status, capsys.readouterr().out.splitlines()

    status, (summary, mistake) = run(test_draws='Each forward has its own draw.')
    assert summary.startswith('3 tests with layers exchanged: 1 unchanged, 2 different, 1 of which pass without noise; '
                              '1 fail in plain MXNet too; 1 build none of these layers')
    assert status == 1
    assert mistake.startswith('test_tiny.py::test_names: passed, with Bayesian layers failed: ')

    records = {path: path.read_text() for path in tmp_path.glob('output/*/*.jsonl')}
    assert len(records) == 3
    both = dict(test_draws='Each forward has its own draw.', test_names='There is a rho for each mean.')
    assert run(**both) == (0, [summary])
    assert run(**both, test_same='It never differed.') == (
        1, [summary, 'test_tiny.py::test_same: has a reason to differ, but does not'])
    assert {path: path.read_text() for path in tmp_path.glob('output/*/*.jsonl')} == records    # nothing ran again

    path, = tmp_path.glob('output/plain-*/*.jsonl')
    path.write_text(''.join(line for line in records[path].splitlines(keepends=True)
                            if 'complete' not in line and 'test_same' not in line))
    assert run(**both) == (0, [summary])
    started = [json.loads(line)['test'] for line in path.read_text().splitlines() if 'started' in line]
    assert started == [f'test_tiny.py::test_{name}' for name in ('draws', 'names', 'without', 'fails', 'same')]


def test_crash(source, tmp_path, monkeypatch):
    """Catches a crash or a hanging test that takes the outcomes of the tests after it along."""
    args = compare.arguments([str(source), '--files', 'test_tiny.py', '--limit', '60'])
    run = compare.Run(args, 'plain', 'test_tiny.py', ['test_tiny.py'], tmp_path)
    starts = []

    def pytest_stand_in(targets):
        """A process that dies in b, hangs in d, and dies in c unless c is alone."""
        starts.append(targets)
        for test in 'abcde' if targets == ['test_tiny.py'] else targets:
            if test not in run.outcomes():
                late = 100 if test == 'd' else 0
                exchange.write_record(run.record, test=test, started=time.time() - late)
                if test in 'bd' or (test == 'c' and len(targets[0]) > 1):
                    return 1 if late else -signal.SIGFPE
                exchange.write_record(run.record, test=test, outcome='passed', layers=0, message='')
        exchange.write_record(run.record, finished=True)
        return 0

    monkeypatch.setattr(run, 'pytest', pytest_stand_in)
    run.go()
    assert {test: (line['outcome'], line['message']) for test, line in run.outcomes().items()} == {
        'a': ('passed', ''), 'b': ('crashed', 'the process ended with signal SIGFPE'), 'c': ('passed', ''),
        'd': ('timed out', 'longer than 60 s'), 'e': ('passed', '')}
    assert starts == [[name] for name in ('test_tiny.py', 'b', 'test_tiny.py', 'c', 'test_tiny.py', 'd',
                                          'test_tiny.py')]
    run.go()
    assert len(starts) == 7     # nothing ran again


@pytest.mark.parametrize('text, saw', [("__version__ = '2.0.0'", '2.0.0'), ('', 'no python/mxnet/libinfo.py')])
def test_another_version(source, text, saw, capsys):
    """Tests of another MXNet would differ for reasons that have nothing to do with the layers."""
    (source / 'python' / 'mxnet' / 'libinfo.py').write_text(text)
    with pytest.raises(SystemExit):
        compare.main([str(source)])
    assert f'(saw: {saw}' in capsys.readouterr().err


def test_partial_results(source, capsys):
    """RESULTS.md must never come from a part of the tests."""
    with pytest.raises(SystemExit):
        compare.main([str(source), '--write', '-k', 'dense'])
    assert '--write needs all tests' in capsys.readouterr().err
