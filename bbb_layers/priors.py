# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Priors over the weights. Each owns its part of the KL divergence."""
import math

from mxnet import ndarray, symbol

from .checks import check_fraction, check_positive
from .posterior import negative_entropy

__all__ = ['Prior', 'GaussianPrior', 'ScaleMixturePrior', 'default_prior']


def _operators(array):
    """The operators that fit ``array``: mxnet.symbol for a Symbol, else mxnet.ndarray."""
    return symbol if isinstance(array, symbol.Symbol) else ndarray


class Prior(object):
    r"""A prior that is independent and the same for every weight.

    A subclass defines :meth:`log_prob` and gets a KL divergence from one sample; one whose divergence has a closed
    form overrides :meth:`kl` and sets ``closed_form``. Both must be written with operators that NDArray and Symbol
    share (``w.square()``, ``-w``, ``w.abs()``, ...). Attributes cannot be changed once they are set. Two priors of one
    class with equal attributes are equal.

    Examples
    --------
    >>> class CauchyPrior(Prior):
    ...     def log_prob(self, w):
    ...         return -(1 + w.square()).log() - math.log(math.pi)
    """

    #: Whether :meth:`kl` does not depend on the draw.
    closed_form = False

    def log_prob(self, w):
        """Log density at each weight.

        Parameters
        ----------
        w : NDArray or Symbol, any shape

        Returns
        -------
        NDArray or Symbol in the shape of ``w``, in nats.
        """
        raise NotImplementedError('%s must define log_prob(w)' % type(self).__name__)

    def kl(self, mu, sigma, w):
        r"""KL divergence of the posterior N(mu, sigma^2) from this prior, weight by weight.

        .. math:: -\log\sigma - \tfrac{1}{2}\log(2 \pi e) - \log p(w)

        The first two terms are E_q[log q(w)]; the last is one sample of -E_q[log p(w)], on the draw ``w`` that made
        the network's output. It has the gradient of Blundell et al. 2015, eq. 2, with less variance.

        Parameters
        ----------
        mu, sigma, w : NDArray or Symbol, all of one shape

        Returns
        -------
        NDArray or Symbol in the shape of ``mu``, in nats.
        """
        return negative_entropy(_operators(sigma), sigma) - self.log_prob(w)

    def __setattr__(self, name, value):
        # A traced graph holds a prior's numbers: a change would reach some forwards and not others.
        if name in self.__dict__:
            raise AttributeError('%s of a %s cannot be changed; make a new prior' % (name, type(self).__name__))
        super(Prior, self).__setattr__(name, value)

    def __eq__(self, other):
        return self is other or (type(self) is type(other) and self.__dict__ == other.__dict__)

    def __ne__(self, other):
        return not self == other

    def __hash__(self):
        return hash(type(self))

    def __repr__(self):
        return '%s(%s)' % (type(self).__name__, ', '.join('%s=%r' % item for item in self.__dict__.items()))


def _half_square(w, sigma):
    """(w / sigma)^2 / 2, finite for every finite w and every normal float32 sigma."""
    return (w * (1 / sigma)).clip(-1e18, 1e18).square() * 0.5


def _log_normalizer(sigma):
    return math.log(sigma) + 0.5 * math.log(2 * math.pi)


class GaussianPrior(Prior):
    r"""Gaussian prior with mean 0, whose KL divergence has a closed form.

    .. math:: KL = \log\frac{\sigma_p}{\sigma} + \frac{\sigma^2 + \mu^2}{2 \sigma_p^2} - \frac{1}{2}

    Parameters
    ----------
    sigma : float, default 1.0
        Standard deviation, positive and finite.

    Raises
    ------
    ValueError
        If ``sigma`` is not positive and finite.
    """

    closed_form = True

    def __init__(self, sigma=1.0):
        self.sigma = check_positive('sigma', sigma)

    def log_prob(self, w):
        return -_half_square(w, self.sigma) - _log_normalizer(self.sigma)

    def kl(self, mu, sigma, w):
        F = _operators(sigma)
        return (_half_square(mu, self.sigma) + _half_square(sigma, self.sigma)
                - F.log(sigma) + (math.log(self.sigma) - 0.5))


class ScaleMixturePrior(Prior):
    r"""Scale mixture of two Gaussians with mean 0 (Blundell et al. 2015, eq. 7).

    .. math:: p(w) = \pi N(w; 0, \sigma_1^2) + (1 - \pi) N(w; 0, \sigma_2^2)

    Its log density is finite for every float32 weight: beside the wider component's log density it takes one softplus
    of the difference of the two, and no exponential that can underflow. Beyond |w| = 1e18 of the narrower sigma it is
    constant.

    Parameters
    ----------
    pi : float, default 0.5
        Weight of the first component, between 0 and 1, both excluded (use :class:`GaussianPrior` for those).
    sigma1, sigma2 : float, default 0.75 and 0.01
        Standard deviations of the components, positive and finite.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """

    def __init__(self, pi=0.5, sigma1=0.75, sigma2=0.01):
        self.pi = check_fraction('pi', pi)
        self.sigma1 = check_positive('sigma1', sigma1)
        self.sigma2 = check_positive('sigma2', sigma2)

    def log_prob(self, w):
        F = _operators(w)
        (log_wide, wide), (log_narrow, narrow) = sorted(
            [(math.log(self.pi), self.sigma1), (math.log1p(-self.pi), self.sigma2)], key=lambda part: -part[1])
        # Both exponents are multiples of the narrower one, so one square serves.
        half_square = _half_square(w, narrow)
        ratio = (narrow / wide) ** 2
        log_odds = (log_narrow - math.log(narrow)) - (log_wide - math.log(wide))
        # softrelu's absolute error, 1e-7, is enough here; its relative error, large below -6, would not be for sigma.
        bump = F.Activation(log_odds - half_square * (1 - ratio), act_type='softrelu')
        return bump - half_square * ratio + (log_wide - _log_normalizer(wide))


#: The prior of a layer that is not given one: the notebook's, with the pi that it really ran.
default_prior = ScaleMixturePrior()
