# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Frames: a frame holds the draws and the KL terms of a network's Bayesian layers in one forward or one trace.

While a tapped block (see :mod:`bbb_layers.forward.tap`) runs eagerly or is traced, a frame is open. A layer stores its
draw and its KL term in the innermost frame. If an earlier call has stored a draw of the same Parameter there, the layer
uses that draw, so that one Parameter has one draw per forward. Traced and eager frames are kept apart, because deferred
initialization traces children during an eager forward.

The frame of the outermost block is one forward. When it closes, the record of each rho holds the KL term of the
Parameter for each context, and :func:`take_terms` hands the terms out once. Only a forward that is recorded in train
mode leaves terms; any other forward clears the terms of the Parameters below its block.
"""
import contextlib
import itertools
import threading
from typing import Any, Dict, Iterable, Iterator, List, Optional

from mxnet import autograd, ndarray, symbol
from mxnet.attribute import AttrScope
from mxnet.context import Context, current_context
from mxnet.gluon import Block
from mxnet.gluon.parameter import DeferredInitializationError
from mxnet.ndarray import NDArray

from .._mxnet.contexts import computed_on
from .._mxnet.tree import leaves
from ..posterior.gaussian import Kind
from ..posterior.parameters import posterior_parameters
from ..posterior.rho import RhoParameter
from .draw import Request, Switch

__all__ = ['Frame', 'Term', 'add_up', 'current_frame', 'opened', 'one_forward', 'take_terms', 'runs_eagerly',
           'call_eagerly']

_local = threading.local()
_serial = itertools.count()


class Term:
    """The KL term of one Parameter: one number of an array, which can hold the terms of a whole graph.

    Attributes
    ----------
    array : NDArray, shape (count,), nats
    place : int
    count : int
    """
    __slots__ = ('array', 'place', 'count')

    def __init__(self, array: NDArray, place: int = 0, count: int = 1):
        self.array, self.place, self.count = array, place, count


def add_up(terms: Iterable[Term]) -> Iterator[NDArray]:
    """Arrays whose numbers, added together, give the sum of ``terms``."""
    arrays: Dict[int, List[Term]] = {}
    for term in terms:
        arrays.setdefault(id(term.array), []).append(term)
    for group in arrays.values():
        array, places = group[0].array, sorted(term.place for term in group)
        if places == list(range(group[0].count)):
            yield array
        else:
            for place in places:
                yield array.slice_axis(axis=0, begin=place, end=place + 1)


class _Entry:
    """The latest forward of one Parameter: its KL term (None if it took no part) and whether the term was used."""
    __slots__ = ('forward', 'term', 'used')

    def __init__(self, forward, term):
        self.forward = forward
        self.term = term
        self.used = False


class Frame:
    """The draws and KL terms that the Bayesian layers store during one trace or one eager forward.

    Parameters
    ----------
    root : Block or None
        The block that opened the frame; None for the frame of a single layer that runs alone.
    traced : bool
        Whether the layers run on Symbols.
    with_terms : bool
        Whether the KL terms will be taken out of the frame.
    guarded : bool
        The argument of :meth:`~bbb_layers.forward.draw.Request.make` for the draws of a traced frame.
    shared : bool
        Whether all uses of a Parameter get one draw; otherwise each use gets a draw of its own.

    Attributes
    ----------
    terms : dict
        rho -> list of its KL terms, one for each context: Symbols if traced, else Terms.
    """

    def __init__(self, root: Optional[Block], traced: bool, with_terms: bool, guarded: bool = False,
                 shared: bool = True):
        self.root = root
        self.traced = traced
        self.with_terms = with_terms
        self._one_draw = shared
        # A graph that hands out no terms is not traced again when its settings change.
        self._guarded = traced and (guarded or not with_terms)
        self._switch = Switch()
        self.terms: Dict[RhoParameter, list] = {}
        self._draws: Dict[tuple, tuple] = {}    # (rho, context, recorded) -> (kind, value)
        self._inside_graphs = set()             # (rho, context) of draws that were made inside a child's cached graph

    def take(self, request: Request) -> Any:
        """This frame's draw for a request: an earlier draw of the Parameter if there is one, otherwise a new draw.

        Several uses can share a draw only if it is a draw of the weights themselves (``Kind.DRAW``).
        """
        if not self._one_draw:
            return self._make(request)
        rho, where, kind = request.rho, request.context, request.kind
        # A draw that was not recorded has no gradient, so it must not replace a recorded draw.
        key = rho, where, self.traced or autograd.is_recording()
        if (rho, where) in self._inside_graphs:
            raise _drawn_inside(rho)
        if key not in self._draws:
            self._draws[key] = kind, self._make(request)
        elif self._draws[key][0] is not kind or kind is not Kind.DRAW:
            raise RuntimeError(
                f'Parameter {rho.mu.name} is used more than once in one forward, which takes one draw of the weights: '
                "give its layers estimator='sample'")
        return self._draws[key][1]

    def _make(self, request):
        if self.traced and not self.with_terms:
            _leave_no_terms(request)
        # If the layer receives another mean than the posterior's, this forward has no KL term of the posterior: the
        # loss then computes the term from the Parameters.
        with_term = (self.with_terms and (self.traced or autograd.is_recording())
                     and not request.rho.hands_out_another_mu)
        value, term = request.make(with_term, self._switch, self._guarded)
        if term is not None:
            self.terms.setdefault(request.rho, []).append(term if self.traced else Term(term))
        return value

    def deposit(self, terms: Iterable, context: Context) -> None:
        """Take over the terms of a child's cached graph, which drew its weights inside, as pairs of rho and Term."""
        drawn = {rho for rho, where, _ in self._draws if where == context}
        for rho, term in terms:
            if rho in drawn or (rho, context) in self._inside_graphs:
                raise _drawn_inside(rho)
            self._inside_graphs.add((rho, context))
            if self.with_terms and autograd.is_recording():
                self.terms.setdefault(rho, []).append(term)


