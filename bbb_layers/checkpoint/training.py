# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checkpoints of a training run: the network, the loss, and the Trainer."""
import contextlib
from functools import partial
from typing import Any, Callable, Dict, List, Optional

import numpy as np
from mxnet.gluon import Block, Trainer

from .._mxnet.checks import check_not_negative
from .._mxnet.tree import walk_with_paths
from ..training.likelihoods import NLLLoss
from ..training.loss import BBBLoss
from . import parameters
from .file import Path, read, write
from .names import arguments, attributes, class_name, plain, same, same_class, what_json_holds
from .trainer import hand_out, state_names
from .trainer import pack as pack_trainer
from .trainer import unpack as unpack_trainer
from .trainer import updaters_of

__all__ = ['save_checkpoint', 'load_checkpoint']


def save_checkpoint(path: Path, net: Block, trainer: Optional[Trainer] = None, loss: Optional[Block] = None,
                    **facts: Any) -> None:
    """Write everything that a training run needs to continue: Parameters, the Trainer's states, and ``facts``.

    The file is written completely or not at all, and has a SHA-256 checksum, which MXNet's own formats do not have. It
    is read without unpickling anything.

    The file does not contain the state of MXNet's random number generators, since MXNet gives no access to it. A run
    that must continue exactly as if it had not been interrupted seeds the generators at the start of each epoch, from
    the seed of the run and the number of the epoch.

    Parameters
    ----------
    path : str or os.PathLike
    net : Block
        The network. It must be initialized, and all shapes must be known.
    trainer : gluon.Trainer, optional
        The Trainer. The file gets its states and counts of updates; those attributes of its optimizer and of its
        ``lr_scheduler`` that are numbers, bools, strings, None, or lists or tuples of these, in a schedule also dicts;
        and ``lr_mult``, ``wd_mult`` and ``grad_req`` of its Parameters.
    loss : Block, optional
        A loss that has Parameters of its own, or a ``kl_weight``.
    **facts
        Further values, such as ``epoch=3, seed=0``. JSON must be able to hold them and to give them back unchanged:
        tuples, and dicts with keys that are not str, are not allowed. NumPy's numbers come back as Python's.

    Raises
    ------
    TypeError
        If an argument is of another type, or JSON cannot hold a fact.
    ValueError
        If ``trainer`` updates its Parameters on a kvstore, which then has the states, or has Parameters that are not in
        ``net`` or ``loss``; or a Parameter is sparse.
    RuntimeError, DeferredInitializationError
        If a Parameter is not initialized yet.
    OSError
        If the file cannot be written. An old file stays as it is.
    """
    _check(net, trainer, loss)
    arrays: Dict[str, np.ndarray] = {}
    if trainer is not None:
        updaters_of(trainer)        # when its kvstore starts, it copies the first context's Parameters to all contexts
    meta = {'facts': plain('facts', facts), 'params': parameters.pack('params', net, arrays),
            'priors': parameters.priors_of(net)}
    if loss is not None:
        meta.update(_pack_loss(loss), loss=parameters.pack('loss', loss, arrays))
    if trainer is not None:
        meta['trainer'] = pack_trainer(trainer, _names(trainer, net, loss), arrays)
    write(path, meta, arrays)


