# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checkpoints whose checksum is right and whose content is not, as another program may write them, change nothing."""
import hashlib
import io
import json
import zipfile

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from bbb_layers import BayesDense, BBBLoss, GaussianNLLLoss
from bbb_layers.checkpoint import load_checkpoint, save_checkpoint
from bbb_layers.checkpoint.file import MAGIC, read, write


class Run:
    """A network with its loss and its Trainer."""

    def __init__(self, optimizer='adam', ctx=None, schedule=False, initialized=True):
        self.ctx = ctx or [mx.cpu()]
        self.net = nn.HybridSequential()
        self.net.add(BayesDense(2, in_units=2 * initialized, activation='relu'), nn.BatchNorm(), BayesDense(1))
        self.net.initialize(ctx=self.ctx)
        if initialized:
            self.net(nd.ones((1, 2), ctx=self.ctx[0]))
        self.loss = BBBLoss(self.net, 10, GaussianNLLLoss(sigma=0.5))
        options = {'momentum': 0.9} if optimizer == 'sgd' else {}
        if schedule:
            options['lr_scheduler'] = mx.lr_scheduler.MultiFactorScheduler([1, 5], 0.5)
        self.trainer = gluon.Trainer(self.net.collect_params(), optimizer, options, update_on_kvstore=False)

    def step(self):
        losses = []
        with autograd.record():
            for place, ctx in enumerate(self.ctx):
                x = nd.random.normal(10 * place, 1, shape=(4, 2)).as_in_context(ctx)
                losses.append(self.loss(self.net(x), nd.ones((4, 1), ctx=ctx)))
        autograd.backward(losses)
        self.trainer.step(4)
        return self

    def load(self, path):
        return load_checkpoint(path, self.net, self.trainer, self.loss)

    def everything(self):
        """All that loading sets, in a form that can be compared."""
        optimizer = self.trainer.optimizer
        return ([[value.asnumpy().tobytes() for value in param.list_data()]
                 for param in self.net.collect_params().values()],
                [(param.grad_req, param.lr_mult, param.wd_mult) for param in self.net.collect_params().values()],
                repr(vars(optimizer)), repr(vars(optimizer.lr_scheduler or self.loss)), self.loss.kl_weight,
                repr([updater.states for updater in self.trainer._updaters]), self.trainer._kv_initialized,
                self.trainer._kvstore is None, self.trainer._params_to_init)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'run.checkpoint'
    run = Run(schedule=True).step().step()
    save_checkpoint(path, run.net, run.trainer, run.loss, epoch=1)
    return path


def refused(run, path, message):
    before = run.everything()
    with pytest.raises(ValueError, match=message) as caught:
        run.load(path)
    assert str(path) in str(caught.value) and run.everything() == before


def sealed(path, payload):
    path.write_bytes(MAGIC[2] + hashlib.sha256(payload).digest() + payload)


def members_of(path):
    """(name, bytes) of the parts of a file."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes()[len(MAGIC[2]) + 32:])) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def write_members(path, members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    sealed(path, stream.getvalue())


# ---- nothing begins before the whole file is checked

def test_a_refused_file_leaves_what_differs_between_contexts(tmp_path):
    """A kvstore that starts copies the first context's statistics of BatchNorm to all contexts."""
    contexts, path = [mx.cpu(0), mx.cpu(1)], tmp_path / 'run.checkpoint'
    run = Run(ctx=contexts).step()
    save_checkpoint(path, run.net, run.trainer, run.loss)
    meta, arrays = read(path)
    meta['trainer']['counts'] = dict.fromkeys(meta['trainer']['counts'], -1)
    write(path, meta, arrays)
    other = Run(ctx=contexts)
    for place, mean in enumerate(other.net[1].running_mean.list_data()):
        mean[:] = place
    refused(other, path, 'must be a whole number of at least 0')


def test_a_refused_file_does_not_start_the_trainer(path):
    meta, arrays = read(path)
    for name in meta['trainer']['states']['params/0.bias']:
        arrays.pop(name)
    meta['trainer']['states']['params/0.bias'] = None
    write(path, meta, arrays)
    refused(Run(schedule=True), path, 'must be those of Adam')
    run = Run(schedule=True)
    refused(run, path, 'must be those of Adam')
    run.step()


# ---- the parts of the file

