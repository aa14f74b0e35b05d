# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checkpoints of a training run: one file that is at any time complete, and known to be what was written."""
import contextlib
import glob
import hashlib
import io
import json
import numbers
import os
import tempfile
from typing import Any, Dict, Optional, Union

import numpy as np
from mxnet import ndarray
from mxnet.gluon import Block, Trainer

from .checks import check_finite, check_not_negative

try:
    import fcntl
except ImportError:     # not a POSIX system
    fcntl = None        # type: ignore[assignment]

from .arrays import gluon_kind

__all__ = ['save_checkpoint', 'load_checkpoint', 'write_atomically']

_Path = Union[str, os.PathLike]

_MAGIC = b'bbb_layers checkpoint 1\n'
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
        Its states, counts of updates, learning rate and other numbers of the optimizer and of its scheduler.
    loss : Block, optional
        A loss that has Parameters of its own, or a ``kl_weight``.
    **facts
        Whatever JSON can hold, such as ``epoch=3, seed=0``.

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
    meta = {'facts': facts, 'params': _pack_params('params', net, arrays)}
    if loss is not None:
        meta['loss'] = _pack_params('loss', loss, arrays)
        meta['kl_weight'] = getattr(loss, 'kl_weight', None)
    if trainer is not None:
        meta['trainer'] = _pack_trainer(trainer, _names(trainer, net, loss), arrays)
    try:
        arrays['meta'] = np.frombuffer(json.dumps(meta, allow_nan=True).encode('utf-8'), dtype=np.uint8)
    except (TypeError, ValueError) as error:
        raise TypeError('facts must be what JSON can hold (saw: %r; %s)' % (facts, error)) from None
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    payload = stream.getvalue()
    write_atomically(path, _MAGIC + hashlib.sha256(payload).digest() + payload)