def _leave_no_terms(request):
    """Make a traced draw leave no KL term, because its graph does not hand terms out."""
    F, rho = request.F, request.rho
    rho.record.terms.clear()
    # Gluon cannot infer shapes in a graph that lacks a Parameter of the layer, so the prior's Parameters must be in it.
    # Gluon also cannot infer shapes backward through a broadcast operator, so no broadcast operator may stand between
    # mu and the layer's own operator.
    for value in request.prior_values.values():
        zeros = F.cast(F.zeros_like(request.mu_value), dtype=rho.dtype)
        request.mu_value = request.mu_value + F.cast(
            F.broadcast_mul(zeros, F.BlockGrad(value)), dtype=rho.mu.dtype)


def _drawn_inside(rho):
    return RuntimeError(
        f'Parameter {rho.mu.name} is used more than once in one forward, by a block that is hybridized for itself '
        'inside one that is not, so that its uses would be independent draws. Hybridize the outer block, or none.')


def _frames():
    if not hasattr(_local, 'frames'):
        _local.frames = []
    return _local.frames


@contextlib.contextmanager
def opened(frame: Frame) -> Iterator[Frame]:
    """Make ``frame`` the innermost frame inside this context manager."""
    _frames().append(frame)
    try:
        yield frame
    finally:
        _frames().pop()


def current_frame(F: Any) -> Optional[Frame]:
    """The frame in which a layer that runs with ``F`` stores its draws, or None.

    Raises
    ------
    RuntimeError
        If a control flow operator is being traced: a layer in it would make a new draw at each step.
    """
    traced = F is symbol
    if traced and '__subgraph_name__' in getattr(AttrScope._current, 'value', AttrScope()).get(None):
        raise RuntimeError('a Bayesian layer inside foreach, while_loop or cond of a hybridized block would draw its '
                           'weights anew at each step; unroll the loop, or do not hybridize')
    frames = _frames()
    return frames[-1] if frames and frames[-1].traced == traced else None


