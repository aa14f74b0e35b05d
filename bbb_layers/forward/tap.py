# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Taps: they take the KL terms out of a network, hybridized or not.

A layer cannot keep its KL term as an attribute: once a parent is hybridized, ``hybrid_forward`` runs only while the
graph is traced, and the attribute stays a Symbol for ever. Therefore the terms must be outputs of the cached graph.
:func:`tap` arranges this for the blocks of a network. A tapped block adds the KL terms of the layers in it to the
outputs of its graph, and removes them after the graph has run, so that ``net(x)`` returns only the network's output.
"""
import contextlib
import threading
from typing import Any, Callable, Dict, List, Tuple

from mxnet import autograd, ndarray, symbol
from mxnet.context import Context
from mxnet.gluon import Block, HybridBlock
from mxnet.gluon.parameter import Parameter
from mxnet.ndarray import NDArray

from .._mxnet.arrays import as_kind_of, classic
from .._mxnet.contexts import computed_on, moved_to
from .._mxnet.precision import computed_in
from .._mxnet.tree import StaysBehind, copy_block, leaves, mark_gradients, walk
from ..posterior.parameters import posterior_parameters
from ..posterior.rho import RhoParameter
from .draw import settings_of, shapes_are_known, uses_elsewhere
from .frames import Frame, Term, current_frame, one_forward, opened, runs_eagerly

__all__ = ['tap', 'Tap']

#: Attribute of a block -> its tap.
_TAP = '_kl_tap'


def tap(net: Block) -> None:
    """Make every block of ``net`` that holds Bayesian layers hand out their KL terms.

    A block is tapped once; a second call only taps blocks that were added later. The cached graphs of newly tapped
    blocks are cleared. Parameters whose arrays lost their gradient buffers in Gluon's ``copy.deepcopy`` get the buffers
    back.
    """
    mark_gradients(net)
    for block in walk(net):
        if _TAP not in block.__dict__ and any(getattr(child, '_rhos', None) for child in walk(block)):
            (_HybridTap if isinstance(block, HybridBlock) else Tap)(block).install()


class Tap(StaysBehind):
    """Methods that replace a block's own methods, and make the block hand out the KL terms of the layers in it.

    The class of the block stays the same. If the block became an instance of a subclass, ``Block.__setattr__``, which
    compares classes, would refuse to put another layer in the place of a tapped layer.

    Parameters
    ----------
    block : Block
    """

    def __init__(self, block: Block):
        self.block = block

    def install(self) -> None:
        """Put the tap on its block.

        Raises
        ------
        RuntimeError
            If a method that the tap replaces is already set on the instance of the block.
        """
        methods = self._methods()
        for name in methods:
            if name in self.block.__dict__:
                raise RuntimeError(
                    f'{self.block.name} has a {name} of its own set on the instance; put it into a class')
        setattr(self.block, _TAP, self)
        for name, method in methods.items():
            setattr(self.block, name, method)

    def _methods(self):
        methods: Dict[str, Callable] = {'forward': self.forward, '__deepcopy__': self.deepcopy}
        if hasattr(self.block, 'unroll'):
            methods['unroll'] = self.unroll
        return methods

    def forward(self, *args: Any) -> Any:
        """Replaces ``forward``: the call is one forward, or a part of the forward around it."""
        with one_forward(self.block, args, root=self.block):
            return type(self.block).forward(self.block, *args)

    def unroll(self, length: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Replaces ``unroll`` of a recurrent cell: all steps are one forward, instead of one forward for each step."""
        with one_forward(self.block, [inputs]):
            return type(self.block).unroll(self.block, length, inputs, *args, **kwargs)

    def deepcopy(self, memo: Dict[int, Any]) -> Block:
        """Replaces ``__deepcopy__``: the copy has no tap."""
        return copy_block(self.block, memo)

    def __reduce__(self):
        raise TypeError('a network that has a BBBLoss cannot be pickled; save its parameters, or copy it by '
                        'copy.deepcopy, which leaves the loss behind')


