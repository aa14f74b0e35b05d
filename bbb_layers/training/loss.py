# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The negative evidence lower bound, and the KL divergence of a network."""
import contextlib
import copy
from typing import Any, Dict, Optional

from mxnet import autograd, ndarray
from mxnet.base import MXNetError
from mxnet.context import Context
from mxnet.gluon import Block, HybridBlock
from mxnet.gluon.loss import Loss
from mxnet.ndarray import NDArray

from .._mxnet.arrays import classic, gluon_kind, value_of
from .._mxnet.checks import check_count, check_finite, check_not_negative, check_positive, normal
from .._mxnet.contexts import computed_on, moved_to
from .._mxnet.precision import widened
from .._mxnet.tree import copy_block, leaves
from ..forward.draw import Request
from ..forward.frames import Term, add_up, take_terms
from ..forward.tap import tap
from ..posterior.parameters import bayesian, posterior_parameters
from .finite import Watch
from .likelihoods import CategoricalNLLLoss, weighted

__all__ = ['BBBLoss', 'kl_divergence']


class _Reference:
    """Holds a block without making it a child of the block that holds it."""
    __slots__ = ('block',)

    def __init__(self, block):
        self.block = block


class _Graph(HybridBlock):
    """The loss as one graph. Inputs: output, label, KL terms, their weight; outputs: loss, NLL, KL divergence."""

    def __init__(self, likelihood):
        super().__init__()
        self.likelihood = likelihood
        self._active = True     # hybridizes this block alone, and not the likelihood too

    def hybrid_forward(self, F, output, label, terms, weight):
        nll, kl = classic(self.likelihood(output, label)), F.reshape(F.sum(terms), shape=(1,))
        return gluon_kind((F.broadcast_add(nll, kl * weight), nll, kl))


