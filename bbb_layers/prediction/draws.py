# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Monte Carlo prediction: the outputs of a network under many draws of its weights."""
import contextlib
import itertools
from functools import partial
from typing import Any, Iterable, Union

import numpy as np
from mxnet import autograd, ndarray
from mxnet.base import MXNetError
from mxnet.gluon import Block
from mxnet.ndarray import NDArray

from .._mxnet.arrays import classic, gluon_kind
from .._mxnet.checks import check_count
from .._mxnet.precision import widened
from .._mxnet.tree import leaves
from ..networks.plain import PlainCopy

__all__ = ['predict']


def predict(net: Block, data: Union[NDArray, tuple, Iterable], num_samples: int = 32, batch_size: int = 256,
            batch_axis: int = 0, chunk: int = 8, with_labels: bool = False, progress: bool = True) -> Any:
    r"""Outputs of ``net`` under draws of its weights from the posterior.

    .. math:: f(x; w_s), \quad w_s \sim q, \quad s = 1, \dots, S

    Each draw is one function: its weights are the same for every example, whichever estimators the layers have. All
    other layers, such as BatchNorm and Dropout, are in predict mode. The draws follow from MXNet's random numbers,
    which ``mx.random.seed`` seeds. ``net`` is not changed.

    Parameters
    ----------
    net : Block
    data : NDArray, tuple, or iterable of batches such as gluon.data.DataLoader
        The examples. If ``net`` takes several inputs, give a tuple of them, each an NDArray or a list of NDArrays. A
        list of NDArrays is read as an iterable of batches. A batch is an array, or a list or tuple whose first item is
        the input (itself a list or tuple if there are several inputs) and whose second item is the label. A loader is
        read once, so that the outputs have the order in which it gave the examples, shuffled or not.
    num_samples : int, default 32
        Number of draws S.
    batch_size : int, default 256
        Size of the batches that arrays are cut into.
    batch_axis : int, default 0
        The axis of the inputs and outputs along which the examples lie.
    chunk : int, default 8
        Number of batches that are held in memory at once. Each draw of the weights is made again for every chunk. Apart
        from the outputs, memory is used only for these batches and for one copy of the network.
    with_labels : bool, default False
        Whether to return the labels of the loader too, in the order of the outputs. The examples lie along
        ``batch_axis`` of the labels if they have this axis, else along their first axis.
    progress : bool, default True
        Whether to show a progress bar while a loader is read, if tqdm is installed.

    Returns
    -------
    NDArray, list or tuple
        Outputs of shape (num_samples, n, ...) for n examples, in the output's dtype, or in float32 if this is float16
        or bfloat16, on the network's first context. For a network with several outputs, a list of such arrays, nested
        as the outputs are. If ``with_labels`` is set, the tuple (outputs, labels), where the labels are one NDArray.

    Raises
    ------
    TypeError
        If ``data`` is neither an array nor an iterable of batches.
    ValueError
        If ``net`` has no Bayesian layer, a mu or sigma is not finite, or a count is less than 1; if ``data`` is empty,
        has no labels although ``with_labels`` is set, or is a list of arrays that ``net`` does not take one by one; or
        if the inputs or the outputs of ``net`` differ in their number of examples.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.
    """
    num_samples, batch_size = check_count('num_samples', num_samples), check_count('batch_size', batch_size)
    chunk = check_count('chunk', chunk)
    is_array = isinstance(data, (ndarray.NDArray, tuple)) and _holds_arrays(data)
    if with_labels and is_array:
        raise ValueError('with_labels needs data that has labels, such as a DataLoader '
                         f'(saw: with_labels={with_labels!r} and arrays)')
    if not is_array and (isinstance(data, np.ndarray) or not hasattr(data, '__iter__')):
        saw = 'a numpy array; take mx.nd.array(data)' if isinstance(data, np.ndarray) else type(data).__name__
        raise TypeError(f'data must be an NDArray, or an iterable of batches of NDArrays (saw: {saw})')
    plain = PlainCopy(net)
    context = plain.context
    if is_array:
        batches = _cut(classic(data if isinstance(data, tuple) else (data,)), batch_size, batch_axis)
        total, progress = None, False
    else:
        batches, total = _read(data, with_labels), _length(data)
    # All draws follow from one random integer of MXNet, from which numpy generates them. They can therefore be made
    # again for every chunk, and MXNet's own generator is not reset for other code that uses it, such as the loader.
    seed = int(ndarray.random.randint(0, 2 ** 31 - 1, shape=(1,)).asscalar())
    outputs, labels = [], []
    with _bar(progress, total, num_samples) as bar, autograd.pause(train_mode=False):
        while True:
            group = list(itertools.islice(batches, chunk))
            if not group:
                break
            labels.extend(label for _, label in group)
            with _told_of_tuples(data):
                outputs.append(_of_all_draws(plain, [
                    _map(lambda array: array.as_in_context(context), inputs) for inputs, _ in group],
                    num_samples, seed, batch_axis, bar))
    if not outputs:
        raise ValueError(f'data must have at least one batch (saw: an empty {type(data).__name__})')
    result = _map(lambda *parts: _concat(parts, batch_axis + 1), *outputs)
    if with_labels:
        result = result, _concat(labels, batch_axis if labels[0].ndim > batch_axis else 0)
    return gluon_kind(result)


