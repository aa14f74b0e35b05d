# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Networks as ONNX files, which run without MXNet."""
import errno
import os
from typing import Sequence, Union

import mxnet as mx
from mxnet.gluon import Block, HybridBlock
from mxnet.gluon.parameter import DeferredInitializationError

from .._mxnet.arrays import classic, gluon_kind, value_of
from .._mxnet.checks import check_count, check_dtype
from .._mxnet.tree import copy_block, leaves, own_parameters, walk
from ..checkpoint.file import Path, write_atomically
from ..networks.plain import to_deterministic
from ..networks.sparse import SparseDense
from ..posterior.parameters import posterior_parameters
from .onnx_model import onnx_model
from .trace import InferenceError, Trace

__all__ = ['export_onnx']

_DTYPES = 'float16', 'float32', 'float64', 'int8', 'uint8', 'int32', 'int64'
#: protobuf reads no larger file.
_LARGEST = 2 ** 31 - 1


def export_onnx(net: Block, path: Path, *input_shapes: Sequence, dtypes: Union[str, Sequence[str]] = 'float32',
                dynamic_batch: bool = True, overwrite: bool = False) -> None:
    """Write a network as an ONNX file, which onnxruntime and other programs run without MXNet.

    The file computes what ``net`` computes in predict mode: a Bayesian network is written with its posterior means as
    weights (:func:`~bbb_layers.to_deterministic`), and a plain network as it is. ``net`` is not changed. The file has
    the operators of ONNX's opset 13. It is checked before it is written, and it appears at ``path`` only once it is
    whole. The package onnx is needed: ``pip install '.[onnx]'``.

    The inputs are named ``data``, or ``data0``, ``data1``, ... if there are several, in the order of the arguments of
    ``net``. The outputs are named ``output``, or ``output0``, ``output1``, ... in the order in which ``net`` returns
    them.

    Parameters
    ----------
    net : Block
        A HybridBlock that is initialized and knows the shapes of its Parameters. It need not be hybridized. All blocks
        in it must be HybridBlocks too.
    path : str or os.PathLike
        The file, usually with the ending ``.onnx``. Its folder must exist.
    *input_shapes : tuple of int
        The shape of each argument of ``net``. The file takes every batch size, whatever size is given here. The batch
        axis is the first axis of each input. If another axis is the batch axis, it is marked by None: ``(30, None,
        28)`` for a recurrent layer of layout TNC. As soon as one shape has a None, the batch axes are those with a
        None only. For an argument that is a list, such as the states of a recurrent layer, give a list of shapes.
    dtypes : str or sequence of str, default 'float32'
        The type of all inputs, or of each: float16, float32, float64, int8, uint8, int32 or int64.
    dynamic_batch : bool, default True
        Whether the file takes every batch size. With False, it takes inputs of ``input_shapes`` only.
    overwrite : bool, default False
        Whether an existing file is replaced.

    Raises
    ------
    TypeError
        If ``net`` is not a HybridBlock, or holds a block that is none, or a :class:`~bbb_layers.SparseDense`; if a
        shape or type is none.
    ValueError
        If ``input_shapes`` or ``dtypes`` do not fit ``net``; if ``dynamic_batch`` is True and a layer computes with one
        batch size only, which the error names; if the file would be larger than 2 GB; as
        :func:`~bbb_layers.to_deterministic`.
    NotImplementedError
        If ``net`` holds an operator that has no counterpart in ONNX, or that this function does not know. The error
        names the operator and its layer.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.
    ImportError
        If the package onnx is missing.
    FileExistsError
        If ``path`` exists and ``overwrite`` is False.
    OSError
        If the file cannot be written. Another file at ``path`` stays as it was.

    Example
    -------
    >>> net = bbb_layers.BayesDense(10, in_units=784)
    >>> net.initialize()
    >>> bbb_layers.export_onnx(net, 'net.onnx', (1, 784))
    >>> session = onnxruntime.InferenceSession('net.onnx')
    >>> output, = session.run(None, {'data': numpy.zeros((32, 784), 'float32')})
    """
    _check_net(net)
    shapes = _flat_shapes(input_shapes)
    types = _types(dtypes, len(shapes))
    batches = _with_batch_axes(shapes, dynamic_batch)
    _check_path(path, overwrite)
    try:
        import onnx.checker
        import onnx.shape_inference
    except ImportError as error:
        raise ImportError("export_onnx needs the package onnx, which is missing (saw: "
                          f"{error}): pip install '.[onnx]'") from error
    _check_initialized(net)
    plain = to_deterministic(net) if posterior_parameters(net) else copy_block(net, {})
    names = ['data'] if len(shapes) == 1 else [f'data{number}' for number in range(len(shapes))]
    values = _values(plain, names)
    symbol = _symbol(plain, _nested(input_shapes, iter(names)))
    # Under set_np(), MXNet would read the size 0, which stands for an unknown size in the Symbol, as an empty axis.
    with mx.util.np_array(False), mx.util.np_shape(False):
        model = _model(symbol, values, dict(zip(names, shapes)), dict(zip(names, batches)), dict(zip(names, types)))
    if model.ByteSize() > _LARGEST:
        raise ValueError(f'net must fit into a file of 2 GB (saw: {model.ByteSize()} bytes)')
    content = model.SerializeToString()
    try:
        onnx.checker.check_model(content, full_check=True)
    except onnx.shape_inference.InferenceError as error:
        raise NotImplementedError('net must consist of operators that ONNX has for the types of their inputs (saw: '
                                  f'{error})') from None
    write_atomically(path, content)


