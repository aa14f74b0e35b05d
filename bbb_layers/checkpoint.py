# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checkpoints of a training run: one file that is at any time complete, and known to be what was written."""
import contextlib
import copy
import functools
import glob
import hashlib
import inspect
import io
import json
import numbers
import os
import re
import tempfile
from typing import Any, Dict, Optional, Union

import numpy as np
from mxnet import ndarray
from mxnet.gluon import Block, Parameter, Trainer
from mxnet.optimizer import Optimizer

from .arrays import gluon_kind, make_writable
from .checks import check_finite, check_not_negative, is_one_of
from .optimizer import ADAMS
from .rho import RhoParameter
from .schedules import STEP

try:
    import fcntl
except ImportError:     # not a POSIX system
    fcntl = None        # type: ignore[assignment]

__all__ = ['save_checkpoint', 'load_checkpoint', 'write_atomically']

_Path = Union[str, os.PathLike]

_MAGIC = b'bbb_layers checkpoint 2\n'
_MAGIC_1 = b'bbb_layers checkpoint 1\n'
_DIGEST = 32
#: Bytes of a file name to which a hidden file's name can add its own; file systems take 255.
_LONGEST = 200


def write_atomically(path: _Path, content: bytes) -> None:
    """Write a file so that it at any time holds all of the content or what it held before.

    A process that is killed while it writes leaves a hidden file ``.NAME.*.part`` behind (of a name that is too long
    for that, its SHA-1), which the next one that writes there removes.

    Parameters
    ----------
    path : str or os.PathLike
        Of a symbolic link the file that it leads to is written.
    content : bytes

    Raises
    ------
    OSError
        If it cannot be written: the disk is full, the folder is read-only, ... What was there before stays.
    """
    try:
        _write(os.path.realpath(path), content)
    except OSError as error:
        # Of a full disk Python does not say which, and the name of the hidden file is nobody's affair.
        error.filename = os.fspath(path)
        raise


def _write(path, content):
    folder, name = os.path.split(path)
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha1(os.fsencode(name)).hexdigest()
    _remove_parts(folder, name)
    handle, part = _locked_part(folder, name)
    try:
        # Open until the end: its lock tells other processes that it is being written.
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes files that nobody else may read.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(part, 0o666 & ~umask)
            try:
                os.replace(part, path)
            except OSError as error:    # Python names both files, and there is no way to have it name one again
                raise OSError(error.errno, error.strerror) from None
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _locked_part(folder, name):
    """(file descriptor, path) of a new file, locked."""
    while True:
        handle, part = tempfile.mkstemp(prefix='.%s.' % name, suffix='.part', dir=folder)
        _lock(handle, wait=True)
        if os.fstat(handle).st_nlink:       # else somebody took it for left behind before it was locked
            return handle, part
        os.close(handle)