def load_checkpoint(path: Path, net: Block, trainer: Optional[Trainer] = None,
                    loss: Optional[Block] = None) -> Dict[str, Any]:
    """Restore a training run to the state in which :func:`save_checkpoint` saved it.

    Nothing is changed unless the whole file is valid and fits.

    The values that training changes are restored: the Parameters, the Trainer's states and counts of updates, the
    learning rate (which ``set_learning_rate`` changes) or the progress of the schedule, ``lr_mult``, ``wd_mult`` and
    ``grad_req`` of the Trainer's Parameters, and ``kl_weight``.

    The values that stay as a constructor was given them are compared, and a difference raises ValueError: the kinds of
    the optimizer and the ``lr_scheduler``; ``momentum``, ``wd``, ``clip_gradient``, ``multi_precision``, a schedule's
    ``step``, ``max_update`` and first ``base_lr``, and so on; which Parameters the Trainer has; the loss's
    ``num_train``, ``weight`` and ``batch_axis``; the class of its likelihood, and those attributes of the likelihood
    that have the name of an argument of its constructor, with or without an underscore before it. If a Trainer or a
    loss is given, the priors are compared too, by their ``repr``. Of the network, only Parameters and priors are
    looked at; activations and ``estimator``, for instance, are not compared.

    To continue with other settings, make all objects as they were made, load, and then change the settings, for
    instance with ``trainer.optimizer.lr_scheduler = ...``. A ``num_train`` that was changed between steps is compared
    with its last value: set this value before loading. ``'adam'`` and ``'fusedadam'`` compute the same updates, and
    count as the same kind of optimizer. Older files lack some of these entries; only the entries that a file has are
    compared.

    In optimizers and schedules that are classes of your own, the attributes that have the name of an argument of their
    constructor are compared, and the other attributes are restored.

    Parameters
    ----------
    path : str or os.PathLike
    net : Block
        A network of the same structure. Its Parameters keep their contexts. Parameters that are not initialized yet are
        put on the CPU, or on the contexts of their deferred initialization. Values that differed from context to
        context, such as the running statistics of BatchNorm, are restored on each context; if the number of contexts
        has changed, all contexts get the mean, as in Gluon.
    trainer, loss : gluon.Trainer and Block, optional
        Objects like those that were saved: the Trainer must have the same Parameters, and both must be made with the
        same arguments. Without them, for instance for prediction only, their part of the file is not used.

    Returns
    -------
    dict
        The facts that were saved.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If the file is not a checkpoint, is damaged, or does not fit ``net``, ``trainer`` or ``loss``; or ``trainer``
        updates its Parameters on a kvstore.
    OSError
        If the file cannot be read.
    """
    _check(net, trainer, loss)
    meta, arrays = read(path)
    try:
        with _unchanged_if_refused(trainer, net, loss):
            changes, facts = _changes(path, net, trainer, loss, meta, arrays), meta['facts']
            if not isinstance(facts, dict):
                raise TypeError(f'facts are {facts!r}')
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        # The checksum is right, but another program or another version wrote the file.
        raise ValueError(f'{path}: must hold what save_checkpoint writes '
                         f'(saw: {type(error).__name__}: {error})') from None
    for change in changes:
        change()
    return facts


def _changes(path, net, trainer, loss, meta, arrays):
    """Check that the whole file fits; returns the functions to call then, in this order."""
    _check_arrays(path, meta, arrays)
    params = parameters.unpack(path, 'params', net, meta['params'], arrays)
    changes: List[Callable[[], Any]] = []
    for name, value in (('loss', loss), ('trainer', trainer)):
        if value is not None and name not in meta:
            raise ValueError(f'{path}: must hold the states of {name}, which was not saved')
    if loss is not None or trainer is not None:
        _check_priors(path, net, meta.get('priors', {}))
    if loss is not None:
        params += parameters.unpack(path, 'loss', loss, meta['loss'], arrays)
        _check_loss(path, loss, meta)
        had = getattr(loss, 'kl_weight', None)
        if (meta['kl_weight'] is None) != (had is None):
            raise ValueError(f'{path}: the loss must have a kl_weight exactly if it had one (saw: {had!r})')
        if had is not None:
            kl_weight = check_not_negative(f'{path}: kl_weight', meta['kl_weight'])
            changes.append(partial(setattr, loss, 'kl_weight', kl_weight))
    if trainer is not None:
        for loaded in params:
            if loaded.param._data is None:
                loaded.set()    # a Trainer cannot start with Parameters that are not initialized
        changes += unpack_trainer(path, trainer, _names(trainer, net, loss), meta['trainer'], arrays)
    first = [] if trainer is None else [partial(hand_out, trainer)]
    return first + [loaded.set for loaded in params] + changes


def _check_arrays(path, meta, arrays):
    """Raise ValueError if a file has an array that no entry names; an array under a wrong name would be left out."""
    known = {f'{prefix}/{name}' for prefix in ('params', 'loss') for name in meta.get(prefix, ())}
    known.update([f'contexts/{name}' for name in known])
    known.update(state_names(meta.get('trainer', {}).get('states', {})))
    unknown = sorted(set(arrays) - known)
    if unknown:
        raise ValueError(f'{path}: must hold no arrays but those of its entries (saw: also {", ".join(unknown)})')