class BBBLoss(Loss):
    r"""Negative evidence lower bound (ELBO) of a network with Bayesian layers, per example.

    .. math:: L_n = -\log p(y_n | x_n, w) + \frac{\beta}{N} KL[q(w) \| p(w)]

    In the sum of the losses over an epoch, the KL divergence counts exactly once, however the epoch is split into
    batches and devices. ``trainer.step(batch_size)`` is therefore right for every batch size.

    In train mode the KL terms are those of the forward that computed ``output``: call the loss once, right after each
    forward and under the same ``autograd.record()``. In predict mode, as in validation, the KL divergence is computed
    from the Parameters (see :func:`kl_divergence`) and has weight 1, whatever ``kl_weight`` is, so that the result is
    the negative ELBO with the likelihood at the posterior mean.

    The constructor prepares the blocks of ``net`` to pass on their KL terms, and clears their cached graphs. ``net``
    may be initialized, hybridized and extended before or after, and may have any number of losses; every forward
    counts for one loss, or for several losses of different parts of ``net``.

    Parameters
    ----------
    net : Block
        The network, or a part of it, whose KL divergence the loss contains. It does not become a child of the loss.
    num_train : int
        Number N of training examples in the whole data set, where an example is what the batch axis counts. It can be
        changed between steps, for instance when the data set grows.
    likelihood : HybridBlock, default CategoricalNLLLoss
        A Gluon loss that is a negative log likelihood in nats: called with ``(output, label)``, it must return shape
        (batch_size,), summed and not averaged over output positions. The default is softmax cross-entropy with sparse
        labels, summed over any further axes of the output.
    kl_weight : float, default 1.0
        Weight beta of the KL divergence in train mode. It can be changed between steps.
    weight : float, default None
        Global scalar weight of the negative log likelihood, but not of the KL divergence.
    batch_axis : int, default 0
        The axis of the output that represents the mini-batch.

    Inputs:
        - **output**: what ``net`` returned, or a part of it; a list of several outputs, if ``likelihood`` takes a list
        - **label**: as ``likelihood`` takes it
        - **sample_weight**: weights of the negative log likelihood only. One weight per example, shape (batch_size,)
          with any further axes of size 1, multiplies the result of ``likelihood``; weights of any other shape are
          passed to ``likelihood``

    Outputs:
        - **loss**: shape (batch_size,), nats per example. Outputs, labels and weights in float16 or bfloat16 are
          converted to float32 before ``likelihood`` sees them, and for such outputs the loss is float32

    Raises
    ------
    ValueError
        If ``net`` has no Bayesian layer, ``num_train`` is not positive, ``kl_weight`` is negative, ``weight`` is not
        finite, or ``likelihood`` does not return shape (batch_size,).
    TypeError
        If an argument is of another type.
    RuntimeError
        If, in train mode, there was no recorded forward in train mode since the last loss.

    Warns
    -----
    RuntimeWarning
        If losses or KL terms in train mode became NaN or infinite. The warning says since which call, and in which
        layers. It comes some calls later, since no step is made to wait; :meth:`check_finite` does wait.

    References
    ----------
    Blundell, Cornebise, Kavukcuoglu, Wierstra: Weight Uncertainty in Neural Networks. ICML 2015, eq. 1, 2 and 8.
    """

    def __init__(self, net: Block, num_train: float, likelihood: Optional[HybridBlock] = None, kl_weight: float = 1.0,
                 weight: Optional[float] = None, batch_axis: int = 0, **kwargs: Any):
        bayesian(net)
        if weight is not None:
            weight = check_finite('weight', weight)
        if likelihood is not None and not isinstance(likelihood, HybridBlock):
            raise TypeError(f'likelihood must be a Gluon loss (saw: {likelihood!r})')
        self._num_train = check_positive('num_train', num_train)
        self._kl_weight = check_not_negative('kl_weight', kl_weight)
        super().__init__(weight, batch_axis, **kwargs)
        self.likelihood = CategoricalNLLLoss(batch_axis=batch_axis) if likelihood is None else likelihood
        self._net = _Reference(net)
        self._nll = self._kl = None
        self._calls = {}        # context -> (NLL, KL divergence, num_train) of the last call there
        self._last_weight: Any = None
        self._watch = Watch()
        tap(net)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == 'likelihood':
            # The loss is faster as one graph. The graph does not become a child, because its Parameters already belong
            # to this block.
            known = vars(type(value)).get('_same_as_graph', False)
            self.__dict__['_graph'] = _Graph(value) if known else None

    @property
    def num_train(self) -> float:
        """Number of training examples."""
        return self._num_train

    @num_train.setter
    def num_train(self, value: float) -> None:
        self._num_train = check_positive('num_train', value)

    @property
    def kl_weight(self) -> float:
        """Weight of the KL divergence in train mode."""
        return self._kl_weight

    @kl_weight.setter
    def kl_weight(self, value: float) -> None:
        self._kl_weight = check_not_negative('kl_weight', value)

    @property
    def nll(self) -> NDArray:
        """The (weighted) negative log likelihood of the last call, shape (batch_size,), nats per example, detached;
        None before the first call."""
        return self._nll

    @property
    def kl(self) -> NDArray:
        """The network's KL divergence at the last call, shape (1,), nats per data set, unweighted, detached; None
        before the first call."""
        return self._kl

    def forward(self, output, label, sample_weight=None):
        first = next(leaves([output]), None)
        if not isinstance(first, ndarray.NDArray):
            raise TypeError('BBBLoss takes the NDArrays that the network returned, and cannot be a part of a '
                            f'hybridized block (saw: output of type {type(first).__name__})')
        if not isinstance(output, ndarray.NDArray) and isinstance(self.likelihood, CategoricalNLLLoss):
            raise TypeError('the default likelihood takes one output: hand it one of them, or give BBBLoss a '
                            f'likelihood that takes all (saw: {len(output)} outputs)')
        batch_size = first.shape[self._batch_axis]
        output, label, sample_weight = (widened(moved_to(computed_on(first.context), value))
                                        for value in (output, label, sample_weight))
        first = next(leaves([output]))
        if not autograd.is_training():
            self._watch.look(self._net.block)
        weight = normal((self._kl_weight if autograd.is_training() else 1.) / self._num_train)
        with self._kl_terms(first.context) as (terms, call):
            if (self._graph is not None and sample_weight is None and self._weight is None and len(terms) == 1
                    and terms[0].dtype == first.dtype):
                if not autograd.is_training():
                    self.likelihood.check_call(output, label)
                try:
                    loss, nll, kl = self._graph(output, label, terms[0], self._as_array(weight, terms[0]))
                except MXNetError:
                    self.likelihood.check_call(output, label)
                    raise
                self._check_nll(nll, batch_size)
            else:
                nll = self._nll_per_example(output, label, sample_weight, batch_size)
                kl = _total(term.sum() for term in terms)
                loss, nll, kl = gluon_kind(
                    (ndarray.broadcast_add(nll, (kl * weight).astype(nll.dtype, copy=False)), nll, kl))
        self._nll, self._kl = nll.detach(), kl.detach()
        self._calls[first.context] = self._nll, self._kl, self._num_train   # for metrics
        if call is not None:
            self._watch.end(self._net.block, call, self._nll)
        return loss

    def _made_with(self) -> Dict[str, Any]:
        """Name of an argument of the constructor -> its value; a checkpoint compares these, and ``num_train``."""
        return {'weight': self._weight, 'batch_axis': self._batch_axis}

    def check_finite(self) -> None:
        """Wait for all steps so far, and raise if the latest losses in train mode or a Parameter are not finite.

        Without this method, a loss checks finished steps from time to time, and all steps when it is next called in
        predict mode; it then only warns (RuntimeWarning). Call this method at the end of an epoch, or of the training.

        Raises
        ------
        FloatingPointError
            The message names the step and the layers whose mu, rho or KL divergence is not finite.
        """
        self._watch.check(self._net.block)

    def _as_array(self, number, like):
        """``number`` as an array in the dtype and context of ``like``; the previous array is used again if it fits."""
        key, last = (number, like.dtype, like.context), self._last_weight
        if last is None or last[0] != key:
            last = self._last_weight = key, ndarray.full((1,), number, ctx=like.context, dtype=like.dtype)
        # The array is detached: if it were an input of two recorded losses, the backward of the first loss would make
        # the backward of the second one impossible.
        return last[1].detach()

    def _nll_per_example(self, output, label, sample_weight, batch_size):
        is_ours = hasattr(self.likelihood, 'check_call')
        per_example = sample_weight is not None and sample_weight.size == batch_size and (
            sample_weight.ndim == 1 or sample_weight.shape[self._batch_axis] == batch_size)
        if per_example and is_ours:     # a likelihood of this package then knows which examples count
            first = next(leaves([output]))
            shape = [1] * first.ndim
            shape[self._batch_axis] = batch_size
            sample_weight = sample_weight.reshape(tuple(shape)).astype(first.dtype, copy=False)
        if sample_weight is None or (per_example and not is_ours):
            nll = self.likelihood(output, label)
        else:
            nll = self.likelihood(output, label, sample_weight)
        self._check_nll(nll, batch_size)
        nll = classic(nll)
        if per_example and not is_ours:
            nll = weighted(ndarray, nll, classic(sample_weight).reshape((-1,)).astype(nll.dtype, copy=False))
        return nll if self._weight is None else nll * self._weight

    def _check_nll(self, nll, batch_size):
        if not isinstance(nll, ndarray.NDArray) or nll.shape != (batch_size,):
            raise ValueError(
                f'likelihood must return one negative log likelihood per example, shape (batch_size,) = ({batch_size},)'
                f' (saw: {getattr(nll, "shape", type(nll).__name__)} from {self.likelihood!r})')

    @contextlib.contextmanager
    def _kl_terms(self, context):
        """Arrays whose sum is the KL divergence of the network, and the Watch's record of the call or None."""
        net = self._net.block
        if not autograd.is_training():
            yield [classic(kl_divergence(net, context))], None
            return
        with take_terms(posterior_parameters(net), context) as terms:
            call = self._watch.begin(terms)
            if any(term is None for term in terms.values()):
                tap(net)    # a block that was added after this loss was made may not have passed on its terms
            yield list(add_up(Term(_from_parameters(rho, context)) if term is None else term
                              for rho, term in terms.items())), call

    def __deepcopy__(self, memo):
        net = self._net.block
        alone = not memo
        if alone:
            memo[id(net)] = net     # a copy of the loss alone stays a loss of the same network
        else:
            net = copy.deepcopy(net, memo)      # it may be a part of the copied object, and not be copied yet
        memo[id(self._graph)] = memo[id(self._last_weight)] = None     # a copied array could be on another context
        memo[id(self._calls)] = {}
        new = copy_block(self, memo)
        new.__dict__['_graph'] = self._graph and _Graph(new.likelihood)
        if alone:
            del memo[id(net)]
        tap(net)
        return new

    def __repr__(self):
        return (f'{type(self).__name__}(num_train={self._num_train:g}, likelihood={self.likelihood!r}, '
                f'kl_weight={self._kl_weight:g}, batch_axis={self._batch_axis}, w={self._weight})')


