# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import importlib
import os
import re
import shutil
import signal
import sys
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
import subprocesses
from mnist_files import write_mnist
from mxnet import gluon, nd
from subprocesses import EXAMPLES
from trainers import RTOL

from bbb_layers import FusedAdam
from bbb_layers.posterior import gaussian

sys.path.insert(0, str(EXAMPLES))
mnist, mnist_arguments = importlib.import_module('mnist'), importlib.import_module('mnist_arguments')
RESULTS = {'mnist.params', 'mnist.checkpoint', 'accuracy.png', 'weight_density.png', 'signal_to_noise.png',
           'uncertain_digits.png'}
SMALL = ['--hidden-units', '16', '--epochs', '2', '--batch-size', '50', '--lr', '0.01']


def start(*flags):
    return subprocesses.start(EXAMPLES / 'mnist.py', *flags)


def run(*flags):
    done = subprocesses.finish(start(*flags), limit=120, check=False)
    assert 'Traceback' not in done.stderr
    return done.returncode, done.stdout, done.stderr


def fails(message, *flags):
    code, _, errors = run(*flags)
    assert code != 0 and message in errors


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def table(output):
    return output[output.index('pruned  test accuracy'):].split('98 % pruned')[0]       # what follows has times in it


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('mnist') / 'results' / 'deep'
    code, output, _ = run(*SMALL + ['--output', folder])
    assert code == 0
    return folder, output


def test_results(trained):
    folder, output = trained
    assert set(files(folder)) == RESULTS
    for name, content in files(folder).items():
        assert not name.endswith('.png') or content.startswith(b'\x89PNG')
    epochs = [line.split() for line in output.splitlines() if line.split()[0] in ('1', '2')]
    losses = [float(line[1]) for line in epochs]
    assert len(epochs) == 2 and losses[1] < losses[0]
    assert float(epochs[1][3]) > 0.5
    rows = [line.split() for line in table(output).splitlines()[1:]]
    assert [row[0] for row in rows] == ['0.1', '0.25', '0.5', '0.75', '0.95', '0.98', '1.0']
    assert rows[-1][1] == '0.1000'      # all weights pruned: one class of ten
    tests = [line.split() for line in output.splitlines() if line.startswith(('posterior mean', 'Monte Carlo'))]
    assert [row[-3] == epochs[1][3] for row in tests] == [True, False]
    for row in tests:
        accuracy, nll, ece = map(float, row[-3:])
        assert accuracy > 0.5 and 0.1 < nll < 2 and 0 < ece < 0.5
    sparse = re.fullmatch(r'98 % pruned: file (\d+) kB, sparse (\d+) kB \((.*)x smaller\); batch of 50 in .* ms, '
                          r'sparse .* ms \(.* times the speed\)', output.splitlines()[-1])
    assert int(sparse.group(1)) > 5 * int(sparse.group(2)) and float(sparse.group(3)) > 5


def test_saved_parameters_are_not_pruned_and_load_again(trained):
    folder, output = trained
    rhos = [value.asnumpy() for name, value in nd.load(str(folder / 'mnist.params')).items() if name.endswith('_rho')]
    assert len(rhos) == 6 and min(rho.min() for rho in rhos) > gaussian.PRUNED_RHO / 10
    code, again, _ = run(*SMALL + ['--load', folder / 'mnist.params'])
    assert code == 0
    last = [line.split() for line in output.splitlines() if line.split()[0] == '2'][0]
    assert f'train accuracy {last[2]}, test accuracy {last[3]}' in again
    assert table(again) == table(output)


def test_same_seed_same_run(trained, tmp_path):
    code, output, _ = run(*SMALL + ['--output', tmp_path])
    assert code == 0 and output.splitlines()[:5] == trained[1].splitlines()[:5]


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / 'mine.txt').write_text('keep')
    fails('--output must be empty, unless --overwrite is given', *SMALL + ['--output', tmp_path])
    assert set(files(tmp_path)) == {'mine.txt'}
    code, _, _ = run('--hidden-units', 4, '--epochs', 1, '--overwrite', '--output', tmp_path, '--no-hybridize',
                     '--prior', 'gaussian', '--num-samples', 2, '--hidden-layers', 1, '--batch-size', 500)
    assert code == 0 and set(files(tmp_path)) == RESULTS | {'mine.txt'}


@pytest.mark.parametrize('ending', ['', '.gz'])
def test_a_folder_of_idx_files(tmp_path, ending):
    data = write_mnist(tmp_path / 'data', ending=ending)
    code, output, _ = run('--data', data, '--output', tmp_path / 'out', '--epochs', 1, '--hidden-units', 4)
    assert code == 0 and '20 training images, 10 test images' in output