@contextlib.contextmanager
def _told_of_tuples(data):
    """If ``data`` is a list of arrays, errors of the body explain that a list does not stand for several inputs."""
    try:
        yield
    except (TypeError, ValueError, AssertionError, MXNetError) as error:
        if not (isinstance(data, list) and all(isinstance(item, ndarray.NDArray) for item in data)):
            raise
        raise ValueError('data must be a tuple if net takes several inputs, such as predict(net, (a, b)): a list is '
                         f'read as batches (saw: a list of {len(data)} arrays, which net does not take as batches: '
                         f'{str(error).strip().splitlines()[-1]})') from error


def _of_all_draws(plain, group, num_samples, seed, batch_axis, bar):
    """Outputs for the batches of ``group``, stacked over the draws and concatenated over the batches."""
    stacked = None
    for sample in plain.draws(num_samples, seed):
        start = 0
        for inputs in group:
            output = _map(widened, classic(plain.net(*gluon_kind(inputs))))
            if stacked is None:
                count = sum(_size(inputs, batch_axis) for inputs in group)
                stacked = _map(partial(_room, num_samples=num_samples, count=count, batch_axis=batch_axis), output)
            stop = start + _size(inputs, batch_axis)
            # The output is copied at once, because a static graph writes its next output into the same memory.
            _map(partial(_fill, sample=sample, start=start, stop=stop, batch_axis=batch_axis), stacked, output)
            start = stop
            bar.update()
        ndarray.waitall()       # otherwise the engine would queue all draws, with the memory for each
    return stacked


def _room(array, num_samples, count, batch_axis):
    shape = list(array.shape)
    if len(shape) > batch_axis:     # otherwise _fill says what is wrong
        shape[batch_axis] = count
    return ndarray.empty([num_samples] + shape, ctx=array.ctx, dtype=array.dtype)


def _fill(room, array, sample, start, stop, batch_axis):
    if array.shape[batch_axis:batch_axis + 1] != (stop - start,):
        raise ValueError(f'every output of net must have the examples along batch_axis {batch_axis} '
                         f'(saw: shape {array.shape} for a batch of {stop - start})')
    # There are two steps of indexing, because 6 axes are too many for one.
    room[sample][(slice(None),) * batch_axis + (slice(start, stop),)] = array


def _map(function, first, *others):
    """The results of ``function`` for each array in nested lists, which may also contain None."""
    if first is None:
        return None
    if isinstance(first, (list, tuple)):
        return [_map(function, *items) for items in zip(first, *others)]
    return function(first, *others)


def _concat(arrays, axis):
    return arrays[0] if len(arrays) == 1 else ndarray.concat(*arrays, dim=axis)


def _holds_arrays(item):
    """Whether ``item`` is an NDArray, or a list or tuple, nested or not, that contains only NDArrays."""
    return isinstance(item, ndarray.NDArray) or (
        isinstance(item, (list, tuple)) and len(item) > 0 and all(_holds_arrays(child) for child in item))


def _size(inputs, batch_axis):
    return next(leaves(inputs)).shape[batch_axis]


def _cut(inputs, batch_size, batch_axis):
    for array in leaves(inputs):
        if array.shape[batch_axis] != _size(inputs, batch_axis):
            raise ValueError(f'data must have as many examples in each input along batch_axis {batch_axis} '
                             f'(saw: {_size(inputs, batch_axis)} and {array.shape[batch_axis]})')
    size = _size(inputs, batch_axis)
    for start in range(0, size, batch_size):
        stop = min(start + batch_size, size)
        yield _map(partial(ndarray.slice_axis, axis=batch_axis, begin=start, end=stop), inputs), None


def _read(loader, with_labels):
    for batch in loader:
        inputs, label = (batch[0], batch[1:]) if isinstance(batch, (list, tuple)) and len(batch) else (batch, ())
        inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if not _holds_arrays(inputs):
            raise TypeError('data must be an NDArray, or an iterable of batches of NDArrays '
                            f'(saw: batch of type {type(batch).__name__})')
        if with_labels and not (label and isinstance(label[0], ndarray.NDArray)):
            raise ValueError('with_labels needs batches whose second item is the label '
                             f'(saw: batch of {1 + len(label)} items)')
        yield classic(inputs), classic(label[0]) if with_labels else None


def _length(loader):
    try:
        return len(loader)
    except TypeError:
        return None


class _NoBar:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self):
        pass


def _bar(progress, total, num_samples):
    if progress:
        try:
            from tqdm import tqdm
        except ImportError:
            return _NoBar()
        return tqdm(total=total and total * num_samples, desc='predict', unit='batch', leave=False)
    return _NoBar()
