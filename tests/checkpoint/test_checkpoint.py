# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import collections
import fcntl
import hashlib
import io
import json
import os
import random
import signal
import time

import mxnet as mx
import numpy as np
import pytest
from conftest import MODES, hybridize
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from trainers import RTOL

from bbb_layers import (BayesDense, BayesEmbedding, BBBLoss, CategoricalNLLLoss, FusedAdam, GaussianNLLLoss,
                        GaussianPrior, LaplacePrior, Prior, ScaleMixturePrior, StudentTNLLLoss, native, schedules,
                        to_bayesian, to_sparse)
from bbb_layers._mxnet.tree import leaves
from bbb_layers.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from bbb_layers.checkpoint.file import MAGIC, read as read_checkpoint, write as write_checkpoint
from bbb_layers.training.handlers import STEP

OPTIMIZERS = [('adam', {}), ('fusedadam', {'learning_rate': 0.01}), ('sgd', {'momentum': 0.9}), ('sgd', {}),
              ('rmsprop', {'centered': True}), ('nadam', {}),
              ('adam', {'lr_scheduler': mx.lr_scheduler.FactorScheduler(2, 0.5)})]


class Run:
    """A network with all that its training needs."""

    def __init__(self, optimizer='adam', options=None, ctx=None, mode=None, units=3):
        self.ctx = ctx or [mx.cpu()]
        self.net = hybridize(nn.HybridSequential(), mode)
        self.net.add(BayesDense(units, activation='relu', prior=GaussianPrior(learnable=True)), nn.BatchNorm(),
                     BayesDense(1))
        self.net.initialize(ctx=self.ctx)
        self.net(nd.ones((1, 2), ctx=self.ctx[0]))
        self.loss = BBBLoss(self.net, 10, GaussianNLLLoss(sigma=0.5, learnable=True))
        self.loss.initialize(ctx=self.ctx)
        params = self.net.collect_params()
        params.update(self.loss.collect_params())
        # A list keeps its order. A Trainer sorts a dict by names, and 'bayesdense10' comes before 'bayesdense9'.
        self.trainer = gluon.Trainer(list(params.values()), optimizer, dict(options or {}), update_on_kvstore=False)

    def step(self, number):
        """One step, whose batch and noise depend on ``number`` alone."""
        mx.random.seed(number)
        rng = np.random.RandomState(number)
        self.loss.kl_weight = schedules.linear(10)(number)
        losses = []
        with autograd.record():
            for ctx in self.ctx:
                x, y = (nd.array(rng.randn(4, n), ctx=ctx) for n in (2, 1))
                losses.append(self.loss(self.net(x), y))
        autograd.backward(losses)
        self.trainer.step(4 * len(self.ctx))

    def values(self):
        params = dict(self.net._collect_params_with_prefix(), **self.loss._collect_params_with_prefix())
        return {name: [value.asnumpy() for value in param.list_data()] for name, param in params.items()}

    def save(self, path, **facts):
        save_checkpoint(path, self.net, self.trainer, self.loss, **facts)

    def load(self, path):
        return load_checkpoint(path, self.net, self.trainer, self.loss)


def same(one, other):
    assert one.keys() == other.keys()
    return all((a == b).all() for name in one for a, b in zip(one[name], other[name]))


@pytest.mark.parametrize('optimizer, options', OPTIMIZERS, ids=lambda value: str(value)[:20].split(' object')[0])
def test_goes_on_as_if_nothing_had_been(tmp_path, optimizer, options):
    def fresh():
        scheduler = options.get('lr_scheduler')
        return Run(optimizer, dict(options, lr_scheduler=mx.lr_scheduler.FactorScheduler(2, 0.5)) if scheduler
                   else options)
    run, path = fresh(), str(tmp_path / 'run.checkpoint')
    for number in range(3):
        run.step(number)
    run.save(path, epoch=3, losses=[1.5, 2.5], name='it')
    for number in range(3, 7):
        run.step(number)
    other = fresh()
    other.step(100)      # has states of its own, which must go
    assert other.load(path) == {'epoch': 3, 'losses': [1.5, 2.5], 'name': 'it'}
    assert other.loss.kl_weight == schedules.linear(10)(2)
    for number in range(3, 7):
        other.step(number)
    assert same(run.values(), other.values())
    assert run.trainer.learning_rate == other.trainer.learning_rate


@pytest.mark.parametrize('optimizer', ['adam', 'fusedadam', 'nadam'])
def test_back_to_before_the_first_step(tmp_path, optimizer):
    """Catches counts of updates that outlive loading: Adam's bias correction would go on from the third step."""
    run, path, ends = Run(optimizer), str(tmp_path / 'run.checkpoint'), []
    run.save(path)
    for _ in range(2):
        for number in range(3):
            run.step(number)
        ends.append(run.values())
        assert set(run.trainer.optimizer._index_update_count.values()) == {3}
        run.load(path)
    assert same(*ends)


class Plain:
    """A network without noise on two contexts, and its Trainer."""

    def __init__(self, optimizer, options):
        self.contexts = [mx.cpu(0), mx.cpu(1)]
        self.net = nn.Dense(1, in_units=3)
        self.net.initialize(mx.init.One(), ctx=self.contexts)
        self.trainer = gluon.Trainer(self.net.collect_params(), optimizer, dict(options), update_on_kvstore=False)

    def step(self, number):
        rng, losses = np.random.RandomState(number), []
        with autograd.record():
            for ctx in self.contexts:
                losses.append(self.net(nd.array(rng.randn(4, 3), ctx=ctx)).square())
        autograd.backward(losses)
        self.trainer.step(8)

    def states(self):
        """The states of each context, one after the other."""
        return [list(leaves([updater.states[index] for index in sorted(updater.states)]))
                for updater in self.trainer._updaters]


@pytest.mark.parametrize('optimizer, options', [('adam', {}), ('fusedadam', {}), ('sgd', {'momentum': 0.9})],
                         ids=['adam', 'fusedadam', 'sgd'])
def test_each_context_has_its_own_states(tmp_path, optimizer, options):
    """Catches states that stay on the first context, and states that two contexts share and update twice."""
    run, other, path = Plain(optimizer, options), Plain(optimizer, options), str(tmp_path / 'run.checkpoint')
    for number in range(2):
        run.step(number)
    save_checkpoint(path, run.net, run.trainer)
    other.step(5)       # has states of its own, which must go
    load_checkpoint(path, other.net, other.trainer)
    for number in range(2, 5):
        for each in (run, other):
            each.step(number)
        assert len(run.states()) == 2
        for ctx, ours, theirs in zip(run.contexts, other.states(), run.states()):
            assert ours and len(ours) == len(theirs)
            for one, another in zip(ours, theirs):
                assert one.context == ctx
                np.testing.assert_array_equal(one.asnumpy(), another.asnumpy())
        for name, param in run.net._collect_params_with_prefix().items():
            for ctx in run.contexts:
                np.testing.assert_array_equal(param.data(ctx).asnumpy(),
                                              getattr(other.net, name).data(ctx).asnumpy())


@pytest.mark.parametrize('mode', MODES, ids=['eager', 'hybrid', 'static'])
def test_on_several_contexts(tmp_path, mode):
    path, contexts = str(tmp_path / 'run.checkpoint'), [mx.cpu(0), mx.cpu(1)]
    run, other = Run(ctx=contexts, mode=mode), Run(ctx=contexts, mode=mode)
    run.step(0)
    run.save(path)
    assert other.load(path) == {} and same(run.values(), other.values())
    for each in (run, other):
        each.step(1)
    first, second = run.values(), other.values()
    for name in (name for name in first if 'running' not in name):
        for a, b in zip(first[name], second[name]):
            # The noise differs, since contexts draw in no order; the states are the same.
            np.testing.assert_allclose(a, b, atol=0.003)
    assert run.trainer._optimizer._all_index_update_counts == other.trainer._optimizer._all_index_update_counts


