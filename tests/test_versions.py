# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The parts of .ci/versions.py that need no environment: names, the table, interpreters, and what is run again."""
import importlib.util
import json

import pytest
from subprocesses import ROOT

#: A result, as it stands in build/versions.
RESULT = {'numpy': '1.2.3', 'scikit-learn': '2.3.4', 'scipy': '3.4.5', 'pandas': '4.5.6', 'matplotlib': '5.6.7',
          'passed': 1234, 'failed': 0, 'skipped': 56}


@pytest.fixture
def versions(tmp_path, monkeypatch):
    """The module, whose results and page are in a folder of the test."""
    path = ROOT / '.ci' / 'versions.py'
    if not path.is_file():
        pytest.skip('for a tree with the folder .ci')
    spec = importlib.util.spec_from_file_location('versions', str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'FOLDER', tmp_path)
    monkeypatch.setattr(module, 'PAGE', tmp_path / 'install.md')
    return module


def test_tables_name_what_is_there(versions):
    assert {name.split('/')[0] for name in versions.ROWS} == set(versions.PYTHONS) >= set(versions.WITHOUT_MXNET)
    assert [name for name in versions.SMOKE if not (ROOT / name).is_file()] == []


def test_each_row_has_places_of_its_own(versions, tmp_path):
    assert versions.Row('3.8', '1.17.3').path('.json') == tmp_path / '3.8-1.17.3.json'
    places = {versions.Row(*name.split('/')).path(suffix) for name in versions.ROWS for suffix in ('', '.json', '.xml')}
    assert len(places) == 3 * len(versions.ROWS) and {place.parent for place in places} == {tmp_path}


def test_the_table_replaces_the_old_one_and_nothing_else(versions, tmp_path):
    (tmp_path / '3.13-2.json').write_text(json.dumps(dict(RESULT, failed=7)))
    (tmp_path / '3.8-1.json').write_text(json.dumps(RESULT))
    head = ('| Python | NumPy | SciPy | scikit-learn | pandas | passed | failed | skipped |\n'
            '|---|---|---|---|---|---:|---:|---:|\n')
    page = 'Before.\n\n{}\nAfter.\n\n| another | table |\n|---|---|\n'
    wanted = page.format(head + '| 3.8 | 1.2.3 | 3.4.5 | 2.3.4 | 4.5.6 | 1,234 | 0 | 56 |\n'
                         '| 3.13 | 1.2.3 | 3.4.5 | 2.3.4 | 4.5.6 | 1,234 | 7 | 56 |\n')
    for before in (page.format(head + '| 3.8 | old | | | | 1 | 2 | 3 |\n'), wanted):
        versions.PAGE.write_text(before)
        versions.write_table()
        assert versions.PAGE.read_text() == wanted
    versions.PAGE.write_text(wanted + '\n' + wanted)
    with pytest.raises(SystemExit, match=r'install.md must have the table once \(saw it 2 times\)'):
        versions.write_table()
    assert versions.PAGE.read_text() == wanted + '\n' + wanted


def test_interpreters_are_those_that_work(versions, tmp_path, monkeypatch):
    def program(path, code):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\n{code}\n')
        path.chmod(0o755)

    program(tmp_path / 'bin' / 'python3.8', 'echo 3.12 /wrong')                 # not what its name says
    program(tmp_path / 'bin' / 'python3.9', 'echo 3.9 /broken; exit 1')         # without the module venv, say
    program(tmp_path / 'bin' / 'python3.10', 'echo 3.10 /of/the/path')
    program(tmp_path / 'versions' / '3.8.20' / 'bin' / 'python', 'echo 3.8 /of/pyenv')
    program(tmp_path / 'versions' / '3.10.1' / 'bin' / 'python', 'echo 3.10 /of/pyenv')
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    monkeypatch.setenv('PYENV_ROOT', str(tmp_path))
    assert versions.interpreters() == {'3.8': '/of/pyenv', '3.10': '/of/the/path'}


def test_the_whole_suite_goes_on_where_it_stopped(versions, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(versions, 'interpreters', lambda: {'3.8': '/usr/bin/python3.8'})
    monkeypatch.setattr(versions.Row, 'make', lambda self, interpreter: made.append((self.name, interpreter)))
    monkeypatch.setattr(versions.Row, 'versions', lambda self: dict(RESULT))
    monkeypatch.setattr(versions.Row, 'test', lambda self: {'passed': 3, 'failed': int(self.numpy == '1'),
                                                            'skipped': 0})
    assert versions.whole_suite(['3.8/1.17.3'])
    assert not versions.whole_suite(['3.8/1', '3.8/1.17.3'])        # the first fails, the second passes
    assert made == [('3.8/1.17.3', '/usr/bin/python3.8'), ('3.8/1', '/usr/bin/python3.8')]
    assert json.loads((tmp_path / '3.8-1.json').read_text())['failed'] == 1
    assert not versions.whole_suite(['3.9/1'])      # not tried is not passed
    assert 'Python 3.9: not found on this machine' in capsys.readouterr().out and len(made) == 2
