# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Priors over the weights. Each owns its part of the KL divergence."""
import math

from mxnet import ndarray, symbol

from .checks import check_finite, check_fraction, check_positive
from .posterior import negative_entropy

__all__ = ['Prior', 'GaussianPrior', 'MixturePrior', 'ScaleMixturePrior', 'LaplacePrior', 'StudentTPrior',
           'default_prior']


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
    r"""Gaussian prior, whose KL divergence has a closed form.

    .. math:: KL = \log\frac{\sigma_p}{\sigma} + \frac{\sigma^2 + (\mu - \mu_p)^2}{2 \sigma_p^2} - \frac{1}{2}

    Parameters
    ----------
    sigma : float, default 1.0
        Standard deviation, positive and finite.
    mu : float, default 0.0
        Mean, finite.

    Raises
    ------
    ValueError
        If ``sigma`` is not positive and finite, or ``mu`` is not finite.
    """

    closed_form = True

    def __init__(self, sigma=1.0, mu=0.0):
        self.sigma = check_positive('sigma', sigma)
        self.mu = check_finite('mu', mu)

    def log_prob(self, w):
        return -_half_square(w - self.mu, self.sigma) - _log_normalizer(self.sigma)

    def kl(self, mu, sigma, w):
        F = _operators(sigma)
        return (_half_square(mu - self.mu, self.sigma) + _half_square(sigma, self.sigma)
                - F.log(sigma) + (math.log(self.sigma) - 0.5))


class MixturePrior(Prior):
    r"""Mixture of any number of Gaussians with mean 0.

    .. math:: p(w) = \sum_k \pi_k N(w; 0, \sigma_k^2)

    Its log density is finite for every float32 weight: the components' log densities are added by softplus, from the
    widest to the narrowest, and no exponential can underflow. Beyond |w| = 1e18 of the narrowest sigma it is constant.

    Parameters
    ----------
    weights : sequence of float
        Weights pi of the components, positive, with sum 1.
    sigmas : sequence of float
        Standard deviations of the components, positive and finite.

    Raises
    ------
    ValueError
        If an argument is outside its range, or the two differ in length.
    """

    def __init__(self, weights, sigmas):
        self._set_components(tuple(check_positive('weights', weight) for weight in weights),
                             tuple(check_positive('sigmas', sigma) for sigma in sigmas))

    def _set_components(self, weights, sigmas):
        if not weights or len(weights) != len(sigmas):
            raise ValueError('weights and sigmas must be of one length, at least 1 (saw: %d and %d)' % (
                len(weights), len(sigmas)))
        if abs(sum(weights) - 1) > 1e-6:
            raise ValueError('weights must have the sum 1 (saw: %r, with sum %r)' % (weights, sum(weights)))
        self.weights, self.sigmas = weights, sigmas

    def log_prob(self, w):
        F = _operators(w)
        components = sorted(zip(self.sigmas, self.weights), reverse=True)
        # All exponents are multiples of the narrowest one, so one square serves.
        narrowest = components[-1][0]
        half_square = _half_square(w, narrowest)
        total = None
        for sigma, weight in components:
            log_prob = (math.log(weight) - _log_normalizer(sigma)) - half_square * (narrowest / sigma) ** 2
            # softrelu's absolute error, 1e-7, is enough here; its relative error, large below -6, would not be for sigma.
            total = log_prob if total is None else total + F.Activation(log_prob - total, act_type='softrelu')
        return total


class ScaleMixturePrior(MixturePrior):
    r"""Scale mixture of two Gaussians with mean 0 (Blundell et al. 2015, eq. 7).

    .. math:: p(w) = \pi N(w; 0, \sigma_1^2) + (1 - \pi) N(w; 0, \sigma_2^2)

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
        pi = check_fraction('pi', pi)
        self._set_components((pi, 1 - pi), (check_positive('sigma1', sigma1), check_positive('sigma2', sigma2)))

    def __repr__(self):
        return 'ScaleMixturePrior(pi=%r, sigma1=%r, sigma2=%r)' % ((self.weights[0],) + self.sigmas)


class LaplacePrior(Prior):
    r"""Laplace prior with mean 0, whose KL divergence has a closed form.

    .. math:: p(w) = \frac{1}{2 b} e^{-|w| / b}, \quad KL = \log\frac{2 b}{\sigma} - \tfrac{1}{2}\log(2 \pi e) +
        \frac{1}{b}\left(\sigma \sqrt{2 / \pi}\, e^{-\mu^2 / 2 \sigma^2} + \mu\,
        \mathrm{erf}\frac{\mu}{\sqrt{2} \sigma}\right)

    Parameters
    ----------
    scale : float, default 1.0
        Scale b, positive and finite; the standard deviation is sqrt(2) b.

    Raises
    ------
    ValueError
        If ``scale`` is not positive and finite.
    """

    closed_form = True

    def __init__(self, scale=1.0):
        self.scale = check_positive('scale', scale)

    def log_prob(self, w):
        return -w.abs() * (1 / self.scale) - math.log(2 * self.scale)

    def kl(self, mu, sigma, w):
        F = _operators(sigma)
        ratio = (mu / sigma).clip(-1e18, 1e18)
        mean_abs = sigma * math.sqrt(2 / math.pi) * F.exp(-0.5 * ratio.square()) + mu * F.erf(ratio * math.sqrt(0.5))
        return negative_entropy(F, sigma) + mean_abs * (1 / self.scale) + math.log(2 * self.scale)


class StudentTPrior(Prior):
    r"""Student's t prior with mean 0.

    .. math:: p(w) \propto \left(1 + \frac{w^2}{\nu s^2}\right)^{-(\nu + 1) / 2}

    Parameters
    ----------
    df : float, default 3.0
        Degrees of freedom nu, positive and finite; 1 is the Cauchy distribution.
    scale : float, default 1.0
        Scale s, positive and finite; not the standard deviation, which is infinite for df <= 2.

    Raises
    ------
    ValueError
        If an argument is not positive and finite.
    """

    def __init__(self, df=3.0, scale=1.0):
        self.df = check_positive('df', df)
        self.scale = check_positive('scale', scale)

    def log_prob(self, w):
        normalizer = (math.lgamma((self.df + 1) / 2) - math.lgamma(self.df / 2)
                      - 0.5 * math.log(self.df * math.pi) - math.log(self.scale))
        return (_half_square(w, self.scale) * (2 / self.df)).log1p() * (-(self.df + 1) / 2) + normalizer


#: The prior of a layer that is not given one: the notebook's, with the pi that it really ran.
default_prior = ScaleMixturePrior()
