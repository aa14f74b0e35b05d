# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The operators of a network, with the shapes and types of all arrays between them."""
import ast
import json
import re
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Set, Tuple

import mxnet as mx
import numpy as np
from mxnet import autograd

from .sizes import Shape, at, fixed, joined

__all__ = ['Array', 'Node', 'Trace', 'InferenceError']

#: Sizes at which a batch is tried. Two show how a shape grows, and the others whether it does so for all sizes: an axis
#: of size 1 broadcasts, some operators drop it, and a slice may cut what is large.
_BATCH_SIZES = 2, 3, 7, 1, 1009
#: Attributes that do not change what an operator computes in predict mode.
_WITHOUT_EFFECT = {'cudnn_tune', 'cudnn_off', 'workspace', 'ctx', 'num_args', 'momentum', 'grad_scale', 'sparse_grad',
                   'ndev', 'key', 'use_global_stats'}


class Array(NamedTuple):
    """What an operator takes or returns.

    Attributes
    ----------
    key : tuple
        (number of the node that makes it, number of the output of this node)
    shape : Shape
    dtype : numpy.dtype
    """

    key: Tuple[int, int]
    shape: Shape
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Node:
    """One operator of the network, or a variable, whose ``op`` is ``'null'``.

    Attributes
    ----------
    op : str
        MXNet's name without the underscores at its start.
    name : str
        It starts with the name of the layer.
    inputs, outputs : list of Array
    """

    def __init__(self, description: Dict[str, Any], inputs: List[Array], outputs: List[Array]):
        self.op = description['op'].lstrip('_')
        self.name = description['name']
        self.inputs = inputs
        self.outputs = outputs
        self._attributes = {key: value for key, value in description.get('attrs', {}).items()
                            if not key.startswith('__') and key not in _WITHOUT_EFFECT}
        self._read: Set[str] = set()

    def get(self, name: str, default: Any) -> Any:
        """The value of an attribute, or ``default`` if MXNet's default holds."""
        self._read.add(name)
        text = self._attributes.get(name)
        if text is None:
            return default
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError):       # a word
            return text

    def axes(self, name: str, count: int, default: int) -> Tuple[int, ...]:
        """The value of an attribute that has one number for each of ``count`` axes."""
        value = self.get(name, ())
        return ((value,) if isinstance(value, int) else tuple(value)) or (default,) * count

    def require(self, name: str, *allowed: Any) -> None:
        """Raise an error unless the attribute has one of the ``allowed`` values, of which MXNet's default is first."""
        value = self.get(name, allowed[0])
        if not any(value == choice and type(value) is type(choice) for choice in allowed):
            self.refuse(f'{name}={value!r}')

    def refuse(self, what: str) -> NoReturn:
        """Raise the error that ONNX has no counterpart for ``what``, or that this package writes none."""
        raise NotImplementedError(f'net must consist of operators that export_onnx knows (saw: {self.op} with {what} '
                                  f'in {self.name})')

    def refuse_batch(self, what: str) -> NoReturn:
        """Raise the error that the operator serves one batch size only, for the reason ``what``."""
        raise ValueError(f'dynamic_batch must be False for this network, which exports it for one batch size (saw: '
                         f'True, but {self.op} in {self.name} serves one batch size only: {what})')

    def check_size(self) -> None:
        """Raise an error if the output has not as many values as the input; MXNet sees this as late as it runs."""
        before, after = self.inputs[0].shape, self.outputs[0].shape
        for batch_size in _BATCH_SIZES:
            first, second = at(before, batch_size), at(after, batch_size)
            if np.prod(first) != np.prod(second):
                if not fixed(before):
                    self.refuse_batch(f'it makes shape {second} of shape {first}')
                raise InferenceError(f'{self.op} in {self.name} makes shape {second} of shape {first}')

    def check_all_read(self) -> None:
        """Raise an error if the node has an attribute that nobody has looked at."""
        for name in self._attributes.keys() - self._read:
            self.refuse(f'{name}={self._attributes[name]}')


