# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The way of the KL terms out of a network, hybridized or not.

A layer cannot keep its KL term as an attribute: once a parent is hybridized, ``hybrid_forward`` runs only while the
graph is traced, and the attribute stays a Symbol for ever. So the terms must be outputs of the cached graph. ``tap``
makes a network's blocks do that: a tapped block adds the KL terms of the layers in it to the outputs of its graph, and
takes them off again when the graph has run, so that ``net(x)`` is the output alone.

Frames
    While a tapped block is traced, or runs eagerly, a frame is open. A layer leaves its draw and its KL term in the
    innermost one, and finds there the draw of an earlier call, so that one Parameter has one draw per forward. Traced
    and eager frames are kept apart: deferred initialization traces children during an eager forward.
Terms
    The frame of the outermost block is one forward. When it closes, ``_latest`` holds each Parameter's term, by
    context; :func:`take_terms` hands them out once. Only a forward that is recorded in train mode leaves terms; any
    other clears those of the Parameters below it.
"""
import contextlib
import copy
import itertools
import threading
import weakref
from types import MethodType
from typing import Callable, Dict

from mxnet import autograd, ndarray, symbol
from mxnet.attribute import AttrScope
from mxnet.context import current_context
from mxnet.gluon import Block, HybridBlock, SymbolBlock
from mxnet.gluon.parameter import DeferredInitializationError

from .arrays import as_kind_of, classic
from .contexts import computed_on, moved_to
from .native import draw as native_draw
from .posterior import draw
from .precision import computed_in

__all__ = ['tap', 'take_terms', 'current_frame', 'walk', 'posterior_parameters', 'bayesian', 'leaves', 'add_owner',
           'owners', 'own_parameters', 'one_forward', 'runs_eagerly', 'call_eagerly', 'copy_block', 'Term', 'add_up']

_local = threading.local()
_serial = itertools.count()
# rho -> {context: _Entry}. By Parameter and not by layer, since layers can share one; and not an attribute of the
# Parameter, so that copies of a network start without.
_latest = weakref.WeakKeyDictionary()
# rho -> the layers that have it. Like _latest no attribute, so that a copy has none of the original's.
_owners = weakref.WeakKeyDictionary()

_TAP = '_kl_tap'


def walk(net):
    """``net`` and all blocks below it, each once, parents first."""
    seen, todo = set(), [net]
    while todo:
        block = todo.pop()
        if id(block) not in seen:
            seen.add(id(block))
            yield block
            todo.extend(reversed(list(block._children.values())))


def posterior_parameters(net):
    """The rho Parameters of all Bayesian layers in ``net``, each once, in the order of the layers.

    Each follows the mean that its layer has now: weight dropout replaces Parameters of a finished layer.
    """
    found = {}
    for block in walk(net):
        for name, rho in getattr(block, '_rhos', {}).items():
            rho.follow(block._reg_params[name])
            found[rho] = None
    return list(found)


def add_owner(rho, layer):
    """Note that ``rho`` is one of ``layer``'s."""
    _owners.setdefault(rho, weakref.WeakSet()).add(layer)


def owners(rho):
    """All layers that have ``rho``, in whatever networks."""
    return set(_owners.get(rho, ()))


def bayesian(net):
    """:func:`posterior_parameters`, but TypeError if ``net`` is no block and ValueError if it has no Bayesian layer."""
    if not isinstance(net, Block):
        raise TypeError('net must be a Gluon block (saw: %r)' % (net,))
    rhos = posterior_parameters(net)
    if not rhos:
        raise ValueError('net must hold at least one Bayesian layer, such as BayesDense (saw: %r)' % (net,))
    return rhos


class Term(object):
    """The KL term of one Parameter: a number of an array in which those of a whole graph stand.

    Attributes
    ----------
    array : NDArray, shape (count,), nats
    place : int
    """
    __slots__ = ('array', 'place', 'count')

    def __init__(self, array, place=0, count=1):
        self.array, self.place, self.count = array, place, count


def add_up(terms):
    """The arrays whose sum over all their numbers is that of ``terms``."""
    arrays = {}
    for term in terms:
        arrays.setdefault(id(term.array), []).append(term)
    for group in arrays.values():
        array, places = group[0].array, sorted(term.place for term in group)
        if places == list(range(group[0].count)):
            yield array
        else:
            for place in places:
                yield array.slice_axis(axis=0, begin=place, end=place + 1)