@pytest.mark.parametrize('contexts', [[mx.cpu(1)], [mx.cpu(2), mx.cpu(1)]], ids=str)
def test_saved_again_right_after_loading(tmp_path, contexts):
    """The counts of updates are there, although no context was updated yet in this process, and none is device 0."""
    path = str(tmp_path / 'run.checkpoint')
    run, other, another = (Run(ctx=contexts) for _ in range(3))
    for number in range(3):
        run.step(number)
    run.save(path)
    other.load(path)
    other.save(path)
    another.load(path)
    counts = another.trainer._optimizer._all_index_update_counts
    for context in contexts:
        assert set(counts[context.device_id].values()) == {3}
    assert counts[contexts[0].device_id] == run.trainer._optimizer._all_index_update_counts[contexts[0].device_id]


def test_counts_belong_to_the_states_that_are_saved(tmp_path):
    """A context on which nothing ran misses updates. The states of the first context are saved, and so are its counts.
    """
    path, contexts = str(tmp_path / 'run.checkpoint'), [mx.cpu(1), mx.cpu(0)]
    run, other = Run(ctx=contexts), Run(ctx=contexts)
    run.step(0)
    with autograd.record():
        loss = run.loss(run.net(nd.ones((4, 2), ctx=contexts[0])), nd.ones((4, 1), ctx=contexts[0]))
    loss.backward()
    run.trainer.step(4, ignore_stale_grad=True)
    assert [set(run.trainer._optimizer._all_index_update_counts[device].values()) for device in (1, 0)] == [{2}, {1}]
    run.save(path)
    other.load(path)
    for device in (1, 0):
        assert set(other.trainer._optimizer._all_index_update_counts[device].values()) == {2}
    for updater in other.trainer._updaters:
        for index, state in run.trainer._updaters[0].states.items():
            for one, two in zip(state, updater.states[index]):
                np.testing.assert_array_equal(one.asnumpy(), two.asnumpy())


def test_a_net_that_is_not_initialized_and_prediction_alone(tmp_path):
    run, path = Run(), str(tmp_path / 'run.checkpoint')
    run.step(0)
    run.save(path, epoch=1)
    net = nn.HybridSequential()
    net.add(BayesDense(3, activation='relu', prior=GaussianPrior(learnable=True)), nn.BatchNorm(), BayesDense(1))
    assert load_checkpoint(path, net) == {'epoch': 1}
    x = nd.ones((4, 2))
    assert (net(x) == run.net(x)).asnumpy().all()


@pytest.fixture
def saved(tmp_path):
    """A run, and the path of its checkpoint, from which the run then moved away."""
    run, path = Run(), str(tmp_path / 'run.checkpoint')
    run.step(0)
    run.save(path)
    run.step(1)
    return run, path


def refused(run, path, message, error=ValueError):
    before = run.values()
    with pytest.raises(error, match=message):
        run.load(path)
    assert same(before, run.values())


def test_every_flipped_bit_and_every_cut_is_found(saved):
    run, path = saved
    with open(path, 'rb') as file:
        content = file.read()
    for place in [0, 5, 23, 24, 40, 55, 56, len(content) - 1] + random.sample(range(len(content)), 60):
        broken = bytearray(content)
        broken[place] ^= 1 << random.randrange(8)
        for damaged in (bytes(broken), content[:place]):
            write_atomically(path, damaged)
            refused(run, path, 'must be a checkpoint|damaged or cut off')


def sealed(payload):
    return MAGIC[2] + hashlib.sha256(payload).digest() + payload


def test_other_files_are_refused(saved, tmp_path):
    run, path = saved
    run.net.save_parameters(path)
    refused(run, path, 'run.checkpoint: must be a checkpoint of bbb_layers')
    for payload in (b'', b'nothing', b'PK\x05\x06' + 18 * b'\0'):
        write_atomically(path, sealed(payload))
        refused(run, path, 'must be a checkpoint of bbb_layers')
    with pytest.raises(FileNotFoundError):
        run.load(str(tmp_path / 'nowhere'))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ('unpickled',)


def test_nothing_is_unpickled(saved, tmp_path, monkeypatch):
    run, path = saved
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    np.savez(stream, meta=np.array([Bomb()], dtype=object))
    write_atomically(path, sealed(stream.getvalue()))
    refused(run, path, 'must be a checkpoint of bbb_layers')
    assert not os.path.exists('unpickled')


@pytest.mark.parametrize('other, message', [
    (lambda: Run(units=4), 'Parameter 0.weight must have the shape'),
    (lambda: Run('sgd', {'momentum': 0.9}),
     r'the optimizer must be mxnet.*\.Adam, as in the file \(saw: mxnet.*\.SGD\)'),
    (lambda: Run('adam', {'lr_scheduler': mx.lr_scheduler.FactorScheduler(2)}), 'must have a lr_scheduler exactly if'),
], ids=['shape', 'optimizer', 'schedule'])
def test_what_does_not_fit_changes_nothing(saved, other, message):
    refused(other(), saved[1], message)


def test_names_and_dtypes_must_fit(saved):
    path = saved[1]
    net = BayesDense(3, in_units=2)
    net.initialize()
    with pytest.raises(ValueError, match=r"\['bias', .*\] missing, .*'0.weight'.* too many"):
        load_checkpoint(path, net)
    net = Run().net
    net.cast('float64')
    with pytest.raises(ValueError, match='must be float64'):
        load_checkpoint(path, net)


def test_what_was_not_saved_cannot_be_asked_for(tmp_path):
    run, path = Run(), str(tmp_path / 'run.checkpoint')
    save_checkpoint(path, run.net)
    with pytest.raises(ValueError, match='must hold the states of loss, which was not saved'):
        load_checkpoint(path, run.net, loss=run.loss)
    with pytest.raises(ValueError, match='must hold the states of trainer, which was not saved'):
        load_checkpoint(path, run.net, run.trainer)


def test_states_find_their_parameters_whatever_the_order_of_names(tmp_path):
    def make(*prefixes):
        net = nn.HybridSequential()
        net.add(*[nn.Dense(2, in_units=2, prefix=prefix) for prefix in prefixes])
        net.initialize()
        return net, gluon.Trainer(net.collect_params(), 'sgd', {'momentum': 0.9})

    def momenta(net, trainer):
        found = {id(trainer._params[i]): state.asnumpy() for i, state in trainer._updaters[0].states.items()}
        return [found[id(param)] for layer in net for param in (layer.weight, layer.bias)]
    path, (net, trainer) = str(tmp_path / 'run.checkpoint'), make('dense8_', 'dense9_')
    with autograd.record():
        loss = net(nd.ones((1, 2))).square().sum()
    loss.backward()
    trainer.step(1)
    save_checkpoint(path, net, trainer)
    other, other_trainer = make('dense9_', 'dense10_')      # the Trainer has them the other way round
    load_checkpoint(path, other, other_trainer)
    for one, two in zip(momenta(net, trainer), momenta(other, other_trainer)):
        assert (one == two).all() and abs(one).sum() > 0


def test_a_trainer_of_other_parameters(tmp_path):
    run, path = Run(), str(tmp_path / 'run.checkpoint')
    with pytest.raises(ValueError, match='trainer must have Parameters of net and loss alone .*_rho'):
        save_checkpoint(path, run.net, run.trainer)     # whose likelihood's are the loss's
    run.step(0)
    run.save(path)
    fewer = gluon.Trainer(run.net[0].collect_params(), 'adam')
    with pytest.raises(ValueError, match='trainer must have the Parameters that it had .*loss/'):
        load_checkpoint(path, run.net, fewer, run.loss)


def test_sparse_parameters_are_refused(tmp_path):
    net = nn.HybridSequential()
    net.add(BayesDense(2, in_units=3))
    net.initialize()
    with pytest.raises(ValueError, match='net must have dense Parameters'):
        save_checkpoint(str(tmp_path / 'run.checkpoint'), to_sparse(net))


