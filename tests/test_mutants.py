# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The parts of .ci/mutants that need no run of the suite: what a mutant is, how they are drawn, and what is counted."""
import ast
import importlib
import sys

import pytest
from subprocesses import ROOT

FOLDER = ROOT / '.ci' / 'mutants'

PYTHON = b'''
def f(x, y=2, *, z=False):
    """Text, and 1 + 1."""
    if x < y and not z:  # a comment: 3 + 4
        raise ValueError(f'{x + 1}' + 'a')
    check(x)
    u: List[5] = (x) - (
        # 7 + 8
        y)
    return nd.exp(u, dtype=None)


class C:
    def __init__(self):
        super().__init__()
'''

#: kind -> (line with the fault) of all mutants of PYTHON.
OF_PYTHON = {
    'constant': {'def f(x, y=3, *, z=False):', 'def f(x, y=1, *, z=False):', 'def f(x, y=2, *, z=True):'},
    'comparison': {'if x <= y and not z:  # a comment: 3 + 4', 'if x >= y and not z:  # a comment: 3 + 4'},
    'and/or': {'if x < y or not z:  # a comment: 3 + 4', 'if x < y and  z:  # a comment: 3 + 4'},
    'arithmetic': {'u: List[5] = (x) + ('},
    'call left out': {'pass', 'return (u)'},
    'early return': {'return'},
}

CPLUSPLUS = b'''
#include <cmath>  // 1 + 2
float f(const float* x, int n) {
  float sum = 0.5f;
  for (int i = 0; i < n && x[i] != 3; ++i) {
    sum += std::exp(x[i] * sum);  // a * b
  }
  note("a + b", n);
  return sum - 1e-3f;
}
'''


@pytest.fixture
def modules(monkeypatch):
    """The modules mutations and run."""
    if not FOLDER.is_dir():
        pytest.skip('for a tree with the folder .ci')
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module('mutations'), importlib.import_module('run')
    for name in ('mutations', 'run'):
        sys.modules.pop(name, None)


def changed_lines(mutant, source):
    """The first line that has changed."""
    before, after = source.decode().splitlines(), mutant.applied(source).decode().splitlines()
    number = mutant.line(source) - 1
    assert before[:number] == after[:number]
    return after[number].strip()


def test_mutants_of_python(modules):
    mutations, _ = modules
    found = {}
    for mutant in mutations.mutants('a.py', PYTHON):
        ast.parse(mutant.applied(PYTHON))
        found.setdefault(mutant.kind, set()).add(changed_lines(mutant, PYTHON))
    assert found == OF_PYTHON


def test_an_early_return_is_put_before_every_statement_but_returns(modules):
    mutations, _ = modules
    places = [mutant.line(PYTHON) for mutant in mutations.mutants('a.py', PYTHON) if mutant.kind == 'early return']
    lines = PYTHON.decode().splitlines()
    assert [lines[line - 1].strip().split()[0] for line in places] == ['if', 'check(x)', 'u:', 'super().__init__()']


def test_mutants_of_cplusplus(modules):
    mutations, _ = modules
    found = {}
    for mutant in mutations.mutants('a.cc', CPLUSPLUS):
        found.setdefault(mutant.kind, set()).add(changed_lines(mutant, CPLUSPLUS))
        assert mutant.place in ('f', '')
    returns = found.pop('early return')
    loop, add = 'for (int i = 0; i < n && x[i] != 3; ++i) {', 'sum += std::exp(x[i] * sum);  // a * b'
    assert found == {
        'arithmetic': {add.replace('+=', '-='), add.replace('x[i] * sum', 'x[i] / sum'), 'return sum + 1e-3f;'},
        'comparison': {loop.replace('i < n', 'i <= n'), loop.replace('i < n', 'i >= n'), loop.replace('!=', '==')},
        'and/or': {loop.replace('&&', '||')},
        'constant': {'float sum = 1.0f;', loop.replace('i = 0', 'i = 1'), loop.replace('3', '4'),
                     'return sum - 0.002f;'},
        'call left out': {add.replace('std::exp', ''), ';'}}
    assert returns == {f'{word}; {line}' for word in ('return', 'return {}')
                       for line in ('float sum = 0.5f;', loop, add, 'note("a + b", n);')}


def test_a_key_stays_where_the_lines_above_change(modules):
    mutations, _ = modules
    before = mutations.mutants('a.py', PYTHON)
    after = mutations.mutants('a.py', b'import os\nONE = 1\n' + PYTHON)
    assert len({mutant.key for mutant in before}) == len(before)
    assert [mutant.key for mutant in after][-len(before):] == [mutant.key for mutant in before]
    other = mutations.mutants('a.py', PYTHON.replace(b'nd.exp(u, dtype=None)', b'nd.exp(u)'))
    assert len({mutant.key for mutant in before} & {mutant.key for mutant in other}) == len(before) - 1


def test_parts_name_what_is_there(modules):
    _, run = modules
    for part in [*run.PARTS, run.KERNELS]:
        assert run.sources(part)
    for name in run.TESTS_OF_KERNELS:
        assert (ROOT / name).exists()


def test_a_sample_has_all_kinds_and_follows_from_the_seed(modules):
    mutations, run = modules
    first, again, other = run.drawn('posterior', 1), run.drawn('posterior', 1), run.drawn('posterior', 2)
    assert first == again != other and set(first) == set(other)
    assert [mutant.kind for mutant in first[:12]] == list(mutations.KINDS) * 2


def test_tests_that_touch_a_line(modules):
    mutations, run = modules
    touched = run.Touched({'a.py': {2: {''}, 4: {'t.py::one', 'gone'}, 6: {'t.py::two'}, 7: {'t.py::one'}}},
                          {'t.py::one': 1., 't.py::two': 2.})

    def tests(text):
        mutant = next(each for each in mutations.mutants('a.py', PYTHON) if text in changed_lines(each, PYTHON))
        return touched.tests(mutant, PYTHON)

    assert tests('y=3') == {'t.py::one', 't.py::two'}       # run at import: all tests of the file
    assert tests(' or ') == {'t.py::one'}
    assert tests('pass') == {'t.py::two'}


def test_the_table_counts(modules, capsys):
    mutations, run = modules
    sample = [('priors', mutant) for mutant in mutations.mutants('a.py', PYTHON)[:4]]
    verdicts = {mutant.key: {'verdict': name} for (_, mutant), name in zip(sample, ['killed', 'killed', 'survived'])}
    run.table(sample, verdicts)
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ['priors', '2', '1', '0', '1']
    assert printed[-2] == '2 of 3 mutants that were tried are killed: 66.7%'
    assert '"open": not tried yet (1)' in printed[-1]


def test_a_survivor_is_written_down_once(modules, tmp_path, monkeypatch):
    mutations, run = modules
    monkeypatch.setattr(run, 'ROOT', tmp_path)
    monkeypatch.setattr(run, 'SURVIVORS', tmp_path / 'survivors.md')
    (tmp_path / 'a.py').write_bytes(PYTHON)
    run.SURVIVORS.write_text('# Head\n')
    mutant = next(each for each in mutations.mutants('a.py', PYTHON) if each.kind == 'arithmetic')
    for _ in range(2):
        run.record_survivors([('priors', mutant)])
    text = run.SURVIVORS.read_text()
    assert text.count('## ') == 1 and '-    u: List[5] = (x) - (\n+    u: List[5] = (x) + (\n' in text
