# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""An ONNX graph that grows by one node after the other."""
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, cast

import numpy as np

from .sizes import Linear, Shape, Size, fixed
from .trace import Array, Node, Trace

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
    trace : Trace
        Its inputs become those of the graph, and its Parameters get their own names.
    """

    def __init__(self, trace: Trace):
        import onnx     # optional
        self._onnx = onnx
        self._trace = trace
        self._values: Dict[str, np.ndarray] = {}
        self._known_constants: Dict[Tuple, str] = {}
        self._onnx_nodes: List[Any] = []
        self._names = {*trace.values, *trace.inputs}
        self._name_start = 'batch'
        self._tensors = {array.key: name for name, array in trace.inputs.items()}
        self._makers: Dict[Tuple[int, int], Node] = {}
        self._folded: Set[Tuple[int, int]] = set()
        for node in trace.nodes:
            if node.op == 'null' and node.name in trace.values:
                key = node.outputs[0].key
                self._tensors[key] = node.name
                self._values[node.name] = trace.values[node.name]
                self._folded.add(key)
        self._batch = self._find_batch_size()

    def _find_batch_size(self):
        """The tensor that has the batch size of the inputs; None if it is fixed."""
        for name, array in self._trace.inputs.items():
            if not fixed(array.shape):
                axis = array.shape.index(Linear(1, 0))
                return self.add('Gather', self.add('Shape', name), self.constant([axis]), axis=0)
        return None

    def fold(self, node: Node, deterministic: bool) -> bool:
        """Whether the outputs of ``node`` depend on no input, so that they need no node of ONNX.

        Their values are computed where they are used.
        """
        folded = deterministic and all(array.key in self._folded for array in node.inputs) and all(
            fixed(array.shape) for array in node.outputs)
        for array in node.outputs:
            self._makers[array.key] = node
            if folded:
                self._folded.add(array.key)
        return folded

    def begin(self, node: Node) -> None:
        """From now on, new ONNX nodes have names that start with the name of ``node``."""
        self._name_start = node.name

    def end(self, node: Node, tensors: Sequence[str]) -> None:
        """The outputs of ``node`` are these tensors."""
        self._tensors.update((array.key, tensor) for array, tensor in zip(node.outputs, tensors))

    def of(self, array: Array) -> str:
        """The name of the tensor of an array."""
        if array.key not in self._tensors:
            if array.key not in self._folded:
                self._makers[array.key].refuse(f'a use of its output {array.key[1]}')
            self._tensors[array.key] = self.constant(self._trace.value(array), array.dtype)
        return self._tensors[array.key]

    def value(self, array: Array) -> Optional[np.ndarray]:
        """The value of an array; None if it depends on an input."""
        return self._trace.value(array) if array.key in self._folded else None

    def is_zero(self, array: Array) -> bool:
        """Whether an array is made as zeros."""
        return array.key in self._makers and self._makers[array.key].op == 'zeros'

    def _new_name(self, name):
        number, unique = 0, name
        while unique in self._names:
            number += 1
            unique = f'{name}_{number}'
        self._names.add(unique)
        return unique

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the name of the output."""
        return self.add_many(op, 1, *inputs, **attributes)[0]

    def add_many(self, op: str, count: int, *inputs: str, **attributes: Any) -> List[str]:
        """Add a node with ``count`` outputs, and return their names."""
        outputs = [self._new_name(f'{self._name_start}/{op}') for _ in range(count)]
        self._onnx_nodes.append(self._onnx.helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """The name of a tensor with a fixed value, by default a list of integers."""
        array = np.asarray(value, dtype=dtype)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._known_constants:
            self._known_constants[key] = name = self._new_name('constant')
            self._values[name] = array
        return self._known_constants[key]

    def cast(self, tensor: str, dtype: Any) -> str:
        """``tensor`` in another type."""
        return self.add('Cast', tensor, to=self.type_of(dtype))

    def type_of(self, dtype: Any) -> int:
        """ONNX's number of a type."""
        # The function that does this was moved and renamed between the versions of onnx.
        return self._onnx.numpy_helper.from_array(np.zeros((), dtype)).data_type

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
            return self.constant(np.full(cast(Tuple[int, ...], shape), value), dtype)
        return self.add('Expand', self.constant(value, dtype), self.shape(shape))

    def finish(self, heads: Sequence[Array]) -> Any:
        """The ``onnx.ModelProto`` that returns ``heads``.

        Nodes and fixed values that no output needs are left out.
        """
        helper, inputs, outputs = self._onnx.helper, self._trace.inputs, {}
        for number, array in enumerate(heads):
            name = self._new_name('output' if len(heads) == 1 else f'output{number}')
            outputs[name] = array
            self._onnx_nodes.append(helper.make_node('Identity', [self.of(array)], [name], name=name))
        used = set(outputs)
        nodes = []
        for node in reversed(self._onnx_nodes):
            if used.intersection(node.output):
                used.update(node.input)
                nodes.append(node)
        graph = helper.make_graph(
            nodes[::-1], 'bbb_layers', [self._described(name, array) for name, array in inputs.items()],
            [self._described(name, array) for name, array in outputs.items()],
            [self._onnx.numpy_helper.from_array(value, name) for name, value in self._values.items() if name in used])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR_VERSION,
                                 producer_name='bbb_layers')

    def _described(self, name, array):
        shape = []
        for size in array.shape:
            if size == Linear(1, 0):
                size = _BATCH
            shape.append(None if isinstance(size, Linear) else size)
        return self._onnx.helper.make_tensor_value_info(name, self.type_of(array.dtype), shape)
