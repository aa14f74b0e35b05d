# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Monte Carlo prediction: outputs of many draws of the weights."""
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

    Each draw is one function: its weights are the same for every example, whatever the layers' estimators. All else,
    such as BatchNorm and Dropout, is in predict mode. The draws follow from MXNet's random numbers
    (``mx.random.seed``). ``net`` is not changed.

    Parameters
    ----------
    net : Block
    data : NDArray, tuple, or iterable of batches such as gluon.data.DataLoader
        Examples; a tuple of the inputs if ``net`` takes several, each an NDArray or a list of NDArrays. A list of
        NDArrays is an iterable of batches. A batch is an array, or a list or tuple whose first item is the input
        (itself a list or tuple if there are several) and whose second the label. The loader is read once, so that its
        order, shuffled or not, is that of the outputs.
    num_samples : int, default 32
        Number of draws S.
    batch_size : int, default 256
        Size of the batches that arrays are cut into.
    batch_axis : int, default 0
        The axis of inputs and outputs that counts the examples.
    chunk : int, default 8
        Number of batches held in memory at once: each draw of the weights is made again for every chunk. Beside the
        outputs, no more memory is used than for these batches and one copy of the network.
    with_labels : bool, default False
        Whether to return the labels of the loader too, in the order of the outputs. They count the examples along
        ``batch_axis`` if they have it, else along their first axis.
    progress : bool, default True
        Whether to show a progress bar while a loader is read, if tqdm is installed.

    Returns
    -------
    NDArray, list or tuple
        Shape (num_samples, batch_size, ...), in the output's dtype, or float32 where that is float16 or bfloat16, on
        the network's first context; for a network with several outputs a list of these, nested as they are. With
        labels, the pair of that and an NDArray.

    Raises
    ------
    TypeError
        If ``data`` is neither an array nor an iterable of batches.
    ValueError
        If ``net`` has no Bayesian layer, a mu or sigma is not finite, a count is less than 1, or ``data`` is empty, has
        no labels, or is a list of arrays that ``net`` does not take one by one.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.
    """
    num_samples, batch_size = check_count('num_samples', num_samples), check_count('batch_size', batch_size)
    chunk = check_count('chunk', chunk)
    is_array = isinstance(data, (ndarray.NDArray, tuple)) and _holds_arrays(data)
    if with_labels and is_array:
        raise ValueError(f'with_labels needs data that has labels, such as a DataLoader (saw: with_labels={with_labels!r} and arrays)')
    if not is_array and (isinstance(data, np.ndarray) or not hasattr(data, '__iter__')):
        raise TypeError('data must be an NDArray, or an iterable of batches of NDArrays (saw: %s)' % (
            'a numpy array; take mx.nd.array(data)' if isinstance(data, np.ndarray) else type(data).__name__))
    plain = PlainCopy(net)
    context = plain.context
    if is_array:
        batches = _cut(classic(data if isinstance(data, tuple) else (data,)), batch_size, batch_axis)
        total, progress = None, False
    else:
        batches, total = _read(data, with_labels), _length(data)
    # One integer of MXNet's stands for all draws, and numpy makes them from it: so they can be made again for every
    # chunk, and MXNet's own random numbers are not reset for others who use them, such as the loader.
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
    """What fails inside says that a list is not several inputs, if ``data`` is a list of arrays."""
    try:
        yield
    except (TypeError, ValueError, AssertionError, MXNetError) as error:
        if not (isinstance(data, list) and all(isinstance(item, ndarray.NDArray) for item in data)):
            raise
        raise ValueError('data must be a tuple if net takes several inputs, such as predict(net, (a, b)): a list is '
                         'read as batches (saw: a list of %d arrays, which net does not take as batches: %s)' % (
                             len(data), str(error).strip().splitlines()[-1])) from error


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
            # Copied at once: a static graph writes its next output into the same memory.
            _map(partial(_fill, sample=sample, start=start, stop=stop, batch_axis=batch_axis), stacked, output)
            start = stop
            bar.update()
        ndarray.waitall()       # the engine would queue all draws, with the memory for each
    return stacked


def _room(array, num_samples, count, batch_axis):
    shape = list(array.shape)
    shape[batch_axis] = count
    return ndarray.empty([num_samples] + shape, ctx=array.ctx, dtype=array.dtype)


def _fill(room, array, sample, start, stop, batch_axis):
    if array.shape[batch_axis] != stop - start:
        raise ValueError('every output of net must have the examples along batch_axis %d (saw: shape %s for a batch of '
                         '%d)' % (batch_axis, array.shape, stop - start))
    room[sample][(slice(None),) * batch_axis + (slice(start, stop),)] = array     # in two steps: 6 axes are too many


def _map(function, first, *others):
    """``function`` on each array of nested lists, which may hold None too."""
    if first is None:
        return None
    if isinstance(first, (list, tuple)):
        return [_map(function, *items) for items in zip(first, *others)]
    return function(first, *others)


def _concat(arrays, axis):
    return arrays[0] if len(arrays) == 1 else ndarray.concat(*arrays, dim=axis)


def _holds_arrays(item):
    """Whether ``item`` is an NDArray, or lists of nothing but them."""
    return isinstance(item, ndarray.NDArray) or (
        isinstance(item, (list, tuple)) and len(item) > 0 and all(_holds_arrays(child) for child in item))


def _size(inputs, batch_axis):
    return next(leaves(inputs)).shape[batch_axis]


def _cut(inputs, batch_size, batch_axis):
    for array in leaves(inputs):
        if array.shape[batch_axis] != _size(inputs, batch_axis):
            raise ValueError('data must have as many examples in each input along batch_axis %d (saw: %d and %d)' % (
                batch_axis, _size(inputs, batch_axis), array.shape[batch_axis]))
    size = _size(inputs, batch_axis)
    for start in range(0, size, batch_size):
        stop = min(start + batch_size, size)
        yield _map(partial(ndarray.slice_axis, axis=batch_axis, begin=start, end=stop), inputs), None


def _read(loader, with_labels):
    for batch in loader:
        inputs, label = (batch[0], batch[1:]) if isinstance(batch, (list, tuple)) and len(batch) else (batch, ())
        inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if not _holds_arrays(inputs):
            raise TypeError(f'data must be an NDArray, or an iterable of batches of NDArrays (saw: batch of type {type(batch).__name__})')
        if with_labels and not (label and isinstance(label[0], ndarray.NDArray)):
            raise ValueError('with_labels needs batches whose second item is the label (saw: batch of %d items)' % (
                1 + len(label)))
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
