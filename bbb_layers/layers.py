# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayesian counterparts of Gluon's layers."""
from mxnet.gluon import nn

from .block import BayesBlock

__all__ = ['BayesDense']


class BayesDense(BayesBlock, nn.Dense):
    r"""Densely connected layer with a posterior over its weights and biases.

    .. math:: y = f(x W^T + b), \quad W \sim N(\mu_W, \sigma_W^2), \quad b \sim N(\mu_b, \sigma_b^2)

    It takes what ``nn.Dense`` takes, with the same meaning and in the same order, and as keywords the arguments of
    :class:`~bbb_layers.BayesBlock`. ``weight_initializer`` and ``bias_initializer`` are those of mu.

    Parameters
    ----------
    units : int
        Size of the output.
    activation : str, default None
    use_bias : bool, default True
    flatten : bool, default True
        Whether all axes of the input but the first are collapsed into one.
    dtype : str or numpy.dtype, default 'float32'
    weight_initializer : str or Initializer, default None
    bias_initializer : str or Initializer, default 'zeros'
    in_units : int, default 0
        Size of the input; 0 leaves it to the first forward.
    prior : Prior, default ScaleMixturePrior(pi=0.5, sigma1=0.75, sigma2=0.01)
    initial_sigma : float, default 0.05

    Inputs:
        - **data**: shape (batch_size, x1, ..., xn), or (x1, ..., xn, in_units) with ``flatten=False``

    Outputs:
        - **out**: shape (batch_size, units), or (x1, ..., xn, units) with ``flatten=False``
    """
