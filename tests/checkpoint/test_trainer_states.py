# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import os
import pickle

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from trainers import RTOL, SMALL, assert_same, make_params, make_trainer, numbers, train

from bbb_layers import FusedAdam, convert_trainer_states, native
from bbb_layers.training.handlers import STEP

CLASSES = {'adam': mx.optimizer.Adam, 'fusedadam': FusedAdam}
BOTH_WAYS = pytest.mark.parametrize('saved, loaded', [('adam', 'fusedadam'), ('fusedadam', 'adam')])
WRONG = r"must be a file that Trainer.save_states wrote with the optimizer 'adam' or 'fusedadam' \(saw: "


def several_dtypes():
    return make_params(SMALL) + make_params(SMALL, dtype='float16')


@pytest.fixture(params=['native', "MXNet's"])
def operators(request, monkeypatch):
    if request.param == 'native':
        request.getfixturevalue('compiled')
    else:
        monkeypatch.setattr(native, 'available', lambda: False)


# MXNet's kvstore does not close the file.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@BOTH_WAYS
@pytest.mark.parametrize('make, options', [
    (lambda: make_params(SMALL), {'learning_rate': 0.03, 'wd': 0.01, 'beta1': 0.8, 'clip_gradient': 0.5}),
    (lambda: make_params(SMALL), {'schedule': True}),
    (lambda: make_params(SMALL, ctx=[mx.cpu(0), mx.cpu(1)]), {'schedule': True}),
    (lambda: make_params(SMALL), {'kvstore': 'local', 'update_on_kvstore': True}),
    (several_dtypes, {'multi_precision': True, 'wd': 0.1})],
    ids=['options', 'schedule', 'contexts', 'kvstore', 'multi-precision'])
def test_goes_on_to_the_same_numbers(tmp_path, saved, loaded, make, options, operators):
    """Catches an optimizer that MXNet hands Parameters over to in a way it cannot take, and states that get lost."""
    options = dict(options)
    if options.pop('schedule', False):
        options['lr_scheduler'] = mx.lr_scheduler.FactorScheduler(2, 0.5)
    path, new = str(tmp_path / 'saved'), str(tmp_path / 'converted')
    whole, params = make(), make()
    expected = train(saved, whole, steps=6, **pickle.loads(pickle.dumps(options)))
    train(saved, params, steps=3, **options).save_states(path)
    convert_trainer_states(path, new, loaded)
    trainer = make_trainer(loaded, params, options.get('kvstore', 'device'), options.get('update_on_kvstore'),
                           {'learning_rate': 17.})      # which the file's replaces
    trainer.load_states(new)
    assert type(trainer.optimizer) is CLASSES[loaded]
    # With another number MXNet would never come to the end of the Parameters.
    assert trainer.optimizer.aggregate_num == CLASSES[loaded]().aggregate_num
    train(loaded, params, steps=3, first=3, trainer=trainer)
    assert_same(numbers(params, trainer), numbers(whole, expected), rtol=RTOL)
    assert trainer.learning_rate == expected.learning_rate


def attributes(optimizer):
    return {name: vars(value) if name == 'lr_scheduler' else value for name, value in vars(optimizer).items()
            if name not in ('aggregate_num', '_groups')}


@BOTH_WAYS
def test_all_attributes_are_kept(tmp_path, saved, loaded):
    """Catches a conversion that takes those of the constructor, which are other than what training made of them."""
    path, new, params = str(tmp_path / 'saved'), str(tmp_path / 'converted'), make_params(SMALL)
    trainer = train(saved, params, steps=4, which=lambda step: {0, 1, 2} if step % 2 else {0, 1}, wd=0.01, epsilon=1e-3,
                    lr_scheduler=mx.lr_scheduler.FactorScheduler(2, 0.5))
    optimizer = trainer.optimizer
    optimizer.lr_mult, optimizer.wd_mult = {0: 0.1}, {1: 0.5}
    setattr(optimizer, STEP, 42)
    trainer.save_states(path)
    convert_trainer_states(path, new, loaded)
    (states, before), (new_states, after) = (pickle.loads((tmp_path / name).read_bytes())
                                             for name in ('saved', 'converted'))
    assert type(before) is CLASSES[saved] and type(after) is CLASSES[loaded]
    assert attributes(after) == attributes(before)
    assert vars(after)[STEP] == 42 and after._index_update_count == {0: 4, 1: 4, 2: 2}
    assert after._index_update_count is after._all_index_update_counts[0]       # else counts of the one miss the other
    assert vars(after).keys() == vars(CLASSES[loaded]()).keys() | {STEP}
    assert after.aggregate_num == CLASSES[loaded]().aggregate_num
    assert states.keys() == new_states.keys() == {0, 1, 2}
    for index, state in states.items():
        assert all((a == b).asnumpy().all() for a, b in zip(state, new_states[index])) and len(state) == 2


