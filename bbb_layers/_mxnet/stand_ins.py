# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Stand-ins, on which a Gluon method runs as if some attributes of a block were different."""
from typing import Any, Optional

from mxnet.gluon import Block

__all__ = ['stand_in']


def stand_in(block: Block, cls: Optional[type] = None, **attributes: Any) -> Any:
    """An object that has the attributes of ``block``, some of them replaced.

    Gluon's methods read the settings of a layer from ``self``. To get the output of a layer without its activation, or
    the names that a plain layer gives to its Parameters, the method is called on a stand-in. The stand-in refers to the
    same Parameters and children, and it is not a part of any network.

    Parameters
    ----------
    block : Block
    cls : type, default that of ``block``
        The class of the stand-in.
    **attributes
        The values that replace attributes of ``block``.
    """
    new = object.__new__(cls or type(block))
    new.__dict__.update(block.__dict__, **attributes)       # bypasses Block.__setattr__, which would register children
    return new