def test_arguments_of_other_types(tmp_path):
    run, path = Run(), str(tmp_path / 'run.checkpoint')
    with pytest.raises(TypeError, match='net must be a Block'):
        save_checkpoint(path, run.trainer)
    with pytest.raises(TypeError, match='trainer must be a Trainer'):
        save_checkpoint(path, run.net, run.loss)
    with pytest.raises(TypeError, match=r"facts\['what'\] must be what JSON can hold"):
        run.save(path, what=object())
    assert os.listdir(str(tmp_path)) == []


def test_a_trainer_that_updates_on_a_kvstore_is_refused(tmp_path):
    run = Run(ctx=[mx.cpu(0), mx.cpu(1)])
    trainer = gluon.Trainer(run.net.collect_params(), 'sgd', kvstore='local', update_on_kvstore=True)
    with pytest.raises(ValueError, match='update_on_kvstore=False'):
        save_checkpoint(str(tmp_path / 'run.checkpoint'), run.net, trainer)


@pytest.mark.parametrize('name', ['fsync', 'replace'])
def test_a_disk_that_is_full_leaves_the_old_file(saved, monkeypatch, name):
    run, path = saved
    with open(path, 'rb') as file:
        content = file.read()

    def full(*args):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, name, full)
    with pytest.raises(OSError, match='No space left on device: .*run.checkpoint') as caught:
        run.save(path)
    assert caught.value.filename == path
    monkeypatch.undo()
    assert os.listdir(os.path.dirname(path)) == ['run.checkpoint']
    with open(path, 'rb') as file:
        assert file.read() == content


def test_a_folder_that_is_not_there(saved, tmp_path):
    with pytest.raises(OSError):
        saved[0].save(str(tmp_path / 'nowhere' / 'run.checkpoint'))