class _HybridTap(Tap):
    """The tap of a HybridBlock, whose cached graph has the KL terms as its last outputs.

    All terms of one dtype leave the graph in one array, because every further output, and every operator that makes
    one, costs MXNet time.

    Attributes
    ----------
    graph : tuple of (inputs, Symbol)
        The block's graph with the KL terms; None before it is traced.
    """

    def __init__(self, block: HybridBlock):
        super().__init__(block)
        self.graph: Any = None
        self._base: Any = None                                  # the same graph without the terms, for Gluon
        self._rhos: List[RhoParameter] = []                     # the graph hands out their terms
        self._groups: List[List[int]] = []                      # further output -> places of its terms in _rhos
        self._settings: Any = None
        self._gradients: List[Tuple[Parameter, Any]] = []       # the gradient buffers when the graph was built
        # Context -> mode and outputs of the last forward there, which may still be running.
        self._running: Dict[Context, Tuple[Tuple[bool, bool], List[NDArray]]] = {}
        self._lock = threading.RLock()

    def install(self) -> None:
        super().install()
        self.block._clear_cached_op()

    def _methods(self):
        return dict(super()._methods(), _get_graph=self.get_graph, _call_cached_op=self.call_cached_op)

    def get_graph(self, *args: Any) -> Any:
        """Replaces ``_get_graph``: the KL terms follow the block's own outputs.

        ``_cached_graph`` remains the graph without the terms, so that ``export`` writes a graph whose outputs are the
        outputs of ``net(x)``.
        """
        block = self.block
        if not block._cached_graph:
            inputs, graph = self._trace(args, guarded=False)
            # An operator of a library cannot add to a gradient, see forward.draw. If a Parameter has another use in
            # the graph, its draws must therefore be guarded. The other use is only known after the graph was traced.
            if uses_elsewhere(graph):
                block._clear_cached_op()
                inputs, graph = self._trace(args, guarded=True)
            self._base, self.graph = block._cached_graph, (inputs, graph)
        return self.graph if block._cached_graph is self._base else block._cached_graph

    def _trace(self, args, guarded):
        """The inputs of the block's graph, and the graph with the KL terms."""
        with opened(Frame(self.block, traced=True, with_terms=True, guarded=guarded)) as frame:
            inputs, outputs = type(self.block)._get_graph(self.block, *args)
        self._rhos = list(frame.terms)
        terms = self._pack([frame.terms[rho][0] for rho in self._rhos])
        return inputs, symbol.Group([outputs] + [as_kind_of(outputs, term) for term in terms], type(outputs))

    def _pack(self, terms):
        """The outputs of the graph, as Symbols, that hold the KL ``terms`` of its Parameters."""
        dtypes = [computed_in(rho.mu.dtype) for rho in self._rhos]
        self._groups = [[i for i, other in enumerate(dtypes) if other == dtype] for dtype in dict.fromkeys(dtypes)]
        return [symbol.concat(*[terms[i] for i in group], dim=0) for group in self._groups]

    def _unpack(self, arrays):
        """Pairs of rho and Term from ``arrays``, the values of the outputs that :meth:`_pack` made."""
        return [(self._rhos[i], Term(array, place, len(group)))
                for group, array in zip(self._groups, classic(arrays)) for place, i in enumerate(group)]

    def call_cached_op(self, *args: Any) -> Any:
        """Replaces ``_call_cached_op``: removes the KL terms from the outputs."""
        block = self.block
        if runs_eagerly(block):
            return type(block)._call_cached_op(block, *args)
        context = computed_on(next(leaves(args)).ctx)
        args = moved_to(context, args)
        with self._lock:        # several threads may run one network, each on its own context
            self._prepare(args)
            output, terms = self._run(args, context)
        frame = current_frame(ndarray)
        if frame is not None and autograd.is_training():
            frame.deposit(self._unpack(terms), context)
        return output

    def _prepare(self, args):
        """Trace and build the block's graph, unless the present graph fits."""
        block = self.block
        if block._cached_op is not None and (
                self._state() != self._settings
                or any(param._grad is not buffers for param, buffers in self._gradients)):
            block._clear_cached_op()
        if block._cached_op is not None:
            return
        if block._cached_graph and block._cached_graph is not self._base:
            block._clear_cached_op()    # a graph from elsewhere, such as Block.load, has no KL terms
        _check_names(block)
        rhos = posterior_parameters(block)
        if not shapes_are_known(rhos):
            # Only a graph that is traced after the shapes are known can contain the native operator.
            block._deferred_infer_shape(*args)
            block._clear_cached_op()
            for rho in rhos:
                rho.forget_symbols()
        block._build_cache(*args)
        self._settings = self._state()
        self._gradients = [(param, param._grad) for param in block.collect_params().values()]

    def _state(self):
        """The settings on which the graph depends, but for which Gluon does not trace it again.

        With ``static_shape`` MXNet's graph continues to write gradients into the buffers of an earlier backward. These
        buffers no longer belong to the Parameters if the Parameters were initialized again, or had a ``grad_req`` of
        'null' (``_grad`` is then another list). The buffers never belonged to the Parameters if the gradient of the
        earlier backward was to be added to a gradient of :func:`~bbb_layers.kl_divergence`.
        """
        static = dict(self.block._flags).get('static_shape')
        return settings_of(self._rhos), [rho.recorded_alone for rho in self._rhos] if static else None

    def _run(self, args, context):
        """The output of the block, and its KL terms as arrays."""
        block = self.block
        mode = autograd.is_training(), autograd.is_recording()
        last_mode, outputs = self._running.pop(context, (mode, []))
        if last_mode != mode:
            # With static_shape a graph has one mode for all its forwards, so forwards that are still running would
            # change their mode.
            for array in outputs:
                array.wait_to_read()
        with self._format_with_terms():
            result = type(block)._call_cached_op(block, *args)
        if dict(block._flags).get('static_shape'):
            # The arrays are detached, so that they keep no part of the recorded graph alive.
            self._running[context] = mode, [array.detach() for array in leaves(result)]
        return result

    @contextlib.contextmanager
    def _format_with_terms(self):
        """Make the block's own ``_call_cached_op`` return (output, terms) inside this context manager.

        Afterwards the block has the format of its own outputs again, because ``Block.save`` writes the format into a
        file.
        """
        own_format = self.block._out_format
        self.block._out_format = [own_format, [0] * len(self._groups)]
        try:
            yield
        finally:
            self.block._out_format = own_format


def _check_names(block):
    """RuntimeError if ``block`` holds a Parameter under a name that is not the Parameter's own name.

    ``Block.load`` of a network with another prefix has this effect. Gluon then runs the graph that was saved, but it
    fails to trace another graph, in which each Parameter has its own name.
    """
    for name, param in block.collect_params().items():
        if name != param.name:
            raise RuntimeError(
                f'Block.load has given Parameter {param.name} of {type(block).__name__} the name {name} of the network '
                'that was saved, so that MXNet cannot trace the graph which a BBBLoss needs. Make the network with the '
                'prefix of the one that was saved, such as nn.HybridSequential(prefix=...), before load; or use '
                'save_parameters and load_parameters, which do not depend on prefixes')
