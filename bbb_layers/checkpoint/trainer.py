# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A Trainer in a checkpoint: its optimizer, its schedule, and the states and counts of its Parameters."""
import copy
import numbers
from functools import partial
from typing import Any, Callable, Dict, List

import numpy as np
from mxnet import ndarray
from mxnet.gluon import Trainer
from mxnet.optimizer import Updater

from .._mxnet.checks import check_finite, is_one_of
from ..training.handlers import STEP, set_loaded_step
from ..training.optimizer import ADAMS
from ..training.schedules import check_step
from .file import Path
from .names import MEANS, arguments, attributes, class_name, same, same_class

__all__ = ['updaters_of', 'pack', 'unpack']

#: Arguments whose attributes training changes: the Trainer sets rescale_grad, and MXNet's schedules reduce base_lr.
_PROGRESS = ('rescale_grad', 'base_lr')
#: Attributes in which MXNet's constructors keep arguments of another name, and which training does not change.
_ARGUMENTS = ('base_lr_orig', 'float_stable_eps', 'power', 'warmup_final_lr')
#: The attributes of a Trainer's Parameters that control its updates.
_BY_PARAMETER = ('lr_mult', 'wd_mult', 'grad_req')


def updaters_of(trainer: Trainer) -> List[Updater]:
    """The updaters of a Trainer, one for each context.

    Raises
    ------
    ValueError
        If the Trainer updates its Parameters on a kvstore.
    """
    if not trainer._kv_initialized:
        trainer._init_kvstore()
    if trainer._params_to_init:
        trainer._init_params()
    if trainer._update_on_kvstore:
        raise ValueError('trainer must not update its Parameters on a kvstore, where the states are: make it with '
                         'update_on_kvstore=False')
    return trainer._updaters


def pack(trainer: Trainer, names: List[str], arrays: Dict[str, np.ndarray]) -> Dict[str, Any]:
    """The description of a Trainer whose Parameters have these ``names``; its states are put into ``arrays``."""
    updaters, optimizer = updaters_of(trainer), trainer.optimizer
    return {'optimizer': _made(optimizer), 'schedule': _made(optimizer.lr_scheduler),
            'params': {name: {'lr_mult': float(param.lr_mult), 'wd_mult': float(param.wd_mult),
                              'grad_req': param.grad_req} for name, param in zip(names, trainer._params)},
            'counts': {names[index]: int(count) for index, count in _counts(trainer).items()},
            'states': {names[index]: _pack_state(state, arrays) for index, state in updaters[0].states.items()}}


def _counts(trainer):
    """The counts of updates on the first context, which belong to the states that are saved.

    An optimizer's ``_index_update_count`` has the counts of the context that it updated last. Before the first update,
    such as right after loading, it has the counts of device 0, where the Trainer need not have any Parameter.
    """
    return trainer.optimizer._all_index_update_counts.get(trainer._contexts[0].device_id, {})


def _made(thing):
    """The description of an optimizer or of a schedule: its class and its attributes."""
    return None if thing is None else {'kind': class_name(type(thing)), 'attributes': attributes(thing)}


def _pack_state(state, arrays):
    """Put an optimizer's state into ``arrays``; returns its name there, or a list of names for a list of states."""
    if isinstance(state, (list, tuple)):
        return [_pack_state(part, arrays) for part in state]
    if isinstance(state, ndarray.NDArray):
        name = f'states/{len(arrays)}'
        arrays[name] = state.asnumpy()
        return name
    return None


def unpack(path: Path, trainer: Trainer, names: List[str], meta: Dict[str, Any],
           arrays: Dict[str, np.ndarray]) -> List[Callable[[], Any]]:
    """Check that the description of a Trainer in a file fits; returns the functions to call then, in this order.

    Parameters
    ----------
    path : str or os.PathLike
    trainer : gluon.Trainer
    names : list of str
        The name of each of its Parameters.
    meta, arrays : dict
        What :func:`pack` made.
    """
    updaters, optimizer = updaters_of(trainer), trainer.optimizer
    changes: List[Callable[[], Any]] = []
    for name, what, thing in (('schedule', 'lr_scheduler', optimizer.lr_scheduler),
                              ('optimizer', 'optimizer', optimizer)):
        changed = _changed(path, what, thing, meta[name])
        if changed:
            changes.append(partial(vars(thing).update, changed))
    step = meta['optimizer']['attributes'].get(STEP)
    changes.append(partial(set_loaded_step, optimizer, None if step is None else check_step(
        step, f'{path}: the step of the KL schedule')))
    places = {name: index for index, name in enumerate(names)}
    per_parameter = meta.get('params', {})      # files of earlier versions do not have this entry
    _check_names(path, places, meta, per_parameter)
    for name, saved in per_parameter.items():
        param = trainer._params[places[name]]
        _check_multipliers(path, name, saved)
        changes.extend(partial(setattr, param, attribute, saved[attribute]) for attribute in _BY_PARAMETER
                       if getattr(param, attribute) != saved[attribute])
    counts = {places[name]: _count(path, name, count) for name, count in meta['counts'].items()}
    for context in trainer._contexts:
        changes.append(partial(_set_counts, optimizer, context.device_id, counts))
    for updater in updaters:
        states = {places[name]: _unpack_states(path, trainer, places[name], name, state, arrays)
                  for name, state in meta['states'].items()}
        changes.append(partial(_set_states, updater, states))
    return changes


