# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Names for type hints. MXNet has no hints: to a type checker its classes are Any, and tell the reader alone."""
from typing import TYPE_CHECKING, Sequence, Union

import numpy as np
from mxnet.gluon import HybridBlock
from mxnet.ndarray import NDArray
from mxnet.symbol import Symbol

__all__ = ['Array', 'ArrayLike', 'Mixin', 'Tensor']

Array = Union[NDArray, np.ndarray]
#: Also sequences of arrays or of numbers.
ArrayLike = Union[NDArray, np.ndarray, Sequence]
#: What a formula takes that serves eager and hybridized networks.
Tensor = Union[NDArray, Symbol]

# A mixin for layers has no base, but a type checker finds in the layer what it misses in the mixin.
if TYPE_CHECKING:
    Mixin = HybridBlock
else:
    Mixin = object
