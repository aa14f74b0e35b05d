# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One file that is at any time complete, and known to be what was written."""
import contextlib
import glob
import hashlib
import io
import json
import os
import tempfile
from typing import Any, Dict, Tuple, Union

import numpy as np

try:
    import fcntl
except ImportError:     # not a POSIX system
    fcntl = None        # type: ignore[assignment]

__all__ = ['Path', 'MAGIC', 'write_atomically', 'write', 'read']

Path = Union[str, os.PathLike]

#: What a file starts with, by its format.
MAGIC = {1: b'bbb_layers checkpoint 1\n', 2: b'bbb_layers checkpoint 2\n'}
_FORMAT = 2
_DIGEST = 32
#: Bytes of a file name to which a hidden file's name can add its own; file systems take 255.
_LONGEST = 200


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it at any time holds all of the content or what it held before.

    A process that is killed while it writes leaves a hidden file ``.NAME.*.part`` behind (of a name that is too long
    for that, its SHA-1), which the next one that writes there removes.

    Parameters
    ----------
    path : str or os.PathLike
        Of a symbolic link the file that it leads to is written.
    content : bytes

    Raises
    ------
    OSError
        If it cannot be written: the disk is full, the folder is read-only, ... What was there before stays.
    """
    try:
        _write(os.path.realpath(path), content)
    except OSError as error:
        # Of a full disk Python does not say which, and the name of the hidden file is nobody's affair.
        error.filename = os.fspath(path)
        raise


def _write(path, content):
    folder, name = os.path.split(path)
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha1(os.fsencode(name)).hexdigest()
    _remove_parts(folder, name)
    handle, part = _locked_part(folder, name)
    try:
        # Open until the end: its lock tells other processes that it is being written.
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes files that nobody else may read.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(part, 0o666 & ~umask)
            try:
                os.replace(part, path)
            except OSError as error:    # Python names both files, and there is no way to have it name one again
                raise OSError(error.errno, error.strerror) from None
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _locked_part(folder, name):
    """(file descriptor, path) of a new file, locked."""
    while True:
        handle, part = tempfile.mkstemp(prefix=f'.{name}.', suffix='.part', dir=folder)
        _lock(handle, wait=True)
        if os.fstat(handle).st_nlink:       # else somebody took it for left behind before it was locked
            return handle, part
        os.close(handle)


def _lock(handle, wait):
    """Lock a file; returns whether it is locked now. It is unlocked when it is closed, or its process ends."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except OSError:     # locked by another process, or the file system has no locks
        return False


def _remove_parts(folder, name):
    """Remove what processes left behind that were killed while they wrote a file of this name."""
    for part in glob.glob(os.path.join(glob.escape(folder), f'.{glob.escape(name)}.*.part')):
        with contextlib.suppress(OSError):
            handle = os.open(part, os.O_RDWR)
            try:
                if _lock(handle, wait=False):
                    os.unlink(part)
            finally:
                os.close(handle)


def write(path: Path, meta: Dict[str, Any], arrays: Dict[str, np.ndarray]) -> None:
    """Write ``meta``, which JSON can hold, and ``arrays``, with a checksum over both."""
    encoded = np.frombuffer(json.dumps(meta, allow_nan=True).encode('utf-8'), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **arrays, meta=encoded)
    payload = stream.getvalue()
    write_atomically(path, MAGIC[_FORMAT] + hashlib.sha256(payload).digest() + payload)


def read(path: Path) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """What :func:`write` wrote, or a file of an earlier format in the form of this one.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or is damaged.
    OSError
        If it cannot be read.
    """
    with open(path, 'rb') as file:
        content = file.read()
    known = next((number for number, magic in MAGIC.items() if content.startswith(magic)), None)
    if known is None:
        raise ValueError(f'{path}: must be a checkpoint of bbb_layers (saw: {content[:24]!r}...)')
    start = len(MAGIC[known])
    digest, payload = content[start:start + _DIGEST], content[start + _DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError(f'{path}: damaged or cut off: its checksum does not fit')
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop('meta').tobytes().decode('utf-8'))
        if known == 1 and 'trainer' in meta:
            _upgrade(meta['trainer'])
        return meta, arrays
    except Exception as error:      # there is no end of what zipfile and numpy raise
        raise ValueError(f'{path}: must be a checkpoint of bbb_layers (saw: {error})') from None


def _upgrade(trainer):
    """Bring what the first format says of a Trainer into the form of this one.

    It has the name of the optimizer's class alone, none of the schedule's, and numbers alone.
    """
    trainer['optimizer'] = {'kind': trainer['optimizer'], 'attributes': trainer.pop('numbers')}
    if trainer['schedule'] is not None:
        trainer['schedule'] = {'kind': None, 'attributes': trainer['schedule']}
