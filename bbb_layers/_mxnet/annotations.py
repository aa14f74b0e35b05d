# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Names for type hints.

MXNet has no type hints, so a type checker takes its classes for Any: hints with them only inform the reader.
"""
from typing import TYPE_CHECKING, Sequence, Union

import numpy as np
from mxnet.gluon import HybridBlock
from mxnet.ndarray import NDArray
from mxnet.symbol import Symbol

__all__ = ['Array', 'ArrayLike', 'Mixin', 'Tensor']

Array = Union[NDArray, np.ndarray]
#: An array, or a sequence of arrays or of numbers.
ArrayLike = Union[NDArray, np.ndarray, Sequence]
#: The argument of a formula that works in eager and in hybridized networks.
Tensor = Union[NDArray, Symbol]

# At run time a mixin for layers has no base class. A type checker sees a base class, in which it finds the attributes
# of the layer that the mixin uses.
if TYPE_CHECKING:
    Mixin = HybridBlock
else:
    Mixin = object