def _lock(handle, wait):
    """Lock a file; returns whether it is locked now. It is unlocked when it is closed, or its process ends."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except OSError:     # locked by another process, or the file system has no locks
        return False


def _remove_parts(folder, name):
    """Remove what processes left behind that were killed while they wrote a file of this name."""
    for part in glob.glob(os.path.join(glob.escape(folder), '.%s.*.part' % glob.escape(name))):
        with contextlib.suppress(OSError):
            handle = os.open(part, os.O_RDWR)
            try:
                if _lock(handle, wait=False):
                    os.unlink(part)
            finally:
                os.close(handle)


def save_checkpoint(path: _Path, net: Block, trainer: Optional[Trainer] = None, loss: Optional[Block] = None,
                    **facts: Any) -> None:
    """Write all that a training run needs to go on: Parameters, the Trainer's states, and ``facts``.

    The file appears whole or not at all, and carries a SHA-256 checksum, which MXNet's own formats do not have. It is
    read without unpickling anything.

    MXNet's random numbers are no part of it, since MXNet does not tell their state: a run that shall go on exactly as
    if it had not been interrupted seeds them at the start of each epoch, from the run's seed and the epoch.

    Parameters
    ----------
    path : str or os.PathLike
    net : Block
        Initialized, all shapes known.
    trainer : gluon.Trainer, optional
        Its states, counts of updates, the attributes of its optimizer and ``lr_scheduler`` that are numbers, flags,
        words, None, or lists of them, in a schedule also dicts, and ``lr_mult``, ``wd_mult`` and ``grad_req`` of its
        Parameters.
    loss : Block, optional
        A loss that has Parameters of its own, or a ``kl_weight``.
    **facts
        Whatever JSON can hold and gives back as it was, such as ``epoch=3, seed=0``: no tuples, and no keys but str.
        NumPy's numbers come back as Python's.

    Raises
    ------
    TypeError
        If an argument is of another type, or a fact is nothing that JSON holds.
    ValueError
        If ``trainer`` updates its Parameters on a kvstore, where the states are, or has others than those of ``net``
        and ``loss``; or a Parameter is sparse.
    RuntimeError, DeferredInitializationError
        If a Parameter is not initialized yet.
    OSError
        If the file cannot be written. An old one stays as it is.
    """
    _check(net, trainer, loss)
    arrays = {}
    if trainer is not None:
        _updaters(trainer)      # its kvstore begins by handing the first context's Parameters to all
    meta = {'facts': _plain('facts', facts), 'params': _pack_params('params', net, arrays)}
    meta['priors'] = _priors(net)
    if loss is not None:
        meta['loss'] = _pack_params('loss', loss, arrays)
        meta['num_train'] = _plain('num_train', getattr(loss, 'num_train', None))
        meta['loss_settings'] = _loss_settings(loss)
        meta['kl_weight'] = _plain('kl_weight', getattr(loss, 'kl_weight', None))
    if trainer is not None:
        meta['trainer'] = _pack_trainer(trainer, _names(trainer, net, loss), arrays)
    arrays['meta'] = np.frombuffer(json.dumps(meta, allow_nan=True).encode('utf-8'), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    payload = stream.getvalue()
    write_atomically(path, _MAGIC + hashlib.sha256(payload).digest() + payload)


def load_checkpoint(path: _Path, net: Block, trainer: Optional[Trainer] = None,
                    loss: Optional[Block] = None) -> Dict[str, Any]:
    """Bring a training run back to where :func:`save_checkpoint` wrote it.

    Nothing is changed unless the whole file is right and fits.

    What training changes is restored: Parameters, states, counts, the learning rate (``set_learning_rate`` changes it)
    or the schedule's progress, ``lr_mult``, ``wd_mult`` and ``grad_req`` of the Trainer's Parameters, ``kl_weight``.
    What stays as it was given to a constructor is compared, and raises ValueError if it is another: kind of optimizer
    and ``lr_scheduler``, ``momentum``, ``wd``, ``clip_gradient``, ``multi_precision``, a schedule's ``step``,
    ``max_update`` and first ``base_lr``, ...; which Parameters the Trainer has; the loss's ``num_train`` and
    ``weight``, its likelihood's class and the attributes of that which have the name of an argument of its constructor
    (or that and an underscore before it); with a Trainer or a loss also the priors, by their ``repr``. To go on
    otherwise, make all as it was made, load, and then change it, such as by ``trainer.optimizer.lr_scheduler = ...``.
    A ``num_train`` that was changed between steps is compared with its last value: set it before loading. The kinds
    ``'adam'`` and ``'fusedadam'``, which compute the same, count as one kind. Files that were written before all this
    was saved are compared by what they have. Of the network nothing but Parameters and priors is looked at: not
    activations, nor ``estimator``.

    Of own optimizers and schedules, attributes that have the name of an argument of their constructor are compared,
    the others restored.

    Parameters
    ----------
    path : str or os.PathLike
    net : Block
        Of the same structure. Parameters keep their contexts; those that are not initialized yet come to the CPU, or
        to where their deferred initialization was to bring them. What differed from context to context, such as the
        running statistics of BatchNorm, does so again, but on another number of contexts it is the mean, as Gluon has
        it.
    trainer, loss : gluon.Trainer and Block, optional
        As they were saved: a Trainer of the same Parameters, made with the same arguments. Without them, as for
        prediction alone, what the file has of them is left out.

    Returns
    -------
    dict
        The facts.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If the file is no checkpoint, is damaged, or does not fit ``net``, ``trainer`` or ``loss``; or ``trainer``
        updates its Parameters on a kvstore.
    OSError
        If the file cannot be read.
    """
    _check(net, trainer, loss)
    meta, arrays = _read(path)
    try:
        with _unchanged_if_refused(trainer, net, loss):
            todo, facts = _unpack(path, net, trainer, loss, meta, arrays), meta['facts']
            if not isinstance(facts, dict):
                raise TypeError('facts are %r' % (facts,))
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        # It is whole, but some other program's, or another version's.
        raise ValueError('%s: must hold what save_checkpoint writes (saw: %s: %s)' % (
            path, type(error).__name__, error)) from None
    for change in todo:
        change()
    return facts


def _unpack(path, net, trainer, loss, meta, arrays):
    """Check that all of a file fits; returns what changes ``net``, ``trainer`` and ``loss``."""
    params, todo = _unpack_params(path, 'params', net, meta['params'], arrays), []
    for name, value in (('loss', loss), ('trainer', trainer)):
        if value is not None and name not in meta:
            raise ValueError('%s: must hold the states of %s, which was not saved' % (path, name))
    if loss is not None or trainer is not None:
        saved = meta.get('priors', {})
        for name, prior in _priors(net).items():
            if saved.get(name, prior) != prior:
                raise ValueError('%s: the prior of Parameter %s must be %s, as it was (saw: %s)' % (
                    path, name, saved[name], prior))
    if loss is not None:
        params += _unpack_params(path, 'loss', loss, meta['loss'], arrays)
        # Files of the first format have neither this nor the priors.
        if meta.get('num_train', getattr(loss, 'num_train', None)) != getattr(loss, 'num_train', None):
            raise ValueError('%s: num_train of the loss must be %r, as it was (saw: %r)' % (
                path, meta['num_train'], getattr(loss, 'num_train', None)))
        settings = _loss_settings(loss)
        for what, was in meta.get('loss_settings', {}).items():
            for name, value in was.items():
                same = _same_kind if name == 'class' else _same
                if not same(value, settings.get(what, was).get(name, value)):
                    raise ValueError('%s: %s of the %s must be %r, as it was (saw: %r)' % (
                        path, name, what, value, settings[what][name]))
        if meta['kl_weight'] is not None:
            kl_weight = check_not_negative('%s: kl_weight' % path, meta['kl_weight'])
            todo.append(lambda: setattr(loss, 'kl_weight', kl_weight))
    if trainer is not None:
        for each in params:
            if each[0]._data is None:
                _set(*each)     # a Trainer cannot begin without
        todo.append(_unpack_trainer(path, trainer, _names(trainer, net, loss), meta['trainer'], arrays))
    return [functools.partial(_set, *each) for each in params] + todo


def _loss_settings(loss):
    """Name of a part of ``loss`` -> what its constructor was told, as far as JSON can hold it and it is kept."""
    found, todo = {}, [('loss', loss)]
    while todo:
        what, part = todo.pop()
        attributes = _attributes(part)
        if isinstance(getattr(part, 'rho', None), Parameter):   # a learnable scale of ours, which only begins there
            attributes.pop('_scale', None)
        # Prefixes count the blocks of a process.
        arguments = _arguments(part).difference(('num_train', 'kl_weight', 'prefix', 'params', 'name'))
        found[what] = {'class': _kind(part)}
        for name in sorted(arguments):
            # A sigma of ours is kept as a scale.
            for attribute in (name, '_' + name) + ('_scale',) * (name == 'sigma'):
                if attribute in attributes:
                    found[what][name] = attributes[attribute]
        todo.extend((child if part is loss else '%s.%s' % (what, child), block)
                    for child, block in part._children.items())
    return found


def _check(net, trainer, loss):
    for name, value, kind in (('net', net, Block), ('trainer', trainer, Trainer), ('loss', loss, Block)):
        if not isinstance(value, kind) and (value is not None or name == 'net'):
            raise TypeError('%s must be a %s (saw: %r)' % (name, kind.__name__, value))


def _plain(name, value):
    """``value`` as JSON gives it back, or TypeError if that is something else."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    try:
        if isinstance(value, list):
            return [_plain('%s[%d]' % (name, index), each) for index, each in enumerate(value)]
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: _plain('%s[%r]' % (name, key), each) for key, each in value.items()}
    except RecursionError:
        pass
    raise TypeError('%s must be what JSON can hold: None, bool, int, float, str, list, or dict with keys that are str '
                    '(saw: %r)' % (name, value))