class Trace:
    """The operators of a network.

    Attributes
    ----------
    nodes : list of Node
        Each stands behind those whose outputs it takes.
    heads : list of Array
        What the network returns.
    inputs : dict
        Name -> Array of an input.
    values : dict
        Name -> numpy array of a Parameter.
    """

    def __init__(self, symbol: mx.sym.Symbol, inputs: Dict[str, Tuple[Optional[int], ...]], dtypes: Dict[str, np.dtype],
                 values: Dict[str, np.ndarray]):
        self.values = values
        self._internals = symbol.get_internals()
        graph = json.loads(symbol.tojson())
        self._entries = self._numbered(graph['nodes'])
        shapes = _shapes(self._internals, inputs, values)
        types = _types(self._internals, dtypes, values)
        arrays = {key: Array(key, shape, dtype) for key, shape, dtype in zip(self._entries, shapes, types)}
        outputs: Dict[int, List[Array]] = {}
        for (node, _), array in arrays.items():
            outputs.setdefault(node, []).append(array)
        self.nodes = [Node(description, [arrays[node, output] for node, output, _ in description['inputs']
                                         if (node, output) in arrays], outputs[number])
                      for number, description in enumerate(graph['nodes'])]
        self.heads = [arrays[node, output] for node, output, _ in graph['heads']]
        variables = {node.name: node.outputs[0] for node in self.nodes if node.op == 'null'}
        self.inputs = {name: variables[name] for name in inputs}        # in the order of the arguments

    def _numbered(self, descriptions):
        """{(number of a node, number of its output): position among the internals}, in the order of the internals."""
        names = [(entry.name, output) for entry, output in zip(self._internals, self._internals.list_outputs())]
        entries, position = {}, 0
        for number, description in enumerate(descriptions):
            seen = set()
            # Neighbours may have the same name, if a layer is used twice; then the name of the first output returns.
            while position < len(names) and names[position][0] == description['name'] and (
                    names[position][1] not in seen):
                entries[number, len(seen)] = position
                seen.add(names[position][1])
                position += 1
        assert position == len(names)
        return entries

    def value(self, array: Array) -> np.ndarray:
        """The value of an array that depends on no input."""
        # An operator that takes nothing, such as _zeros, needs an argument all the same to be run.
        symbol = mx.sym.Group([mx.sym.var('/'), self._internals[self._entries[array.key]]])
        values = [mx.nd.array(self.values[name], dtype=self.values[name].dtype) for name in symbol.list_inputs()[1:]]
        with autograd.pause():      # in predict mode
            return mx.nd.CachedOp(symbol)(mx.nd.zeros(1), *values)[1].asnumpy()


def _shapes_at(inputs, batch_size):
    """The shapes of the inputs, with ``batch_size`` in the place of None."""
    return {name: tuple(batch_size if size is None else size for size in shape) for name, shape in inputs.items()}


def _shapes(internals, inputs, values):
    """The shape of each internal array."""
    known = {name: values[name].shape for name in internals.list_inputs() if name in values}
    dynamic = any(None in shape for shape in inputs.values())
    batch_sizes = _BATCH_SIZES if dynamic else _BATCH_SIZES[:1]
    found = [_inferred(internals, 'shape', dict(_shapes_at(inputs, batch_size), **known)) for batch_size in batch_sizes]
    shapes = [joined(batch_sizes, each) for each in zip(*found)]
    for name, shape in zip(internals.list_outputs(), shapes):
        if shape is None:
            raise ValueError('dynamic_batch must be False for this network, which exports it for one batch size (saw: '
                             f'True, but the shape of {name} does not grow with the batch size)')
    return shapes


def _types(internals, dtypes, values):
    """The dtype of each internal array."""
    known = {name: values[name].dtype for name in internals.list_inputs() if name in values}
    return [np.dtype(dtype) for dtype in _inferred(internals, 'type', dict(dtypes, **known))]


def _inferred(internals, what, known):
    try:
        outputs = getattr(internals, f'infer_{what}')(**known)[1]
    except mx.MXNetError as error:
        raise InferenceError(_reason(error)) from None
    if outputs is None:
        raise InferenceError('MXNet cannot infer all of them')
    return outputs


def _reason(error):
    """What MXNet's error says, without the places in its source."""
    text = str(error).rpartition('MXNetError: ')[2].partition('\n')[0]
    return re.sub(r'\[[\d:]+\] |\S+\.(cc|h):\d+: ', '', text)


class InferenceError(ValueError):
    """The shapes or types of the inputs do not fit the network, for the reason that MXNet gives."""
