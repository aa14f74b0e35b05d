# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Priors over the weights. Each prior computes its own part of the KL divergence."""
import functools
import math
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from mxnet import ndarray, symbol

from .._mxnet.annotations import Array, Tensor
from .._mxnet.arrays import on_classic_arrays
from .._mxnet.checks import check_finite, check_fraction, check_numbers, check_positive
from .densities import HALF_LOG_2PI, half_square, student_t_log_normalizer
from .gaussian import ENTROPY_CONSTANT, negative_entropy, rho_from_sigma, sigma_from_rho

__all__ = ['Prior', 'GaussianPrior', 'MixturePrior', 'ScaleMixturePrior', 'LaplacePrior', 'StudentTPrior',
           'default_prior', 'check_prior']


def _operators(array):
    """The module of operators for ``array``: mxnet.symbol for a Symbol, otherwise mxnet.ndarray."""
    return symbol if isinstance(array, symbol.Symbol) else ndarray


class NativeForm(NamedTuple):
    """A prior in the form that the native draw takes.

    Attributes
    ----------
    name : {'gaussian', 'pair', 'mixture'}
    components : int
    numbers : list of float
    """
    name: str
    components: int
    numbers: Sequence[float]


class Prior:
    r"""A prior that is independent and the same for every weight.

    A subclass defines :meth:`log_prob` and gets a KL divergence that is estimated from one sample. A subclass whose KL
    divergence has a closed form overrides :meth:`kl` and sets ``closed_form``. Both methods must be written with
    operators that NDArray and Symbol share (``w.square()``, ``-w``, ``w.abs()``, ...). This holds under
    ``npx.set_np()`` too: both methods receive np arrays as NDArrays. Attributes cannot be changed once they are set.
    Two priors of one class with equal attributes are equal.

    Examples
    --------
    >>> class CauchyPrior(Prior):
    ...     def log_prob(self, w):
    ...         return -(1 + w.square()).log() - math.log(math.pi)
    """

    #: Whether :meth:`kl` does not depend on the draw.
    closed_form = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ('log_prob', 'kl'):
            if name in vars(cls):
                setattr(cls, name, on_classic_arrays(vars(cls)[name]))

    def log_prob(self, w: Tensor) -> Tensor:
        """Log density at each weight.

        Parameters
        ----------
        w : NDArray or Symbol, any shape

        Returns
        -------
        NDArray or Symbol
            In the shape of ``w``, in nats.
        """
        raise NotImplementedError(f'{type(self).__name__} must define log_prob(w)')

    def parameters(self) -> Dict[str, Tuple[np.ndarray, bool]]:
        """Arrays of the prior that a layer keeps as Parameters and passes to :meth:`kl` and :meth:`log_prob`.

        Returns
        -------
        dict
            Name, which starts with ``prior_`` -> (numpy array, whether the Parameter is learned).
        """
        return {}

    def bind(self, values, sampled=False):
        """This prior with the ``values`` of its Parameters, as an object with ``kl(mu, sigma, w)`` and ``closed_form``.

        ``sampled`` forces the one-sample KL divergence.
        """
        return _BoundPrior(self, values, sampled)

    @on_classic_arrays
    def kl(self, mu: Tensor, sigma: Tensor, w: Tensor, **values: Tensor) -> Tensor:
        r"""KL divergence of the posterior N(mu, sigma^2) from this prior, weight by weight.

        .. math:: -\log\sigma - \tfrac{1}{2}\log(2 \pi e) - \log p(w)

        The first two terms are E_q[log q(w)]. The last term is one sample of -E_q[log p(w)], at the draw ``w`` that
        made the network's output. The gradient is the one of Blundell et al. 2015, eq. 2, with less variance.

        Parameters
        ----------
        mu, sigma, w : NDArray or Symbol, all of one shape
        **values
            The values of :meth:`parameters`, if the prior has any.

        Returns
        -------
        NDArray or Symbol
            In the shape of ``mu``, in nats.
        """
        log_prob = self.log_prob(w, **values)
        if isinstance(w, ndarray.NDArray) and log_prob.shape != w.shape:
            raise ValueError(f'log_prob of {type(self).__name__} must keep the shape of the weights, {w.shape} '
                             f'(saw: {log_prob.shape})')
        return negative_entropy(_operators(sigma), sigma) - log_prob

    def native_form(self, sampled: bool) -> Optional[NativeForm]:
        """This prior in the form that the native draw takes; None if the native draw cannot compute its KL divergence.

        ``sampled`` asks for the one-sample KL divergence.
        """
        return None

    def __setattr__(self, name, value):
        # A traced graph contains the numbers of the prior: a change would reach only some of the forwards.
        if name in self.__dict__:
            raise AttributeError(f'{name} of a {type(self).__name__} cannot be changed; make a new prior')
        super().__setattr__(name, value)

    def __delattr__(self, name):
        raise AttributeError(f'{name} of a {type(self).__name__} cannot be changed; make a new prior')

    def __eq__(self, other):
        return self is other or (
            type(self) is type(other) and self.__dict__.keys() == other.__dict__.keys()
            and all(np.array_equal(value, other.__dict__[name]) for name, value in self.__dict__.items()))

    def __ne__(self, other):
        return not self == other

    def __hash__(self):
        return hash(type(self))

    def __repr__(self):
        arguments = ', '.join(f'{name}=array{value.shape}' if isinstance(value, np.ndarray) else f'{name}={value!r}'
                              for name, value in self.__dict__.items())
        return f'{type(self).__name__}({arguments})'