def kl_divergence(net: Block, ctx: Optional[Context] = None, num_samples: int = 1) -> NDArray:
    r"""KL divergence of the posterior of all Bayesian layers of ``net`` from their priors.

    .. math:: KL[q(w) \| p(w)] = E_q[\log q(w)] - E_q[\log p(w)]

    It is computed in closed form if the prior has one, and otherwise estimated without bias from fresh draws. It is
    computed from the Parameters, in train and predict mode alike, and is differentiable under ``autograd.record()``.
    Pruned weights do not count; Parameters that layers share count once.

    If the network has a :class:`BBBLoss` and runs with ``static_shape=True``, the forward after a recorded call of this
    function traces its graph again, since MXNet's old graph would lose gradients. If your training loop uses a loss of
    your own, do not make a BBBLoss.

    Parameters
    ----------
    net : Block
    ctx : Context, default the first context on which the network is initialized
    num_samples : int, default 1
        Number of draws for priors without a closed form.

    Returns
    -------
    NDArray, shape (1,), nats per data set

    Raises
    ------
    ValueError
        If ``net`` has no Bayesian layer, or ``num_samples`` is less than 1.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.
    """
    num_samples = check_count('num_samples', num_samples)
    rhos = bayesian(net)
    if autograd.is_recording():
        for rho in rhos:
            rho.recorded_alone += 1
    return gluon_kind(_total(_from_parameters(rho, ctx or rho.mu.list_ctx()[0], num_samples) for rho in rhos))


def _from_parameters(rho, context, num_samples=1):
    request = Request(ndarray, rho, value_of(rho.mu, context), value_of(rho, context),
                      {name: value_of(param, context) for name, param in rho.prior_parameters.items()})
    draws = 1 if rho.has_closed_form else num_samples
    return ndarray.add_n(*[request.make(with_term=True)[1] for _ in range(draws)]) / draws


def _total(terms):
    terms = list(terms)
    widest = max((term.dtype for term in terms), key=lambda dtype: dtype().itemsize)
    return ndarray.add_n(*[term.astype(widest, copy=False) for term in terms])
