# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What tests of ONNX files share: a block made from a function, and the comparison of a file with its network."""
import numpy as np
from mxnet import gluon, nd

from bbb_layers import export_onnx
from bbb_layers._mxnet.tree import leaves

BATCH_SIZES = 1, 2, 7


class Function(gluon.HybridBlock):
    """A block that computes ``function(F, *inputs)``."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def hybrid_forward(self, F, *inputs):
        return self.function(F, *inputs)


def run(path, *inputs):
    """The outputs of an ONNX file, as numpy arrays."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if tuple(map(int, onnxruntime.__version__.split('.')[:2])) < (1, 15):
        # Old versions fuse a Gemm with the activation after it wrongly: in float64, and without a bias, they refuse.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return session.run(None, dict(zip([described.name for described in session.get_inputs()], inputs)))


def batch(shape, size, dtype='float32'):
    """Random values; ``size`` stands for the None in the shape, or for its first size if it has no None."""
    shape = list(shape)
    shape[shape.index(None) if None in shape else 0] = size
    return (2 * np.random.normal(size=shape)).astype(dtype)


def assert_equal(path, net, *inputs, rtol=1e-5):
    """The file computes what the network computes."""
    expected = list(leaves([net(*(nd.array(array, dtype=array.dtype) for array in inputs))]))
    outputs = run(path, *inputs)
    assert len(outputs) == len(expected)
    for output, wanted in zip(outputs, expected):
        wanted = wanted.asnumpy()
        assert output.dtype == wanted.dtype and output.shape == wanted.shape
        assert np.isfinite(wanted).all() and wanted.any()
        np.testing.assert_allclose(output, wanted, rtol=rtol, atol=rtol * abs(wanted).max())


def assert_exports(net, path, *shapes, dtypes=None, rtol=1e-5):
    """The file of ``net`` computes what ``net`` computes, for several batch sizes."""
    dtypes = dtypes or ['float32'] * len(shapes)
    export_onnx(net, path, *shapes, dtypes=dtypes)
    for size in BATCH_SIZES:
        assert_equal(path, net, *(batch(shape, size, dtype) for shape, dtype in zip(shapes, dtypes)), rtol=rtol)
