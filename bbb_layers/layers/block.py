# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The mixin that makes a Gluon layer Bayesian."""
import inspect
from typing import Any, Dict, Optional, Tuple

import numpy as np
from mxnet import autograd, ndarray, symbol
from mxnet.context import Context
from mxnet.gluon import Block, Constant, HybridBlock, Parameter
from mxnet.ndarray import NDArray

from .._mxnet.annotations import Mixin
from .._mxnet.arrays import classic, gluon_kind, value_of
from .._mxnet.checks import check_dtype, check_positive, is_one_of
from .._mxnet.precision import check_casts_first, check_float16
from .._mxnet.stand_ins import stand_in
from .._mxnet.tree import copy_block
from ..forward.draw import Request
from ..forward.frames import Frame, call_eagerly, current_frame, runs_eagerly
from ..posterior import gaussian, updates
from ..posterior.priors import Prior, check_prior, default_prior
from ..posterior.rho import RhoParameter

__all__ = ['BayesBlock']

check_casts_first()
updates.keep_pruned()

#: The attributes of a Bayesian layer beside its Parameters; ``_configure`` sets them.
_ATTRIBUTES = ('_given_priors', '_sampled_kl', '_initial_sigma', '_estimator', '_rhos')


class BayesBlock(Mixin):
    r"""Mixin that puts a Gaussian posterior on every Parameter of a HybridBlock.

    .. math:: w = \mu + \sigma \odot \epsilon, \quad \sigma = \log(1 + e^\rho), \quad \epsilon \sim N(0, I)

    ``class BayesDense(BayesBlock, nn.Dense)`` defines a complete layer: its signature, shape inference and forward
    stay Gluon's. A Parameter ``weight`` of the block becomes the posterior's mean mu and keeps its name, and a second
    Parameter, ``weight_rho``, carries sigma. ``hybrid_forward`` draws the weights and passes them to the block's own
    ``hybrid_forward``. As with Dropout, ``autograd.is_training()`` alone decides what runs: a fresh draw in train
    mode, the posterior mean in predict mode. In a network that has a :class:`~bbb_layers.BBBLoss`, a Parameter that
    is used several times in one forward has one draw.

    A Parameter whose ``grad_req`` is 'null' when the layer is made, such as gamma of ``nn.LayerNorm(scale=False)``, is
    a constant and has no posterior. The ``grad_req`` of mu can be changed later: a frozen mean keeps its posterior.

    Parameters
    ----------
    prior : Prior, default ScaleMixturePrior(pi=0.5, sigma1=0.75, sigma2=0.01)
        Prior of every weight. Layers that share Parameters share one prior: if this layer is made with the Parameters
        of another layer, the default is the prior of the other layer.
    bias_prior : Prior, default the same as ``prior``
        Prior of the Parameters whose attribute names end in ``bias``.
    initial_sigma : float, default 0.05
        Standard deviation of the posterior at the start, positive and finite.
    estimator : {'sample', 'local', 'flipout'}, default 'sample'
        How the noise of the weights reaches the output; see :mod:`bbb_layers.layers.estimators`. Layers that are not
        linear in their weights and in their input have only 'sample'.
    kl : {'auto', 'sample'}, default 'auto'
        With 'auto', the KL divergence takes its closed form where the prior has one, and is sampled otherwise. With
        'sample', it is always sampled.
    *args, **kwargs
        The arguments of the Gluon layer.

    Raises
    ------
    TypeError
        If ``prior`` or ``bias_prior`` is not a Prior. The definition of the class raises it if the Gluon block is not
        a HybridBlock; if the block computes its output without ``hybrid_forward``, so that it would never see a draw;
        if the class of the block has a name of this mixin, such as ``posterior``, for something else; or if the class
        defines ``hybrid_forward`` itself, or names the Gluon block before this mixin.
    ValueError
        If the layer does not have the ``estimator``, ``kl`` is neither 'auto' nor 'sample', ``initial_sigma`` is not
        positive and finite, a dtype is not float16, float32 or float64, the layer cannot run in this dtype (see
        ``bbb_layers._mxnet.precision``), a Parameter has sparse gradients, or this layer shares Parameters with
        another layer and is given a ``prior`` or a ``kl='sample'`` that the other layer does not have.

    References
    ----------
    Blundell, Cornebise, Kavukcuoglu, Wierstra: Weight Uncertainty in Neural Networks. ICML 2015, section 3.2.
    """

    #: A mixin that defines this attribute declares that :meth:`_make_plain` undoes all of its overrides of the Gluon
    #: layer's methods. The attribute is not inherited: it counts for the class in whose body it stands.
    _undone_in_plain = True
    #: The values of ``estimator`` that the layer accepts.
    _estimators: Tuple[str, ...] = ('sample',)
    #: The operator of the layer that MXNet does not have in float16 on a CPU, if there is such an operator.
    _not_in_float16: Optional[str] = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if 'hybrid_forward' in cls.__dict__:
            raise TypeError(f'{cls.__name__} must not define hybrid_forward itself, as this would replace the '
                            'hybrid_forward that draws the weights: define it in a HybridBlock X, and then class '
                            f'{cls.__name__}(BayesBlock, X)')
        check_served(cls)
        # help() then shows the arguments of the Gluon layer and of this mixin, instead of *args and **kwargs.
        if '__init__' not in cls.__dict__ and issubclass(cls, HybridBlock):
            cls.__signature__ = _joint_signature(cls)

    def __init__(self, *args: Any, prior: Optional[Prior] = None, bias_prior: Optional[Prior] = None,
                 initial_sigma: float = 0.05, estimator: str = 'sample', kl: str = 'auto', **kwargs: Any):
        self._configure(prior, bias_prior, initial_sigma, estimator, kl)
        super().__init__(*args, **kwargs)

    def _configure(self, prior=None, bias_prior=None, initial_sigma=0.05, estimator='sample', kl='auto'):
        if not is_one_of(estimator, self._estimators):
            raise ValueError('estimator of {} must be one of {} (saw: {!r})'.format(
                type(self).__name__, ', '.join(map(repr, self._estimators)), estimator))
        if not is_one_of(kl, ('auto', 'sample')):
            raise ValueError(f"kl must be 'auto' or 'sample' (saw: {kl!r})")
        check_prior('prior', prior)
        check_prior('bias_prior', bias_prior)
        self._given_priors = {False: prior, True: prior if bias_prior is None else bias_prior}     # key: for a bias
        self._sampled_kl = kl == 'sample'
        self._initial_sigma = check_positive('initial_sigma', initial_sigma)
        self._estimator = estimator
        self._rhos = {}

    @classmethod
    def _plain_class(cls):
        """The Gluon layer that this class makes Bayesian."""
        plain = _gluon_layer(cls)
        for base in cls.__mro__:
            if not issubclass(base, BayesBlock) and not issubclass(plain, base) and '_bayesian_only' not in vars(base):
                raise TypeError('a Bayesian layer must derive from BayesBlock and one Gluon layer to be made '
                                f'deterministic (saw: {cls.__name__}, which derives from {base.__name__} too)')
            if issubclass(base, BayesBlock) and not vars(base).get('_undone_in_plain', False):
                for name in vars(base):
                    if callable(getattr(plain, name, None)) and name not in ('__init__', '__repr__', '__class__'):
                        raise TypeError('a Bayesian layer must not override methods of its Gluon layer if it is to be '
                                        'made deterministic: put the methods into a layer X, and then class '
                                        f'{cls.__name__}(BayesBlock, X) (saw: {base.__name__}.{name})')
        return plain

    @classmethod
    def _make_bayesian(cls, layer, constants, **arguments):
        """Turn a plain Gluon ``layer`` into a layer of this class, in place: all references to it see the change.

        With ``constants``, Parameters whose ``grad_req`` is 'null' are constants; without it, they are frozen means.
        """
        layer.__class__ = cls
        layer._configure(**arguments)
        for name, param in list(layer._reg_params.items()):
            if can_have_posterior(param, constants):
                layer._add_rho(name, param)

    def _make_plain(self):
        """Turn this layer into its plain Gluon layer, without rho, in place: all references to it see the change."""
        plain = self._plain_class()
        for name, rho in self._rhos.items():
            self._remove_prior_parameters(name)
            rho.mu.__dict__.pop('_rho', None)
            self.params._params.pop(rho.name, None)     # two attributes may hold one Parameter
            self._reg_params.pop(name + '_rho')
            delattr(self, name + '_rho')
        for name in _ATTRIBUTES:
            delattr(self, name)
        self.__class__ = plain

    @property
    def priors(self) -> Dict[str, Prior]:
        """The priors of the Parameters, by attribute name."""
        return {name: rho.prior for name, rho in self._rhos.items()}

    @property
    def prior(self) -> Optional[Prior]:
        """The prior of this layer's weights; None if it has no Parameters."""
        return next((rho.prior for rho in self._rhos.values() if not rho.is_bias),
                    next(iter(self.priors.values()), None))

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if isinstance(value, Parameter) and can_have_posterior(value) and not self._belongs_to_rho(value):
            self._add_rho(name, value)

    def _belongs_to_rho(self, param):
        return isinstance(param, RhoParameter) or any(
            param is other for rho in self._rhos.values() for other in rho.prior_parameters.values())

    def _add_rho(self, name, mu):
        self._check_dtype(mu.dtype, [mu])
        if mu._grad_stype != 'default' or mu._stype != 'default':
            raise ValueError('a Bayesian layer must have dense gradients, since its KL divergence reaches every weight '
                             f'(saw: Parameter {mu.name} with grad_stype {mu._grad_stype!r})')
        is_bias = name.endswith('bias')
        prior = self._given_priors[is_bias]
        rho = getattr(mu, '_rho', None)      # set if another layer has this Parameter too
        if rho is None:
            rho = RhoParameter(mu, self._initial_sigma, default_prior if prior is None else prior, self._sampled_kl,
                               is_bias)
            mu._rho = rho
        self.params._params[rho.name] = rho
        if prior is not None and prior != rho.prior:
            raise ValueError(f'prior must be that of the layer which shares Parameter {mu.name}, {rho.prior!r} '
                             f'(saw: {prior!r})')
        if self._sampled_kl and not rho.sampled_kl:
            raise ValueError(f"kl must be that of the layer which shares Parameter {mu.name}, 'auto' (saw: 'sample')")
        self._rhos[name] = rho
        rho.record.owners.add(self)
        setattr(self, name + '_rho', rho)
        self._add_prior_parameters(name)

    def _add_prior_parameters(self, name):
        for prior_name, param in self._rhos[name].prior_parameters.items():
            self.params._params[param.name] = param
            setattr(self, f'{name}_{prior_name}', param)

    def _remove_prior_parameters(self, name):
        for prior_name, param in self._rhos[name].prior_parameters.items():
            self.params._params.pop(param.name, None)
            self._reg_params.pop(f'{name}_{prior_name}')
            delattr(self, f'{name}_{prior_name}')

    def _collect_params_with_prefix(self, prefix=''):
        if super()._collect_params_with_prefix.__func__ is Block._collect_params_with_prefix:
            return super()._collect_params_with_prefix(prefix)
        # The block makes the names of its Parameters by patterns of its own, which do not know rho. So its method runs
        # without rho and the Parameters of priors, and these get their names from the name of their mu.
        ours = {}       # attribute name of a mu -> endings of the Parameters that belong to it
        for name, rho in self._rhos.items():
            ours[name] = ['_rho'] + ['_' + prior_name for prior_name in rho.prior_parameters]
        hidden = {name + ending for name, endings in ours.items() for ending in endings}
        plain = stand_in(self, _gluon_layer(type(self)), _reg_params={
            name: param for name, param in self._reg_params.items() if name not in hidden})
        attributes = {self._reg_params[name]: name for name in ours}
        found = {}
        for name, param in plain._collect_params_with_prefix(prefix).items():
            found[name] = param
            attribute = attributes.get(param)
            if attribute is not None:
                found.update((name + ending, self._reg_params[attribute + ending]) for ending in ours[attribute])
        return found

    def _check_cast(self, dtype):
        """The check that ``cast`` of a network makes of all its layers before it changes any of them."""
        self._check_dtype(dtype, [rho.mu for rho in self._rhos.values()])

    def _check_dtype(self, dtype, params):
        """Raise ValueError if ``params``, which are mu of this layer, cannot have the ``dtype``."""
        if check_dtype('a Bayesian layer', dtype, ('float16', 'float32', 'float64')) == np.float16:
            for param in params:
                check_float16(self, param, self._not_in_float16)

    def hybrid_forward(self, F, x, *args, **params):
        values: Dict[str, Tuple[Any, Any, Any]] = {
            name: classic((params.pop(name), params.pop(name + '_rho'),
                           {prior_name: params.pop(f'{name}_{prior_name}')
                            for prior_name in rho.prior_parameters}))
            for name, rho in self._rhos.items()}
        if F is ndarray and not autograd.is_training():
            means = {name: gaussian.mean(mu, rho) for name, (mu, rho, _) in values.items()}
            if autograd.is_recording() and self._is_half_frozen():
                means = _tied(F, means)
            return super().hybrid_forward(F, x, *args, **dict(params, **gluon_kind(means)))
        traced = F is symbol
        # Without a frame around the layer, each attribute has a draw of its own, even if two hold one Parameter.
        frame = current_frame(F) or Frame(None, traced, with_terms=False, shared=False)
        # A Symbol that the user traced by hand may be loaded elsewhere, so it contains MXNet's own operators only.
        portable = traced and not (frame.with_terms or self._active)

        def take(kind):
            parts = {name: frame.take(Request(F, self._rhos[name], *value, kind=kind, portable=portable))
                     for name, value in values.items()}
            return _tied(F, parts) if self._is_half_frozen() else parts

        return self._estimate(F, take, x, *args, **params)

    def _is_half_frozen(self):
        """Whether some Parameters of the layer's posterior are frozen while others learn."""
        learns = {param.grad_req != 'null' for rho in self._rhos.values() for param in (rho.mu, rho)}
        return len(learns) > 1

    def _call_cached_op(self, *args):
        if runs_eagerly(self):
            return call_eagerly(self, *args)
        return super()._call_cached_op(*args)

    def _estimate(self, F, take, x, *args, **params):
        """The layer's output. ``take(kind)`` returns attribute name -> what ``kind`` makes of the posterior."""
        return super().hybrid_forward(F, x, *args, **dict(params, **gluon_kind(take(gaussian.Kind.DRAW))))

    def posterior(self, ctx: Optional[Context] = None) -> Dict[str, Tuple[NDArray, NDArray]]:
        """Mean and standard deviation of every weight.

        Parameters
        ----------
        ctx : Context, default the first context that the layer is initialized on

        Returns
        -------
        dict
            Attribute name of the Parameter -> (mu, sigma), NDArrays in the Parameter's shape and without gradient.
            Both are 0 where the weight is pruned.

        Raises
        ------
        DeferredInitializationError, RuntimeError
            If the layer is not initialized yet.
        """
        return gluon_kind({name: gaussian.moments(*self._values(name, ctx)) for name in self._rhos})

    def _values(self, name, ctx=None):
        rho = self._rhos[name]
        ctx = ctx or rho.mu.list_ctx()[0]
        return value_of(rho.mu, ctx), value_of(rho, ctx)

    def __deepcopy__(self, memo):
        return copy_block(self, memo)

    def _after_copy(self):
        for rho in self._rhos.values():
            rho.record.owners.add(self)

    def __repr__(self):
        base = super().__repr__()
        ours = f'prior={self.prior!r}'
        for name, prior in self.priors.items():
            if prior != self.prior:
                ours += f', {name}_prior={prior!r}'
        if self._estimator != 'sample':
            ours += f', estimator={self._estimator!r}'
        if not base.endswith(')'):
            return base
        base = base[:-1].rstrip()       # Gluon's default ends in line breaks
        return f'{base}{ours})' if base.endswith('(') else f'{base}, {ours})'