def check_prior(name, prior):
    """TypeError if ``prior`` is neither a Prior nor None."""
    if not isinstance(prior, (Prior, type(None))):
        raise TypeError(f'{name} must be an instance of Prior (saw: {prior!r})')


class _BoundPrior:
    __slots__ = ('kl', 'closed_form', 'native_form')

    def __init__(self, prior: Prior, values: Dict[str, Tensor], sampled: bool):
        self.kl = functools.partial(Prior.kl, prior, **values) if sampled else functools.partial(prior.kl, **values)
        self.closed_form = prior.closed_form and not sampled
        has_form = _has_native_form(type(prior))    # type: ignore[arg-type]  # mypy takes its __hash__ for the class's
        self.native_form = prior.native_form(sampled) if has_form else None


@functools.lru_cache(maxsize=None)
def _has_native_form(cls):
    """Whether the ``native_form`` of ``cls`` belongs to its own formulas.

    It does not if the class inherits ``native_form`` but overrides a formula.
    """
    def definer(name):
        return next(base for base in cls.__mro__ if name in vars(base))
    return all(issubclass(definer('native_form'), definer(name)) for name in ('log_prob', 'kl'))


def _native_mixture(components):
    """The NativeForm of a mixture of ``components``: pairs (sigma, weight), from the widest to the narrowest."""
    narrowest = components[-1][0]
    constants = [math.log(weight) - _log_normalizer(sigma) + ENTROPY_CONSTANT for sigma, weight in components]
    ratios = [(narrowest / sigma) ** 2 for sigma, _ in components]
    gaps = [constants[1] - constants[0], ratios[1] - ratios[0]] if len(components) == 2 else [0., 0.]
    return NativeForm('pair' if len(components) == 2 else 'mixture', len(components),
                      [1 / narrowest] + gaps + constants + ratios)


def _log_normalizer(sigma):
    return math.log(sigma) + HALF_LOG_2PI