def _check_names(path, places, meta, per_parameter):
    """Raise ValueError if a file has other Parameters than the Trainer."""
    missing = sorted(set(meta['states']).union(meta['counts'], per_parameter) - set(places))
    if missing:
        raise ValueError(f'{path}: trainer must have the Parameters that it had (saw: none for {", ".join(missing)})')
    more = sorted(set(places) - set(per_parameter)) if per_parameter else []
    if more:
        raise ValueError(f'{path}: trainer must have the Parameters that it had, and no others '
                         f'(saw: also {", ".join(more)})')


def _check_multipliers(path, name, saved):
    for attribute in ('lr_mult', 'wd_mult'):
        check_finite(f'{path}: {attribute} of {name}', saved[attribute])
    if not is_one_of(saved['grad_req'], ('write', 'add', 'null')):
        raise ValueError(f"{path}: grad_req of {name} must be 'write', 'add' or 'null' "
                         f'(saw: {saved["grad_req"]!r})')


def _count(path, name, count):
    if not isinstance(count, int) or count < 0:
        raise ValueError(f'{path}: the count of {name} must be a whole number of at least 0 (saw: {count!r})')
    return count


def _unpack_states(path, trainer, place, name, state, arrays):
    """The states of one Parameter, which must be of the kind that the optimizer makes when training starts."""
    weight = ndarray.array(arrays[name], dtype=arrays[name].dtype)
    fresh = trainer.optimizer.create_state_multi_precision(place, weight)
    return _unpack_state(path, trainer._params[place], trainer.optimizer, state, fresh, arrays)


def _unpack_state(path, param, optimizer, state, like, arrays):
    """``state`` as NDArrays, if it has the same structure, shapes and dtypes as ``like``; otherwise ValueError."""
    if isinstance(state, list) and isinstance(like, (list, tuple)) and len(state) == len(like):
        return tuple(_unpack_state(path, param, optimizer, *parts, arrays) for parts in zip(state, like))
    if state is None and like is None:
        return None
    if not isinstance(state, str) or not isinstance(like, ndarray.NDArray):
        raise ValueError(f'{path}: the states of Parameter {param.name} must be those of {type(optimizer).__name__} '
                         f'(saw: {state!r})')
    array = arrays[state]
    if array.shape != like.shape:
        raise ValueError(f'{path}: the states of Parameter {param.name} must have the shape {like.shape} '
                         f'(saw: {array.shape})')
    if array.dtype != like.dtype:
        raise ValueError(f'{path}: the states of Parameter {param.name} must be {np.dtype(like.dtype)} '
                         f'(saw: {array.dtype})')
    return ndarray.array(array, dtype=array.dtype)


def _set_counts(optimizer, device_id, counts):
    own = optimizer._all_index_update_counts.setdefault(device_id, {})
    own.clear()
    own.update(counts)


def _set_states(updater, states):
    updater.states = states
    updater.states_synced = dict.fromkeys(states, False)


def _changed(path, what, thing, saved):
    """Check that ``thing`` was made as the saved object was; returns the saved attributes that must be restored."""
    if saved is None and thing is None:
        return {}
    if saved is None or thing is None:
        raise ValueError(f'{path}: the optimizer must have a {what} exactly if it had one (saw: {thing!r})')
    _check_class(path, what, thing, saved)
    own, has, settings, changed = attributes(thing), getattr(thing, '__dict__', {}), _settings(thing), {}
    for name, value in saved['attributes'].items():
        if name == STEP or name in MEANS or (name in own and same(own[name], value)):
            continue
        if name in settings:
            raise ValueError(f'{path}: {name} of the {what} must be {value!r}, as it was (saw: {has.get(name)!r}); '
                             'make the Trainer as it was made, and change it after loading')
        changed[name] = _as_kind_of(path, what, name, has.get(name), value)
    return changed


def _check_class(path, what, thing, saved):
    """Raise ValueError if ``thing`` is of another class than the saved object."""
    kind, known = saved['kind'], saved['attributes']
    # 'adam' and 'fusedadam' can each continue with the other's states. Classes that are derived from them may not.
    classes = list(ADAMS.values()) if type(thing) in ADAMS.values() else [type(thing)]
    if kind is not None and any(same_class(kind, class_name(cls)) for cls in classes):
        return
    # The first format has the name of an optimizer's class without its module, and no name of a schedule's class.
    if kind in [None] + [cls.__name__ for cls in classes] and known.keys() <= getattr(thing, '__dict__', {}).keys():
        return
    was = kind or f'one with {", ".join(sorted(known))}'
    raise ValueError(f'{path}: the {what} must be {was}, as it was (saw: {class_name(type(thing))})')


def _settings(thing):
    """The names of the attributes that keep the values which the constructor was given."""
    names = arguments(thing).union(_ARGUMENTS)
    if getattr(thing, 'lr_scheduler', None) is not None:
        names.add('lr')     # without a schedule, set_learning_rate changes it
    return names.difference(_PROGRESS)


def _as_kind_of(path, what, name, had, value):
    """``value`` from JSON, in the type of ``had`` if this is a tuple, a NumPy type or a class derived from dict."""
    if value is None:
        return None
    if isinstance(had, numbers.Real) and not isinstance(had, bool):
        check_finite(f'{path}: {name} of the {what}', value)
    if isinstance(had, (tuple, np.generic)):
        return type(had)(value)
    if isinstance(had, dict) and isinstance(value, dict):
        new = copy.copy(had)
        new.clear()
        new.update(value)
        return new
    return value