def _check_priors(path, net, saved):
    """Raise ValueError if a Parameter has another prior than the saved one."""
    for name, prior in parameters.priors_of(net).items():
        if saved.get(name, prior) != prior:
            raise ValueError(f'{path}: the prior of Parameter {name} must be {saved[name]}, as in the file '
                             f'(saw: {prior})')


def _pack_loss(loss):
    """The arguments with which a loss was made, and its ``kl_weight``."""
    return {'num_train': plain('num_train', getattr(loss, 'num_train', None)),
            'loss_settings': {what: dict(_settings(part), **{'class': class_name(type(part))})
                              for what, part in _parts(loss).items()},
            'kl_weight': plain('kl_weight', getattr(loss, 'kl_weight', None))}


def _check_loss(path, loss, meta):
    """Raise ValueError if a loss was not made as the loss that was saved."""
    # Files of the first format have none of these entries.
    num_train = getattr(loss, 'num_train', None)
    if meta.get('num_train', num_train) != num_train:
        raise ValueError(f'{path}: num_train of the loss must be {meta["num_train"]!r}, as in the file '
                         f'(saw: {num_train!r})')
    parts = _parts(loss)
    for what, saved in meta.get('loss_settings', {}).items():
        if what not in parts:
            continue
        kind, now = class_name(type(parts[what])), _settings(parts[what])
        if not same_class(saved.get('class', kind), kind):
            raise ValueError(f'{path}: class of the {what} must be {saved["class"]!r}, as in the file (saw: {kind!r})')
        for name, value in saved.items():
            if name in now and not same(value, now[name]):
                raise ValueError(f'{path}: {name} of the {what} must be {value!r}, as in the file (saw: {now[name]!r})')


def _parts(loss):
    """Name -> block, for a loss and all blocks in it."""
    return {path or 'loss': part for path, part in walk_with_paths(loss)}


def _settings(part):
    """Name of an argument of the constructor -> its value, for a part of a loss.

    The losses of this package tell these values. Of any other class, and of the arguments that a derived class adds,
    the attributes count that have the name of an argument, or this name after an underscore.
    """
    found = what_json_holds(part._made_with()) if isinstance(part, (BBBLoss, NLLLoss)) else {}
    known = attributes(part)
    # Prefixes are left out, because they count the blocks of a process.
    for name in arguments(part).difference(found, ('num_train', 'kl_weight', 'prefix', 'params', 'name')):
        for attribute in (name, '_' + name):
            if attribute in known:
                found[name] = known[attribute]
    return found


def _check(net, trainer, loss):
    for name, value, kind in (('net', net, Block), ('trainer', trainer, Trainer), ('loss', loss, Block)):
        if not isinstance(value, kind) and (value is not None or name == 'net'):
            raise TypeError(f'{name} must be a {kind.__name__} (saw: {value!r})')


@contextlib.contextmanager
def _unchanged_if_refused(trainer, *blocks):
    """If the body raises, undo the initialization of Parameters and the start of the Trainer's kvstore."""
    things = [param for block in blocks if block is not None
              for param in block._collect_params_with_prefix().values() if param._data is None]
    if trainer is not None and not trainer._kv_initialized:
        things.append(trainer)
    before = [(thing, dict(vars(thing))) for thing in things]
    try:
        yield
    except BaseException:
        for thing, attributes in before:
            vars(thing).clear()
            vars(thing).update(attributes)
        raise


def _names(trainer, net, loss):
    """The name of each of the Trainer's Parameters, in its order.

    The place in this order cannot serve as the name: Trainers sort by names that count the blocks of a process, and 10
    comes before 9.
    """
    names = {}
    for prefix, block in (('params', net), ('loss', loss)):
        for name, param in ({} if block is None else block._collect_params_with_prefix()).items():
            names.setdefault(id(param), f'{prefix}/{name}')
    for param in trainer._params:
        if id(param) not in names:
            raise ValueError(f'trainer must have Parameters of net and loss alone (saw: Parameter {param.name})')
    return [names[id(param)] for param in trainer._params]
