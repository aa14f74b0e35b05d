# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A Trainer in a checkpoint: its optimizer, its schedule, and the states and counts of its Parameters."""
import copy
import numbers
from functools import partial
from typing import Any, Callable, Dict, Iterable, Iterator, List, Union

import numpy as np
from mxnet import ndarray
from mxnet.gluon import Trainer
from mxnet.optimizer import Optimizer, Updater

from .._mxnet.checks import check_finite, is_one_of
from ..training.handlers import STEP, set_loaded_step
from ..training.optimizer import ADAMS
from ..training.schedules import check_step
from .file import Path
from .names import MEANS, arguments, attributes, class_name, same, same_class

__all__ = ['updaters_of', 'pack', 'unpack', 'hand_out', 'state_names']

#: Arguments whose attributes training changes: the Trainer sets rescale_grad, and MXNet's schedules reduce base_lr.
_PROGRESS = ('rescale_grad', 'base_lr')
#: Attributes in which MXNet's constructors keep arguments of another name, and which training does not change.
_ARGUMENTS = ('base_lr_orig', 'float_stable_eps', 'power', 'warmup_final_lr')
#: Attributes of MXNet's optimizers and schedules that count.
_COUNTS = ('num_update', 'count', 'cur_step_ind')
#: The attributes of a Trainer's Parameters that control its updates.
_BY_PARAMETER = ('lr_mult', 'wd_mult', 'grad_req')


def updaters_of(trainer: Trainer) -> List[Updater]:
    """The updaters of a Trainer, one for each context. Its kvstore is started.

    Raises
    ------
    ValueError
        If the Trainer updates its Parameters on a kvstore.
    """
    _start_kvstore(trainer)
    hand_out(trainer)
    return trainer._updaters


def _start_kvstore(trainer):
    """Start a Trainer's kvstore, which must not update the Parameters."""
    if not trainer._kv_initialized:
        trainer._init_kvstore()
    if trainer._update_on_kvstore:
        raise ValueError('trainer must not update its Parameters on a kvstore, where the states are: make it with '
                         'update_on_kvstore=False')


def hand_out(trainer: Trainer) -> None:
    """Let a kvstore that has just started copy the first context's Parameters to all contexts, as it does once."""
    if trainer._params_to_init:
        trainer._init_params()


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

    The kvstore is started, but copies no Parameters yet, see :func:`hand_out`.

    Parameters
    ----------
    path : str or os.PathLike
    trainer : gluon.Trainer
    names : list of str
        The name of each of its Parameters.
    meta, arrays : dict
        What :func:`pack` made.
    """
    _start_kvstore(trainer)
    optimizer = trainer.optimizer
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
        _check_multipliers(path, name, param, saved)
        changes.extend(partial(setattr, param, attribute, saved[attribute]) for attribute in _BY_PARAMETER
                       if getattr(param, attribute) != saved[attribute])
    counts = {places[name]: _count(path, f'the count of {name}', count) for name, count in meta['counts'].items()}
    for context in trainer._contexts:
        changes.append(partial(_set_counts, optimizer, context.device_id, counts))
    state_arrays = list(state_names(meta['states']))
    if len(set(state_arrays)) < len(state_arrays):
        raise ValueError(f'{path}: each state must have an array of its own (saw: {state_arrays})')
    for updater in trainer._updaters:
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


def _check_multipliers(path, name, param, saved):
    for attribute in ('lr_mult', 'wd_mult'):
        _check_float32(f'{path}: {attribute} of {name}', saved[attribute])
    if not is_one_of(saved['grad_req'], ('write', 'add', 'null')):
        raise ValueError(f"{path}: grad_req of {name} must be 'write', 'add' or 'null' "
                         f'(saw: {saved["grad_req"]!r})')
    if not param._differentiable and saved['grad_req'] != 'null':
        raise ValueError(f"{path}: grad_req of {name}, which has no gradient, must be 'null' "
                         f'(saw: {saved["grad_req"]!r})')


def _check_float32(what, value):
    """Raise an error if ``value`` is no number, or too large for a float32: MXNet's operators do not read it then."""
    if not abs(check_finite(what, value)) < 3.4e38:
        raise ValueError(f'{what} must be finite in float32 (saw: {value!r})')


def _count(path, what, count):
    # MXNet computes powers of counts, which fail for too large ones.
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 2 ** 31:
        raise ValueError(f'{path}: {what} must be a whole number of at least 0 and below 2 ** 31 (saw: {count!r})')
    return count


def state_names(states: Union[Dict[str, Any], Iterable[Any]]) -> Iterator[str]:
    """The names of all arrays of the states in a file, where one may come more than once."""
    # What is neither None, nor a list, nor a name, is refused when it is compared with the optimizer's states.
    for state in states.values() if isinstance(states, dict) else states:
        if isinstance(state, list):
            yield from state_names(state)
        elif isinstance(state, str) and state.startswith('states/'):
            yield state


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
    if not isinstance(state, str) or not state.startswith('states/') or not isinstance(like, ndarray.NDArray):
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
            raise ValueError(f'{path}: {name} of the {what} must be {value!r}, as in the file '
                             f'(saw: {has.get(name)!r}); make the Trainer as it was made, and change it after loading')
        if callable(getattr(type(thing), name, None)) or (isinstance(thing, Optimizer)
                                                          and isinstance(has.get(name), dict)):
            raise ValueError(f'{path}: {name} must not be among the attributes of the {what}, since it is a method, or '
                             f'has an entry for each Parameter (saw: {value!r})')
        changed[name] = _as_kind_of(path, what, name, thing, value)
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
    raise ValueError(f'{path}: the {what} must be {was}, as in the file (saw: {class_name(type(thing))})')


def _settings(thing):
    """The names of the attributes that keep the values which the constructor was given."""
    names = arguments(thing).union(_ARGUMENTS)
    if getattr(thing, 'lr_scheduler', None) is not None:
        names.add('lr')     # without a schedule, set_learning_rate changes it
    return names.difference(_PROGRESS)


def _as_kind_of(path, what, name, thing, value):
    """``value`` from JSON, in the type of the attribute if this is a tuple, a NumPy type or derived from dict."""
    had = getattr(thing, '__dict__', {}).get(name)
    # In a class of MXNet's or of this package, an attribute stays of its kind. Other classes may do what they like.
    known = type(thing).__module__.partition('.')[0] in ('mxnet', __name__.partition('.')[0])
    if name == 'num_update' and isinstance(thing, Optimizer) or known and name in _COUNTS:
        return _count(path, f'{name} of the {what}', value)
    if known and had is not None and isinstance(had, bool) != isinstance(value, bool):
        raise ValueError(f'{path}: {name} of the {what} must be of the kind of {had!r} (saw: {value!r})')
    if value is None and not known:
        return None
    if isinstance(had, numbers.Real) and not isinstance(had, bool):
        (_check_float32 if known else check_finite)(f'{path}: {name} of the {what}', value)
    if isinstance(had, tuple) and not isinstance(value, list):
        raise ValueError(f'{path}: {name} of the {what} must be a list (saw: {value!r})')
    if isinstance(had, (tuple, np.generic)):
        return type(had)(value)
    if isinstance(had, dict) and isinstance(value, dict):
        new = copy.copy(had)
        new.clear()
        new.update(value)
        return new
    return value