@pytest.mark.costly
def test_killed_at_any_moment_there_is_a_whole_file(tmp_path):
    path = str(tmp_path / 'file')
    write_atomically(path, sealed(b''))
    sizes = set()
    for _ in range(50):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    write_atomically(path, sealed(os.urandom(random.randrange(300000))))
            finally:
                os._exit(1)
        time.sleep(random.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open(path, 'rb') as file:
            content = file.read()
        payload = content[len(MAGIC[2]) + 32:]
        assert content == sealed(payload)
        sizes.add(len(payload))
    assert len(sizes) > 10      # it was writing when it was killed


def test_what_a_killed_writer_left_is_removed_and_what_another_writes_is_not(tmp_path):
    def names():
        return sorted(path.name for path in tmp_path.iterdir())
    for name in ('.file.abc.part', '.file.def.part', '.other.abc.part', '.file.txt'):
        (tmp_path / name).write_bytes(b'half')
    with open(str(tmp_path / '.file.def.part'), 'rb+') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(str(tmp_path / 'file'), b'whole')
        assert names() == ['.file.def.part', '.file.txt', '.other.abc.part', 'file']
    write_atomically(str(tmp_path / 'file'), b'whole')
    assert names() == ['.file.txt', '.other.abc.part', 'file']


def test_many_writers_of_one_file(tmp_path):
    path = str(tmp_path / 'file')
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(50):
                    write_atomically(path, sealed(bytes([number]) * random.randrange(100000)))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert os.listdir(str(tmp_path)) == ['file']
    with open(path, 'rb') as file:
        content = file.read()
    assert content == sealed(content[len(MAGIC[2]) + 32:])


def test_permissions_are_those_of_other_files(tmp_path):
    (tmp_path / 'one').write_bytes(b'')
    write_atomically(str(tmp_path / 'other'), b'')
    assert (tmp_path / 'one').stat().st_mode == (tmp_path / 'other').stat().st_mode


def test_a_link_stays_and_leads_to_what_was_written(tmp_path):
    (tmp_path / 'disk').mkdir()
    for name in ('there', 'not_yet'):
        target, link = tmp_path / 'disk' / name, tmp_path / name
        if name == 'there':
            target.write_bytes(b'old')
        link.symlink_to(target)
        write_atomically(str(link), b'new')
        assert link.is_symlink() and not target.is_symlink() and target.read_bytes() == b'new'
    assert sorted(os.listdir(str(tmp_path / 'disk'))) == ['not_yet', 'there']


@pytest.mark.parametrize('name', ['x' * 255, '\u6f22' * 85], ids=['255 letters', '255 bytes'])
def test_the_longest_names(tmp_path, name):
    write_atomically(str(tmp_path / name), b'old')
    part = f'.{hashlib.sha1(name.encode()).hexdigest()}.abc.part'
    (tmp_path / part).write_bytes(b'half')      # left by one that was killed
    write_atomically(str(tmp_path / name), b'new')
    assert os.listdir(str(tmp_path)) == [name] and (tmp_path / name).read_bytes() == b'new'


# ---- settings are compared, progress is restored

class Linear:
    """A network without noise, and its Trainer."""

    def __init__(self, optimizer='sgd', options=None, ctx=None, layers=(), use_bias=True):
        self.ctx = ctx or [mx.cpu()]
        mx.random.seed(0)
        self.net = nn.HybridSequential()
        # Of its own scope, since Trainers sort by names that else count the blocks of the process, 10 before 9: nadam
        # multiplies one number for all Parameters in that order, and would round otherwise.
        with self.net.name_scope():
            self.net.add(nn.Dense(3, in_units=2, use_bias=use_bias), *layers,
                         nn.Dense(1, in_units=3, use_bias=use_bias))
        self.net.initialize(mx.init.Xavier(), ctx=self.ctx)
        self.trainer = gluon.Trainer(self.net.collect_params(), optimizer, dict(options or {}),
                                     update_on_kvstore=False)

    def step(self, number):
        rng, losses = np.random.RandomState(number), []
        with autograd.record():
            for place, ctx in enumerate(self.ctx):
                losses.append((self.net(nd.array(rng.randn(4, 2) + 10 * place, ctx=ctx)) - 1).square().sum())
        autograd.backward(losses)
        self.trainer.step(4 * len(self.ctx))

    def steps(self, *numbers):
        for number in numbers:
            self.step(number)
        return self

    def values(self):
        return {name: [value.asnumpy() for value in param.list_data()]
                for name, param in self.net._collect_params_with_prefix().items()}

    def everything(self):
        """Also what is restored of the Trainer."""
        optimizer = self.trainer.optimizer
        return self.values(), [{name: value for name, value in vars(thing).items() if not isinstance(value, dict)}
                               for thing in (optimizer, optimizer.lr_scheduler or self) if thing is not self]

    def save(self, path, **facts):
        save_checkpoint(path, self.net, self.trainer, **facts)

    def load(self, path):
        return load_checkpoint(path, self.net, self.trainer)


class SGD(mx.optimizer.SGD):
    """Another class with a name that MXNet has."""


def schedule(name, *args, **kwargs):
    return {'lr_scheduler': getattr(mx.lr_scheduler, name + 'Scheduler')(*args, **dict({'base_lr': 0.1}, **kwargs)),
            'learning_rate': None}


@pytest.mark.parametrize('optimizer, one, other, message', [
    ('sgd', {'momentum': 0.9}, {'momentum': 0.8},
     r'momentum of the optimizer must be 0.9, as in the file \(saw: 0.8\)'),
    ('sgd', {}, {'wd': 0.5}, 'wd of the optimizer must be 0.0'),
    ('sgd', {}, {'clip_gradient': 0.01}, 'clip_gradient of the optimizer must be None'),
    ('sgd', {}, {'multi_precision': True}, 'multi_precision of the optimizer must be False'),
    ('sgd', {'lazy_update': True}, {'lazy_update': False}, 'lazy_update of the optimizer must be True'),
    ('rmsprop', {'centered': True}, {'centered': False}, 'centered of the optimizer must be True'),
    ('adagrad', {'eps': 1e-7}, {'eps': 1e-5}, 'float_stable_eps of the optimizer must be 1e-07'),
    ('lamb', {}, {'bias_correction': False}, 'bias_correction of the optimizer must be True'),
    ('sgd', lambda: schedule('Cosine', 10), lambda: schedule('Cosine', 20),
     'max_update of the lr_scheduler must be 10.*saw: 20.*change it after loading'),
    ('sgd', lambda: schedule('Cosine', 10), lambda: schedule('Cosine', 10, base_lr=0.2), 'of the lr_scheduler must be'),
    ('sgd', lambda: schedule('Factor', 2, 0.5), lambda: schedule('Factor', 2, 0.5, base_lr=0.2),
     'warmup_final_lr of the lr_scheduler must be 0.1'),
    ('sgd', lambda: dict(schedule('Factor', 2, 0.5), learning_rate=0.1),
     lambda: dict(schedule('Factor', 2, 0.5), learning_rate=0.3), 'lr of the optimizer must be 0.1'),
    ('sgd', lambda: schedule('Poly', 10, pwr=2), lambda: schedule('Poly', 10, pwr=1), 'power of the lr_scheduler'),
    ('sgd', lambda: schedule('Factor', 2, warmup_steps=1), lambda: schedule('Factor', 2, warmup_steps=1,
                                                                           warmup_mode='constant'),
     "warmup_mode of the lr_scheduler must be 'linear'"),
    ('sgd', lambda: schedule('MultiFactor', [2, 4], 0.5), lambda: schedule('MultiFactor', [1, 2, 4], 0.5),
     r'step of the lr_scheduler must be \[2, 4\], as in the file \(saw: \[1, 2, 4\]\)'),
    ('sgd', lambda: schedule('Factor', 2), lambda: schedule('Poly', 10),
     'lr_scheduler must be mxnet.lr_scheduler.FactorScheduler, as in the file .*PolyScheduler'),
    ('sgd', lambda: schedule('Factor', 2), {}, 'must have a lr_scheduler exactly if it had one'),
], ids=lambda value: value.replace(' ', '_')[:30] if isinstance(value, str) and ' ' in value else None)
def test_other_settings_are_refused(tmp_path, optimizer, one, other, message):
    def run(options):
        return Linear(optimizer, options() if callable(options) else options).steps(0, 1, 2)
    path = str(tmp_path / 'run.checkpoint')
    run(one).save(path)
    run(one).load(path)
    trained = run(other)
    before = repr(trained.everything())
    refused(trained, path, message)
    assert repr(trained.everything()) == before


class Warm(mx.lr_scheduler.LRScheduler):
    """A schedule of a user's own, which fills in an attribute when it begins."""

    def __init__(self):
        super().__init__(0.1)
        self.seen = None

    def __call__(self, num_update):
        self.seen = {'last': num_update}
        return self.base_lr


def test_an_attribute_of_a_users_schedule_may_become_a_dict(tmp_path):
    path = str(tmp_path / 'run.checkpoint')
    Linear('sgd', {'lr_scheduler': Warm()}).steps(0, 1).save(path)
    other = Linear('sgd', {'lr_scheduler': Warm()})
    other.load(path)
    assert other.trainer.optimizer.lr_scheduler.seen == {'last': 2}


def test_another_class_of_the_same_name_is_refused(tmp_path):
    path = str(tmp_path / 'run.checkpoint')
    Linear(SGD()).steps(0).save(path)
    refused(Linear('sgd'), path, r'the optimizer must be .*test_checkpoint.SGD, as in the file \(saw: mxnet.*SGD\)')


@pytest.mark.parametrize('options', [
    lambda: schedule('Factor', 2, 0.5), lambda: schedule('MultiFactor', [2, 5], 0.5), lambda: schedule('Poly', 9),
    lambda: schedule('Cosine', 9, warmup_steps=2), lambda: {}], ids=['Factor', 'MultiFactor', 'Poly', 'Cosine', 'none'])
def test_the_learning_rate_goes_on(tmp_path, options):
    path, run = str(tmp_path / 'run.checkpoint'), Linear('sgd', options()).steps(0, 1)
    if not options():
        run.trainer.set_learning_rate(0.003)
    run.steps(2).save(path)
    for other in (Linear('sgd', options()), Linear('sgd', options()).steps(*range(8))):     # also backwards
        other.load(path)
        again = Linear('sgd', options())
        again.load(path)
        for number in range(3, 7):
            again.step(number)
            other.step(number)
            assert again.trainer.learning_rate == other.trainer.learning_rate
    run.steps(*range(3, 7))
    assert same(run.values(), other.values()) and run.trainer.learning_rate == other.trainer.learning_rate


def test_a_longer_schedule_after_loading(tmp_path):
    path = str(tmp_path / 'run.checkpoint')
    Linear('sgd', schedule('Cosine', 4)).steps(*range(4)).save(path)
    run = Linear('sgd', schedule('Cosine', 4))
    run.load(path)
    run.trainer.optimizer.lr_scheduler = schedule('Cosine', 8)['lr_scheduler']
    assert run.steps(4).trainer.learning_rate > 0.01


class Plateau:
    """A schedule that keeps its own record."""

    def __init__(self, base_lr, patience):
        self.base_lr, self.patience, self.best, self.seen = base_lr, patience, float('inf'), ()

    def __call__(self, num_update):
        self.seen, self.best, self.last = self.seen + (num_update,), -num_update, True
        return self.base_lr


def test_schedules_of_ones_own(tmp_path):
    path = str(tmp_path / 'run.checkpoint')

    def make(patience=2):
        return Linear('sgd', {'lr_scheduler': Plateau(0.1, patience), 'learning_rate': 0.1})
    run, other = make().steps(0, 1), make()
    run.save(path)
    other.load(path)
    assert vars(run.trainer.optimizer.lr_scheduler) == vars(other.trainer.optimizer.lr_scheduler)
    make().save(path)
    make().load(path)       # with an infinite number
    refused(make(3), path, 'patience of the lr_scheduler must be 2')
    run = Linear('sgd', {'lr_scheduler': Bare(), 'learning_rate': 0.1}).steps(0)
    run.save(path)
    run.load(path)


class Bare:
    """Without attributes that can be listed."""
    __slots__ = ('base_lr',)

    def __init__(self):
        self.base_lr = 0.1

    def __call__(self, num_update):
        return 0.1


@pytest.mark.parametrize('optimizer', sorted(mx.optimizer.Optimizer.opt_registry))
def test_every_optimizer_of_mxnet(tmp_path, optimizer):
    path, options = str(tmp_path / 'run.checkpoint'), {
        'groupadagrad': {}, 'test': {'rescale_grad': -0.01}}.get(optimizer, {'wd': 0.01})

    def make():
        return Linear(optimizer, options, use_bias=optimizer != 'groupadagrad')     # which wants matrices
    run, other = make().steps(0, 1, 2), make()
    run.save(path)
    other.load(path)
    for each in (run, other):
        mx.random.seed(7)       # SGLD draws
        each.steps(3, 4, 5)
    assert same(run.values(), other.values()) and not same(run.values(), make().values())


def test_numpy_numbers(tmp_path):
    path = str(tmp_path / 'run.checkpoint')

    def make():
        return Linear('sgd', {'learning_rate': np.float32(0.1), 'momentum': np.float64(0.9), 'wd': np.int64(0),
                              'begin_num_update': np.int64(2), 'clip_gradient': np.float32(1), 'multi_precision':
                              np.bool_(False), 'lr_scheduler': mx.lr_scheduler.FactorScheduler(
                                  np.int64(2), np.float32(0.5), base_lr=np.float32(0.1))})
    run, other = make().steps(0, 1, 2), make()
    run.save(path, nll=np.float32(0.5), count=np.int32(3), right=np.bool_(True), all=[np.float64(1)])
    facts = other.load(path)
    assert facts == {'nll': 0.5, 'count': 3, 'right': True, 'all': [1.]} and facts['right'] is True
    assert vars(run.trainer.optimizer.lr_scheduler) == vars(other.trainer.optimizer.lr_scheduler)
    assert same(run.steps(3, 4, 5).values(), other.steps(3, 4, 5).values())


@pytest.mark.parametrize('fact', [{0: 1.5}, {'a': [{None: 1}]}, (1, 2), [(1,)], {1, 2}, b'x', nd.ones((1,)), 1j,
                                  np.ones(2), np.complex64(1)], ids=repr)
def test_facts_that_would_come_back_as_others(tmp_path, fact):
    with pytest.raises(TypeError, match=r"facts\['epochs'\].* must be what JSON can hold"):
        Linear().save(str(tmp_path / 'run.checkpoint'), epochs=fact)


def test_facts_in_themselves(tmp_path):
    facts = []
    facts.append(facts)
    with pytest.raises(TypeError, match='facts.* must be what JSON can hold'):
        Linear().save(str(tmp_path / 'run.checkpoint'), epochs=facts)


def rewrite(path, meta, arrays, magic=MAGIC[2]):
    stream = io.BytesIO()
    np.savez(stream, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), **arrays)
    payload = stream.getvalue()
    write_atomically(path, magic + hashlib.sha256(payload).digest() + payload)


