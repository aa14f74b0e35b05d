# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Bayesian counterparts of Gluon's layers.

Each layer takes the arguments of its Gluon layer, with the same meaning and in the same order, and as keywords the
arguments of :class:`~bbb_layers.BayesBlock`. The initializers are for mu.
"""
import numpy as np
from mxnet.gluon import nn

from .._mxnet.arrays import classic, gluon_kind
from .._mxnet.stand_ins import stand_in
from .block import BayesBlock
from .estimators import ESTIMATORS
from .transposed import TransposedByConvolution

__all__ = ['BayesDense', 'BayesConv1D', 'BayesConv2D', 'BayesConv3D', 'BayesConv1DTranspose', 'BayesConv2DTranspose',
           'BayesConv3DTranspose', 'BayesEmbedding']


class BayesLinear(BayesBlock):
    """Mixin for layers that apply an operator, linear in the weights and in the input, and then an activation."""

    _estimators = tuple(ESTIMATORS)
    _not_in_float16 = 'Convolution'

    def _check_dtype(self, dtype, params):
        super()._check_dtype(dtype, params)
        if self._estimator == 'local' and np.dtype(dtype) == np.float16:
            raise ValueError(f"estimator of {type(self).__name__} must be 'sample' or 'flipout' in float16, whose "
                             f"range is too small for the variances of 'local' (saw: 'local' for {self.name})")

    def _estimate(self, F, take, x, **params):
        # The forward of the layer's Gluon class, but without the activation: a linear map.
        operator = super(BayesBlock, stand_in(self, act=None)).hybrid_forward

        def linear(x, weights):
            return classic(operator(F, gluon_kind(x), **dict(params, **gluon_kind(weights))))

        output = gluon_kind(ESTIMATORS[self._estimator](F, classic(x), linear, take, self._example_shape))
        return output if self.act is None else self.act(output)


class _BayesDense(BayesLinear):
    """Mixin for the dense layer and classes derived from it."""

    _undone_in_plain = True
    _not_in_float16 = 'FullyConnected'

    def _example_shape(self, F, array):
        # The number of axes is unknown while this is traced; a reduction with ``exclude`` does not need to know it.
        return array if self._flatten else F.max(array, axis=(0, -1), exclude=True, keepdims=True)


class BayesDense(_BayesDense, nn.Dense):
    r"""Densely connected layer with a posterior over its weights and biases.

    .. math:: y = f(x W^T + b), \quad W \sim N(\mu_W, \sigma_W^2), \quad b \sim N(\mu_b, \sigma_b^2)

    With ``flatten=False`` and ``estimator='local'``, the positions of one example are drawn independently; see
    :func:`bbb_layers.layers.estimators.local`.

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
        Size of the input; with 0, the first forward infers it.
    prior : Prior, default ScaleMixturePrior(pi=0.5, sigma1=0.75, sigma2=0.01)
    bias_prior : Prior, default the same as ``prior``
    initial_sigma : float, default 0.05
    estimator : {'sample', 'local', 'flipout'}, default 'sample'
    kl : {'auto', 'sample'}, default 'auto'
        These five arguments are described at :class:`~bbb_layers.BayesBlock`.

    Inputs:
        - **data**: shape (batch_size, x1, ..., xn), or (x1, ..., xn, in_units) with ``flatten=False``

    Outputs:
        - **out**: shape (batch_size, units), or (x1, ..., xn, units) with ``flatten=False``
    """


class _BayesConv(BayesLinear):
    """Mixin for all convolutions. With ``estimator='local'``, the positions of one example are drawn independently;
    see :func:`bbb_layers.layers.estimators.local`."""

    _undone_in_plain = True

    def _example_shape(self, F, array):
        for axis, name in enumerate(self._kwargs['layout']):
            if name not in 'NC':
                array = F.slice_axis(array, axis=axis, begin=0, end=1)
        return array


class BayesConv1D(_BayesConv, nn.Conv1D):
    """1D convolution with a posterior over its weights and biases; arguments, input and output as ``nn.Conv1D``."""


class BayesConv2D(_BayesConv, nn.Conv2D):
    """2D convolution with a posterior over its weights and biases; arguments, input and output as ``nn.Conv2D``."""


class BayesConv3D(_BayesConv, nn.Conv3D):
    """3D convolution with a posterior over its weights and biases; arguments, input and output as ``nn.Conv3D``."""


class _BayesTransposed(_BayesConv):
    """Mixin for the transposed convolutions."""

    _undone_in_plain = True

    def _check_dtype(self, dtype, params):
        super()._check_dtype(dtype, params)
        if np.dtype(dtype) == np.float64 and any(
                kernel > 1 and stride > 1 and dilate > 1 for kernel, stride, dilate in zip(
                    *(self._kwargs[name] for name in ('kernel', 'stride', 'dilate')))):
            raise ValueError("dtype of {} must be float32 where both strides and dilation are above 1, since MXNet "
                             "1.9.1's layer, which predict and to_deterministic run, has wrong outputs in float64 "
                             '(saw: strides={}, dilation={})'.format(
                                 type(self).__name__, self._kwargs['stride'], self._kwargs['dilate']))


class BayesConv1DTranspose(_BayesTransposed, TransposedByConvolution, nn.Conv1DTranspose):
    """Transposed 1D convolution with a posterior over its weights and biases; arguments, input and output as
    ``nn.Conv1DTranspose``, with the operator of :mod:`bbb_layers.layers.transposed`."""


class BayesConv2DTranspose(_BayesTransposed, TransposedByConvolution, nn.Conv2DTranspose):
    """Transposed 2D convolution with a posterior over its weights and biases; arguments, input and output as
    ``nn.Conv2DTranspose``, with the operator of :mod:`bbb_layers.layers.transposed`."""


class BayesConv3DTranspose(_BayesTransposed, TransposedByConvolution, nn.Conv3DTranspose):
    """Transposed 3D convolution with a posterior over its weights and biases; arguments, input and output as
    ``nn.Conv3DTranspose``, with the operator of :mod:`bbb_layers.layers.transposed`."""


class BayesEmbedding(BayesBlock, nn.Embedding):
    """Embedding with a posterior over its vectors; arguments, input and output as ``nn.Embedding``.

    Every vector has a KL divergence at every step, and therefore a gradient. So ``sparse_grad=True`` raises ValueError.
    """