class _Entry(object):
    """One Parameter's part in its latest forward: the KL term (None if it took no part) and whether it was used."""
    __slots__ = ('forward', 'term', 'used')

    def __init__(self, forward, term):
        self.forward = forward
        self.term = term
        self.used = False


class _Frame(object):
    """What the Bayesian layers leave behind during one trace or one eager forward."""

    def __init__(self, root, traced, with_terms, guarded=False):
        self.root = root
        self.traced = traced
        self.with_terms = with_terms        # whether anybody takes the KL terms
        self.guarded = guarded              # see native.draw.make
        self.switch = native_draw.Switch()
        self.terms = {}             # rho -> [KL term, one for each context]: Symbols if traced, else Terms
        self._draws = {}            # (rho, context, recorded) -> (kind, value)
        self._inside_graphs = set()  # (rho, context) of draws that were made inside a child's cached graph

    def take(self, rho, where, kind, make):
        """This frame's draw for ``rho``: an earlier one, or else a new one from ``make(with KL term)``.

        ``kind`` says what is made; only a draw of the weights themselves serves several uses.
        """
        # A draw that was not recorded has no gradient: a recorded one must not be replaced by it.
        key = rho, where, self.traced or autograd.is_recording()
        if (rho, where) in self._inside_graphs:
            raise _drawn_inside(rho)
        if key not in self._draws:
            with_term = self.with_terms and (self.traced or autograd.is_recording())
            value, term = make(with_term)
            self._draws[key] = kind, value
            if term is not None:
                self.terms.setdefault(rho, []).append(term if self.traced else Term(term))
        elif self._draws[key][0] is not kind or kind is not draw:
            raise RuntimeError(
                "Parameter %s is used more than once in one forward, which takes one draw of the weights: give its "
                "layers estimator='sample'" % rho.mu.name)
        return self._draws[key][1]

    def deposit(self, terms, context):
        """Take over the terms of a child's cached graph, which drew its weights inside."""
        drawn = {rho for rho, where, _ in self._draws if where == context}
        for rho, term in terms:
            if rho in drawn or (rho, context) in self._inside_graphs:
                raise _drawn_inside(rho)
            self._inside_graphs.add((rho, context))
            if self.with_terms and autograd.is_recording():
                self.terms.setdefault(rho, []).append(term)


def _drawn_inside(rho):
    return RuntimeError(
        'Parameter %s is used more than once in one forward, by a block that is hybridized for itself inside one that '
        'is not, so that its uses would be independent draws. Hybridize the outer block, or none.' % rho.mu.name)


def _frames():
    if not hasattr(_local, 'frames'):
        _local.frames = []
    return _local.frames


@contextlib.contextmanager
def _open(frame):
    _frames().append(frame)
    try:
        yield frame
    finally:
        _frames().pop()


def current_frame(F):
    """The frame in which a layer that runs with ``F`` leaves its draws, or None.

    Raises
    ------
    RuntimeError
        If a control flow operator is being traced, which would draw anew at each of its steps.
    """
    traced = F is symbol
    if traced and '__subgraph_name__' in getattr(AttrScope._current, 'value', AttrScope()).get(None):
        raise RuntimeError('a Bayesian layer inside foreach, while_loop or cond of a hybridized block would draw its '
                           'weights anew at each step; unroll the loop, or do not hybridize')
    frames = _frames()
    return frames[-1] if frames and frames[-1].traced == traced else None


def forget(rho):
    """Drop the terms of ``rho``: it was traced into a graph that does not hand them out."""
    _latest.pop(rho, None)


def leaves(args):
    """The NDArrays and Symbols in nested lists of arguments."""
    for arg in args:
        if isinstance(arg, (list, tuple)):
            for leaf in leaves(arg):
                yield leaf
        elif isinstance(arg, (ndarray.NDArray, symbol.Symbol)):
            yield arg