def test_how_each_parameter_is_updated(tmp_path):
    def make(changed):
        run = Linear('sgd', {'momentum': 0.9, 'wd': 0.1})
        if changed:
            first, second = run.net
            first.weight.lr_mult, first.bias.wd_mult = np.array(0.1), 0.5
            second.weight.grad_req, second.bias.grad_req = 'null', 'add'
        return run
    path = str(tmp_path / 'run.checkpoint')
    run, other = make(True).steps(0, 1), make(False)
    run.save(path)
    other.load(path)
    assert other.net[0].weight.lr_mult == 0.1 and other.net[1].weight.grad_req == 'null'
    for each in (run, other):       # the sum of gradients is nothing that is kept
        each.net[1].bias.zero_grad()
    assert same(run.steps(2, 3).values(), other.steps(2, 3).values())
    assert not same(run.values(), make(False).steps(0, 1, 2, 3).values())


@pytest.mark.parametrize('attribute, value, message', [
    ('lr_mult', float('nan'), 'lr_mult of params/0.weight must be finite'),
    ('wd_mult', float('inf'), 'wd_mult of params/0.weight must be finite'),
    ('wd_mult', 'much', 'must hold what save_checkpoint writes'),
    ('grad_req', 'now', "grad_req of params/0.weight must be 'write', 'add' or 'null'"),
    ('grad_req', ['write'], "grad_req of params/0.weight must be 'write', 'add' or 'null'")])
def test_no_parameter_can_be_updated_like_this(tmp_path, attribute, value, message):
    path, run = str(tmp_path / 'run.checkpoint'), Linear()
    run.save(path)
    meta, arrays = read_checkpoint(path)
    meta['trainer']['params']['params/0.weight'][attribute] = value
    rewrite(path, meta, arrays)
    refused(run, path, message)


@pytest.mark.parametrize('then, now, message', [
    (lambda net: BBBLoss(net, 10, weight=2.), lambda net: BBBLoss(net, 10, weight=1.),
     r'weight of the loss must be 2.0, as in the file \(saw: 1.0\)'),
    (lambda net: BBBLoss(net, 10, GaussianNLLLoss(0.1)), lambda net: BBBLoss(net, 10, GaussianNLLLoss(10.)),
     r'sigma of the likelihood must be 0.1, as in the file \(saw: 10.0\)'),
    (lambda net: BBBLoss(net, 10, StudentTNLLLoss(3.)), lambda net: BBBLoss(net, 10, StudentTNLLLoss(5.)),
     'df of the likelihood must be 3.0'),
    (lambda net: BBBLoss(net, 10, gluon.loss.HuberLoss(2)), lambda net: BBBLoss(net, 10, gluon.loss.HuberLoss(1)),
     'rho of the likelihood must be 2'),
    (lambda net: BBBLoss(net, 10, GaussianNLLLoss()), lambda net: BBBLoss(net, 10, StudentTNLLLoss()),
     'class of the likelihood must be .*GaussianNLLLoss')])
def test_another_loss_is_refused(tmp_path, then, now, message):
    path, net = str(tmp_path / 'run.checkpoint'), BayesDense(1, in_units=2)
    net.initialize()
    save_checkpoint(path, net, loss=then(net), epoch=1)
    assert load_checkpoint(path, net, loss=then(net)) == load_checkpoint(path, net) == {'epoch': 1}
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path, net, loss=now(net))


def test_a_trainer_with_more_parameters_is_refused(tmp_path):
    path, net = str(tmp_path / 'run.checkpoint'), BayesDense(1, in_units=2)
    net.initialize()

    def trainer(pattern):
        return gluon.Trainer(net.collect_params(pattern), 'adam', update_on_kvstore=False)
    save_checkpoint(path, net, trainer('.*rho'))
    load_checkpoint(path, net, trainer('.*rho'))
    with pytest.raises(ValueError, match=r'and no others \(saw: also params/bias, params/weight\)'):
        load_checkpoint(path, net, trainer('.*'))
    with pytest.raises(ValueError, match=r'that it had \(saw: none for params/bias_rho\)'):
        load_checkpoint(path, net, trainer('.*weight_rho'))


class Scaled(gluon.loss.Loss):
    """A likelihood of one's own, which keeps what it was told as it likes."""

    def __init__(self, sigma=1., missing=float('nan'), inner=None, weight=None, batch_axis=0, **kwargs):
        super().__init__(weight, batch_axis, **kwargs)
        self.sigma, self._missing, self.inner = sigma, missing, inner


@pytest.mark.parametrize('then, now, message', [
    ({'sigma': 0.1}, {'sigma': 2.}, 'sigma of the likelihood must be 0.1'), ({}, {}, None),
    ({'inner': GaussianNLLLoss(0.1)}, {'inner': GaussianNLLLoss(0.2)}, 'sigma of the likelihood.inner must be 0.1'),
    ({'missing': 1.}, {}, r'missing of the likelihood must be 1.0, as in the file \(saw: nan')])
def test_likelihoods_of_ones_own(tmp_path, then, now, message, monkeypatch):
    path, net = str(tmp_path / 'run.checkpoint'), BayesDense(1, in_units=2)
    net.initialize()
    save_checkpoint(path, net, loss=BBBLoss(net, 10, Scaled(**then)))
    other = BBBLoss(net, 10, Scaled(**now))
    if message:
        with pytest.raises(ValueError, match=message):
            load_checkpoint(path, net, loss=other)
    else:
        load_checkpoint(path, net, loss=other)
        with monkeypatch.context() as patch:    # saved by the imported script, loaded by the same script as it runs
            patch.setattr(Scaled, '__module__', '__main__')
            load_checkpoint(path, net, loss=other)
            save_checkpoint(path, net, loss=other)
        load_checkpoint(path, net, loss=other)  # and the other way round


@pytest.mark.parametrize('likelihood, scale', [(GaussianNLLLoss, 'sigma'), (StudentTNLLLoss, 'scale')])
def test_where_a_learnable_scale_began_is_not_compared(tmp_path, likelihood, scale):
    path, net = str(tmp_path / 'run.checkpoint'), BayesDense(1, in_units=2)
    net.initialize()
    losses = [BBBLoss(net, 10, likelihood(**{scale: start}, learnable=True)) for start in (0.1, 2.)]
    for loss in losses:
        loss.initialize()
    save_checkpoint(path, net, loss=losses[0])
    load_checkpoint(path, net, loss=losses[1])
    assert losses[0].likelihood.rho.data().asscalar() == losses[1].likelihood.rho.data().asscalar()


