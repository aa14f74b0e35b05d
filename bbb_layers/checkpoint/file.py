# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The file of a checkpoint, which is complete at any time and verified by a checksum."""
import contextlib
import glob
import hashlib
import io
import json
import os
import tempfile
import zipfile
from typing import Any, Dict, Tuple, Union

import numpy as np

try:
    import fcntl
except ImportError:     # not a POSIX system
    fcntl = None        # type: ignore[assignment]

__all__ = ['Path', 'MAGIC', 'write_atomically', 'write', 'read']

Path = Union[str, os.PathLike]

#: The number of a format -> the first bytes of its files.
MAGIC = {1: b'bbb_layers checkpoint 1\n', 2: b'bbb_layers checkpoint 2\n'}
_FORMAT = 2
_DIGEST = 32
#: A hidden file's name contains the file's name if this has at most this many bytes; file systems allow 255 in all.
_LONGEST = 200


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that contains, at any time, either all of the new content or its old content.

    A process that is killed while it writes leaves a hidden file ``.NAME.*.part`` behind, where the SHA-1 of NAME
    replaces a NAME that is too long. The next process that writes the same file removes the hidden file.

    Parameters
    ----------
    path : str or os.PathLike
        If this is a symbolic link, the file to which it leads is written.
    content : bytes

    Raises
    ------
    OSError
        If the file cannot be written: the disk is full, the folder is read-only, ... The old file stays as it was.
    """
    try:
        _write(os.fsdecode(os.path.realpath(path)), content)
    except OSError as error:
        # If the disk is full, Python's error names no file. Other errors name the hidden file, which means nothing to
        # the user.
        error.filename = os.fspath(path)
        raise


def _write(path, content):
    folder, name = os.path.split(path)
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha1(os.fsencode(name)).hexdigest()
    _remove_parts(folder, name)
    handle, part = _locked_part(folder, name)
    try:
        # The file stays open until the end: its lock tells other processes that it is being written.
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes files that only their owner may read. This gives the file the usual permissions.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(part, 0o666 & ~umask)
            try:
                os.replace(part, path)
            except OSError as error:    # Python's error names both files, and cannot be changed to name only one
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
        if os.fstat(handle).st_nlink:       # otherwise another process removed the file before it was locked
            return handle, part
        os.close(handle)


def _lock(handle, wait):
    """Lock a file; returns whether it is locked now. The lock ends when the file is closed, or its process ends."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except OSError:     # locked by another process, or the file system has no locks
        return False


def _remove_parts(folder, name):
    """Remove the hidden files of processes that were killed while they wrote a file of this name."""
    for part in glob.glob(os.path.join(glob.escape(folder), f'.{glob.escape(name)}.*.part')):
        with contextlib.suppress(OSError):
            handle = os.open(part, os.O_RDWR)
            try:
                if _lock(handle, wait=False):
                    os.unlink(part)
            finally:
                os.close(handle)


def write(path: Path, meta: Dict[str, Any], arrays: Dict[str, np.ndarray]) -> None:
    """Write ``meta``, which must be a value that JSON can hold, and ``arrays``, with a checksum over both."""
    encoded = np.frombuffer(json.dumps(meta, allow_nan=True).encode('utf-8'), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **arrays, meta=encoded)
    payload = stream.getvalue()
    write_atomically(path, MAGIC[_FORMAT] + hashlib.sha256(payload).digest() + payload)


def read(path: Path) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """The ``meta`` and ``arrays`` that :func:`write` wrote; earlier formats are converted to the present format.

    Raises
    ------
    ValueError
        If the file is not a checkpoint, or is damaged.
    OSError
        If the file cannot be read.
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
        arrays = _arrays(payload)
        meta = json.loads(arrays.pop('meta').tobytes().decode('utf-8'), object_pairs_hook=_distinct)
        if known == 1 and 'trainer' in meta:
            _upgrade(meta['trainer'])
        return meta, arrays
    except Exception as error:      # zipfile and NumPy raise errors of many classes
        raise ValueError(f'{path}: must be a checkpoint of bbb_layers (saw: {error})') from None


def _arrays(payload):
    """Name -> array of a file in the format of ``np.savez``, as :func:`write` makes it; otherwise ValueError.

    ``np.load`` is more generous. It takes the last of two arrays with one name, unpacks a compressed array to any size,
    returns the bytes of a part that does not begin as an array does, and does not look at what follows an array. It
    also takes arrays in the order of Fortran, where one changed word in a header transposes an array in silence.
    """
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        for member in archive.infolist():
            name, suffix = os.path.splitext(member.filename)
            if suffix != '.npy':
                raise ValueError(f'{member.filename} is no array')
            if name in arrays:
                raise ValueError(f'two arrays with the name {name}')
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f'{name} is compressed')
            stream = io.BytesIO(archive.read(member))
            arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
            if stream.read(1) or not arrays[name].flags.c_contiguous:
                raise ValueError(f'{name} has more bytes than its shape says, or is not in the order of C')
    return arrays


def _distinct(pairs):
    """The dict of ``pairs`` from JSON; ValueError if two of them have the same key, of which Python takes the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError('two entries with one name')
    return found


def _upgrade(trainer):
    """Convert the description of a Trainer from the first format to the present format.

    The first format has the name of the optimizer's class without its module, no name of the schedule's class, and only
    the attributes that are numbers.
    """
    trainer['optimizer'] = {'kind': trainer['optimizer'], 'attributes': trainer.pop('numbers')}
    if trainer['schedule'] is not None:
        trainer['schedule'] = {'kind': None, 'attributes': trainer['schedule']}
