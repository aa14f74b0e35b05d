# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Conversion of files of ``Trainer.save_states`` between two optimizers that compute the same updates."""
import os
import pickle
from typing import Union

from .._mxnet.checks import is_one_of
from ..training.optimizer import ADAMS
from .file import write_atomically

__all__ = ['convert_trainer_states']


def convert_trainer_states(path: Union[str, os.PathLike], new_path: Union[str, os.PathLike], optimizer: str) -> None:
    """Convert a file that ``Trainer.save_states`` wrote with ``'adam'`` for ``'fusedadam'``, or the other way round.

    Such a file contains the optimizer and its states, and ``Trainer.load_states`` replaces the Trainer's optimizer by
    the optimizer in the file. The new file has the same states and an optimizer of the other class with the same
    attributes: learning rate, schedule and its progress, counts of updates, ``lr_mult``, ``wd_mult``, and the step of a
    :class:`~bbb_layers.schedules.KLWeightHandler`. Training that continues from the new file gives the same numbers.

    The file is unpickled, as by ``Trainer.load_states``, and a pickle can run any code: convert only files that you
    trust. Files of :func:`~bbb_layers.checkpoint.save_checkpoint` need no conversion.

    Parameters
    ----------
    path : str or os.PathLike
        A file that ``Trainer.save_states`` or a CheckpointHandler wrote for a Trainer whose optimizer was ``'adam'`` or
        ``'fusedadam'``.
    new_path : str or os.PathLike
        The file to write. It is written completely or not at all, and replaces an old file. It may be ``path`` itself.
    optimizer : str
        The optimizer of the Trainer that is to load the new file: ``'adam'`` or ``'fusedadam'``. It may also be the
        optimizer for which ``path`` was written.

    Raises
    ------
    ValueError
        If ``optimizer`` is another value, or the file does not contain states with one of these two optimizers. A class
        that is derived from one of them counts as another optimizer.
    OSError
        If a file cannot be read or written. Old files stay as they are.
    """
    if not is_one_of(optimizer, tuple(ADAMS)):
        raise ValueError(f"optimizer must be 'adam' or 'fusedadam' (saw: {optimizer!r})")
    states, old = _load(path)
    new = ADAMS[optimizer]()
    aggregate_num = new.aggregate_num       # the number of Parameters that MXNet passes at once belongs to the class
    new.__setstate__(old.__getstate__())
    new.aggregate_num = aggregate_num
    write_atomically(new_path, pickle.dumps((states, new)))


def _load(path):
    """The states and the optimizer of a file."""
    with open(path, 'rb') as file:
        content = file.read()
    try:
        loaded = pickle.loads(content)
    except Exception as error:      # bytes that are not a pickle can raise errors of any class
        raise _wrong(path, f'{type(error).__name__}: {error}') from None
    if not (isinstance(loaded, tuple) and len(loaded) == 2 and isinstance(loaded[0], dict)):
        raise _wrong(path, f'{type(loaded).__name__} without an optimizer')
    if type(loaded[1]) not in ADAMS.values():
        raise _wrong(path, f'an optimizer of the class {type(loaded[1]).__module__}.{type(loaded[1]).__qualname__}')
    return loaded


def _wrong(path, saw):
    return ValueError(f"{path}: must be a file that Trainer.save_states wrote with the optimizer 'adam' or 'fusedadam' "
                      f'(saw: {saw})')
