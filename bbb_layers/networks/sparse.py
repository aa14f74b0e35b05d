# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Sparse Dense layers: what a pruned network becomes once its zeros are to cost neither disk nor time."""
from typing import Any, Optional, Union

import numpy as np
from mxnet import autograd, cpu, initializer, ndarray, symbol
from mxnet.gluon import Block, Parameter, nn
from mxnet.gluon.utils import shape_is_known
from mxnet.util import is_np_array

from .._mxnet.checks import check_dtype
from .._mxnet.tree import copy_block, walk
from ..posterior.parameters import posterior_parameters
from .plain import to_deterministic

__all__ = ['SparseDense', 'to_sparse']

# Marks the transpose at the end of a layer in a graph, so that a layer right after it undoes it by leaving it out. The
# transposes between layers are a seventh of the time of a network with 98 % zeros.
_MARK = '__sparse_dense_rows__'


class CSRParameter(Parameter):
    """A Parameter without gradient whose value is a CSR matrix, made out of an ordinary one by :func:`make_csr`.

    Gluon has ``stype='csr'``, but only half of it: ``data``, ``_reduce`` (that is saving) and ``initialize`` raise, as
    they are written for row_sparse Parameters that a Trainer keeps. Loading, casting and cached graphs work.
    """

    _deferred_init: tuple

    def data(self, ctx=None):
        return self._check_and_get(self._data, ctx)

    def list_data(self):
        return self._check_and_get(self._data, list)

    def set_data(self, data):
        super().set_data(data.tostype('csr'))
        self._finish_deferred_init()    # a forward would infer the shape first, which fails

    def _load_init(self, data, *args, **kwargs):
        if data.stype == 'csr' and not _is_valid(data):
            # MXNet's product would read whatever memory the indices point to.
            raise ValueError(f'Parameter {self.name} must be a valid CSR matrix, which the file does not hold (saw: indices '
                             f'outside {data.shape})')
        super()._load_init(data, *args, **kwargs)

    def _reduce(self):
        return self.list_data()[0].copyto(cpu())

    def _finish_deferred_init(self):
        # Initializers cannot write into a CSR array.
        if self._deferred_init and self._deferred_init[-1] is None and shape_is_known(self.shape):
            init, ctx, default_init, _ = self._deferred_init
            with autograd.pause():
                data = ndarray.zeros(self.shape, dtype=self.dtype, ctx=cpu())
                initializer.create(default_init)(initializer.InitDesc(self.name, {'__init__': init}), data)
                self._deferred_init = init, ctx, default_init, data.tostype('csr')
        super()._finish_deferred_init()


def _check_kind():
    if is_np_array():
        raise RuntimeError('MXNet has no sparse np arrays: SparseDense and to_sparse need classic ones, '
                           'npx.reset_np()')


def _is_valid(csr):
    """Whether the indices of a CSR array are within it; MXNet's own ``check_format`` crashes on some that are not."""
    starts, columns = csr.indptr.asnumpy(), csr.indices.asnumpy()
    return bool(starts.shape == (csr.shape[0] + 1,) and starts[0] == 0 and (np.diff(starts) >= 0).all()
                and starts[-1] == len(columns) == len(csr.data.asnumpy())
                and ((columns >= 0) & (columns < csr.shape[1])).all())


def make_csr(param):
    """Turn ``param`` into a :class:`CSRParameter`, in place, so that everything which refers to it still does."""
    param.__class__ = CSRParameter
    param._stype = 'csr'
    param._var = None       # its symbol carries the storage type
    param._differentiable = False
    param.grad_req = 'null'
    if param._data is not None:
        with autograd.pause():
            param._data = [data.tostype('csr') for data in param._data]