@contextlib.contextmanager
def take_terms(rhos, context):
    """The KL terms of the latest forward on ``context``, handed out once: as a context manager, since what fails inside
    has not used them.

    Parameters
    ----------
    rhos : iterable of rho Parameters
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
    entries = {rho: _latest.get(rho, {}).get(context) for rho in rhos}
    present = [entry for entry in entries.values() if entry is not None]
    if not present:
        raise RuntimeError(
            'no KL terms on %s: this network did not run there in train mode under autograd.record(), or it ran '
            'again since then in another mode. Call the loss right after each forward, under the same '
            'autograd.record(); if the network has become part of a bigger hybridized block, make the BBBLoss of '
            'that block' % context)
    forward = max(entry.forward for entry in present)
    if any(entry.used for entry in present if entry.forward == forward):
        raise RuntimeError(
            'the KL terms of this forward on %s were already used by a loss, and counting them twice would be wrong. '
            'Call the loss once, right after each forward' % context)
    yield {rho: entry.term if entry is not None and entry.forward == forward else None
           for rho, entry in entries.items()}
    for entry in entries.values():
        if entry is not None:
            entry.used, entry.term = True, None


class _Tap(object):
    """The state of a tapped block's graph: which outputs after the block's own are KL terms, and of what.

    Terms of one dtype leave the graph in one array: MXNet takes its time for each output, and for each operator that
    makes one.
    """
    __slots__ = ('base', 'graph', 'rhos', 'groups', 'state', 'gradients', 'running', 'lock')

    def __init__(self):
        self.base = self.graph = self.state = None
        self.gradients = []     # each Parameter of the graph and the gradient buffers that it then had
        self.running = {}       # context -> mode and outputs of its last forward, which may not be done yet
        self.rhos, self.groups = [], []
        self.lock = threading.RLock()

    def pack(self, terms):
        """The outputs of the graph for the KL ``terms`` of ``rhos``, Symbols."""
        dtypes = [computed_in(rho.mu.dtype) for rho in self.rhos]
        self.groups = [[i for i, other in enumerate(dtypes) if other == dtype] for dtype in dict.fromkeys(dtypes)]
        return [symbol.concat(*[terms[i] for i in group], dim=0) for group in self.groups]

    def unpack(self, arrays):
        """Pairs of rho and Term, from those outputs."""
        return [(self.rhos[i], Term(array, place, len(group))) for group, array in zip(self.groups, classic(arrays))
                for place, i in enumerate(group)]

    def __reduce__(self):
        raise TypeError('a network that has a BBBLoss cannot be pickled; save its parameters, or copy it by '
                        'copy.deepcopy, which leaves the loss behind')


def tap(net):
    """Make every block of ``net`` that holds Bayesian layers hand out their KL terms.

    A block is tapped once; calling this again only adds blocks that came later. Cached graphs of newly tapped blocks
    are cleared, and Parameters whose arrays lost their gradient buffers, as Gluon's ``copy.deepcopy`` leaves them,
    get them back.
    """
    _mark_gradients(net)
    for block in walk(net):
        if _TAP in block.__dict__ or not any(getattr(child, '_rhos', None) for child in walk(block)):
            continue
        methods = dict(_HYBRID_METHODS if isinstance(block, HybridBlock) else _METHODS)
        if hasattr(block, 'unroll'):
            methods['unroll'] = _unroll
        for name in methods:
            if name in block.__dict__:
                raise RuntimeError('%s has a %s of its own set on the instance; put it into a class' % (
                    block.name, name))
        setattr(block, _TAP, _Tap())
        for name, function in methods.items():
            setattr(block, name, MethodType(function, block))
        if isinstance(block, HybridBlock):
            block._clear_cached_op()


@contextlib.contextmanager
def one_forward(block, args, root=None):
    """All that runs inside is one forward of ``block`` on ``args``, or a part of the forward or trace it stands in."""
    arrays = list(leaves(args))
    traced = any(isinstance(array, symbol.Symbol) for array in arrays)
    if _frames() and _frames()[-1].traced == traced:
        yield
    elif traced:
        # Traced by a block that is not tapped: draws are shared, but the terms have no way out.
        with _open(_Frame(root, True, False)):
            yield
    else:
        with_terms = autograd.is_recording() and autograd.is_training()
        contexts = {computed_on(array.ctx) for array in arrays}
        rhos = set(posterior_parameters(block))
        if contexts:
            _store(rhos, contexts, None, {})
        else:       # arrays hidden in other arguments, such as a dict: they can be anywhere
            for rho in rhos:
                forget(rho)
        with _open(_Frame(root, False, with_terms)) as frame:
            yield
        if with_terms:
            contexts.update(term.array.ctx for terms in frame.terms.values() for term in terms)
            _store(rhos.union(frame.terms), contexts or {current_context()}, next(_serial), frame.terms)


def _forward(self, *args):
    """``forward`` of a tapped block."""
    with one_forward(self, args, root=self):
        return type(self).forward(self, *args)


def _unroll(self, length, inputs, *args, **kwargs):
    """``unroll`` of a tapped recurrent cell: one forward, and not one for each step."""
    with one_forward(self, [inputs]):
        return type(self).unroll(self, length, inputs, *args, **kwargs)


def _store(rhos, contexts, forward, terms):
    for rho in rhos:
        latest = _latest.setdefault(rho, {})
        for context in contexts:
            latest.pop(context, None)
            if forward is not None:
                term = [term for term in terms.get(rho, []) if term.array.ctx == context]
                latest[context] = _Entry(forward, term[0] if term else None)


def _get_graph(self, *args):
    """``_get_graph`` of a tapped block: the KL terms follow the block's own outputs.

    ``_cached_graph`` stays the graph without them, so that ``export`` writes what ``net(x)`` returns.
    """
    tapped = self.__dict__[_TAP]
    if not self._cached_graph:
        for guarded in (False, True):
            with _open(_Frame(self, True, True, guarded)) as frame:
                inputs, outputs = type(self)._get_graph(self, *args)
            tapped.rhos = list(frame.terms)
            terms = tapped.pack([frame.terms[rho][0] for rho in tapped.rhos])
            graph = symbol.Group([outputs] + [as_kind_of(outputs, term) for term in terms], type(outputs))
            if not native_draw.uses_elsewhere(graph):
                break
            self._clear_cached_op()
        tapped.base, tapped.graph = self._cached_graph, (inputs, graph)
    return tapped.graph if self._cached_graph is tapped.base else self._cached_graph


def _call_cached_op(self, *args):
    """``_call_cached_op`` of a tapped block: takes the KL terms off the outputs."""
    if runs_eagerly(self):
        return type(self)._call_cached_op(self, *args)
    tapped = self.__dict__[_TAP]
    context = computed_on(next(leaves(args)).ctx)
    args = moved_to(context, args)
    with tapped.lock:       # threads may run one network, each on a context of its own
        output, terms = _run_graph(self, tapped, args, context)
    frame = current_frame(ndarray)
    if frame is not None and autograd.is_training():
        frame.deposit(tapped.unpack(terms), context)
    return output


def _run_graph(block, tapped, args, context):
    """The output of a tapped block, and its KL terms as arrays; traces its graph if there is none that fits."""
    if block._cached_op is not None and (
            _state_of(block, tapped) != tapped.state
            or any(param._grad is not buffers for param, buffers in tapped.gradients)):
        block._clear_cached_op()
    if block._cached_op is None:
        if block._cached_graph and block._cached_graph is not tapped.base:
            block._clear_cached_op()    # a graph from elsewhere, such as Block.load, has no KL terms
        _check_names(block)
        rhos = posterior_parameters(block)
        if not native_draw.shapes_are_known(rhos):
            # The native operator is only in a graph that is traced after this.
            block._deferred_infer_shape(*args)
            block._clear_cached_op()
            native_draw.forget_shapes(rhos)
        block._build_cache(*args)
        tapped.state = _state_of(block, tapped)
        tapped.gradients = [(param, param._grad) for param in block.collect_params().values()]
    # The format that stands in the block stays that of its own outputs: Block.save writes it into a file.
    own_format = block._out_format
    block._out_format = [own_format, [0] * len(tapped.groups)]
    mode = autograd.is_training(), autograd.is_recording()
    last_mode, outputs = tapped.running.pop(context, (mode, []))
    if last_mode != mode:
        # With static_shape a graph has one mode for all its forwards: those that are under way would change theirs.
        for array in outputs:
            array.wait_to_read()
    try:
        result = type(block)._call_cached_op(block, *args)
    finally:
        block._out_format = own_format
    if dict(block._flags).get('static_shape'):
        # Detached, so that nothing of what was recorded is kept alive.
        tapped.running[context] = mode, [array.detach() for array in leaves(result)]
    return result


def _state_of(block, tapped):
    """What the graph of ``block`` depends on, and Gluon does not trace anew for.

    With ``static_shape`` MXNet's graph goes on writing gradients into the buffers of an earlier backward. They are not
    the Parameters' any more if these were initialized again, or had a ``grad_req`` of 'null' (then ``_grad`` is another
    list); and they were never, if the gradient of that backward was to be added to one of :func:`kl_divergence`.
    """
    alone = [rho.recorded_alone for rho in tapped.rhos] if dict(block._flags).get('static_shape') else None
    return native_draw.state_of(tapped.rhos), alone


def _check_names(block):
    """RuntimeError if a Parameter stands in ``block`` under a name that is not its own.

    ``Block.load`` of a network with another prefix leaves Parameters so. Gluon then runs the graph that was saved, but
    fails to trace another one, in which each Parameter has its own name.
    """
    for name, param in block.collect_params().items():
        if name != param.name:
            raise RuntimeError(
                'Block.load has given Parameter %s of %s the name %s of the network that was saved, so that MXNet '
                'cannot trace the graph which a BBBLoss needs. Make the network with the prefix of the one that was '
                'saved, such as nn.HybridSequential(prefix=...), before load; or use save_parameters and '
                'load_parameters, which do not depend on prefixes' % (param.name, type(block).__name__, name))


def runs_eagerly(block):
    """Whether ``block`` is a Bayesian layer inside a bigger eager forward.

    It then runs eagerly even if it is hybridized for itself: its draw must be open to other uses of the same
    Parameters in this forward, and one layer's graph gains next to nothing.
    """
    frame = current_frame(ndarray)
    return bool(getattr(block, '_rhos', None)) and frame is not None and frame.root is not block


def call_eagerly(block, *args):
    """``block`` on ``args`` as if it were not hybridized."""
    context = next(leaves(args)).ctx
    try:
        params = {name: param.data(context) for name, param in block._reg_params.items()}
    except DeferredInitializationError:
        block._deferred_infer_shape(*args)
        for param in block.params.values():
            param._finish_deferred_init()
        params = {name: param.data(context) for name, param in block._reg_params.items()}
    return block.hybrid_forward(ndarray, *args, **params)


def copy_block(block, memo):
    """``copy.deepcopy`` of a block without taps and cached graphs, and with gradient buffers that work.

    Gluon's own copy of a block fails once the block has run hybridized, its Parameters get no gradients, and their
    arrays lose their contexts.
    """
    with autograd.pause():      # a copy that is recorded could not be marked for gradients
        return _copy(block, memo)


def _copy(block, memo):
    for child in walk(block):
        for param in own_parameters(child):
            memo[id(param._trainer)] = None
            # Gluon's own copies would all be on cpu(0).
            for array in (param._data or []) + (param._grad or []):
                if id(array) not in memo:
                    memo[id(array)] = array.copyto(array.context)
        if isinstance(child, HybridBlock):
            if not isinstance(child, SymbolBlock):      # whose graph is all that it is
                memo[id(child._cached_graph)] = ()
            memo[id(child._cached_op)] = None
            memo[id(child._cached_op_args)] = []
        if id(child._scope) not in memo:
            memo[id(child._scope)] = _copy_scope(child._scope)
    new = block.__class__.__new__(block.__class__)
    memo[id(block)] = new
    for name, value in block.__dict__.items():
        if not (name == _TAP or (_TAP in block.__dict__ and name in _ALL_METHODS)):
            new.__dict__[name] = copy.deepcopy(value, memo)
    for child in walk(block):
        copied = memo.get(id(child))
        if copied is not None:
            memo[id(child._scope)]._block = copied
    for rho in new.__dict__.get('_rhos', {}).values():
        add_owner(rho, new)
    _mark_gradients(new)
    return new


def _copy_scope(scope):
    """A copy of a name scope, which still lacks its block, as if nobody had entered it yet.

    A scope refers to the one from which it was last entered. If a network around the copied block has run hybridized,
    this is the network's own scope, and ``copy.deepcopy`` would copy all of that network too.
    """
    new = copy.copy(scope)
    new._counter = dict(scope._counter)
    new._block = new._old_scope = new._name_scope = None
    return new


def own_parameters(block):
    """The Parameters that ``block`` itself holds, those too that are no attributes, as in a list."""
    # Not params: that of a cell around another one, such as ResidualCell, is the other one's.
    return {id(param): param for params in (block._reg_params, block._params) for param in params.values()}.values()


def _mark_gradients(net):
    for block in walk(net):
        for param in own_parameters(block):
            if param._grad is not None and any(data.grad is None for data in param._data):
                autograd.mark_variables(param._data, param._grad, param.grad_req)


_METHODS: Dict[str, Callable] = {'forward': _forward, '__deepcopy__': copy_block}
_HYBRID_METHODS: Dict[str, Callable] = dict(_METHODS, _get_graph=_get_graph, _call_cached_op=_call_cached_op)
_ALL_METHODS = dict(_HYBRID_METHODS, unroll=_unroll)