def test_two_arrays_with_one_name(path):
    members = members_of(path)
    for name, content in members[:1] + members[-1:]:
        with pytest.warns(UserWarning, match='Duplicate name'):
            write_members(path, members + [(name, content)])
        refused(Run(schedule=True), path, f'two arrays with the name {name[:-4]}')


def test_a_compressed_array(path):
    """A small file could ask for any amount of memory."""
    write_members(path, members_of(path), zipfile.ZIP_DEFLATED)
    refused(Run(schedule=True), path, 'params/0.weight is compressed')


def test_two_entries_with_one_name(path):
    members = dict(members_of(path))
    text = np.load(io.BytesIO(members['meta.npy'])).tobytes().replace(b'{"facts"', b'{"kl_weight": 1.0, "facts"', 1)
    stream = io.BytesIO()
    np.save(stream, np.frombuffer(text, np.uint8))
    write_members(path, {**members, 'meta.npy': stream.getvalue()}.items())
    refused(Run(schedule=True), path, 'two entries with one name')


def test_an_array_in_the_order_of_fortran(path):
    """One word in the header of an array would transpose it in silence."""
    members = dict(members_of(path))
    name = 'params/0.weight.npy'
    changed = members[name].replace(b"'fortran_order': False", b"'fortran_order': True ")
    assert changed != members[name]
    write_members(path, {**members, name: changed}.items())
    refused(Run(schedule=True), path, 'params/0.weight has more bytes than its shape says, or is not in the order')


@pytest.mark.parametrize('name', ['params/0.weight', 'states/20'])
def test_a_part_that_is_no_array(path, name):
    """It may belong to a part of the file that is not loaded."""
    write_members(path, [(key, b'x' + content if key == f'{name}.npy' else content)
                         for key, content in members_of(path)])
    with pytest.raises(ValueError, match='must be a checkpoint of bbb_layers .*magic string'):
        load_checkpoint(path, Run(schedule=True).net)


def test_a_part_under_a_name_without_suffix(path):
    write_members(path, [('params/0.weight' if key == 'params/0.weight.npy' else key, content)
                         for key, content in members_of(path)])
    refused(Run(schedule=True), path, 'params/0.weight is no array')


def test_an_array_that_begins_too_early(path):
    """A header whose length is wrong made a part of it the first numbers, and left the last numbers out."""
    members = dict(members_of(path))
    name = 'params/0.weight.npy'
    length = int.from_bytes(members[name][8:10], 'little')
    changed = members[name][:8] + (length - 4).to_bytes(2, 'little') + members[name][10:]
    write_members(path, {**members, name: changed}.items())
    refused(Run(schedule=True), path, 'params/0.weight has more bytes than its shape says')


@pytest.mark.parametrize('name', ['x', 'contexts/params/9.weight', 'params/9.weight', 'states/999'])
def test_an_array_that_no_entry_names(path, name):
    """An array under a wrong name would be left out in silence, as the values of the single contexts are."""
    meta, arrays = read(path)
    write(path, meta, {**arrays, name: np.ones(2, np.float32)})
    refused(Run(schedule=True), path, f'no arrays but those of its entries .*{name}')


# ---- what the entries say

def with_entry(path, change):
    meta, arrays = read(path)
    change(meta, arrays)
    write(path, meta, arrays)


def test_a_state_that_is_the_array_of_another(path):
    def weights(meta, arrays):
        meta['trainer']['states']['params/0.weight'] = ['params/0.weight', 'params/0.weight']
        for name in ('states/999', 'states/998'):
            arrays.pop(name, None)

    def twice(meta, arrays):
        states = meta['trainer']['states']['params/0.weight']
        arrays.pop(states[1])
        states[1] = states[0]

    content = path.read_bytes()
    with_entry(path, twice)
    refused(Run(schedule=True), path, 'each state must have an array of its own')
    path.write_bytes(content)
    meta, _ = read(path)
    unused = meta['trainer']['states']['params/0.weight']
    with_entry(path, lambda meta, arrays: (weights(meta, arrays), [arrays.pop(name) for name in unused]))
    refused(Run(schedule=True), path, 'the states of Parameter .* must be those of Adam')