class Counting(mx.lr_scheduler.LRScheduler):
    """A schedule whose progress is in a dict."""

    def __init__(self):
        super().__init__(0.1)
        self.progress = {'steps': 0, 'lrs': [0.1]}
        self.seen = collections.Counter()

    def __call__(self, num_update):
        self.seen[str(num_update)] += 1
        if num_update > self.progress['steps']:
            self.progress['steps'] = num_update
            self.progress['lrs'].append(self.progress['lrs'][-1] / 2)
        return self.progress['lrs'][-1]


def test_a_schedule_whose_progress_is_a_dict(tmp_path):
    def make():
        return Linear('sgd', {'lr_scheduler': Counting()})
    path, run, other = str(tmp_path / 'run.checkpoint'), make().steps(0, 1, 2), make()
    run.save(path)
    other.load(path)
    for ours, theirs in (other, run), (run, other):
        assert vars(ours.trainer.optimizer.lr_scheduler) == vars(theirs.trainer.optimizer.lr_scheduler)
    assert same(run.steps(3, 4).values(), other.steps(3, 4).values())


def as_the_first_format(path):
    """Rewrite a checkpoint as it was written before settings were compared."""
    meta, arrays = read_checkpoint(path)

    def numbers(thing):
        return {name: value for name, value in thing['attributes'].items()
                if isinstance(value, (int, float)) and not isinstance(value, bool)}
    for name in ('priors', 'num_train', 'loss_settings'):
        meta.pop(name, None)
    trainer = meta['trainer']
    trainer.update(numbers=dict(numbers(trainer['optimizer']), aggregate_num=4),
                   optimizer=trainer['optimizer']['kind'].split('.')[-1],
                   schedule=trainer['schedule'] and numbers(trainer['schedule']))
    trainer.pop('params')
    rewrite(path, meta, arrays, MAGIC[1])


@pytest.mark.parametrize('options', [{'momentum': 0.9}, lambda: schedule('Factor', 2, 0.5)], ids=['plain', 'schedule'])
def test_files_of_the_first_format(tmp_path, options):
    def make():
        return Linear('sgd', options() if callable(options) else options)
    path, run, other = str(tmp_path / 'run.checkpoint'), make().steps(0, 1, 2), make()
    run.save(path, epoch=3)
    as_the_first_format(path)
    assert other.load(path) == {'epoch': 3}
    assert same(run.steps(3, 4).values(), other.steps(3, 4).values())
    refused(Linear('nag', options() if callable(options) else options), path, 'the optimizer must be SGD')
    if callable(options):
        refused(Linear('sgd', schedule('Poly', 9)), path, 'the lr_scheduler must be one with base_lr, count, factor')
    else:
        refused(Linear('sgd', {'momentum': 0.8}), path, 'momentum of the optimizer must be 0.9')


# ---- 'adam' and 'fusedadam'

class Words(Linear):
    """An embedding in float16 and its rho in float32."""

    def __init__(self, optimizer, options):
        mx.random.seed(0)
        self.net = BayesEmbedding(20, 4, dtype='float16')
        self.net.initialize()
        self.trainer = gluon.Trainer(self.net.collect_params(), optimizer, options)

    def step(self, number):
        mx.random.seed(number)
        with autograd.record():
            loss = (self.net(nd.array([number, 3, 19])).astype('float32') - 1).square().sum()
        loss.backward()
        self.trainer.step(3)


class Decaying(Run):
    """A Bayesian network, with a schedule and weight decay."""

    def __init__(self, optimizer):
        mx.random.seed(0)
        super().__init__(optimizer, dict(schedule('Factor', 2, 0.5), wd=0.01))

    def steps(self, *numbers):
        for number in numbers:
            self.step(number)
        return self


ADAM_RUNS = {
    'bayesian': lambda name: Decaying(name),
    'learning rate that was set': lambda name: Linear(name, {'learning_rate': 0.03, 'clip_gradient': 0.5}),
    'contexts': lambda name: Linear(name, schedule('Factor', 2, 0.5), ctx=[mx.cpu(0), mx.cpu(1)]),
    'multi-precision': lambda name: Words(name, {'multi_precision': True, 'learning_rate': 0.1})}


def numbers_of(run):
    """Parameters, and the states by the names of their Parameters."""
    def flat(state):
        return [state.asnumpy()] if isinstance(state, nd.NDArray) else [array for part in state for array in flat(part)]
    params = run.trainer._params
    names = {id(param): name for name, param in run.net._collect_params_with_prefix().items()}
    states = {(place, names.get(id(params[index]), 'loss')): flat(state)
              for place, updater in enumerate(run.trainer._updaters) for index, state in updater.states.items()}
    return dict(run.values(), **{f'{name} on {place}': arrays for (place, name), arrays in states.items()})


def assert_equal(one, other):
    """Bit by bit where the two optimizers are."""
    assert one.keys() == other.keys()
    for name in one:
        assert len(one[name]) == len(other[name]) > 0
        for a, b in zip(one[name], other[name]):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=RTOL, atol=0, err_msg=name)


@pytest.mark.costly
@pytest.mark.parametrize('first_format', [False, True], ids=['format 2', 'format 1'])
@pytest.mark.parametrize('operators', ['native', "MXNet's"])
@pytest.mark.parametrize('saved, loaded', [('adam', 'fusedadam'), ('fusedadam', 'adam')])
@pytest.mark.parametrize('kind', ADAM_RUNS)
def test_adam_and_fusedadam_continue_each_other(tmp_path, kind, saved, loaded, operators, first_format, monkeypatch,
                                                request):
    """Catches a refusal of the other one, and states, counts or learning rates that do not come through."""
    if operators == 'native':
        request.getfixturevalue('compiled')
    else:
        monkeypatch.setattr(native, 'available', lambda: False)
    path, make = str(tmp_path / 'run.checkpoint'), ADAM_RUNS[kind]
    run, whole, other = make(saved).steps(0, 1), make(loaded).steps(0, 1), make(loaded).steps(7)
    if kind == 'learning rate that was set':
        for each in (run, whole):
            each.trainer.set_learning_rate(0.2)
    run.steps(2).save(path, epoch=3)
    if first_format:
        as_the_first_format(path)
    assert other.load(path) == {'epoch': 3}
    assert type(other.trainer.optimizer) is {'adam': mx.optimizer.Adam, 'fusedadam': FusedAdam}[loaded]
    for each in (run, other):
        each.steps(3, 4, 5)
    whole.steps(2, 3, 4, 5)
    assert run.trainer.learning_rate == whole.trainer.learning_rate == other.trainer.learning_rate
    expected = numbers_of(run)
    assert_equal(numbers_of(whole), expected)
    assert_equal(numbers_of(other), expected)
    counts = run.trainer.optimizer._all_index_update_counts
    assert other.trainer.optimizer._all_index_update_counts == counts and set(counts[0].values()) == {6}


class Adam(mx.optimizer.Adam):
    """A class of one's own, which may compute anything."""


class Fused(FusedAdam):
    """Another one."""


