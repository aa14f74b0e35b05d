# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How the noise of the weights reaches a layer's output.

An estimator is a function of

F, x
    as in ``hybrid_forward``
linear(x, weights)
    the Gluon layer's own operator, without activation; weights is a dict name -> array
take(kind)
    dict name -> what ``kind``, a ``bbb_layers.posterior.gaussian.Kind``, makes of each Parameter's posterior; it sees
    to it that a KL term is made once and that uses of a Parameter in one forward agree
example_shape(F, array)
    an array with size 1 along the axes of positions, which one weight serves several of

and returns the output before the activation. All have the same expectation, and the posterior mean in predict mode.
"""
from ..posterior.gaussian import Kind, noise_like

__all__ = ['ESTIMATORS', 'sample', 'local', 'flipout']

# Far below any variance that matters, and the square root's derivative there is still finite in float32.
_VARIANCE_FLOOR = 1e-30


def sample(F, x, linear, take, example_shape):
    r"""One draw of the weights for the whole batch (Blundell et al. 2015, section 3.2).

    .. math:: y_n = W x_n + b, \quad W, b \sim q
    """
    return linear(x, take(Kind.DRAW))


def local(F, x, linear, take, example_shape):
    r"""Local reparameterization: noise on each output, with the variance that the weights give it.

    .. math:: y_{nj} = \mu_j^T x_n + \sqrt{(\sigma_j^2)^T x_n^2} \; \epsilon_{nj}

    Exact for one position per example. Where one weight serves several positions (convolutions, Dense with
    ``flatten=False``), each output has the right marginal distribution, but the outputs of one example are drawn
    independently, which no draw of the weights would give. With a prior that has no closed form, the KL term takes a
    draw of the weights of its own.

    Kingma, Salimans, Welling: Variational Dropout and the Local Reparameterization Trick. NIPS 2015, eq. 6.
    """
    parts = take(Kind.SPREAD)
    mean = linear(x, {name: part[0] for name, part in parts.items()})
    variance = linear(F.square(x), {name: part[1] for name, part in parts.items()})
    # Without the floor, an output without variance (an input of zeros, a border) would have gradient 0 * inf = NaN.
    return mean + F.sqrt(F.maximum(variance, _VARIANCE_FLOOR)) * noise_like(F, mean)


def flipout(F, x, linear, take, example_shape):
    r"""Flipout: one draw of the weights, whose deviation from the mean gets random signs for each example.

    .. math:: y_n = \bar W x_n + (\Delta W (x_n \odot s_n) + \Delta b) \odot r_n, \quad
        s_n, r_n \sim \{-1, 1\}

    The draws of different examples are uncorrelated. Signs are per input and output feature of an example (in a
    convolution, per channel), and the same at all its positions.

    Wen, Vicol, Ba, Tran, Grosse: Flipout. ICLR 2018, eq. 4.
    """
    parts = take(Kind.SPLIT)
    mean = linear(x, {name: part[0] for name, part in parts.items()})
    flipped = F.broadcast_mul(x, _signs(F, example_shape(F, x)))
    deviation = linear(flipped, {name: part[1] for name, part in parts.items()})
    return mean + F.broadcast_mul(deviation, _signs(F, example_shape(F, mean)))


def _signs(F, like):
    return F.BlockGrad(2 * (F.random.uniform_like(F.BlockGrad(like)) < 0.5) - 1)


ESTIMATORS = {function.__name__: function for function in (sample, local, flipout)}
