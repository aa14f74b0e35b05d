# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Many workers make the steps that one makes, a dead role ends the run, and the run goes on from its checkpoint."""
import importlib
import os
import re
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd
from subprocesses import EXAMPLES, run, start

from bbb_layers import BBBLoss
from bbb_layers.checkpoint import load_checkpoint, save_checkpoint

FOLDER = EXAMPLES / 'distributed'
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
train_mnist = importlib.import_module('train_mnist')

# A step is the whole training. SGD: its step is as large as the gradient, and Adam's is not.
STEP = ['--num-train', '60', '--batch-size', '60', '--epochs', '1', '--units', '8', '--optimizer', 'sgd', '--lr', '0.5',
        '--seed', '5']
SMALL = ['--num-train', '200', '--units', '8']
distributed = pytest.mark.skipif(not mx.runtime.Features().is_enabled('DIST_KVSTORE'),
                                 reason='this MXNet was built without DIST_KVSTORE')


@contextmanager
def started(*flags, script=None, workers=2):
    """A launcher of all roles, with what it wrote so far in ``.log``; what is left of them is killed at the end."""
    command = [FOLDER / 'launch.py', '--workers', workers, script or FOLDER / 'train_mnist.py', *flags]
    log = Path(flags[flags.index('--output') + 1]).with_suffix('.log')
    with open(log, 'w') as file, start(*command, stdout=file, stderr=file, start_new_session=True) as process:
        process.log = log
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:      # all have ended
                pass
            print(log.read_text())


def pids(log):
    line = next(line for line in log.read_text().splitlines() if line.startswith('launch.py: started'))
    return {name: int(pid) for name, pid in re.findall(r'(\w+(?: \d+)?) \((\d+)\)', line)}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def values(net):
    return [param.list_data()[0].asnumpy() for param in net.collect_params().values()]


def one_step(shards, seeds):
    """The Parameters before and after a step of one process under the draws of several.

    ``seeds``: of each shard, or None where its draws follow those of the shard before.
    """
    images, labels = train_mnist.load_digits()[:2]
    images, order = images.reshape(-1, 784) / np.float32(126), np.random.RandomState((5, 0)).permutation(60)
    mx.random.seed(5)
    net = train_mnist.build(8, [mx.cpu()])
    loss_fn, before, gradients = BBBLoss(net, num_train=60), values(net), []
    for chosen, seed in zip(order.reshape(shards, -1), seeds):
        if seed is not None:
            mx.random.seed(seed)
        with autograd.record():
            loss = loss_fn(net(nd.array(images[chosen])), nd.array(labels[chosen]))
        loss.backward()
        gradients.append([param.grad().asnumpy() for param in net.collect_params().values()])
    first, second = gradients[0], gradients[1]
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(first, second))       # each has draws and digits of its own
    return before, [value - 0.5 * sum(each) / 60 for value, each in zip(before, zip(*gradients))]


def assert_close(found, wanted, before):
    for a, b, c in zip(found, wanted, before):
        np.testing.assert_allclose(a - c, b - c, rtol=1e-3, atol=1e-6)


@distributed
def test_the_first_step_is_that_of_one_process(tmp_path):
    script = tmp_path / 'step.py'
    script.write_text(f'''
import gc, os, sys
sys.path.insert(0, {str(FOLDER)!r})
import bbb_layers
import train_mnist
import numpy as np
args = train_mnist.arguments(sys.argv[1:])
net, facts = train_mnist.train(args, train_mnist.Watch(60))
np.savez(os.path.join(args.output, 'worker-%d.npz' % os.getpid()),
         *[param.data().asnumpy() for param in net.collect_params().values()])
del net
gc.collect()
''')
    with started('--output', tmp_path / 'out', *STEP, script=script) as process:
        assert process.wait(timeout=240) == 0
    before, wanted = one_step(2, [train_mnist.noise_seed(5, 0, rank) for rank in range(2)])
    results = []
    for path in (tmp_path / 'out').glob('worker-*.npz'):
        with np.load(str(path)) as file:
            results.append([file[name] for name in file.files])
    assert len(results) == 2
    for found in results:
        assert_close(found, wanted, before)
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