@pytest.mark.parametrize('first_format', [False, True], ids=['format 2', 'format 1'])
@pytest.mark.parametrize('saved, loaded, options, message', [
    ('adam', 'fusedadam', {'beta1': 0.8}, r'beta1 of the optimizer must be 0.9, as in the file \(saw: 0.8\)'),
    ('fusedadam', 'adam', {'beta1': 0.8}, r'beta1 of the optimizer must be 0.9, as in the file \(saw: 0.8\)'),
    ('adam', 'fusedadam', {'wd': 0.5}, 'wd of the optimizer must be 0.0'),
    ('fusedadam', 'adam', {'epsilon': 1e-3}, 'epsilon of the optimizer must be 1e-08'),
    ('adam', 'fusedadam', schedule('Factor', 2), 'must have a lr_scheduler exactly if it had one'),
    ('adam', Fused, {}, r'the optimizer must be .*Adam, as in the file \(saw: .*test_checkpoint.Fused\)'),
    ('fusedadam', Adam, {}, r'the optimizer must be .*FusedAdam, as in the file \(saw: .*test_checkpoint.Adam\)'),
    (Fused, 'adam', {}, r'the optimizer must be .*Fused, as in the file \(saw: mxnet.*Adam\)'),
    (Fused, 'fusedadam', {}, r'the optimizer must be .*Fused, as in the file \(saw: .*FusedAdam\)'),
    ('adam', 'nadam', {}, r'the optimizer must be .*Adam, as in the file \(saw: mxnet.*Nadam\)'),
    ('nadam', 'fusedadam', {}, r'the optimizer must be .*Nadam, as in the file \(saw: .*FusedAdam\)'),
    ('fusedadam', 'sgd', {}, r'the optimizer must be .*FusedAdam, as in the file \(saw: mxnet.*SGD\)')])
def test_what_of_adam_and_fusedadam_does_not_fit_is_refused(tmp_path, saved, loaded, options, message, first_format):
    """Catches a comparison that is left out for the two, and classes that are taken for one of them."""
    def make(kind, **options):
        return Linear(kind, options) if isinstance(kind, str) else Linear(kind(**options))
    path = str(tmp_path / 'run.checkpoint')
    make(saved).steps(0, 1).save(path)
    if first_format:
        as_the_first_format(path)
    trained = make(loaded, **options).steps(0)
    before = repr(trained.everything())
    refused(trained, path, message)
    assert repr(trained.everything()) == before


@pytest.mark.parametrize('saved, loaded', [(Adam, 'adam'), (Adam, 'fusedadam')])
def test_a_class_that_is_named_like_adam_is_none(tmp_path, saved, loaded):
    """Catches a comparison by the last part of the name. The first format has no other part."""
    path = str(tmp_path / 'run.checkpoint')
    Linear(saved()).steps(0).save(path)
    refused(Linear(loaded), path, r'the optimizer must be .*test_checkpoint.Adam, as in the file')


# ---- contexts, deferred initialization

def batch_norm(*contexts):
    return Linear('adam', ctx=list(contexts), layers=[nn.BatchNorm(in_channels=3)])


def test_statistics_of_each_context(tmp_path):
    path, two = str(tmp_path / 'run.checkpoint'), (mx.cpu(0), mx.cpu(1))
    run = batch_norm(*two).steps(0, 1)
    saved = run.values()
    first, second = saved['1.running_mean']
    assert abs(first - second).max() > 0.1
    run.save(path)
    other, trained = batch_norm(*two), batch_norm(*two).steps(7)
    run.steps(2, 3)
    for each in (other, trained):
        each.load(path)
        assert same(each.values(), saved)
        assert same(each.steps(2, 3).values(), run.values())    # whose kvstore has not handed the first one's to all
    one = batch_norm(mx.cpu(0))
    one.load(path)
    run.load(path)
    run.net.save_parameters(str(tmp_path / 'params'))       # with Gluon's own mean
    gluons = batch_norm(mx.cpu(0))
    gluons.net.load_parameters(str(tmp_path / 'params'))
    assert same(one.values(), gluons.values())
    batch_norm(mx.cpu(0)).steps(0).save(path)
    run.load(path)
    assert all((a == b).all() for a, b in run.values().values())


def deferred(units=4, ctx=None, **options):
    net = hybridize(nn.HybridSequential(), MODES[-1])
    net.add(BayesDense(units, activation='relu'), nn.BatchNorm(), BayesDense(1))
    net.initialize(mx.init.Xavier(), ctx=ctx or mx.cpu())
    return net, gluon.Trainer(net.collect_params(), 'adam', options, update_on_kvstore=ctx and False), BBBLoss(
        net, 10, gluon.loss.L2Loss())


def train(net, trainer, loss, number):
    mx.random.seed(number)
    x = nd.array(np.random.RandomState(number).randn(5, 2))
    with autograd.record():
        value = loss(net(x), x.sum(axis=1))
    value.backward()
    trainer.step(5)
    return [param.data().asnumpy() for param in net.collect_params().values()]


def test_a_net_that_does_not_know_its_shapes_yet(tmp_path):
    path, run, other = str(tmp_path / 'run.checkpoint'), deferred(), deferred()
    train(*run, 0)
    save_checkpoint(path, *run, epoch=1)
    assert load_checkpoint(path, *other) == {'epoch': 1}
    for a, b in zip(train(*run, 1), train(*other, 1)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('options, message', [
    ({'beta1': 0.8}, 'beta1 of the optimizer must be 0.9'), ({'units': 5}, 'must have the shape'),
    ({'ctx': [mx.cpu(0), mx.cpu(1)], 'wd': 0.1}, 'wd of the optimizer must be')], ids=['setting', 'shape', 'contexts'])
def test_a_net_that_does_not_know_its_shapes_yet_is_as_it_was_if_it_does_not_fit(tmp_path, options, message):
    path, run = str(tmp_path / 'run.checkpoint'), deferred()
    train(*run, 0)
    save_checkpoint(path, *run)
    net, trainer, loss = deferred(**options)
    before = [dict(vars(param)) for param in net.collect_params().values()]
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path, net, trainer, loss)
    assert [vars(param) for param in net.collect_params().values()] == before and not trainer._kv_initialized
    if 'ctx' not in options:
        train(net, trainer, loss, 1)


def test_a_kvstore_that_updates_is_refused_before_it_has_begun(tmp_path):
    path, run = str(tmp_path / 'run.checkpoint'), deferred()
    train(*run, 0)
    save_checkpoint(path, *run)
    net, _, loss = deferred(ctx=[mx.cpu(0), mx.cpu(1)])
    trainer = gluon.Trainer(net.collect_params(), 'adam', kvstore='local', update_on_kvstore=True)
    with pytest.raises(ValueError, match='update_on_kvstore=False'):
        load_checkpoint(path, net, trainer, loss)
    assert net[0].weight._data is None and not trainer._kv_initialized and trainer._kvstore is None


# ---- priors and num_train

class Cauchy(Prior):
    """A prior of one's own, with an attribute whose repr tells an address."""

    def __init__(self, scale):
        self.scale, self.function = scale, lambda x: x

    def log_prob(self, w):
        return -((w / self.scale).square() + 1).log()


def with_prior(prior, num_train=10):
    net = nn.HybridSequential()
    net.add(BayesDense(2, in_units=2, prior=prior))
    net.initialize()
    return net, gluon.Trainer(net.collect_params(), 'sgd'), BBBLoss(net, num_train, gluon.loss.L2Loss())


@pytest.mark.parametrize('prior, other', [
    (GaussianPrior(1.), LaplacePrior(0.01)), (GaussianPrior(1.), GaussianPrior(0.5)), (Cauchy(1.), Cauchy(2.)),
    (ScaleMixturePrior(0.5, 1., 0.1), ScaleMixturePrior(0.25, 1., 0.1))], ids=['kind', 'number', 'own', 'mixture'])
def test_another_prior_is_refused_where_training_goes_on(tmp_path, prior, other):
    path = str(tmp_path / 'run.checkpoint')
    save_checkpoint(path, *with_prior(prior))
    load_checkpoint(path, *with_prior(Cauchy(1.) if isinstance(prior, Cauchy) else prior))
    net, trainer, loss = with_prior(other)
    before = net[0].weight.data().asnumpy()
    for more in ({'trainer': trainer}, {'loss': loss}):
        with pytest.raises(ValueError, match=r'the prior of Parameter 0.weight_rho must be .*, as in the file \(saw: '):
            load_checkpoint(path, net, **more)
    assert (net[0].weight.data().asnumpy() == before).all()
    load_checkpoint(path, net)      # to predict, as the posterior does without it
    assert not (net[0].weight.data().asnumpy() == before).all()


