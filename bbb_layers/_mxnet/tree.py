# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Trees of blocks: walking through them, and copying them."""
import copy
from typing import Any, Dict, Iterable, Iterator, List, Tuple, Union

from mxnet import autograd
from mxnet.gluon import Block, HybridBlock, Parameter, SymbolBlock
from mxnet.ndarray import NDArray
from mxnet.symbol import Symbol

__all__ = ['walk', 'walk_with_paths', 'own_parameters', 'leaves', 'copy_block', 'mark_gradients', 'StaysBehind']


class StaysBehind:
    """Base class of attributes that a block has only as a part of one network, and that its copy must not have.

    :func:`copy_block` leaves out the attributes of a block that are instances of this class, or methods of an instance.
    """


def walk(net: Block) -> Iterator[Block]:
    """``net`` and all blocks below it, each once, parents first."""
    for _, block in walk_with_paths(net):
        yield block


def walk_with_paths(net: Block) -> Iterator[Tuple[str, Block]]:
    """(path, block) of ``net`` and of all blocks below it, each once, parents first; the path of ``net`` is empty."""
    seen, todo = set(), [('', net)]
    while todo:
        path, block = todo.pop()
        if id(block) not in seen:
            seen.add(id(block))
            yield path, block
            todo.extend((path + '.' * bool(path) + name, child)
                        for name, child in reversed(list(block._children.items())))


def own_parameters(block: Block) -> List[Parameter]:
    """The Parameters that ``block`` itself holds, including Parameters that are in a list and not attributes."""
    # block.params would be wrong: for a cell around another cell, such as ResidualCell, it belongs to the inner cell.
    found = {id(param): param for params in (block._reg_params, block._params) for param in params.values()}
    return list(found.values())


def leaves(args: Iterable) -> Iterator[Union[NDArray, Symbol]]:
    """The NDArrays and Symbols in nested lists of arguments."""
    for arg in args:
        if isinstance(arg, (list, tuple)):
            yield from leaves(arg)
        elif isinstance(arg, (NDArray, Symbol)):
            yield arg


def copy_block(block: Block, memo: Dict[int, Any]) -> Block:
    """``copy.deepcopy`` of a block without cached graphs, and with gradient buffers that work.

    Gluon's own copy of a block fails once the block has run hybridized, its Parameters get no gradients, and their
    arrays lose their contexts. Each :class:`StaysBehind` is left out. A block can have a method ``_after_copy``, which
    is called on its copy.

    Parameters
    ----------
    block : Block
    memo : dict
        Id of an original -> its copy, as in ``copy.deepcopy``.
    """
    with autograd.pause():      # a recorded copy could not be marked for gradients
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
            if not isinstance(child, SymbolBlock):      # the graph is all that a SymbolBlock has
                memo[id(child._cached_graph)] = ()
            memo[id(child._cached_op)] = None
            memo[id(child._cached_op_args)] = []
        if id(child._scope) not in memo:
            memo[id(child._scope)] = _copy_scope(child._scope)
    new = block.__class__.__new__(block.__class__)
    memo[id(block)] = new
    for name, value in block.__dict__.items():
        # A method that is set as an attribute has the object that it belongs to as its __self__.
        if not isinstance(getattr(value, '__self__', value), StaysBehind):
            new.__dict__[name] = copy.deepcopy(value, memo)
    for child in walk(block):
        copied = memo.get(id(child))
        if copied is not None:
            memo[id(child._scope)]._block = copied
    getattr(new, '_after_copy', _nothing)()
    mark_gradients(new)
    return new


def _nothing():
    pass


def _copy_scope(scope):
    """A copy of a name scope as if nobody had entered it yet. The copy still lacks its block.

    A scope refers to the scope from which it was last entered. If a network around the copied block has run
    hybridized, the outer scope belongs to that network, and ``copy.deepcopy`` would copy the whole network too.
    """
    new = copy.copy(scope)
    new._counter = dict(scope._counter)
    new._block = new._old_scope = new._name_scope = None
    return new


def mark_gradients(net: Block) -> None:
    """Give the arrays of ``net`` their gradient buffers back, if Gluon's ``copy.deepcopy`` has detached them."""
    for block in walk(net):
        for param in own_parameters(block):
            if param._grad is not None and any(data.grad is None for data in param._data):
                autograd.mark_variables(param._data, param._grad, param.grad_req)
