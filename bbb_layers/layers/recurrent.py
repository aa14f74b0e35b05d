# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayesian counterparts of Gluon's recurrent layers and cells.

Each class takes the arguments of its Gluon class, and as keywords the arguments of :class:`~bbb_layers.BayesBlock`.
Every Parameter has a posterior, and one draw serves all steps of a sequence and the whole batch, as in Fortunato,
Blundell, Vinyals: Bayesian Recurrent Neural Networks, 2017, section 3.
"""
import numpy as np
from mxnet.util import is_np_array

from ..forward.frames import one_forward
from . import np_recurrent
from .block import BayesBlock

__all__ = ['BayesRNN', 'BayesLSTM', 'BayesGRU', 'BayesRNNCell', 'BayesLSTMCell', 'BayesGRUCell']


class _BayesRecurrent(BayesBlock):
    """Mixin for all recurrent layers and cells. Their plain class is Gluon's own, except under ``npx.set_np()``."""

    _undone_in_plain = True

    @classmethod
    def _plain_class(cls):
        plain = super()._plain_class()
        return plain if is_np_array() else vars(plain).get('_gluon_class', plain)


class _BayesRNNLayer(_BayesRecurrent):
    """Mixin for the fused recurrent layers."""

    _undone_in_plain = True
    _not_in_float16 = 'RNN'

    def _check_dtype(self, dtype, params):
        super()._check_dtype(dtype, params)
        if np.dtype(dtype) == np.float64 and self._num_layers > 1:
            raise ValueError(f'dtype of {type(self).__name__} with num_layers > 1 must be float32, since MXNet '
                             "1.9.1's operator has wrong gradients of all layers but the last in float64 "
                             f'(saw: num_layers={self._num_layers})')


class BayesRNN(_BayesRNNLayer, np_recurrent.RNN):
    """Elman RNN with a posterior over all its Parameters; arguments, inputs and outputs as ``rnn.RNN``."""


class BayesLSTM(_BayesRNNLayer, np_recurrent.LSTM):
    """LSTM with a posterior over all its Parameters; arguments, inputs and outputs as ``rnn.LSTM``."""


class BayesGRU(_BayesRNNLayer, np_recurrent.GRU):
    """GRU with a posterior over all its Parameters; arguments, inputs and outputs as ``rnn.GRU``."""


class BayesCell(_BayesRecurrent):
    """Mixin for cells: an unrolled sequence has one draw.

    A cell that is called step by step also has one draw for all steps, if the calls are inside a block that has a
    :class:`~bbb_layers.BBBLoss`. Otherwise each step is a separate forward.
    """

    _undone_in_plain = True

    def unroll(self, length, inputs, *args, **kwargs):
        with one_forward(self, [inputs]):
            return super().unroll(length, inputs, *args, **kwargs)


class _BayesCell(BayesCell):
    """Mixin for Gluon's cells."""

    _undone_in_plain = True
    _not_in_float16 = 'FullyConnected'


class BayesRNNCell(_BayesCell, np_recurrent.RNNCell):
    """Elman RNN cell with a posterior over all its Parameters; arguments, inputs and outputs as ``rnn.RNNCell``."""


class BayesLSTMCell(_BayesCell, np_recurrent.LSTMCell):
    """LSTM cell with a posterior over all its Parameters; arguments, inputs and outputs as ``rnn.LSTMCell``."""


class BayesGRUCell(_BayesCell, np_recurrent.GRUCell):
    """GRU cell with a posterior over all its Parameters; arguments, inputs and outputs as ``rnn.GRUCell``."""
