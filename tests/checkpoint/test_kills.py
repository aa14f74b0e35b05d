# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Nothing is lost: training runs that are killed at random moments, have a full disk, or a folder that is read-only."""
import contextlib
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import time

import pytest
import subprocesses
from mxnet import nd
from subprocesses import ROOT

from bbb_layers import checkpoint
from bbb_layers.checkpoint.file import read as read_checkpoint

MNIST = ['examples/mnist.py', '--hidden-layers', '1', '--hidden-units', '16', '--batch-size', '100', '--lr', '0.01',
         '--draws', '2', '--epochs']
REPRODUCE = ['examples/reproduce/mnist.py', '--quick', '--jobs', '2', '--only', 'mixture']


def start(flags, **kwargs):
    """A process in a group of its own, so that its children can be killed with it."""
    return subprocesses.start(*flags, cwd=ROOT, start_new_session=True, **kwargs)


def finish(flags, **kwargs):
    done = subprocesses.finish(start(flags, **kwargs), limit=None, check=False)
    return done.returncode, done.stdout, done.stderr


def kill(process):
    """Kill a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()


def read_lines(process, count):
    """Read so many lines of output, or what there is before it ends; the seconds that the last one took."""
    begun = time.perf_counter()
    for _ in range(count):
        begun = time.perf_counter()
        process.stdout.readline()
    return time.perf_counter() - begun


def epochs_in(path):
    """The number of epochs of a checkpoint, which must be whole; None if there is no file yet."""
    if not path.exists():
        return None
    facts = read_checkpoint(str(path))[0]['facts']
    return len(facts['history']) if 'history' in facts else facts['epoch']


def without_times(output):
    return output.split('98 % pruned')[0].replace('/killed', '/whole')


@pytest.mark.parametrize('kills', [4, pytest.param(50, marks=pytest.mark.slow)])
def test_mnist(tmp_path, kills):
    flags = MNIST + [3 * kills]     # it is never done before the last kill
    code, expected, _ = finish(flags + ['--output', tmp_path / 'whole'])
    assert code == 0
    folder, done, seen = tmp_path / 'killed', 0, set()
    for number in range(kills):
        process = start(flags + ['--output', folder, '--resume'])
        if number % 4 == 3:     # at any moment from the beginning on
            time.sleep(random.random() * 5)
        else:       # after 0 to 2 more epochs and a part of the next
            lasts = read_lines(process, 3 + done + random.randrange(3))
            time.sleep(random.random() * min(lasts, 2))
        kill(process)
        last, done = done, epochs_in(folder / 'mnist.checkpoint') or 0
        assert done >= last
        seen.add(done)
        if done:
            assert set(nd.load(str(folder / 'mnist.params'))) == {
                '%d.%s' % (layer, name) for layer in range(2)
                for name in ('weight', 'weight_rho', 'bias', 'bias_rho')}
    print('epochs done when killed:', seen)
    assert len(seen) > 1    # it was training
    code, output, _ = finish(flags + ['--output', folder, '--resume'])
    assert code == 0 and without_times(output) == without_times(expected)
    assert (folder / 'mnist.params').read_bytes() == (tmp_path / 'whole' / 'mnist.params').read_bytes()
    assert not list(folder.glob('.mnist.checkpoint.*'))


def results(folder):
    return {path.name: {name: value for name, value in json.loads(path.read_text()).items() if name != 'seconds'}
            for path in folder.glob('*.json')}


@pytest.mark.slow       # fewer kills are in test_reproduce.py
def test_reproduce(tmp_path):
    assert finish(REPRODUCE + ['--work', tmp_path / 'whole'])[0] == 0
    expected, cycles, kills = results(tmp_path / 'whole' / 'results'), 0, 0
    while kills < 50:
        folder, done, orphans = tmp_path / str(cycles), {}, None
        while kills < 50:
            process = start(REPRODUCE + ['--work', folder])
            read_lines(process, random.randrange(4))
            time.sleep(random.random())
            if orphans is not None:
                kill(orphans)
            if process.poll() is not None:      # it was faster
                errors = process.stderr.read()
                kill(process)
                assert process.returncode == 0, errors
                break
            kills += 1
            orphans = process if kills % 3 == 0 else None
            if orphans is None:
                kill(process)
            else:       # alone: the runs that it had started go on beside those that are started anew
                process.kill()
                process.wait()
            last, done = done, {path.name: epochs_in(path) for path in folder.glob('*.checkpoint')}
            assert all(done[name] >= last[name] for name in last)
            results(folder / 'results')
            print('%d kills; %d epochs done' % (kills, sum(done.values())), flush=True)
        if orphans is not None:
            kill(orphans)
        print('ends, after %d kills' % kills, flush=True)
        assert finish(REPRODUCE + ['--work', folder])[0] == 0
        assert results(folder / 'results') == expected
        assert not list(folder.glob('.*.part')) + list((folder / 'results').glob('.*.part'))
        cycles += 1


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('kills') / 'out'
    assert finish(MNIST + [1, '--output', folder])[0] == 0
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('name', ['mnist.params', 'mnist.checkpoint'])
def test_a_disk_that_is_full(trained, tmp_path, name):
    folder = tmp_path / 'out'
    shutil.copytree(str(trained), str(folder))
    before = files(folder)
    room = len(before[name]) - 1000
    code, _, errors = finish(MNIST + [2, '--output', folder, '--resume'],
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    assert code == 1 and 'Traceback' not in errors
    assert 'File too large' in errors or 'cannot be written' in errors
    assert str(folder / name) in errors
    after = files(folder)
    assert after['mnist.checkpoint'] == before['mnist.checkpoint'] and set(after) == set(before)
    assert name != 'mnist.params' or after == before


def drop_the_right_to_write_anywhere():
    """Of root, who may write into read-only folders."""
    assert os.geteuid() or ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0      # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


def test_a_folder_that_is_read_only(trained):
    before = files(trained)
    trained.chmod(0o555)
    try:
        code, _, errors = finish(MNIST + [2, '--output', trained, '--resume'],
                                 preexec_fn=drop_the_right_to_write_anywhere)
    finally:
        trained.chmod(0o755)
    assert code == 1 and 'files can be written to' in errors and files(trained) == before


def test_a_folder_that_becomes_read_only(tmp_path):
    path = tmp_path / 'file'
    checkpoint.write_atomically(str(path), b'old')
    tmp_path.chmod(0o555)
    script = f'from bbb_layers.checkpoint import write_atomically; write_atomically({str(path)!r}, b"new")'
    try:
        code, _, errors = finish(['-c', script], preexec_fn=drop_the_right_to_write_anywhere)
    finally:
        tmp_path.chmod(0o755)
    assert code == 1 and f"PermissionError: [Errno 13] Permission denied: '{path}'" in errors
    assert files(tmp_path) == {'file': b'old'}
