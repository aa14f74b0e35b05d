# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The fuzzer finds nothing in some seconds, and finds what is there to be found."""
import re

import fuzz
import pytest

pytestmark = pytest.mark.costly

#: A worker whose cases do what a real one must not.
BAD_WORKER = '''
import sys
sys.path.insert(0, %(folder)r)
import fuzz_worker
import importlib
importlib.import_module('bbb_layers')
import fuzz_%(target)s as target
%(code)s
fuzz_worker.serve(sys.argv[1], int(sys.argv[2]), target.run)
'''
#: Changes a Parameter, and then refuses the file.
CHANGES_AND_REFUSES = '''
def bad(path, net, trainer=None, loss=None):
    if net[-1].weight_rho._data is not None:
        net[-1].weight_rho.set_data(net[-1].weight_rho.data() + 1)
    raise ValueError(f'{path}: must be another')
target.load_checkpoint = bad
'''
#: Accepts every file, and loads nothing.
LOADS_NOTHING = '''
target.load_checkpoint = lambda path, *arguments: {}
'''
#: Raises an error that does not name the file.
NAMES_NO_FILE = '''
def bad(path, *arguments):
    raise ValueError('must be another')
target.load_checkpoint = bad
'''
#: Gives all Parameters of the network one number, and says nothing.
OTHER_VALUES = '''
from mxnet import gluon
load = gluon.Block.load_parameters
def bad(net, path, **options):
    load(net, path, **options)
    for param in net.collect_params().values():
        param.set_data(param.data().zeros_like() + 5)
gluon.Block.load_parameters = bad
'''
#: Ignores what the attributes say.
ANY_ATTRIBUTES = '''
operator = target.operator
def bad(F, name):
    return lambda *arrays, **attributes: operator(F, 'noise')(arrays[0])
target.operator = bad
'''


def run(target, cases, tmp_path, code=''):
    worker = tmp_path / 'worker.py'
    worker.write_text(BAD_WORKER % {'folder': str(fuzz.WORKER.parent), 'target': target, 'code': code},
                      encoding='utf-8')
    return fuzz.fuzz(target, 1, range(cases), worker=worker)


@pytest.fixture(autouse=True)
def where_the_package_is(monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(fuzz.WORKER.parents[2]))


@pytest.mark.parametrize('target, cases', [('parameters', 60), ('checkpoint', 60), ('native', 300)])
def test_nothing_is_found(target, cases, request):
    if target == 'native':
        request.getfixturevalue('compiled')
    report = fuzz.fuzz(target, 1, range(cases))
    assert not report.findings and report.outcomes['refused'] > cases / 5
    assert report.outcomes['accepted'] > cases / 20 and sum(report.outcomes.values()) == cases


@pytest.mark.parametrize('target, code, finding', [
    ('checkpoint', CHANGES_AND_REFUSES, 'the file was refused and params/2.weight_rho/data changed'),
    ('checkpoint', LOADS_NOTHING, 'which must be'),
    ('checkpoint', NAMES_NO_FILE, 'the error must be a ValueError that names the file'),
    ('parameters', OTHER_VALUES, 'is not what the file has'),
    ('native', ANY_ATTRIBUTES, 'this is not valid, and was accepted')],
    ids=['changes and refuses', 'loads nothing', 'names no file', 'other values', 'any attributes'])
def test_what_goes_wrong_in_silence_is_found(target, code, finding, tmp_path, request):
    if target == 'native':
        request.getfixturevalue('compiled')
    report = run(target, 12, tmp_path, code)
    assert any(finding in text for texts in report.findings.values() for text in texts)


@pytest.mark.parametrize('code, end', [
    ('import os; os.abort()', 'ended with'), ('import ctypes; ctypes.string_at(0)', 'ended with'),
    ('bytearray(2 ** 36)', 'MemoryError'), ('import time; time.sleep(1000)', 'ended with -9')],
    ids=['abort', 'segmentation fault', 'memory', 'hang'])
def test_a_worker_that_dies_is_found_and_replaced(code, end, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, 'SECONDS', 5)
    report = run('checkpoint', 3, tmp_path, f'''
real = target.run
def run(case):
    if case.number == 1:
        {code}
    return real(case)
target.run = run
''')
    (text,), = [texts for case, texts in report.findings.items() if case == 1]
    assert set(report.findings) == {1} and text.startswith('the worker ended with') and end in text
    assert report.outcomes['died'] == 1 and sum(report.outcomes.values()) == 3      # the others ran
    assert 'case 1, died:' in capsys.readouterr().out


def test_what_kills_mxnet_alone_is_no_finding(tmp_path):
    report = run('parameters', 2, tmp_path, '''
import os
def die(path):
    os.abort()
target.read_alone = die
''')
    assert not report.findings and report.outcomes == {'mxnet': 2}


def test_the_command(capsys, monkeypatch):
    assert fuzz.main(['checkpoint', '--seed', '3', '--case', '5']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.split(' {2,}', lines[0].strip()) == ['cases', 'refused', 'accepted', "MXNet's own", 'findings']
    numbers = [int(number) for number in lines[1].split()]
    assert numbers[0] == 1 == sum(numbers[1:4]) and numbers[4] == 0
    asked = []

    def found(target, seed, cases, seconds=None):
        asked.append((target, seed, next(iter(cases)), seconds))
        return fuzz.Report(fuzz.collections.Counter(refused=2), {7: ['a finding']})
    monkeypatch.setattr(fuzz, 'fuzz', found)
    assert fuzz.main(['native', '--minutes', '2', '--seed', '4']) == 1
    assert asked == [('native', 4, 0, 120.)]