def test_the_first_step_on_two_contexts_is_that_on_one(tmp_path):
    args = train_mnist.arguments(['--output', str(tmp_path), '--contexts', '2', '--kvstore', 'device'] + STEP)
    net, facts = train_mnist.train(args, train_mnist.Watch(60))
    # MXNet has one generator for all contexts of a CPU.
    before, wanted = one_step(2, [train_mnist.noise_seed(5, 0, 0), None])
    assert_close(values(net), wanted, before)
    assert facts['epoch'] == 1


def test_a_worker_that_waits_too_long_ends(monkeypatch):
    messages = []
    monkeypatch.setattr(train_mnist, 'end', messages.append)
    with train_mnist.Watch(timeout=1) as watch:
        watch.alive()
    watch.join(timeout=10)
    assert not watch.is_alive() and messages == []
    watch = train_mnist.Watch(timeout=1)
    watch.alive()
    watch.start()
    for _ in range(4):
        time.sleep(0.4)
        watch.alive()
    assert messages == [] and watch.is_alive()
    watch.join(timeout=10)
    assert len(messages) == 1 and '--timeout 1 is too short' in messages[0]


# A scheduler, server and workers without MXNet: what they do is the launcher's affair alone.
ROLES = '''
import os, sys, time
print(sorted((name, value) for name, value in os.environ.items() if name[:5] == 'DMLC_' and 'PORT' not in name))
sys.stdout.flush()
if os.environ['DMLC_ROLE'] == 'server' and 'fail' in sys.argv:
    sys.exit(3)
time.sleep(0.2 if 'fine' in sys.argv else 60)
'''


def launch(tmp_path, *flags):
    script = tmp_path / 'roles.py'
    script.write_text(ROLES)
    return run(FOLDER / 'launch.py', *[script if flag == 'SCRIPT' else flag for flag in flags], limit=50, check=False)


def test_roles_of_one_machine(tmp_path):
    done = launch(tmp_path, '--workers', '3', '--servers', '2', 'SCRIPT', 'fine')
    assert done.returncode == 0
    for role, count in ('scheduler', 1), ('server', 2), ('worker', 3):
        assert done.stdout.count(str([
            ('DMLC_NODE_HOST', '127.0.0.1'), ('DMLC_NUM_SERVER', '2'), ('DMLC_NUM_WORKER', '3'),
            ('DMLC_PS_ROOT_URI', '127.0.0.1'), ('DMLC_ROLE', role)])) == count


def test_roles_of_the_second_machine(tmp_path):
    done = launch(tmp_path, '--machines', '2', '--machine', '1', '--address', 'first', '--port', '9000', 'SCRIPT',
                  'fine')
    assert done.returncode == 0 and re.search(r'started server 1 \(\d+\), worker 2 \(\d+\), worker 3 \(\d+\)',
                                              done.stderr)
    assert done.stdout.count(str([
        ('DMLC_NUM_SERVER', '2'), ('DMLC_NUM_WORKER', '4'), ('DMLC_PS_ROOT_URI', 'first'),
        ('DMLC_ROLE', 'worker')])) == 2


def test_a_role_that_fails_ends_all(tmp_path):
    done = launch(tmp_path, 'SCRIPT', 'fail')
    assert done.returncode == 1 and re.search(r'launch.py: error: server 0 \(\d+\) ended with status 3; all other',
                                              done.stderr)


@pytest.mark.parametrize('flags, message', [
    (['--workers', '0', 'SCRIPT'], '--workers must be at least 1 (saw: 0)'),
    (['--machines', '2', 'SCRIPT'], 'several machines need the --address and a --port of machine 0'),
    (['--machines', '2', '--machine', '2', 'SCRIPT'], '--machine must be less than --machines (saw: 2 of 2)'),
    (['missing.py'], 'no such file (saw: missing.py)')])