@contextlib.contextmanager
def one_forward(block: Block, args: Iterable, root: Optional[Block] = None) -> Iterator[None]:
    """Treat the code inside as one forward of ``block`` on ``args``, or as a part of the forward or trace around it."""
    arrays = list(leaves(args))
    traced = any(isinstance(array, symbol.Symbol) for array in arrays)
    if _frames() and _frames()[-1].traced == traced:
        yield
    elif traced:
        # The block that traces is not tapped: draws are shared, but the terms cannot leave the graph.
        with opened(Frame(root, traced=True, with_terms=False)):
            yield
    else:
        with_terms = autograd.is_recording() and autograd.is_training()
        contexts = {computed_on(array.ctx) for array in arrays}
        rhos = set(posterior_parameters(block))
        for rho in rhos:
            # If ``args`` has no array, the contexts are unknown: other arguments, such as a dict, may contain arrays.
            for context in contexts or list(rho.record.terms):
                rho.record.terms.pop(context, None)
        with opened(Frame(root, traced=False, with_terms=with_terms)) as frame:
            yield
        if with_terms:
            contexts.update(term.array.ctx for terms in frame.terms.values() for term in terms)
            _store(rhos.union(frame.terms), contexts or {current_context()}, next(_serial), frame.terms)


def _store(rhos, contexts, forward, terms):
    """Store the ``terms`` of one forward in the records of ``rhos``."""
    for rho in rhos:
        for context in contexts:
            term = next((term for term in terms.get(rho, []) if term.array.ctx == context), None)
            rho.record.terms[context] = _Entry(forward, term)


@contextlib.contextmanager
def take_terms(rhos: Iterable[RhoParameter], context: Context) -> Iterator[Dict[RhoParameter, Optional[Term]]]:
    """The KL terms of the latest forward on ``context``, which are handed out once.

    This is a context manager, because code that fails inside has not used the terms.

    Parameters
    ----------
    rhos : iterable of RhoParameter
    context : Context

    Yields
    ------
    dict
        rho -> Term, or None for a Parameter that took no part in that forward.

    Raises
    ------
    RuntimeError
        If there was no recorded training forward, or its terms were used before.
    """
    entries = {rho: rho.record.terms.get(context) for rho in rhos}
    present = [entry for entry in entries.values() if entry is not None]
    if not present:
        raise RuntimeError(
            f'no KL terms on {context}: this network did not run there in train mode under autograd.record(), or it '
            'ran again since then in another mode. Call the loss right after each forward, under the same '
            'autograd.record(); if the network has become part of a bigger hybridized block, make the BBBLoss of '
            'that block')
    forward = max(entry.forward for entry in present)
    if any(entry.used for entry in present if entry.forward == forward):
        raise RuntimeError(
            f'the KL terms of this forward on {context} were already used by a loss, and counting them twice would be '
            'wrong. Call the loss once, right after each forward')
    yield {rho: entry.term if entry is not None and entry.forward == forward else None
           for rho, entry in entries.items()}
    for entry in present:
        entry.used, entry.term = True, None


def runs_eagerly(block: Block) -> bool:
    """Whether ``block`` is a Bayesian layer inside a bigger eager forward.

    The layer then runs eagerly even if it is hybridized itself: other uses of the same Parameters in this forward need
    its draw, and the cached graph of a single layer saves almost no time.
    """
    frame = current_frame(ndarray)
    return bool(getattr(block, '_rhos', None)) and frame is not None and frame.root is not block


def call_eagerly(block: Block, *args: Any) -> Any:
    """The output of ``block`` on ``args``, computed as if ``block`` were not hybridized."""
    context = next(leaves(args)).ctx
    try:
        params = {name: param.data(context) for name, param in block._reg_params.items()}
    except DeferredInitializationError:
        block._deferred_infer_shape(*args)
        for param in block.params.values():
            param._finish_deferred_init()
        params = {name: param.data(context) for name, param in block._reg_params.items()}
    return block.hybrid_forward(ndarray, *args, **params)