@pytest.mark.parametrize('names', [lambda names: names + names[:1], lambda names: dict.fromkeys(names)])
def test_names_that_are_no_list_or_come_twice(path, names):
    with_entry(path, lambda meta, arrays: meta.update(params=names(meta['params'])))
    refused(Run(schedule=True), path, 'must list each Parameter once')


@pytest.mark.parametrize('count', [True, 1.5, -1, 2 ** 31, 10 ** 400, '3', None])
def test_a_count_that_is_none(path, count):
    content = path.read_bytes()
    with_entry(path, lambda meta, arrays: meta['trainer']['counts'].update({'params/0.weight': count}))
    refused(Run(schedule=True), path, 'the count of params/0.weight must be a whole number of at least 0 and below')
    path.write_bytes(content)
    with_entry(path, lambda meta, arrays: meta['trainer']['optimizer']['attributes'].update(num_update=count))
    refused(Run(schedule=True), path, 'num_update of the optimizer must be a whole number of at least 0 and below')


@pytest.mark.parametrize('what, name, value, message', [
    ('schedule', 'count', 0.5, 'count of the lr_scheduler must be a whole number'),
    ('schedule', 'cur_step_ind', -1, 'cur_step_ind of the lr_scheduler must be a whole number'),
    ('schedule', 'base_lr', None, 'base_lr of the lr_scheduler must be a number'),
    ('schedule', 'base_lr', True, 'base_lr of the lr_scheduler must be of the kind of 0.001'),
    ('optimizer', 'rescale_grad', 1e300, 'rescale_grad of the optimizer must be finite in float32'),
    ('optimizer', 'rescale_grad', None, 'rescale_grad of the optimizer must be a number'),
    ('optimizer', 'update', 5, 'update must not be among the attributes of the optimizer'),
    ('optimizer', '_all_index_update_counts', {}, '_all_index_update_counts must not be among the attributes')])
def test_an_attribute_of_another_kind(path, what, name, value, message):
    with_entry(path, lambda meta, arrays: meta['trainer'][what]['attributes'].update({name: value}))
    refused(Run(schedule=True), path, message)


def test_a_multiplier_that_is_too_large(path):
    """MXNet could not read the learning rate, and the next step failed."""
    with_entry(path, lambda meta, arrays: meta['trainer']['params']['params/0.weight'].update(lr_mult=1e300))
    refused(Run(schedule=True), path, 'lr_mult of params/0.weight must be finite in float32')


def test_a_gradient_of_what_has_none(path):
    with_entry(path, lambda meta, arrays: meta['trainer']['params']['params/1.running_mean'].update(grad_req='write'))
    refused(Run(schedule=True), path, "grad_req of params/1.running_mean, which has no gradient, must be 'null'")


def test_a_kl_weight_that_is_not_there(path):
    with_entry(path, lambda meta, arrays: meta.update(kl_weight=None))
    refused(Run(schedule=True), path, r'must have a kl_weight exactly if it had one \(saw: 1.0\)')


def test_deeply_nested_entries(path):
    with_entry(path, lambda meta, arrays: meta.update(facts={'deep': json.loads(900 * '[' + 900 * ']')}))
    assert 'deep' in Run(schedule=True).load(path)
    members = dict(members_of(path))
    text = np.load(io.BytesIO(members['meta.npy'])).tobytes().replace(b'"deep": ', b'"deep": ' + 10 ** 5 * b'[', 1)
    stream = io.BytesIO()
    np.save(stream, np.frombuffer(text, np.uint8))
    write_members(path, {**members, 'meta.npy': stream.getvalue()}.items())
    refused(Run(schedule=True), path, 'must be a checkpoint of bbb_layers')


# ---- networks that do not know their shapes yet

@pytest.mark.parametrize('shape, message', [((2, 5), r'must have the shape \(2, 2\) of its mean \(saw: \(2, 5\)\)'),
                                            ((2, 0), r'must not be empty \(saw: \(2, 0\)\)')])
def test_a_rho_of_another_shape_than_its_mean(path, shape, message):
    with_entry(path, lambda meta, arrays: arrays.update({'params/0.weight_rho': np.ones(shape, np.float32)}))
    net = Run(initialized=False).net
    before = [dict(vars(param)) for param in net.collect_params().values()]
    with pytest.raises(ValueError, match=f'0.weight_rho {message}'):
        load_checkpoint(path, net)
    assert [vars(param) for param in net.collect_params().values()] == before