class GaussianPrior(Prior):
    r"""Gaussian prior, whose KL divergence has a closed form.

    .. math:: KL = \log\frac{\sigma_p}{\sigma} + \frac{\sigma^2 + (\mu - \mu_p)^2}{2 \sigma_p^2} - \frac{1}{2}

    Farther than 1e18 standard deviations from its mean, the density is constant.

    Parameters
    ----------
    sigma : float or array, default 1.0
        Standard deviation, positive and finite. An array has the shape of the weights, with one value per weight.
    mu : float or array, default 0.0
        Mean, finite. An array has the shape of the weights, with one value per weight.
    learnable : bool, default False
        Whether mean and standard deviation are learned from the data (empirical Bayes), starting from ``mu`` and
        ``sigma``, which must be numbers. Each Parameter of a layer then has its own prior. The layer holds the
        Parameters of the prior, for instance ``weight_prior_mu`` and ``weight_prior_rho``, with the standard deviation
        softplus(rho).

    Raises
    ------
    ValueError
        If ``sigma`` is not positive and finite, ``mu`` is not finite, their shapes differ, or ``learnable`` is given
        with an array.
    """

    closed_form = True
    # Each of the two is a number or a numpy array.
    sigma: Any
    mu: Any

    def __init__(self, sigma: Union[float, Array] = 1.0, mu: Union[float, Array] = 0.0, learnable: bool = False):
        arrays = [value for value in (sigma, mu) if isinstance(value, (np.ndarray, ndarray.NDArray))]
        if arrays:
            sigma, mu = (np.broadcast_to(_host(value), arrays[0].shape).copy() for value in (sigma, mu))
            if learnable:
                raise ValueError(f'learnable takes numbers as sigma and mu (saw: arrays of shape {sigma.shape})')
            for check, name, values in ((check_positive, 'sigma', sigma), (check_finite, 'mu', mu)):
                for extreme in (values.min(), values.max()):      # NaN if the array contains NaN
                    check(name, float(extreme))
            self.sigma, self.mu = sigma, mu
        else:
            self.sigma, self.mu = check_positive('sigma', sigma), check_finite('mu', mu)
        self.learnable = bool(learnable)

    def __repr__(self):
        text = super().__repr__()
        return text if self.learnable else text.replace(', learnable=False', '')

    def parameters(self):
        if self.learnable:
            rho = rho_from_sigma(self.sigma)
            return {'prior_mu': (np.array([self.mu]), True), 'prior_rho': (np.array([rho]), True)}
        if isinstance(self.sigma, np.ndarray):
            return {'prior_mu': (self.mu, False), 'prior_sigma': (self.sigma, False)}
        return {}

    def _moments(self, F, like, values):
        """Mean and standard deviation as numbers, or as arrays that broadcast to ``like``."""
        if not values:      # log_prob of a prior that is in no layer
            values = {name: ndarray.array(value, ctx=like.context, dtype=like.dtype)
                      for name, (value, _) in self.parameters().items()}
        if not values:
            return self.mu, self.sigma
        sigma = sigma_from_rho(F, values['prior_rho']) if 'prior_rho' in values else values['prior_sigma']
        return values['prior_mu'], sigma

    def native_form(self, sampled):
        if self.parameters() or (sampled and self.mu != 0):
            return None
        if sampled:
            return _native_mixture([(self.sigma, 1.)])
        return NativeForm('gaussian', 1, [self.mu, 1 / self.sigma, math.log(self.sigma) - 0.5])

    def log_prob(self, w, **values):
        F = _operators(w)
        mu, sigma = self._moments(F, w, values)
        squares = half_square(_divide(F, _subtract(F, w, mu), sigma))
        return -_add(F, squares, _log(F, sigma)) - HALF_LOG_2PI

    def kl(self, mu, sigma, w, **values):
        F = _operators(sigma)
        prior_mu, prior_sigma = self._moments(F, mu, values)
        half_squares = (half_square(_divide(F, _subtract(F, mu, prior_mu), prior_sigma))
                        + half_square(_divide(F, sigma, prior_sigma)))
        return _add(F, half_squares - F.log(sigma), _log(F, prior_sigma)) - 0.5


def _host(value):
    return value.asnumpy() if isinstance(value, ndarray.NDArray) else np.asarray(value, dtype='float64')


# The second operand may be a number or an array. MXNet has different operators for the two.
def _subtract(F, array, other):
    return array - other if isinstance(other, float) else F.broadcast_sub(array, other)


def _divide(F, array, other):
    return array * (1 / other) if isinstance(other, float) else F.broadcast_div(array, other)


def _add(F, array, other):
    return array + other if isinstance(other, float) else F.broadcast_add(array, other)


def _log(F, value):
    return math.log(value) if isinstance(value, float) else F.log(value)