def load_checkpoint(path: _Path, net: Block, trainer: Optional[Trainer] = None,
                    loss: Optional[Block] = None) -> Dict[str, Any]:
    """Bring a training run back to where :func:`save_checkpoint` wrote it.

    Nothing is changed unless the whole file is right and fits.

    Parameters
    ----------
    path : str or os.PathLike
    net : Block
        Of the same structure. Parameters keep their contexts; those that are not initialized yet come to the current
        one.
    trainer, loss : gluon.Trainer and Block, optional
        As they were saved: a Trainer of the same Parameters, with the same kind of optimizer. Without them, as for
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
        todo, facts = _unpack(path, net, trainer, loss, meta, arrays), dict(meta['facts'])
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        # It is whole, but some other program's, or another version's.
        raise ValueError('%s: must hold what save_checkpoint writes (saw: %s: %s)' % (
            path, type(error).__name__, error)) from None
    for change in todo:
        change()
    return facts


def _unpack(path, net, trainer, loss, meta, arrays):
    """Check that all of a file fits; returns what changes ``net``, ``trainer`` and ``loss``."""
    todo = [_unpack_params(path, 'params', net, meta['params'], arrays)]
    for name, value in (('loss', loss), ('trainer', trainer)):
        if value is not None and name not in meta:
            raise ValueError('%s: must hold the states of %s, which was not saved' % (path, name))
    if loss is not None:
        todo.append(_unpack_params(path, 'loss', loss, meta['loss'], arrays))
        if meta['kl_weight'] is not None:
            kl_weight = check_not_negative('%s: kl_weight' % path, meta['kl_weight'])
            todo.append(lambda: setattr(loss, 'kl_weight', kl_weight))
    if trainer is not None:
        todo.append(_unpack_trainer(path, trainer, _names(trainer, net, loss), meta['trainer'], arrays))
    return todo


def _check(net, trainer, loss):
    for name, value, kind in (('net', net, Block), ('trainer', trainer, Trainer), ('loss', loss, Block)):
        if not isinstance(value, kind) and (value is not None or name == 'net'):
            raise TypeError('%s must be a %s (saw: %r)' % (name, kind.__name__, value))


def _read(path):
    """The meta data and arrays of a file."""
    with open(path, 'rb') as file:
        content = file.read()
    start = len(_MAGIC) + _DIGEST
    if not content.startswith(_MAGIC):
        raise ValueError('%s: must be a checkpoint of bbb_layers (saw: %r...)' % (path, content[:24]))
    if hashlib.sha256(content[start:]).digest() != content[len(_MAGIC):start]:
        raise ValueError('%s: damaged or cut off: its checksum does not fit' % path)
    try:
        with np.load(io.BytesIO(content[start:]), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(arrays.pop('meta').tobytes().decode('utf-8')), arrays
    except Exception as error:      # there is no end of what zipfile and numpy raise
        raise ValueError('%s: must be a checkpoint of bbb_layers (saw: %s)' % (path, error)) from None


def _pack_params(prefix, block, arrays):
    """Put the Parameters of ``block`` into ``arrays``; returns their names, as ``save_parameters`` has them."""
    params = block._collect_params_with_prefix()
    for name, param in params.items():
        if param._stype != 'default':
            raise ValueError('net must have dense Parameters (saw: %s, %s)' % (name, param._stype))
        arrays['%s/%s' % (prefix, name)] = param.data(param.list_ctx()[0]).asnumpy()
    return list(params)


def _unpack_params(path, prefix, block, names, arrays):
    """Check that the Parameters fit ``block``; returns what sets them."""
    params = block._collect_params_with_prefix()
    if set(names) != set(params):
        raise ValueError('%s: must hold the Parameters of this %s: %s missing, %s too many' % (
            path, type(block).__name__, sorted(set(params) - set(names)), sorted(set(names) - set(params))))
    values = {name: arrays['%s/%s' % (prefix, name)] for name in names}
    for name, param in params.items():
        value = values[name]
        if param.shape is not None and (len(param.shape) != value.ndim or any(
                size not in (0, -1, known) for size, known in zip(param.shape, value.shape))):
            raise ValueError('%s: Parameter %s must have the shape %s (saw: %s)' % (
                path, name, param.shape, value.shape))
        if np.dtype(param.dtype) != value.dtype:
            raise ValueError('%s: Parameter %s must be %s (saw: %s)' % (path, name, np.dtype(param.dtype), value.dtype))

    def change():
        for name, param in params.items():
            param._load_init(gluon_kind(ndarray.array(values[name], dtype=values[name].dtype)), None)
    return change


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


def _numbers(thing):
    """The attributes of an optimizer or of a schedule that are numbers."""
    return {name: value for name, value in vars(thing).items()
            if isinstance(value, numbers.Real) and not isinstance(value, bool)}


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

    return {'optimizer': type(optimizer).__name__, 'numbers': {name: float(value) if isinstance(value, np.floating)
                                                               else value
                                                               for name, value in _numbers(optimizer).items()},
            'schedule': None if optimizer.lr_scheduler is None else _numbers(optimizer.lr_scheduler),
            'counts': {names[index]: count for index, count in optimizer._index_update_count.items()},
            'states': {names[index]: pack(state) for index, state in updaters[0].states.items()}}


def _unpack_trainer(path, trainer, names, meta, arrays):
    """Check that the states fit ``trainer``; returns what sets them."""
    updaters, optimizer = _updaters(trainer), trainer.optimizer
    if meta['optimizer'] != type(optimizer).__name__:
        raise ValueError('%s: the optimizer must be %s (saw: %s)' % (
            path, meta['optimizer'], type(optimizer).__name__))
    if (meta['schedule'] is None) != (optimizer.lr_scheduler is None):
        raise ValueError('%s: the optimizer must have a lr_scheduler exactly if it had one (saw: %r)' % (
            path, optimizer.lr_scheduler))

    def unpack(param, state, like):
        """``state`` as NDArrays, if it is of the same kind as ``like``, that of a fresh start."""
        if isinstance(state, list) and isinstance(like, (list, tuple)) and len(state) == len(like):
            return tuple(unpack(param, *parts) for parts in zip(state, like))
        if state is None and like is None:
            return None
        if not isinstance(state, str) or not isinstance(like, ndarray.NDArray):
            raise ValueError('%s: the states of Parameter %s must be those of %s (saw: %r)' % (
                path, param.name, meta['optimizer'], state))
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

    for what, numbers_of in ((optimizer, meta['numbers']), (optimizer.lr_scheduler, meta['schedule'] or {})):
        for name, value in numbers_of.items():
            if not hasattr(what, name):
                raise ValueError('%s: %s must have %s, which it had' % (path, type(what).__name__, name))
            check_finite('%s: %s of %s' % (path, name, type(what).__name__), value)
    for name, count in meta['counts'].items():
        if not isinstance(count, int) or count < 0:
            raise ValueError('%s: the count of %s must be a whole number of at least 0 (saw: %r)' % (path, name, count))
    places = {name: index for index, name in enumerate(names)}
    missing = sorted(set(meta['states']).union(meta['counts']) - set(places))
    if missing:
        raise ValueError('%s: trainer must have the Parameters that it had (saw: none for %s)' % (
            path, ', '.join(missing)))
    states = [{places[name]: unpack_all(name, state) for name, state in meta['states'].items()} for _ in updaters]

    def change():
        vars(optimizer).update(meta['numbers'])
        if meta['schedule'] is not None:
            vars(optimizer.lr_scheduler).update(meta['schedule'])
        for context in trainer._contexts:
            counts = optimizer._all_index_update_counts.setdefault(context.device_id, {})
            counts.clear()
            counts.update({places[name]: count for name, count in meta['counts'].items()})
        for updater, own in zip(updaters, states):
            updater.states = own
            updater.states_synced = dict.fromkeys(own, False)

    return change