def _read(path):
    """The meta data and arrays of a file."""
    with open(path, 'rb') as file:
        content = file.read()
    start = len(_MAGIC) + _DIGEST
    if not content.startswith((_MAGIC, _MAGIC_1)):
        raise ValueError('%s: must be a checkpoint of bbb_layers (saw: %r...)' % (path, content[:24]))
    if hashlib.sha256(content[start:]).digest() != content[len(_MAGIC):start]:
        raise ValueError('%s: damaged or cut off: its checksum does not fit' % path)
    try:
        with np.load(io.BytesIO(content[start:]), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop('meta').tobytes().decode('utf-8'))
        if content.startswith(_MAGIC_1) and 'trainer' in meta:
            _upgrade(meta['trainer'])
        return meta, arrays
    except Exception as error:      # there is no end of what zipfile and numpy raise
        raise ValueError('%s: must be a checkpoint of bbb_layers (saw: %s)' % (path, error)) from None


def _priors(net):
    """Name of a Parameter -> its prior, in words."""
    # Without addresses, which a function among the attributes of one's own prior has.
    return {name: re.sub(' at 0x[0-9a-fA-F]+', '', repr(param.prior))
            for name, param in net._collect_params_with_prefix().items() if isinstance(param, RhoParameter)}


def _upgrade(trainer):
    """Bring what the first format says of a Trainer into the form of this one.

    It has the name of the optimizer's class alone, none of the schedule's, and numbers alone.
    """
    trainer['optimizer'] = {'kind': trainer['optimizer'], 'attributes': trainer.pop('numbers')}
    if trainer['schedule'] is not None:
        trainer['schedule'] = {'kind': None, 'attributes': trainer['schedule']}