#: The names of attributes that a Bayesian layer has, and that Gluon's blocks in general do not have.
RESERVED = frozenset(_ATTRIBUTES).union(
    name for name in vars(BayesBlock) if not name.startswith('__') and not hasattr(HybridBlock, name))


def _tied(F, parts):
    """``parts``, name -> array or tuple of arrays, with the same values, but if one array has a gradient, all have one.

    MXNet's FullyConnected in float32 computes the gradient of a bias only together with the gradient of its weight. If
    the weight is frozen and its bias learns, the gradient of the bias would be whatever its memory contains.
    """
    if isinstance(next(iter(parts.values())), tuple):
        tied = [_tied(F, dict(zip(parts, same_kind))) for same_kind in zip(*parts.values())]
        return {name: tuple(each[name] for each in tied) for name in parts}
    totals = [F.reshape(F.sum(part), shape=(1,)) for part in parts.values()]
    # add_n gives each result the shape of its part. A broadcast must not do it: Gluon does not infer the shapes of
    # Parameters through a broadcast.
    return {name: F.add_n(part, *[F.broadcast_mul(F.zeros_like(part), total) for total in totals])
            for name, part in parts.items()}


def can_have_posterior(param: Parameter, constants: bool = True) -> bool:
    """Whether ``param`` can be a mu. With ``constants``, a Parameter whose ``grad_req`` is 'null' cannot.

    A Parameter that two layers share is the same for both: if the first layer made it a mu, it is a mu in the second.
    """
    if isinstance(param, (Constant, RhoParameter)) or not param._differentiable:
        return False
    return param.grad_req != 'null' or hasattr(param, '_rho') or not constants