def test_bad_data_leaves_everything_alone(tmp_path, trained):
    data = write_mnist(tmp_path / 'data')
    path = data / 'train-images-idx3-ubyte'
    path.write_bytes(path.read_bytes()[:-5])
    before = files(trained[0])
    fails(f'{path}: truncated', '--data', data, '--output', trained[0], '--overwrite')
    assert files(trained[0]) == before
    fails('no such folder', '--data', tmp_path / 'nowhere', '--output', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('flags,message', [
    (['--epochs', '0'], '--epochs: must be a whole number of at least 1'), (['--lr', 'nan'], '--lr: must be'),
    (['--pi', '1'], '--pi: must be'), (['--sigma2', '-1'], '--sigma2: must be'), (['--ctx', 'tpu'], '--ctx: must be'),
    (['--batch-size', '1.5'], '--batch-size'), (['--prior', 'gaussian', '--pi', '0.3'], '--pi and --sigma2 belong to'),
    (['--resume', '--overwrite'], '--resume goes with neither --overwrite nor --load'),
    (['--out', 'x'], 'unrecognized arguments: --out x'),
])
def test_bad_flags(monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, 'argv', ['mnist.py'] + flags)
    with pytest.raises(SystemExit):
        mnist_arguments.parse_arguments('What it does.')
    errors = capsys.readouterr().err
    assert message in errors and errors.startswith('usage: mnist.py ')


def test_bad_flags_write_nothing(tmp_path):
    fails('--lr: must be', '--lr', 'nan', '--output', tmp_path / 'out')
    fails('nowhere.params', '--load', 'nowhere.params', '--output', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_bad_parameter_files(tmp_path, trained):
    bad, data = tmp_path / 'bad.params', write_mnist(tmp_path / 'data')
    content = (trained[0] / 'mnist.params').read_bytes()
    for broken in (b'garbage', content[:len(content) // 2]):
        bad.write_bytes(broken)
        fails(str(bad), *SMALL + ['--data', data, '--load', bad])
    fails('mnist.params: must hold the parameters of 2 hidden layers of 9 units', '--hidden-units', 9,
          '--data', data, '--load', trained[0] / 'mnist.params')


def test_interrupt_leaves_the_last_finished_epochs_parameters(tmp_path):
    small = ['--hidden-units', 8, '--lr', 0.01]
    with start(*small + ['--epochs', 200, '--output', tmp_path / 'out']) as process:
        lines = iter(process.stdout.readline, '')
        epochs = [next(line for line in lines if line.split()[0] == '1')]
        process.send_signal(signal.SIGINT)
        epochs += lines
        errors = process.stderr.read()
    assert process.returncode == 130 and 'Traceback' not in errors
    epoch, _, train, test = epochs[-1].split()
    assert f'interrupted; parameters kept: epoch {epoch}, in ' in errors
    assert set(files(tmp_path / 'out')) == {'mnist.params', 'mnist.checkpoint'}
    code, output, _ = run(*small + ['--load', tmp_path / 'out' / 'mnist.params'])
    assert code == 0 and f'train accuracy {train}, test accuracy {test}' in output


def test_resume_goes_on_to_the_same_results(trained, tmp_path):
    shutil.copytree(str(trained[0]), str(tmp_path / 'out'))
    more = SMALL + ['--epochs', 3, '--output']
    code, resumed, _ = run(*more + [tmp_path / 'out', '--resume'])
    assert code == 0
    code, whole, _ = run(*more + [tmp_path / 'whole', '--resume'])       # there is nothing to resume
    assert code == 0 and resumed.splitlines()[:7] == whole.splitlines()[:7] and table(resumed) == table(whole)
    first, second = files(tmp_path / 'out'), files(tmp_path / 'whole')
    assert first['mnist.params'] == second['mnist.params'] and first['accuracy.png'] == second['accuracy.png']


def test_a_run_that_began_with_adam_goes_on(tmp_path, monkeypatch):
    """Catches an example that refuses the checkpoints of its earlier version, or goes on to other numbers."""
    def run_here(folder, *flags, optimizer=None):
        """The class of the optimizer that trained: the example's own, or the one with this name."""
        def trainer(params, name, options):
            made.append(gluon.Trainer(params, optimizer or name, options))
            return made[-1]
        made = []
        monkeypatch.setattr(mnist, 'gluon', SimpleNamespace(nn=gluon.nn, Trainer=trainer))
        monkeypatch.setattr(sys, 'argv', ['mnist.py', '--data', str(data), '--hidden-units', '4', '--batch-size', '8',
                                          '--output', str(tmp_path / folder), *flags])
        with pytest.raises(SystemExit, match='trained'):
            mnist.main()
        return type(made[0].optimizer)

    data, folders = write_mnist(tmp_path / 'data'), [tmp_path / 'out', tmp_path / 'whole']
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    monkeypatch.setattr(mnist, 'print_uncertainty', lambda *_: sys.exit('trained'))
    assert run_here('out', '--epochs', '2', optimizer='adam') is mx.optimizer.Adam
    before = files(folders[0])
    assert run_here('out', '--epochs', '4', '--resume') is FusedAdam
    assert run_here('whole', '--epochs', '4') is FusedAdam
    params, others = (nd.load(str(folder / 'mnist.params')) for folder in folders)
    for name, value in params.items():
        np.testing.assert_allclose(value.asnumpy(), others[name].asnumpy(), rtol=RTOL)
    assert files(folders[0])['mnist.params'] != before['mnist.params']


@pytest.mark.parametrize('flags, message', [
    (['--lr', 0.02], '--resume needs the arguments that the run began with'),
    (['--epochs', 1], '--epochs must be at least 2'),
    (['--hidden-units', 9], 'mnist.checkpoint: must be the checkpoint of this run (saw: ')])
def test_what_cannot_be_resumed_is_left_alone(trained, flags, message):
    before = files(trained[0])
    fails(message, *SMALL + flags + ['--output', trained[0], '--resume'])
    assert files(trained[0]) == before


@pytest.mark.parametrize('changed', ['train-images-idx3', 'train-labels-idx1', 't10k-images-idx3', 't10k-labels-idx1'])
def test_other_data_are_not_resumed(changed, tmp_path, monkeypatch, capsys):
    """Of the four files, one has another last byte."""
    data, before = write_mnist(tmp_path / 'data'), {}
    flags = ['mnist.py', '--data', data, '--hidden-units', 2, '--batch-size', 10, '--output', tmp_path / 'out']
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    monkeypatch.setattr(mnist, 'print_uncertainty', lambda *_: sys.exit('trained'))
    for more, message in ((['--epochs', 1], 'trained'), (['--epochs', 2, '--resume'], 'trained'),
                          (['--epochs', 3, '--resume'], '--resume needs the arguments that the run began with')):
        if 3 in more:
            path, before = data / (changed + '-ubyte'), files(tmp_path / 'out')
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        monkeypatch.setattr(sys, 'argv', [str(flag) for flag in flags + more])
        with pytest.raises(SystemExit) as error:
            mnist.main()
        assert message in str(error.value)
    assert 'has: --data with CRC-32 ' in str(error.value) and files(tmp_path / 'out') == before


def test_quick(tmp_path):
    code, output, _ = run('--quick', '--output', tmp_path / 'out')
    assert code == 0 and set(files(tmp_path / 'out')) == RESULTS and 'Monte Carlo, 4 draws' in output
    epochs = [line.split() for line in output.splitlines() if line.split()[:1] in (['1'], ['2'], ['3'])]
    assert [row[0] for row in epochs] == ['1', '2', '3'] and float(epochs[2][3]) > 0.5
    code, again, _ = run('--quick', '--load', tmp_path / 'out' / 'mnist.params')
    assert code == 0 and table(again) == table(output)


@pytest.mark.parametrize('flags,values', [
    ([], (400, 10, 32)), (['--quick'], (50, 3, 4)), (['--quick', '--epochs', '7'], (50, 7, 4))])
def test_quick_leaves_what_is_given(monkeypatch, flags, values):
    monkeypatch.setattr(sys, 'argv', ['mnist.py'] + flags)
    args = mnist_arguments.parse_arguments('What it does.')
    assert (args.hidden_units, args.epochs, args.draws) == values


@pytest.mark.parametrize('name', ['file', os.path.join('file', 'out')])
def test_an_output_that_is_no_folder(name, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('keep')
    monkeypatch.setattr(sys, 'argv', ['mnist.py', '--output', str(tmp_path / name)])
    monkeypatch.delattr(mnist, 'train')
    with pytest.raises(SystemExit) as error:
        mnist.main()
    assert '--output must be a folder, ' in str(error.value) and (tmp_path / 'file').read_text() == 'keep'


def test_a_folder_without_checkpoint_is_not_resumed(tmp_path):
    (tmp_path / 'mine.txt').write_text('keep')
    fails('--output must be empty', *SMALL + ['--output', tmp_path, '--resume'])