def _pack_params(prefix, block, arrays):
    """Put the Parameters of ``block`` into ``arrays``; returns their names, as ``save_parameters`` has them."""
    params = block._collect_params_with_prefix()
    for name, param in params.items():
        if param._stype != 'default':
            raise ValueError('net must have dense Parameters (saw: %s, %s)' % (name, param._stype))
        values = [value.asnumpy() for value in param.list_data()]
        arrays['%s/%s' % (prefix, name)] = values[0]
        if any(not np.array_equal(values[0], value) for value in values):
            arrays['%s/%s' % (prefix, name)] = param._reduce().asnumpy()
            arrays['contexts/%s/%s' % (prefix, name)] = np.stack(values)
    return list(params)


def _unpack_params(path, prefix, block, names, arrays):
    """Check that the Parameters fit ``block``; returns a list of (Parameter, value, that on each context or None)."""
    params = block._collect_params_with_prefix()
    if set(names) != set(params):
        raise ValueError('%s: must hold the Parameters of this %s: %s missing, %s too many' % (
            path, type(block).__name__, sorted(set(params) - set(names)), sorted(set(names) - set(params))))
    found = []
    for name, param in params.items():
        value = arrays['%s/%s' % (prefix, name)]
        each = arrays.get('contexts/%s/%s' % (prefix, name))
        if param.shape is not None and (len(param.shape) != value.ndim or any(
                size not in (0, -1, known) for size, known in zip(param.shape, value.shape))):
            raise ValueError('%s: Parameter %s must have the shape %s (saw: %s)' % (
                path, name, param.shape, value.shape))
        if np.dtype(param.dtype) != value.dtype:
            raise ValueError('%s: Parameter %s must be %s (saw: %s)' % (path, name, np.dtype(param.dtype), value.dtype))
        if each is not None and (each.shape[1:] != value.shape or each.dtype != value.dtype):
            raise ValueError('%s: Parameter %s must be %s, %s on each context (saw: %s, %s)' % (
                path, name, value.dtype, value.shape, each.dtype, each.shape[1:]))
        found.append((param, value, each))
    return found