def check_served(cls: type) -> None:
    """Raise TypeError if ``cls`` derives from a Gluon block whose output does not come from its ``hybrid_forward``.

    A Bayesian layer draws its weights in ``hybrid_forward``. A block that computes its output elsewhere would run
    without noise, while the KL divergence of its Parameters would still count.
    """
    blocks = [base for base in cls.__mro__ if issubclass(base, Block) and not issubclass(base, BayesBlock)]
    if not blocks:      # a mixin for layers
        return
    layer, name = blocks[0], cls.__name__
    if issubclass(cls, BayesBlock) and cls.__mro__.index(layer) < cls.__mro__.index(BayesBlock):
        raise TypeError('BayesBlock must come before the Gluon block that it makes Bayesian: class '
                        f'{name}(BayesBlock, {layer.__name__}) (saw: {layer.__name__} before it)')
    advice = ('let it be a HybridBlock whose hybrid_forward takes its Parameters as arguments, and then class '
              f'{name}(BayesBlock, {layer.__name__})')
    if not issubclass(layer, HybridBlock):
        raise TypeError('a Bayesian layer must derive from a HybridBlock, whose hybrid_forward is handed the weights '
                        f'that are drawn (saw: {name}, which derives from {layer.__name__}): {advice}')
    own = cls.__mro__[:cls.__mro__.index(HybridBlock)]      # HybridBlock's own methods call hybrid_forward
    if not any('hybrid_forward' in vars(base) for base in own if base in blocks):
        raise TypeError('a Bayesian layer must have a hybrid_forward, which is handed the weights that are drawn '
                        f'(saw: {name}, which derives from {layer.__name__}): {advice}')
    for base in own:
        taken = RESERVED.intersection(vars(base)) if base in blocks else ()
        if taken:
            raise TypeError(f'a Bayesian layer must have its own {min(taken)}, which would replace the {min(taken)} of '
                            'the Gluon block that it derives from: give the attribute of the block another name '
                            f'(saw: {base.__name__}.{min(taken)})')
        for method in ('__call__', 'forward'):
            if method in vars(base) and not _mentions(vars(base)[method], ('super', method, 'hybrid_forward')):
                raise TypeError('a Bayesian layer must compute its output in hybrid_forward, which is handed the '
                                f'weights that are drawn (saw: {base.__name__}.{method}, which never gets there): '
                                f'{advice}')


def _mentions(function, names):
    """Whether the code of ``function`` refers to one of ``names``; True if ``function`` has no code to look at."""
    code = getattr(inspect.unwrap(function), '__code__', None)
    todo = [code] if code is not None else []
    while todo:
        code = todo.pop()
        if not set(names).isdisjoint(code.co_names):
            return True
        todo.extend(constant for constant in code.co_consts if inspect.iscode(constant))
    return code is None


def _gluon_layer(cls):
    return next(base for base in cls.__mro__ if issubclass(base, HybridBlock) and not issubclass(base, BayesBlock))


def _joint_signature(cls):
    own = [parameter for parameter in inspect.signature(BayesBlock.__init__).parameters.values()
           if parameter.kind == parameter.KEYWORD_ONLY]
    theirs = list(inspect.signature(_gluon_layer(cls).__init__).parameters.values())[1:]
    after = [parameter for parameter in theirs if parameter.kind == parameter.VAR_KEYWORD]
    return inspect.Signature([parameter for parameter in theirs if parameter not in after] + own + after)
