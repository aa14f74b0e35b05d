# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayesian classes for blocks that have no counterpart in this package: a user's own blocks, and some of Gluon's."""
from typing import Dict, Optional, Type

from mxnet.gluon import Block, nn, rnn
from mxnet.gluon.nn.basic_layers import _BatchNorm

from ..layers import linear, np_recurrent, recurrent
from ..layers.block import RESERVED, BayesBlock, can_have_posterior, check_served
from ..layers.transposed import TransposedByConvolution

__all__ = ['BAYESIAN', 'bayesian_class']

#: Class of a Gluon layer -> Bayesian class.
BAYESIAN: Dict[type, type] = {getattr(module, name): getattr(ours, 'Bayes' + name) for module, ours, names in (
    (nn, linear, ('Dense', 'Conv1D', 'Conv2D', 'Conv3D', 'Conv1DTranspose', 'Conv2DTranspose', 'Conv3DTranspose',
                  'Embedding')),
    (rnn, recurrent, np_recurrent.__all__), (np_recurrent, recurrent, np_recurrent.__all__)) for name in names}

#: Any other plain class -> the Bayesian class that was made for it, or None if it cannot be Bayesian.
_made: Dict[type, Optional[type]] = {}


def bayesian_class(block: Block, own_blocks: bool = False) -> Optional[Type[BayesBlock]]:
    """The Bayesian class for a plain ``block``; None if there is no such class.

    A block whose class is not in ``BAYESIAN`` must also have a Parameter that can have a posterior.

    Parameters
    ----------
    block : Block
    own_blocks : bool, default False
        Whether a Bayesian class is made for blocks whose class is not in ``BAYESIAN``.
    """
    if type(block) in BAYESIAN:
        return BAYESIAN[type(block)]
    # An attribute of the block such as ``prior`` would be hidden by the same attribute of the Bayesian layer.
    if own_blocks and RESERVED.isdisjoint(vars(block)) and any(map(can_have_posterior, block._reg_params.values())):
        return _class_for(type(block))
    return None


def _class_for(plain):
    """The Bayesian class for blocks of class ``plain``, made at the first call; None if they cannot be Bayesian."""
    if plain not in _made:
        mixins = _mixins(plain)
        _made[plain] = mixins and type('Bayes' + plain.__name__, mixins + (plain,), {
            '__module__': __name__, '__doc__': f'A {plain.__name__} with a posterior.', '_undone_in_plain': True,
            '__reduce_ex__': _reduce_ex})
    return _made[plain]


def _mixins(plain):
    """The mixins that make blocks of class ``plain`` Bayesian; None if they cannot be Bayesian."""
    # The moving statistics of BatchNorm are valid for one set of weights only.
    if issubclass(plain, (BayesBlock, _BatchNorm)) or getattr(plain, '_stays_plain', False):
        return None
    try:
        check_served(plain)
    except TypeError:
        return None
    layer = next((base for base in plain.__mro__ if base in BAYESIAN), None)
    if layer is None:
        return (recurrent.BayesCell,) if issubclass(plain, rnn.RecurrentCell) else (BayesBlock,)
    mixins = BAYESIAN[layer].__bases__[:-1]
    if plain.hybrid_forward is layer.hybrid_forward or not issubclass(mixins[0], linear.BayesLinear):
        return mixins
    # The hybrid_forward of this class may not be linear, so the class has only the estimator 'sample'. A transposed
    # convolution cannot be Bayesian here: its operator must be replaced, but this hybrid_forward may call it.
    return None if TransposedByConvolution in mixins else (BayesBlock,)


def _reduce_ex(self, protocol):
    """Reduce the block for ``pickle`` and ``copy``, which do not find the class by its name."""
    return _empty, (self._plain_class(),), self.__dict__


def _empty(plain):
    cls = _class_for(plain)
    return cls.__new__(cls)