def test_launcher_arguments(tmp_path, flags, message):
    done = launch(tmp_path, *flags)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize('flags, message', [
    (['--kvstore', 'dist_sync'], 'need the roles that launch.py starts, and device one process (saw: dist_sync)'),
    (['--batch-size', '0'], "must be a whole number of at least 1 (saw: '0')")])
def test_training_arguments(flags, message, capsys):
    with pytest.raises(SystemExit):
        train_mnist.arguments(flags)
    assert message in capsys.readouterr().err


def test_device_is_one_process(monkeypatch, capsys):
    monkeypatch.setenv('DMLC_ROLE', 'worker')
    with pytest.raises(SystemExit):
        train_mnist.arguments(['--kvstore', 'device'])
    assert 'and device one process (saw: device)' in capsys.readouterr().err


def test_another_run_is_not_continued(tmp_path, monkeypatch):
    data = train_mnist.load_digits()
    monkeypatch.setattr(train_mnist, 'load_digits', lambda: data)

    def run(*flags):
        args = train_mnist.arguments(['--output', str(tmp_path), *SMALL, *flags])
        return train_mnist.train(args, train_mnist.Watch(60))[1]
    run('--epochs', '2')
    before = (tmp_path / 'mnist.checkpoint').read_bytes()
    for flags, message in [
            (['--lr', '0.1'], 'lr 0.001'), (['--seed', '3'], 'seed 0'), (['--optimizer', 'sgd'], 'optimizer fusedadam'),
            (['--batch-size', '50'], 'batch_size 100'), (['--num-train', '300'], 'num_train 200')]:
        with pytest.raises(ValueError, match=f'without the checkpoint of another run .* has: {message}'):
            run('--epochs', '3', *flags)
    with pytest.raises(ValueError, match='--epochs must be at least 2, .*saw: 1'):
        run('--epochs', '1')
    assert (tmp_path / 'mnist.checkpoint').read_bytes() == before
    facts = run('--epochs', '3', '--contexts', '2')     # as many draws, or more, are the same run
    assert facts['epoch'] == len(facts['losses']) == 3
    save_checkpoint(str(tmp_path / 'mnist.checkpoint'), train_mnist.build(8, [mx.cpu()]), epoch=1)
    with pytest.raises(ValueError, match='without the checkpoint of another run .* has: seed None'):
        run('--epochs', '3')


def test_workers_with_other_arguments_or_data_are_found(monkeypatch):
    def told(message):
        raise RuntimeError(message)

    class Store:
        rank = 1

        def broadcast(self, key, value, out):
            out[0][:] = self.first if hasattr(self, 'first') else value
            self.first = out[0].copy()

    monkeypatch.setattr(train_mnist, 'end', told)
    data = train_mnist.load_digits()

    def run(*flags, arrays=data):
        return train_mnist.arguments_of_the_run(train_mnist.arguments(list(flags)), arrays)
    store = Store()
    for _ in range(2):
        train_mnist.agree(store, None, False, epoch=0, **run())
    for settings, message in [
            (dict(run(), epoch=1), 'epoch 1'), (dict(run('--lr', '0.1'), epoch=0), 'lr 0.1'),
            (dict(run('--optimizer', 'sgd'), epoch=0), 'optimizer sgd'),
            (dict(run(arrays=[array[1:] for array in data]), epoch=0), 'data with CRC-32 [0-9a-f]{8}')]:
        with pytest.raises(RuntimeError, match=rf'\(saw: {message} on rank 1, and not on rank 0\)'):
            train_mnist.agree(store, None, False, **dict(sorted(settings.items(), key=lambda pair: pair[0] != 'epoch')))