def _set(param, value, each):
    make_writable(param)
    param._load_init(gluon_kind(ndarray.array(value, dtype=value.dtype)), None)
    if each is not None and len(each) == len(param.list_ctx()):
        for data, own in zip(param.list_data(), each):
            data[:] = own


@contextlib.contextmanager
def _unchanged_if_refused(trainer, *blocks):
    """Parameters that are not initialized are so again, and the Trainer's kvstore has not begun, if the body raises."""
    params = [(param, dict(vars(param))) for block in blocks if block is not None
              for param in block._collect_params_with_prefix().values() if param._data is None]
    begun = trainer is not None and trainer._kv_initialized
    try:
        yield
    except BaseException:
        for param, attributes in params:
            vars(param).update(attributes)
        if params and trainer is not None and not begun:
            trainer._reset_kvstore()
        raise


def _names(trainer, net, loss):
    """The name of each of the Trainer's Parameters, in its order.

    Not its place in that order: Trainers sort by names that count the blocks of a process, and 10 comes before 9.
    """
    names = {}
    for prefix, block in (('params', net), ('loss', loss)):
        for name, param in ({} if block is None else block._collect_params_with_prefix()).items():
            names.setdefault(id(param), '%s/%s' % (prefix, name))
    for param in trainer._params:
        if id(param) not in names:
            raise ValueError('trainer must have Parameters of net and loss alone (saw: Parameter %s)' % param.name)
    return [names[id(param)] for param in trainer._params]


def _updaters(trainer):
    """The updaters of a Trainer, one for each context."""
    if not trainer._kv_initialized:
        trainer._init_kvstore()
    if trainer._params_to_init:
        trainer._init_params()
    if trainer._update_on_kvstore:
        raise ValueError('trainer must not update its Parameters on a kvstore, where the states are: make it with '
                         'update_on_kvstore=False')
    return trainer._updaters


#: Attributes that tell how an update is computed, not what it is.
_MEANS = ('aggregate_num', 'allow_np_array')
#: What a constructor takes that training changes: the Trainer scales gradients, MXNet's schedules count down base_lr.
_PROGRESS = ('rescale_grad', 'base_lr')
#: What MXNet's constructors keep under another name than that of their argument, and leave alone.
_ARGUMENTS = ('base_lr_orig', 'float_stable_eps', 'power', 'warmup_final_lr')


def _attributes(thing):
    """The attributes of an optimizer or of a schedule that JSON can hold."""
    found = {}
    for name, value in getattr(thing, '__dict__', {}).items():
        # An optimizer's own dicts are by Parameter.
        if name not in _MEANS and not (isinstance(thing, Optimizer) and isinstance(value, dict)):
            with contextlib.suppress(TypeError):    # arrays, functions, ...
                found[name] = _plain(name, list(value) if isinstance(value, tuple) else value)
    return found


def _kind(thing):
    return _class_name(type(thing))


def _class_name(cls):
    return f'{cls.__module__}.{cls.__qualname__}'


def _pack_made(thing):
    """What to know of an optimizer or of a schedule."""
    return None if thing is None else {'kind': _kind(thing), 'attributes': _attributes(thing)}


