# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Gluon's recurrent layers and cells, also for np arrays.

Under ``npx.set_np()``, the cells of Gluon 1.9.1 always fail, and its layers fail in a hybridized network that gives
them no states. The classes here work in both cases. With classic arrays, they do what Gluon's classes do.
"""
from mxnet import symbol
from mxnet.gluon import rnn
from mxnet.util import is_np_array

from .._mxnet.annotations import Mixin
from .._mxnet.arrays import as_kind_of, classic, gluon_kind, on_classic_arrays

__all__ = ['RNN', 'LSTM', 'GRU', 'RNNCell', 'LSTMCell', 'GRUCell']


def _zero_states(layer, inputs, layout):
    """Initial states for a Symbol, with its batch size.

    Gluon's own initial states have a batch size of 0. With classic arrays, 0 stands for a size that is not known yet;
    under set_np(), it is the size of an empty batch.
    """
    batch = symbol.zeros_like(inputs.as_nd_ndarray())
    for axis, name in enumerate(layout):
        if name != 'N':
            batch = symbol.slice_axis(batch, axis=axis, begin=0, end=1)
    states = []
    for info in layer.state_info(0):
        column = [-1 if name == 'N' else 1 for name in info['__layout__']]
        states.append(symbol.tile(symbol.reshape(batch, shape=column), reps=[max(size, 1) for size in info['shape']]))
    return gluon_kind(states)


class _Layer(Mixin):
    def __call__(self, inputs, states=None, *args, **kwargs):
        if states is None and is_np_array() and isinstance(inputs, symbol.Symbol):
            return super().__call__(inputs, _zero_states(self, inputs, self._layout), *args, **kwargs)[0]
        return super().__call__(inputs, states, *args, **kwargs)


class _Cell(Mixin):
    def begin_state(self, *args, **kwargs):
        return gluon_kind(super().begin_state(*args, **kwargs))

    def unroll(self, length, inputs, begin_state=None, layout='NTC', *args, **kwargs):
        if begin_state is None and is_np_array():
            first, axes = (inputs[0], 'NC') if isinstance(inputs, (list, tuple)) else (inputs, layout)
            if isinstance(first, symbol.Symbol):
                begin_state = _zero_states(self, first, axes)
        return gluon_kind(super().unroll(length, classic(inputs), classic(begin_state), layout, *classic(args),
                                         **classic(kwargs)))

    def __call__(self, inputs, states, *args):
        # The result is of the kind of the inputs: unroll splits the inputs and stacks the outputs as classic arrays.
        return as_kind_of(inputs, classic(super().__call__(gluon_kind(inputs), gluon_kind(states), *args)))

    @on_classic_arrays
    def hybrid_forward(self, F, *args, **params):
        return super().hybrid_forward(F, *args, **params)


class RNN(_Layer, rnn.RNN):
    __doc__ = rnn.RNN.__doc__
    _gluon_class = rnn.RNN


class LSTM(_Layer, rnn.LSTM):
    __doc__ = rnn.LSTM.__doc__
    _gluon_class = rnn.LSTM


class GRU(_Layer, rnn.GRU):
    __doc__ = rnn.GRU.__doc__
    _gluon_class = rnn.GRU


class RNNCell(_Cell, rnn.RNNCell):
    __doc__ = rnn.RNNCell.__doc__
    _gluon_class = rnn.RNNCell


class LSTMCell(_Cell, rnn.LSTMCell):
    __doc__ = rnn.LSTMCell.__doc__
    _gluon_class = rnn.LSTMCell


class GRUCell(_Cell, rnn.GRUCell):
    __doc__ = rnn.GRUCell.__doc__
    _gluon_class = rnn.GRUCell