def test_another_num_train_is_refused(tmp_path):
    path = str(tmp_path / 'run.checkpoint')
    save_checkpoint(path, *with_prior(GaussianPrior(), 1000))
    load_checkpoint(path, *with_prior(GaussianPrior(), 1000))
    with pytest.raises(ValueError, match=r'num_train of the loss must be 1000.0, as in the file \(saw: 10.0\)'):
        load_checkpoint(path, *with_prior(GaussianPrior(), 10))


def test_a_num_train_that_was_changed_is_compared(tmp_path):
    """Catches a file that has the number of the constructor, and a comparison with that."""
    path, (net, trainer, loss) = str(tmp_path / 'run.checkpoint'), with_prior(GaussianPrior(), 10)
    loss.num_train = 40
    save_checkpoint(path, net, trainer, loss)
    other = with_prior(GaussianPrior(), 10)
    with pytest.raises(ValueError, match=r'num_train of the loss must be 40.0, as in the file \(saw: 10.0\)'):
        load_checkpoint(path, *other)
    other[2].num_train = 40
    load_checkpoint(path, *other)
    assert other[2].num_train == 40


def test_priors_and_num_train_are_not_in_the_first_format(tmp_path):
    path = str(tmp_path / 'run.checkpoint')
    save_checkpoint(path, *with_prior(GaussianPrior(), 1000))
    as_the_first_format(path)
    load_checkpoint(path, *with_prior(LaplacePrior(0.01), 10))


def test_classes_of_one_name(tmp_path):
    """Classes inside others can have the same last name."""
    class One:
        class Optimizer(mx.optimizer.SGD):
            pass

    class Other:
        class Optimizer(mx.optimizer.SGD):
            pass

    path = str(tmp_path / 'run.checkpoint')
    Linear(One.Optimizer()).steps(0).save(path)
    refused(Linear(Other.Optimizer()), path, r'the optimizer must be .*One\.Optimizer, as in the file')


def test_a_flag_that_training_changes(tmp_path):
    class Warming(mx.optimizer.SGD):
        warm = False

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.warm = False

    path, run = str(tmp_path / 'run.checkpoint'), Linear(Warming()).steps(1)
    run.trainer.optimizer.warm = True
    run.save(path)
    again = Linear(Warming())
    load_checkpoint(path, again.net, again.trainer)
    assert again.trainer.optimizer.warm is True


@pytest.mark.parametrize('saved, loaded', [(True, False), (False, True)])
def test_kind_of_arrays_and_grouping_of_updates_stay_as_they_are(tmp_path, saved, loaded):
    """They are settings of the process and not of the training: a file that brings its own would change the arrays."""
    def make(np_arrays, aggregate_num):
        with mx.util.np_array(np_arrays):
            optimizer = mx.optimizer.SGD(learning_rate=0.1, momentum=0.9)
        optimizer.aggregate_num = aggregate_num
        return Linear(optimizer)

    path, run, again = str(tmp_path / 'run.checkpoint'), make(saved, 2).steps(0), make(loaded, 3)
    run.save(path)
    load_checkpoint(path, again.net, again.trainer)
    optimizer = again.trainer.optimizer
    assert (optimizer.allow_np_array, optimizer.aggregate_num) == (loaded, 3)
    assert same(run.steps(1, 2).values(), again.steps(1, 2).values())


def test_a_path_in_bytes(tmp_path):
    path = os.fsencode(tmp_path / 'file')
    write_atomically(path, b'whole')
    assert (tmp_path / 'file').read_bytes() == b'whole' and os.listdir(tmp_path) == ['file']


class Judged(gluon.HybridBlock):
    """A likelihood that has layers of this package: one that is exported, and one that to_bayesian makes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.dense = BayesDense(1, in_units=3)
            self.norm = nn.LayerNorm(in_channels=3)

    def hybrid_forward(self, F, output, label):
        return F.sum(F.square(self.dense(self.norm(output)) - label), axis=1)


def judged(net):
    likelihood = Judged()
    likelihood.initialize()
    return BBBLoss(net, 10, to_bayesian(likelihood, own_blocks=True))


def test_layers_of_a_likelihood_in_a_file_of_version_0_1(tmp_path):
    path, net = str(tmp_path / 'run.checkpoint'), BayesDense(3, in_units=2)
    net.initialize()
    save_checkpoint(path, net, loss=judged(net))
    meta, arrays = read_checkpoint(path)
    settings = meta['loss_settings']
    assert settings['likelihood.dense']['class'] == 'bbb_layers.BayesDense'
    settings['likelihood.dense']['class'] = 'bbb_layers.layers.BayesDense'
    settings['likelihood.norm']['class'] = 'bbb_layers.own_blocks.BayesLayerNorm'
    write_checkpoint(path, meta, arrays)
    load_checkpoint(path, net, loss=judged(net))
    settings['likelihood.dense']['class'] = 'bbb_layers.layers.BayesEmbedding'
    write_checkpoint(path, meta, arrays)
    with pytest.raises(ValueError, match=r"class of the likelihood\.dense must be '.*BayesEmbedding'"):
        load_checkpoint(path, net, loss=judged(net))


class Configured(GaussianNLLLoss):
    """A user's likelihood that has names of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.settings = {'robust': True}


def test_a_likelihood_with_settings_of_its_own(tmp_path):
    path, net = str(tmp_path / 'run.checkpoint'), BayesDense(3, in_units=2)
    net.initialize()
    save_checkpoint(path, net, loss=BBBLoss(net, 10, Configured(sigma=0.5)))
    load_checkpoint(path, net, loss=BBBLoss(net, 10, Configured(sigma=0.5)))
    with pytest.raises(ValueError, match=r'sigma of the likelihood must be 0\.5, as in the file \(saw: 0\.7\)'):
        load_checkpoint(path, net, loss=BBBLoss(net, 10, Configured(sigma=0.7)))


@pytest.mark.parametrize('likelihood, wanted', [
    (CategoricalNLLLoss(axis=1, weight=2., ignore_label=-1), dict(axis=1, weight=2., batch_axis=0, ignore_label=-1.)),
    (GaussianNLLLoss(0.5), dict(sigma=0.5, weight=None, batch_axis=0)),
    (GaussianNLLLoss(0.5, learnable=True, batch_axis=1), dict(weight=None, batch_axis=1)),
    (StudentTNLLLoss(4., 0.5), dict(df=4., scale=0.5, weight=None, batch_axis=0)),
    (StudentTNLLLoss(4., 0.5, learnable=True), dict(df=4., weight=None, batch_axis=0))])
def test_what_a_file_says_of_a_likelihood(tmp_path, likelihood, wanted):
    path = str(tmp_path / 'run.checkpoint')
    net = BayesDense(1, in_units=2)
    net.initialize()
    loss_fn = BBBLoss(net, 10, likelihood, weight=3.)
    loss_fn.initialize()
    save_checkpoint(path, net, loss=loss_fn)
    saved = read_checkpoint(path)[0]['loss_settings']
    assert saved['likelihood'] == dict(wanted, **{'class': f'bbb_layers.{type(likelihood).__name__}'})
    assert saved['loss'] == {'weight': 3., 'batch_axis': 0, 'class': 'bbb_layers.BBBLoss'}


@pytest.mark.parametrize('step', [-1, 1.5, 'two'])
def test_a_step_of_the_kl_schedule_that_is_none(tmp_path, step):
    path, run = str(tmp_path / 'run.checkpoint'), Linear().steps(1)
    run.save(path)
    meta, arrays = read_checkpoint(path)
    meta['trainer']['optimizer']['attributes'][STEP] = step
    rewrite(path, meta, arrays)
    refused(Linear(), path, 'the step of the KL schedule must be')