def _arguments(thing):
    """The names of all that the constructors of its classes take."""
    return {name for base in type(thing).__mro__ if inspect.isfunction(vars(base).get('__init__'))
            for name in inspect.signature(vars(base)['__init__']).parameters}


def _settings(thing):
    """The names of the attributes that are as the constructor was told."""
    names = _arguments(thing).union(_ARGUMENTS)
    if getattr(thing, 'lr_scheduler', None) is not None:
        names.add('lr')     # else set_learning_rate changes it
    return names.difference(_PROGRESS)


def _unpack_made(path, what, thing, saved):
    """Check that ``thing`` was made as the one that was saved; returns the attributes that training changed since."""
    if saved is None and thing is None:
        return {}
    if saved is None or thing is None:
        raise ValueError('%s: the optimizer must have a %s exactly if it had one (saw: %r)' % (path, what, thing))
    kind, attributes, own, has = saved['kind'], saved['attributes'], _attributes(thing), getattr(thing, '__dict__', {})
    # 'adam' and 'fusedadam' go on with each other's states. Classes that are derived from these may not.
    classes = ADAMS.values() if type(thing) in ADAMS.values() else [type(thing)]
    if not _same_kind(kind or '', _kind(thing)) and kind not in map(_class_name, classes) and (
            kind not in [None] + [cls.__name__ for cls in classes] or not attributes.keys() <= has.keys()):
        raise ValueError('%s: the %s must be %s, as it was (saw: %s)' % (
            path, what, kind or 'one with %s' % ', '.join(sorted(attributes)), _kind(thing)))
    settings, changed = _settings(thing), {}
    for name, value in attributes.items():
        # A step that is loaded tells the KL schedule so, also where it is the same.
        if name in _MEANS or name in own and _same(own[name], value) and name != STEP:
            continue
        had = has.get(name)
        if name in settings:
            raise ValueError('%s: %s of the %s must be %r, as it was (saw: %r); make the Trainer as it was made, and '
                             'change it after loading' % (path, name, what, value, had))
        if isinstance(had, numbers.Real) and value is not None:
            check_finite('%s: %s of the %s' % (path, name, what), value)
        # JSON has neither tuples nor NumPy's types, nor dicts of a kind of their own.
        if isinstance(had, (tuple, np.generic)) and value is not None:
            value = type(had)(value)
        elif isinstance(had, dict) and isinstance(value, dict):
            content, value = value, copy.copy(had)
            value.clear()
            value.update(content)
        changed[name] = value
    return changed


def _same_kind(one, other):
    """Whether two names are of one class, that of a script also where it is imported from there."""
    return one == other or any(a.startswith('__main__.') and b.endswith(a[len('__main__'):])
                               for a, b in ((one, other), (other, one)))


def _same(one, other):
    """Whether two values from JSON are equal, NaN to NaN."""
    return one == other or (one != one and other != other)


def _counts(trainer):
    """The counts of updates on the first context, those of the states that are saved.

    An optimizer's ``_index_update_count`` is that of the context which it updated last, and before its first update,
    such as right after loading, that of device 0, where the Trainer need not have any Parameter.
    """
    return trainer.optimizer._all_index_update_counts.get(trainer._contexts[0].device_id, {})


def _pack_trainer(trainer, names, arrays):
    updaters, optimizer = _updaters(trainer), trainer.optimizer

    def pack(state):
        if isinstance(state, (list, tuple)):
            return [pack(part) for part in state]
        if isinstance(state, ndarray.NDArray):
            name = 'states/%d' % len(arrays)
            arrays[name] = state.asnumpy()
            return name
        return None

    return {'optimizer': _pack_made(optimizer), 'schedule': _pack_made(optimizer.lr_scheduler),
            'params': {name: {'lr_mult': float(param.lr_mult), 'wd_mult': float(param.wd_mult),
                              'grad_req': param.grad_req} for name, param in zip(names, trainer._params)},
            'counts': {names[index]: int(count) for index, count in _counts(trainer).items()},
            'states': {names[index]: pack(state) for index, state in updaters[0].states.items()}}