def test_a_file_for_the_same_optimizer_and_in_its_own_place(tmp_path):
    """Catches a second conversion that fails or changes anything, and a file that is not replaced."""
    path, params, arrays = str(tmp_path / 'states'), make_params(SMALL), []
    train('adam', params, steps=2).save_states(path)
    for _ in range(2):
        convert_trainer_states(path, path, 'fusedadam')
        trainer = gluon.Trainer(params, 'fusedadam')
        trainer.load_states(path)
        assert type(trainer.optimizer) is FusedAdam and trainer.optimizer._index_update_count == {0: 2, 1: 2, 2: 2}
        arrays.append([array.asnumpy() for state in trainer._updaters[0].states.values() for array in state])
    assert os.listdir(tmp_path) == ['states']
    for a, b in zip(*arrays):
        np.testing.assert_array_equal(a, b)


class Adam(mx.optimizer.Adam):
    """A class of one's own, which may compute anything."""


def states_of(optimizer):
    return pickle.dumps(({0: (nd.zeros((2,)), nd.zeros((2,)))}, optimizer))


@pytest.mark.parametrize('content, saw', [
    (b'', 'EOFError'), (b'garbage', 'UnpicklingError'), (b'\x80\x04cno_such_module\nAdam\n.', 'ModuleNotFoundError'),
    (states_of(mx.optimizer.Adam())[:-20], 'UnpicklingError|EOFError'),
    (pickle.dumps({0: nd.zeros((2,))}), r'dict without an optimizer\)'), (pickle.dumps(3), r'int without an optimizer'),
    (pickle.dumps((1, mx.optimizer.Adam())), 'tuple without an optimizer'),
    (pickle.dumps(({}, 3)), 'an optimizer of the class builtins.int'),
    (states_of(mx.optimizer.SGD()), r'an optimizer of the class mxnet.*\.SGD\)'),
    (states_of(Adam()), r'an optimizer of the class test_trainer_states\.Adam\)'),
    (pickle.dumps(({}, mx.optimizer.Adam(), 1)), 'tuple without an optimizer')],
    ids=['empty', 'garbage', 'module', 'cut off', 'no optimizer', 'number', 'pair', 'pair of other', 'sgd', 'derived',
         'three'])
@pytest.mark.parametrize('name', ['states', 'converted'])
def test_other_files_are_refused_and_nothing_is_written(tmp_path, content, saw, name):
    """Catches whatever pickle raises, and a file that is opened for writing before the other is read."""
    path, new = tmp_path / 'states', tmp_path / 'converted'
    new.write_bytes(b'old')
    path.write_bytes(content)
    with pytest.raises(ValueError, match=WRONG + saw) as caught:
        convert_trainer_states(path, tmp_path / name, 'fusedadam')
    assert str(caught.value).startswith(f'{path}: ')
    assert path.read_bytes() == content and new.read_bytes() == b'old' and len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize('optimizer', ['sgd', 'Adam', None, 3, mx.optimizer.Adam()])
def test_other_optimizers_are_refused_before_anything_is_unpickled(tmp_path, optimizer):
    """Catches a check that comes too late, and one that only finds a name that is missing in a dict."""
    with pytest.raises(ValueError, match=r"optimizer must be 'adam' or 'fusedadam' \(saw: "):
        convert_trainer_states(tmp_path / 'nowhere', tmp_path / 'converted', optimizer)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    """Catches a file that is written in its place, bit by bit."""
    path = tmp_path / 'states'
    train('adam', make_params(SMALL), steps=1).save_states(str(path))
    content = path.read_bytes()

    def full(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        convert_trainer_states(path, path, 'fusedadam')
    assert path.read_bytes() == content and os.listdir(tmp_path) == ['states']


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        convert_trainer_states(tmp_path / 'nowhere', tmp_path / 'converted', 'adam')
    assert os.listdir(tmp_path) == []
