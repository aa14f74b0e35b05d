# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import importlib
import os
import sys

import pytest
from subprocesses import EXAMPLES

sys.path.insert(0, str(EXAMPLES))
example = importlib.import_module('example')
SCRIPTS = 'bandit', 'finetune', 'language_model', 'regression'


def parse(*flags):
    return example.parser('What it does.', 'somewhere').parse_args([str(flag) for flag in flags])


@pytest.mark.parametrize('text', ['²', '-1', '1.5', 'x', '', '2147483648', '9' * 5000])
def test_bad_seeds(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse('--output', tmp_path / 'out', '--seed=' + text)
    errors = capsys.readouterr().err
    assert f'--seed: must be a whole number from 0 to 2147483647 (saw: {text!r})' in errors
    assert not (tmp_path / 'out').exists()


def test_output_is_made_and_kept(tmp_path, monkeypatch):
    out = tmp_path / 'deep' / 'out'
    for _ in range(2):
        assert parse('--output', out, '--seed', '2147483647').seed == 2 ** 31 - 1
    assert out.is_dir() and not list(out.iterdir())
    (out / 'mine.txt').write_text('keep')
    parse('--output', out)
    assert [path.name for path in out.iterdir()] == ['mine.txt']
    monkeypatch.chdir(tmp_path)
    assert parse().output == os.path.join('results', 'somewhere') and (tmp_path / 'results' / 'somewhere').is_dir()


@pytest.mark.parametrize('script', SCRIPTS)
@pytest.mark.parametrize('name', ['file', os.path.join('file', 'out')])
def test_a_bad_output_is_found_before_any_work(script, name, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(script)
    (tmp_path / 'file').write_text('keep')
    monkeypatch.setattr(sys, 'argv', [script + '.py', '--quick', '--output', str(tmp_path / name)])
    for work in 'seed_all', 'load_digits', 'load_text', 'mnist_data':
        if hasattr(module, work):
            monkeypatch.delattr(module, work)       # so that any work would be an AttributeError or a NameError
    with pytest.raises(SystemExit) as error:
        module.main()
    errors = capsys.readouterr().err
    assert error.value.code == 2 and errors.startswith(f'usage: {script}.py ')
    assert '--output: must be a folder, to be made or there, that files can be written to (saw: %s; ' % (
        tmp_path / name) in errors
    assert (tmp_path / 'file').read_text() == 'keep'


@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='no folder here refuses files even to root')
def test_an_output_that_cannot_be_written(capsys):
    with pytest.raises(SystemExit):
        parse('--output', '/proc/self')
    assert '--output: must be a folder, ' in capsys.readouterr().err
