# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The Parameters of a block in a checkpoint."""
import re
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
from mxnet import ndarray
from mxnet.gluon import Block, Parameter

from .._mxnet.arrays import gluon_kind, make_writable
from ..posterior.rho import RhoParameter
from .file import Path

__all__ = ['pack', 'unpack', 'Loaded', 'priors_of']


class Loaded(NamedTuple):
    """A Parameter and its value from a file, which was checked to fit.

    Attributes
    ----------
    param : Parameter
    value : numpy array
    each : numpy array or None
        The values on each context, along the first axis, if the contexts differ.
    """
    param: Parameter
    value: np.ndarray
    each: Optional[np.ndarray]

    def set(self) -> None:
        """Give the Parameter its value."""
        make_writable(self.param)
        self.param._load_init(gluon_kind(ndarray.array(self.value, dtype=self.value.dtype)), None)
        if self.each is not None and len(self.each) == len(self.param.list_ctx()):
            for data, own in zip(self.param.list_data(), self.each):
                data[:] = own


def pack(prefix: str, block: Block, arrays: Dict[str, np.ndarray]) -> List[str]:
    """Put the Parameters of ``block`` into ``arrays``; returns their names, as ``save_parameters`` writes them."""
    params = block._collect_params_with_prefix()
    for name, param in params.items():
        if param._stype != 'default':
            raise ValueError(f'net must have dense Parameters (saw: {name}, {param._stype})')
        values = [value.asnumpy() for value in param.list_data()]
        arrays[f'{prefix}/{name}'] = values[0]
        if any(not np.array_equal(values[0], value) for value in values):
            arrays[f'{prefix}/{name}'] = param._reduce().asnumpy()
            arrays[f'contexts/{prefix}/{name}'] = np.stack(values)
    return list(params)


def unpack(path: Path, prefix: str, block: Block, names: Any, arrays: Dict[str, np.ndarray]) -> List[Loaded]:
    """Check that the Parameters in a file fit ``block``; returns them with the values that they are to get."""
    params = block._collect_params_with_prefix()
    if not isinstance(names, list) or len(set(names)) < len(names):
        raise ValueError(f'{path}: must list each Parameter once (saw: {names!r})')
    if set(names) != set(params):
        raise ValueError(f'{path}: must hold the Parameters of this {type(block).__name__}: '
                         f'{sorted(set(params) - set(names))} missing, {sorted(set(names) - set(params))} too many')
    found = []
    for name, param in params.items():
        value = arrays[f'{prefix}/{name}']
        each = arrays.get(f'contexts/{prefix}/{name}')
        if param.shape is not None and (len(param.shape) != value.ndim or any(
                size not in (0, -1, known) for size, known in zip(param.shape, value.shape))):
            raise ValueError(f'{path}: Parameter {name} must have the shape {param.shape} (saw: {value.shape})')
        if value.size == 0:     # MXNet takes a 0 in a shape for a size that is not known yet
            raise ValueError(f'{path}: Parameter {name} must not be empty (saw: {value.shape})')
        if np.dtype(param.dtype) != value.dtype:
            raise ValueError(f'{path}: Parameter {name} must be {np.dtype(param.dtype)} (saw: {value.dtype})')
        if each is not None and (len(each.shape) != value.ndim + 1 or each.shape[1:] != value.shape
                                 or each.dtype != value.dtype):
            raise ValueError(f'{path}: Parameter {name} must be {value.dtype}, {value.shape} on each context '
                             f'(saw: {each.dtype}, {each.shape[1:]})')
        found.append(Loaded(param, value, each))
    _check_rhos(path, params, found)
    return found


def _check_rhos(path, params, found):
    """Raise ValueError if a rho has another shape than its mu. The shape of neither may be known before."""
    shapes = {id(loaded.param): loaded.value.shape for loaded in found}
    for name, param in params.items():
        if isinstance(param, RhoParameter):
            shape, wanted = shapes[id(param)], shapes.get(id(param.mu))
            if wanted is not None and shape != wanted:
                raise ValueError(f'{path}: Parameter {name} must have the shape {wanted} of its mean (saw: {shape})')


def priors_of(net: Block) -> Dict[str, str]:
    """Name of a Parameter rho -> the ``repr`` of the prior of its weights, without addresses in memory."""
    # A function among the attributes of a user's prior has an address, which is another one in each process.
    return {name: re.sub(' at 0x[0-9a-fA-F]+', '', repr(param.prior))
            for name, param in net._collect_params_with_prefix().items() if isinstance(param, RhoParameter)}