def _unpack_trainer(path, trainer, names, meta, arrays):
    """Check that the states fit ``trainer``; returns what sets them."""
    updaters, optimizer = _updaters(trainer), trainer.optimizer
    made = [(thing, _unpack_made(path, what, thing, meta[name])) for name, what, thing in (
        ('schedule', 'lr_scheduler', optimizer.lr_scheduler), ('optimizer', 'optimizer', optimizer))]

    def unpack(param, state, like):
        """``state`` as NDArrays, if it is of the same kind as ``like``, that of a fresh start."""
        if isinstance(state, list) and isinstance(like, (list, tuple)) and len(state) == len(like):
            return tuple(unpack(param, *parts) for parts in zip(state, like))
        if state is None and like is None:
            return None
        if not isinstance(state, str) or not isinstance(like, ndarray.NDArray):
            raise ValueError('%s: the states of Parameter %s must be those of %s (saw: %r)' % (
                path, param.name, type(optimizer).__name__, state))
        if arrays[state].shape != like.shape:
            raise ValueError('%s: the states of Parameter %s must have the shape %s (saw: %s)' % (
                path, param.name, like.shape, arrays[state].shape))
        if arrays[state].dtype != like.dtype:
            raise ValueError('%s: the states of Parameter %s must be %s (saw: %s)' % (
                path, param.name, np.dtype(like.dtype), arrays[state].dtype))
        return ndarray.array(arrays[state], dtype=arrays[state].dtype)

    def unpack_all(name, state):
        weight = ndarray.array(arrays[name], dtype=arrays[name].dtype)
        return unpack(trainer._params[places[name]], state,
                      optimizer.create_state_multi_precision(places[name], weight))

    for name, count in meta['counts'].items():
        if not isinstance(count, int) or count < 0:
            raise ValueError('%s: the count of %s must be a whole number of at least 0 (saw: %r)' % (path, name, count))
    places = {name: index for index, name in enumerate(names)}
    per_parameter = meta.get('params', {})      # files of an earlier version do not have it
    missing = sorted(set(meta['states']).union(meta['counts'], per_parameter) - set(places))
    if missing:
        raise ValueError('%s: trainer must have the Parameters that it had (saw: none for %s)' % (
            path, ', '.join(missing)))
    more = sorted(set(names) - set(per_parameter)) if per_parameter else []
    if more:
        raise ValueError('%s: trainer must have the Parameters that it had, and no others (saw: also %s)' % (
            path, ', '.join(more)))
    states = [{places[name]: unpack_all(name, state) for name, state in meta['states'].items()} for _ in updaters]
    for name, saved in per_parameter.items():
        for attribute in ('lr_mult', 'wd_mult'):
            check_finite('%s: %s of %s' % (path, attribute, name), saved[attribute])
        if not is_one_of(saved['grad_req'], ('write', 'add', 'null')):
            raise ValueError("%s: grad_req of %s must be 'write', 'add' or 'null' (saw: %r)" % (
                path, name, saved['grad_req']))

    def change():
        if STEP not in meta['optimizer']['attributes']:
            vars(optimizer).pop(STEP, None)     # of a KL schedule that began after this
        for thing, changed in made:
            if changed:
                vars(thing).update(changed)
        for name, saved in per_parameter.items():
            param = trainer._params[places[name]]
            for attribute in ('lr_mult', 'wd_mult', 'grad_req'):
                if getattr(param, attribute) != saved[attribute]:
                    setattr(param, attribute, saved[attribute])
        for context in trainer._contexts:
            counts = optimizer._all_index_update_counts.setdefault(context.device_id, {})
            counts.clear()
            counts.update({places[name]: count for name, count in meta['counts'].items()})
        for updater, own in zip(updaters, states):
            updater.states = own
            updater.states_synced = dict.fromkeys(own, False)

    return change
