# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Running a method of Gluon's on a block that differs in some attributes from the block at hand."""
from typing import Any, Optional

from mxnet.gluon import Block

__all__ = ['stand_in']


def stand_in(block: Block, cls: Optional[type] = None, **attributes: Any) -> Any:
    """An object that has the attributes of ``block``, some of them replaced.

    Gluon's methods read the settings of a layer from ``self``. To have a layer's output without its activation, or the
    names that a plain layer gives to its Parameters, its method is called on a stand-in. The stand-in refers to the
    same Parameters and children, and it is no part of any network.

    Parameters
    ----------
    block : Block
    cls : type, default that of ``block``
        The class of the stand-in.
    **attributes
        What it has in place of attributes of ``block``.
    """
    new = object.__new__(cls or type(block))
    new.__dict__.update(block.__dict__, **attributes)       # without Block.__setattr__, which would register children
    return new