def _check_net(net):
    if not isinstance(net, HybridBlock):
        raise TypeError(f'net must be a HybridBlock, such as nn.HybridSequential (saw: {type(net).__name__})')
    for block in walk(net):
        if not isinstance(block, HybridBlock):
            raise TypeError(f'net must hold HybridBlocks only (saw: {block.name}, a {type(block).__name__})')
        if isinstance(block, SparseDense):
            raise TypeError(f'net must hold no SparseDense, as ONNX has no sparse products (saw: {block.name}): export '
                            'the network before to_sparse')


def _check_initialized(net):
    for block in walk(net):
        for param in own_parameters(block):
            try:
                param.list_data()
            except DeferredInitializationError as error:
                raise DeferredInitializationError(
                    f'net must know the shapes of its Parameters (saw: {param.name} of shape {param.shape}): call it '
                    'once with an input') from error
            except RuntimeError as error:
                raise RuntimeError(f'net must be initialized (saw: {param.name} without values): call '
                                   'net.initialize(), or load its Parameters') from error


def _flat_shapes(shapes):
    """The shapes of all inputs in one list."""
    flat = list(_flattened(shapes))
    if not flat:
        raise ValueError('input_shapes must have one shape for each input of net (saw: none)')
    for shape in flat:
        for size in shape:
            if size is not None:
                check_count('each size in input_shapes', size)
        if shape.count(None) > 1:
            raise ValueError(f'input_shapes must mark one batch axis of each input by None (saw: {shape})')
    return flat


def _flattened(shapes):
    for shape in shapes:
        if _is_list_of_shapes(shape):
            yield from _flattened(shape)
        elif isinstance(shape, (tuple, list)) and shape:
            yield tuple(shape)
        else:
            raise TypeError(f'input_shapes must be tuples of at least one size (saw: {shape!r})')


def _is_list_of_shapes(shape):
    return isinstance(shape, (tuple, list)) and bool(shape) and isinstance(shape[0], (tuple, list))


def _nested(shapes, names):
    """A Symbol for each shape, in lists where the shapes are."""
    return [_nested(shape, names) if _is_list_of_shapes(shape) else gluon_kind(mx.sym.var(next(names)))
            for shape in shapes]


def _types(dtypes, count):
    several = isinstance(dtypes, (tuple, list))
    if several and len(dtypes) != count:
        raise ValueError(f'dtypes must be one type, or one for each of the {count} inputs (saw: {dtypes!r})')
    return [check_dtype('an input', dtype, _DTYPES) for dtype in (dtypes if several else [dtypes] * count)]


def _with_batch_axes(shapes, dynamic_batch):
    """The shapes with None for the batch axis."""
    marked = any(None in shape for shape in shapes)
    if marked and not dynamic_batch:
        raise ValueError('input_shapes must have no None if dynamic_batch is False (saw: '
                         f'{", ".join(map(str, shapes))})')
    return shapes if marked or not dynamic_batch else [(None, *shape[1:]) for shape in shapes]


def _check_path(path, overwrite):
    """Raise the errors of a path that cannot be written, before anything is computed."""
    name = os.fspath(path)
    if os.path.isdir(name):
        raise IsADirectoryError(errno.EISDIR, 'path must be a file', name)
    if os.path.lexists(name) and not overwrite:
        raise FileExistsError(errno.EEXIST, 'path must not exist, unless overwrite is True', name)
    folder = os.path.dirname(os.path.realpath(name))
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, 'path must be in a folder that exists', name)


def _model(symbol, values, shapes, batches, types):
    """The ``onnx.ModelProto`` of a network.

    Parameters
    ----------
    symbol : Symbol
    values : dict
        Name -> numpy array of a Parameter.
    shapes, batches, types : dict
        Name of an input -> its shape as it was given, its shape with None for the batch axis, and its dtype.
    """
    used = symbol.list_inputs()
    for name, shape in shapes.items():
        if name not in used:
            raise ValueError('input_shapes must have the shapes of those inputs only that net uses (saw: '
                             f'{_listed(shapes)}, where {shape} for {name} does not change the outputs)')
    strange = [name for name in used if name not in values and name not in shapes]
    if strange:
        raise ValueError(f'net must hold all Parameters that it uses (saw: it does not hold {strange[0]})')
    given = {name: tuple(2 if size is None else size for size in shape) for name, shape in shapes.items()}
    trying = f'{_listed(given)} of {_listed(types)}'
    try:
        trace = Trace(symbol, given, types, values)
        if batches == given:
            return onnx_model(trace)
    except InferenceError as error:
        raise ValueError(f'input_shapes and dtypes must fit the network (saw: {trying}; {error})') from None
    try:
        return onnx_model(Trace(symbol, batches, types, values))
    except InferenceError as error:
        raise ValueError('dynamic_batch must be False for this network, which exports it for one batch size (saw: '
                         f'True, but the network computes {trying} alone; {error})') from None


def _listed(values):
    return ', '.join(map(str, values.values()))


def _values(plain, names):
    """{name of a Parameter: numpy array}."""
    values = {}
    for block in walk(plain):
        for param in own_parameters(block):
            if param.name in names:
                raise ValueError(f'net must have no Parameter with the name of an input (saw: {param.name})')
            values[param.name] = value_of(param).asnumpy()
    return values


def _symbol(plain, inputs):
    """The outputs of the network, as one Symbol."""
    for block in walk(plain):
        block._forward_hooks.clear()
        block._forward_pre_hooks.clear()
    try:
        return mx.sym.Group(classic(list(leaves([plain(*inputs)]))))
    except Exception as error:      # the code of hybrid_forward may raise any
        raise ValueError('net must run on Symbols, as hybridize needs it, with one argument for each of the '
                         f'{len(inputs)} input_shapes (saw: {type(error).__name__}: {error})') from error
