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
from .names import arguments, attributes, class_name, plain, same, same_class
from .trainer import pack as pack_trainer
from .trainer import unpack as unpack_trainer
from .trainer import updaters_of

__all__ = ['save_checkpoint', 'load_checkpoint']


def save_checkpoint(path: Path, net: Block, trainer: Optional[Trainer] = None, loss: Optional[Block] = None,
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
    arrays: Dict[str, np.ndarray] = {}
    if trainer is not None:
        updaters_of(trainer)        # its kvstore begins by handing the first context's Parameters to all
    meta = {'facts': plain('facts', facts), 'params': parameters.pack('params', net, arrays),
            'priors': parameters.priors_of(net)}
    if loss is not None:
        meta.update(_pack_loss(loss), loss=parameters.pack('loss', loss, arrays))
    if trainer is not None:
        meta['trainer'] = pack_trainer(trainer, _names(trainer, net, loss), arrays)
    write(path, meta, arrays)


def load_checkpoint(path: Path, net: Block, trainer: Optional[Trainer] = None,
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
    meta, arrays = read(path)
    try:
        with _unchanged_if_refused(trainer, net, loss):
            changes, facts = _changes(path, net, trainer, loss, meta, arrays), meta['facts']
            if not isinstance(facts, dict):
                raise TypeError(f'facts are {facts!r}')
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        # It is whole, but some other program's, or another version's.
        raise ValueError(f'{path}: must hold what save_checkpoint writes (saw: {type(error).__name__}: {error})') from None
    for change in changes:
        change()
    return facts


def _changes(path, net, trainer, loss, meta, arrays):
    """Check that all of a file fits; returns what is to be called then, in this order."""
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
        if meta['kl_weight'] is not None:
            kl_weight = check_not_negative(f'{path}: kl_weight', meta['kl_weight'])
            changes.append(partial(setattr, loss, 'kl_weight', kl_weight))
    if trainer is not None:
        for loaded in params:
            if loaded.param._data is None:
                loaded.set()    # a Trainer cannot begin without
        changes += unpack_trainer(path, trainer, _names(trainer, net, loss), meta['trainer'], arrays)
    return [loaded.set for loaded in params] + changes


def _check_priors(path, net, saved):
    """ValueError if a Parameter has another prior than it had."""
    for name, prior in parameters.priors_of(net).items():
        if saved.get(name, prior) != prior:
            raise ValueError(f'{path}: the prior of Parameter {name} must be {saved[name]}, as it was (saw: {prior})')


def _pack_loss(loss):
    """What a loss was made with, and its ``kl_weight``."""
    return {'num_train': plain('num_train', getattr(loss, 'num_train', None)),
            'loss_settings': {what: dict(_settings(part), **{'class': class_name(type(part))})
                              for what, part in _parts(loss).items()},
            'kl_weight': plain('kl_weight', getattr(loss, 'kl_weight', None))}


def _check_loss(path, loss, meta):
    """ValueError if a loss was not made as the loss that was saved."""
    # Files of the first format have none of this.
    num_train = getattr(loss, 'num_train', None)
    if meta.get('num_train', num_train) != num_train:
        raise ValueError('{}: num_train of the loss must be {!r}, as it was (saw: {!r})'.format(
            path, meta['num_train'], num_train))
    parts = _parts(loss)
    for what, saved in meta.get('loss_settings', {}).items():
        if what not in parts:
            continue
        kind, now = class_name(type(parts[what])), _settings(parts[what])
        if not same_class(saved.get('class', kind), kind):
            raise ValueError('{}: class of the {} must be {!r}, as it was (saw: {!r})'.format(
                path, what, saved['class'], kind))
        for name, value in saved.items():
            if name in now and not same(value, now[name]):
                raise ValueError(f'{path}: {name} of the {what} must be {value!r}, as it was (saw: {now[name]!r})')


def _parts(loss):
    """Name -> part, of a loss and all blocks in it."""
    return {path or 'loss': part for path, part in walk_with_paths(loss)}


def _settings(part):
    """What the constructor of a part of a loss was told: by the part itself, or by attributes with such names."""
    known, found = attributes(part), {}
    # Prefixes count the blocks of a process.
    for name in arguments(part).difference(('num_train', 'kl_weight', 'prefix', 'params', 'name')):
        for attribute in (name, '_' + name):
            if attribute in known:
                found[name] = known[attribute]
    if isinstance(part, (BBBLoss, NLLLoss)):
        found.update(part.settings())
    return found


def _check(net, trainer, loss):
    for name, value, kind in (('net', net, Block), ('trainer', trainer, Trainer), ('loss', loss, Block)):
        if not isinstance(value, kind) and (value is not None or name == 'net'):
            raise TypeError(f'{name} must be a {kind.__name__} (saw: {value!r})')


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
            names.setdefault(id(param), f'{prefix}/{name}')
    for param in trainer._params:
        if id(param) not in names:
            raise ValueError(f'trainer must have Parameters of net and loss alone (saw: Parameter {param.name})')
    return [names[id(param)] for param in trainer._params]
