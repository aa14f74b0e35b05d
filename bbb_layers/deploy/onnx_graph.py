# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""An ONNX graph that grows by one node after the other."""
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .sizes import Linear, Shape, Size, fixed
from .trace import Array, Node

__all__ = ['OPSET', 'IR_VERSION', 'Graph']

#: The version of ONNX's operators, and the version of the file format that belongs to it.
OPSET, IR_VERSION = 13, 7
#: The symbolic size of the batch axis in the file.
_BATCH = 'batch_size'


class Graph:
    """An ONNX graph that grows by one node after the other.

    Tensors are named by strings here, as in ONNX. An empty name stands for an optional input that is left out.

    Parameters
    ----------
    values : dict
        Name -> numpy array of a Parameter.
    """

    def __init__(self, values: Dict[str, np.ndarray]):
        import onnx     # optional
        self._onnx = onnx
        self._values = dict(values)
        self._constants: Dict[Tuple, str] = {}
        self._nodes: List[Any] = []
        self._names = set(values)
        self._prefix = ''
        self._batch: Optional[str] = None
        #: Array.key -> name of the tensor.
        self.tensors: Dict[Tuple[int, int], str] = {}
        #: Array.key -> the node that makes it.
        self.makers: Dict[Tuple[int, int], Node] = {}

    def begin(self, name: str) -> None:
        """From now on, new nodes and tensors have names that start with ``name``, which is that of a layer."""
        self._prefix = name

    def _new_name(self, name):
        number, unique = 0, name
        while unique in self._names:
            number += 1
            unique = f'{name}_{number}'
        self._names.add(unique)
        return unique

    def of(self, array: Array) -> str:
        """The name of the tensor of an array."""
        return self.tensors[array.key]

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the name of the output."""
        return self.add_many(op, 1, *inputs, **attributes)[0]

    def add_many(self, op: str, count: int, *inputs: str, **attributes: Any) -> List[str]:
        """Add a node with ``count`` outputs, and return their names."""
        outputs = [self._new_name(f'{self._prefix}/{op}') for _ in range(count)]
        self._nodes.append(self._onnx.helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """The name of a tensor with a fixed value, by default a list of integers."""
        array = np.asarray(value, dtype=dtype)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = self.store(self._new_name('constant'), array)
        return self._constants[key]

    def store(self, name: str, value: np.ndarray) -> str:
        """Put a fixed value into the file under this name."""
        self._names.add(name)
        self._values[name] = value
        return name

    def cast(self, tensor: str, dtype: Any) -> str:
        """``tensor`` in another type."""
        return self.add('Cast', tensor, to=self.type_of(dtype))

    def type_of(self, dtype: Any) -> int:
        """ONNX's number of a type."""
        # The function that does this was moved and renamed between the versions of onnx.
        return self._onnx.numpy_helper.from_array(np.zeros((), dtype)).data_type

    def make_input(self, array: Array, name: str, batch_axis: Optional[int]) -> None:
        """Name an input of the network."""
        self._names.add(name)
        self.tensors[array.key] = name
        if batch_axis is not None and self._batch is None:
            self.begin('batch')
            self._batch = self.add('Gather', self.add('Shape', name), self.constant([batch_axis]), axis=0)

    def shape(self, shape: Sequence[Size]) -> str:
        """The name of a tensor that has ``shape`` as its value."""
        if fixed(shape):
            return self.constant(shape)
        return self.add('Concat', *(self._size(size) for size in shape), axis=0)

    def _size(self, size):
        if isinstance(size, int):
            return self.constant([size])
        tensor = self._batch
        if size.factor != 1:
            tensor = self.add('Mul', tensor, self.constant([size.factor]))
        if size.offset:
            tensor = self.add('Add', tensor, self.constant([size.offset]))
        return tensor

    def reshape(self, tensor: str, shape: Sequence[Size]) -> str:
        """``tensor`` in another shape."""
        if sum(isinstance(size, Linear) for size in shape) > 1:
            return self.add('Reshape', tensor, self.shape(shape))
        return self.add('Reshape', tensor, self.constant([-1 if isinstance(size, Linear) else size for size in shape]))

    def filled(self, value: Any, shape: Shape, dtype: Any) -> str:
        """The name of a tensor of this shape that has one value everywhere."""
        if fixed(shape):
            return self.constant(np.full(shape, value), dtype)
        return self.add('Expand', self.constant(value, dtype), self.shape(shape))

    def finish(self, inputs: Dict[str, Array], heads: Dict[str, Array], producer: Dict[str, str]) -> Any:
        """The ``onnx.ModelProto`` with these inputs and outputs, each under its name.

        Nodes and fixed values that no output needs are left out.
        """
        helper = self._onnx.helper
        self.begin('')
        for name, array in heads.items():
            self._nodes.append(helper.make_node('Identity', [self.of(array)], [name], name=name))
        used = set(heads)
        nodes = []
        for node in reversed(self._nodes):
            if used.intersection(node.output):
                used.update(node.input)
                nodes.append(node)
        graph = helper.make_graph(
            nodes[::-1], 'bbb_layers', [self._described(name, array) for name, array in inputs.items()],
            [self._described(name, array) for name, array in heads.items()],
            [self._onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
             for name, value in self._values.items() if name in used])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR_VERSION,
                                 **producer)

    def _described(self, name, array):
        shape = []
        for size in array.shape:
            if size == Linear(1, 0):
                size = _BATCH
            shape.append(None if isinstance(size, Linear) else size)
        return self._onnx.helper.make_tensor_value_info(name, self.type_of(array.dtype), shape)