def test_shards_are_equal(tmp_path):
    flags = ['--output', str(tmp_path / 'out'), '--contexts', '3', '--batch-size', '100', '--quick']
    with pytest.raises(ValueError, match=r'--batch-size must be a multiple of the 3 contexts .*saw: 100'):
        train_mnist.train(train_mnist.arguments(flags), train_mnist.Watch(60))
    assert not list((tmp_path / 'out').iterdir())


@distributed
def test_killed_and_continued_it_is_the_run_that_was_not(tmp_path):
    with started('--output', tmp_path / 'whole', '--epochs', 12, *SMALL) as process:
        assert process.wait(timeout=240) == 0
    whole = process.log.read_text()
    for victim, epochs in ('worker 1', 400), ('server 0', 400), (None, 12):
        checkpoint = tmp_path / 'parts' / 'mnist.checkpoint'
        with started('--output', tmp_path / 'parts', '--epochs', epochs, *SMALL) as process:
            if victim is None:
                assert process.wait(timeout=240) == 0
                break
            deadline, old = time.monotonic() + 240, checkpoint.exists() and checkpoint.stat().st_mtime_ns
            while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == old:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            roles = pids(process.log)
            assert sorted(roles) == ['scheduler', 'server 0', 'worker 0', 'worker 1']
            os.kill(roles[victim], signal.SIGKILL)
            assert process.wait(timeout=20) == 1
            assert not any(alive(pid) for pid in roles.values())
            error = process.log.read_text().splitlines()[-1]
            assert 'launch.py: error: %s (%d) was killed by SIGKILL' % (victim, roles[victim]) in error
    lines = process.log.read_text()
    done = int(re.search(r'from epoch (\d+)', lines).group(1))
    assert 2 <= done
    table = re.findall(r'^ +\d+ .*$', whole, re.MULTILINE)
    assert len(table) == 12
    if done < 12:
        assert re.findall(r'^ +\d+ .*$', lines, re.MULTILINE) == table[done:]
    losses = [load_checkpoint(str(tmp_path / name / 'mnist.checkpoint'), train_mnist.build(8, [mx.cpu()]))['losses']
              for name in ('whole', 'parts')]
    assert losses[0][:12] == losses[1][:12] and losses[0][-1] < losses[0][0]


@distributed
def test_async_workers_train_and_go_on(tmp_path):
    """Servers make the updates, at each gradient that comes: no two runs are equal, but all learn."""
    flags = ['--kvstore', 'dist_async', '--output', tmp_path / 'out', '--num-train', 1000, '--units', 16, '--lr', 0.01]
    for epochs, first in (3, 0), (4, 3):
        with started('--epochs', epochs, *flags) as process:
            assert process.wait(timeout=240) == 0
        assert re.search(r'^2 workers, 1 contexts each, dist_async, from epoch %d of %d$' % (first, epochs),
                         process.log.read_text(), re.MULTILINE)
    facts = load_checkpoint(str(tmp_path / 'out' / 'mnist.checkpoint'), train_mnist.build(16, [mx.cpu()]))
    assert facts['epoch'] == len(facts['losses']) == len(facts['accuracies']) == 4
    assert facts['losses'][-1] < facts['losses'][0] and facts['accuracies'][-1] > 0.3     # 0.1 by chance


@distributed
def test_comparison(tmp_path):
    done = run(FOLDER / 'compare.py', '--quick', '--output', tmp_path, limit=500)
    assert (tmp_path / 'distributed.png').read_bytes().startswith(b'\x89PNG\r\n')
    table = re.findall(r'^(\d (?:workers?|process, \d contexts)) +(\d+\.\d+) ', done.stdout, re.MULTILINE)
    assert [name for name, _ in table] == ['1 worker', '2 workers', '1 process, 2 contexts']
    losses = {name: float(loss) for name, loss in table}
    # The KL divergence, by far the most of it, counts once however many share the data.
    np.testing.assert_allclose(list(losses.values()), losses['1 worker'], rtol=0.05)