class MixturePrior(Prior):
    r"""Mixture of any number of Gaussians with mean 0.

    .. math:: p(w) = \sum_k \pi_k N(w; 0, \sigma_k^2)

    The log density is finite for every float32 weight: softplus adds the log densities of the components, from the
    widest to the narrowest, and no exponential can underflow. For weights beyond 1e18 times the narrowest sigma, the
    log density is constant.

    Parameters
    ----------
    weights : sequence of float
        Weights pi of the components, positive, with sum 1.
    sigmas : sequence of float
        Standard deviations of the components, positive and finite.

    Raises
    ------
    ValueError
        If an argument is outside its range, or the two arguments differ in length.
    """

    def __init__(self, weights: Sequence[float], sigmas: Sequence[float]):
        self._set_components(check_numbers('weights', weights, check_positive),
                             check_numbers('sigmas', sigmas, check_positive))

    def _set_components(self, weights, sigmas):
        if not weights or len(weights) != len(sigmas):
            raise ValueError('weights and sigmas must be of one length, at least 1 '
                             f'(saw: {len(weights)} and {len(sigmas)})')
        if abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f'weights must have the sum 1 (saw: {weights!r}, with sum {sum(weights)!r})')
        self.weights, self.sigmas = weights, sigmas

    def _components(self):
        return sorted(zip(self.sigmas, self.weights), reverse=True)

    def native_form(self, sampled):
        return _native_mixture(self._components())

    def log_prob(self, w):
        F = _operators(w)
        components = self._components()
        # The exponents of all components are multiples of one exponent, the narrowest's, so one square is enough.
        narrowest = components[-1][0]
        squares = half_square(w * (1 / narrowest))
        total = None
        for sigma, weight in components:
            log_prob = (math.log(weight) - _log_normalizer(sigma)) - squares * (narrowest / sigma) ** 2
            # The absolute error of softrelu, 1e-7, is small enough here. sigma_from_rho cannot use softrelu: its
            # relative error is large below -6.
            total = log_prob if total is None else total + F.Activation(log_prob - total, act_type='softrelu')
        return total


class ScaleMixturePrior(MixturePrior):
    r"""Scale mixture of two Gaussians with mean 0 (Blundell et al. 2015, equation 7).

    .. math:: p(w) = \pi N(w; 0, \sigma_1^2) + (1 - \pi) N(w; 0, \sigma_2^2)

    Parameters
    ----------
    pi : float, default 0.5
        Weight of the first component, between 0 and 1, both excluded (use :class:`GaussianPrior` for 0 or 1).
    sigma1, sigma2 : float, default 0.75 and 0.01
        Standard deviations of the components, positive and finite.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """

    def __init__(self, pi: float = 0.5, sigma1: float = 0.75, sigma2: float = 0.01):
        pi = check_fraction('pi', pi)
        self._set_components((pi, 1 - pi), (check_positive('sigma1', sigma1), check_positive('sigma2', sigma2)))

    def __repr__(self):
        sigma1, sigma2 = self.sigmas
        return f'ScaleMixturePrior(pi={self.weights[0]!r}, sigma1={sigma1!r}, sigma2={sigma2!r})'


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

    def __init__(self, scale: float = 1.0):
        self.scale = check_positive('scale', scale)

    def log_prob(self, w):
        return -w.abs() * (1 / self.scale) - math.log(2 * self.scale)

    def kl(self, mu, sigma, w):
        F = _operators(sigma)
        # Where |mu| / sigma is 1e6 or more, mean_abs equals |mu|. The gradient divides by the square of the
        # denominator: for a smaller sigma this square would be 0, and the gradient NaN.
        ratio = mu / F.maximum(F.maximum(sigma, F.BlockGrad(mu.abs()) * 1e-6), 1e-15)
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
        Scale s, positive and finite. It differs from the standard deviation, which is infinite for df <= 2.

    Raises
    ------
    ValueError
        If an argument is not positive and finite.
    """

    def __init__(self, df: float = 3.0, scale: float = 1.0):
        self.df = check_positive('df', df)
        self.scale = check_positive('scale', scale)

    def log_prob(self, w):
        normalizer = student_t_log_normalizer(self.df) - math.log(self.scale)
        return (half_square(w * (1 / self.scale)) * (2 / self.df)).log1p() * (-(self.df + 1) / 2) + normalizer


#: The prior of a layer to which no prior is given. It is the prior of the notebook, with the pi that really ran there.
default_prior = ScaleMixturePrior()