class SparseDense(nn.Dense):
    r"""``nn.Dense`` for inference, with a sparse weight.

    .. math:: y = f(x W^T + b)

    The weight is a CSR matrix in memory and in the file that ``save_parameters`` writes, 12 bytes for each value other
    than 0 in float32, and the product takes only these into account. It gets no gradient; the bias and the input do.
    Names of Parameters are those of ``nn.Dense``, and each of the two loads the other's file.
    ``summary`` raises, as MXNet's sparse arrays have no ``size``; what ``export`` writes is loaded with dense weights.

    Parameters
    ----------
    units : int
        Size of the output.
    activation : str, default None
    use_bias : bool, default True
    flatten : bool, default True
        Whether all axes of the input but the first are collapsed into one.
    dtype : str or numpy.dtype, default 'float32'
        float32 or float64.
    weight_initializer : str or Initializer, default None
        Its zeros, if any, are not stored.
    bias_initializer : str or Initializer, default 'zeros'
    in_units : int, default 0
        Size of the input; 0 leaves it to the file that is loaded, or to ``weight.set_data``. Unlike that of
        ``nn.Dense``, it is not inferred from the input.

    Inputs:
        - **data**: shape (batch_size, x1, ..., xn), or (x1, ..., xn, in_units), n >= 1, with ``flatten=False``

    Outputs:
        - **out**: shape (batch_size, units), or (x1, ..., xn, units) with ``flatten=False``

    Raises
    ------
    ValueError
        If ``dtype`` is neither float32 nor float64, or ``params`` are those of a layer with a dense weight; in the
        forward, if ``in_units`` is still unknown.
    RuntimeError
        Under ``npx.set_np()``, as there are no sparse np arrays.
    """

    #: Says that ``to_bayesian`` leaves it alone: it is for inference.
    _stays_plain = True

    def __init__(self, units: int, activation: Optional[str] = None, use_bias: bool = True, flatten: bool = True,
                 dtype: Union[str, type, np.dtype] = 'float32',
                 weight_initializer: Union[str, initializer.Initializer, None] = None,
                 bias_initializer: Union[str, initializer.Initializer, None] = 'zeros', in_units: int = 0,
                 **kwargs: Any):
        _check_kind()
        check_dtype('a sparse layer', dtype)
        super().__init__(
            units, activation=activation, use_bias=use_bias, flatten=flatten, dtype=dtype,
            weight_initializer=weight_initializer, bias_initializer=bias_initializer, in_units=in_units, **kwargs)
        if isinstance(self.weight, CSRParameter):
            return
        if self.params._shared is not None and self.weight.name in self.params._shared.keys():
            raise ValueError(f'params must be those of another SparseDense (saw: {self.weight}, which is dense)')
        make_csr(self.weight)

    def hybrid_forward(self, F, x, weight, bias=None):
        if F is symbol and not shape_is_known(self.weight.shape):
            raise ValueError(f'in_units of {self.name} must be known before it runs, as MXNet does not infer the shape of a '
                             f'sparse weight: give it, or load the parameters (saw: {self._in_units})')
        # MXNet's product is fast only with the sparse operand first, hence on examples as columns.
        if F is symbol and x.attr(_MARK):
            columns = x.get_children()[0]
        else:
            if F is symbol and x.get_children() is not None:
                # slice_axis makes a copy in MXNet's layout. A reshape in place would leave the output of a 3D
                # convolution in oneDNN's blocked layout, and transpose, which is oneDNN's operator, would raise "could
                # not create a primitive descriptor for a reorder primitive". The input of a graph needs no copy.
                x = F.slice_axis(x, axis=0, begin=0, end=None)
            columns = F.transpose(F.flatten(x) if self._flatten else F.reshape(x, shape=(-1, 0), reverse=True))
        out = F.sparse.dot(weight, columns)
        if bias is not None:
            out = F.broadcast_add(out, F.expand_dims(bias, axis=1))
        elementwise = type(self.act) is nn.Activation       # whatever else stands there may know rows from columns
        if elementwise:
            out = self.act(out)
        out = F.transpose(out, **({'attr': {_MARK: 'True'}} if F is symbol else {}))
        if not self._flatten:
            out = F.reshape_like(out, x, lhs_begin=0, lhs_end=1, rhs_begin=0, rhs_end=-1)
        return out if elementwise or self.act is None else self.act(out)

    def _check_cast(self, dtype):
        check_dtype('a sparse layer', dtype)


def to_sparse(net: Block) -> Block:
    """A plain network for inference whose Dense layers are :class:`SparseDense`, for one that is pruned.

    A copy in which every Bayesian layer is first made deterministic (:func:`~bbb_layers.to_deterministic`), and then
    every ``nn.Dense`` sparse. Names, hybridization and what refers to the layers stay as they are, and so do all other
    layers: those of a class derived from ``nn.Dense``, and an ``nn.Dense`` whose weight a layer of another kind shares,
    such as an Embedding. It pays from about 95 % zeros on, and where layers are hybridized together. ``net`` is not
    changed.

    Parameters
    ----------
    net : Block
        Bayesian, plain, or in parts.

    Returns
    -------
    Block of the same kind

    Raises
    ------
    TypeError
        If ``net`` is no Gluon block.
    ValueError
        If ``net`` has no such layer, or one in a dtype other than float32 and float64, or a mu or sigma is not finite.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet, or under ``npx.set_np()``.
    """
    if not isinstance(net, Block):
        raise TypeError(f'net must be a Gluon block (saw: {net!r})')
    _check_kind()
    for layer in _dense_layers(net):
        check_dtype('a sparse layer', layer.weight.dtype)
    for block in walk(net):
        for param in block._reg_params.values():
            param.list_data()       # raises if it is not initialized
    new = to_deterministic(net) if posterior_parameters(net) else copy_block(net, {})
    layers = _dense_layers(new)
    if not layers:
        raise ValueError('net must hold at least one Dense layer whose weight no layer of another kind shares '
                         f'(saw: {net!r})')
    for layer in layers:
        # In place: attributes, lists and other blocks may refer to the layer and to its weight.
        layer.__class__ = SparseDense
        make_csr(layer.weight)
    return new


def _dense_layers(net):
    users = {}
    for block in walk(net):
        for param in block._reg_params.values():
            users.setdefault(param, []).append(block)
    return [block for block in walk(net) if type(block) is nn.Dense and
            all(type(user) is nn.Dense and user.weight is block.weight for user in users[block.weight])]
