# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import gzip
import sys
import zlib

import numpy as np
import pytest
from mnist_files import idx, write_mnist
from subprocesses import EXAMPLES, ROOT

sys.path.insert(0, str(EXAMPLES))
from mnist_data import DataError, checksum, load_digits, load_mnist, read_idx

MNIST = ROOT.parent / 'shared' / 'data' / 'mnist'


@pytest.mark.parametrize('compress', [False, True])
@pytest.mark.parametrize('shape', [(5,), (2, 3), (4, 28, 28)])
def test_read_idx(tmp_path, shape, compress):
    array = np.random.randint(0, 256, shape)
    path = tmp_path / 'file'
    path.write_bytes(gzip.compress(idx(array)) if compress else idx(array))
    np.testing.assert_array_equal(read_idx(str(path)), array)


IMAGES = idx(np.zeros((3, 28, 28)))


@pytest.mark.parametrize('content,reason', [
    (b'', 'truncated'), (IMAGES[:3], 'truncated'), (IMAGES[:10], 'truncated'), (IMAGES[:-1], 'truncated'),
    (IMAGES + b'x', 'bytes after the end'), (idx(np.zeros((3, 28, 28)), magic=0x0d03), 'wrong magic number'),
    (idx(np.zeros(3)), 'wrong magic number'), (idx(np.zeros((0, 28, 28))), 'empty'),
    (gzip.compress(IMAGES, mtime=0)[:-20], 'gzip'),
    (gzip.compress(IMAGES, mtime=0)[:20] + b'garbage' * 9, 'gzip|cannot be read'),
    (b'<html>not found</html>', 'wrong magic number'),
])
def test_bad_files(tmp_path, content, reason):
    path = tmp_path / 'train-images-idx3-ubyte'
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_idx(str(path), ndim=3)
    assert str(caught.value).startswith(str(path) + ': ')


@pytest.mark.parametrize('ending', ['', '.gz'])
def test_load_mnist(tmp_path, ending):
    arrays = load_mnist(str(write_mnist(tmp_path / 'data', ending=ending)))
    train_images, train_labels, test_images, test_labels = arrays
    assert train_images.shape == (20, 28, 28) and test_images.shape == (10, 28, 28)
    assert train_labels.shape == (20,) and test_labels.shape == (10,)


def test_load_mnist_with_dots_in_the_names(tmp_path):
    folder = write_mnist(tmp_path / 'data')
    for path in folder.iterdir():
        path.rename(folder / path.name.replace('-idx', '.idx'))
    assert load_mnist(str(folder))[0].shape == (20, 28, 28)


@pytest.mark.parametrize('name,content,reason', [
    ('t10k-labels-idx1-ubyte', None, 'no such file'),
    ('t10k-images-idx3-ubyte', idx(np.zeros((10, 27, 28))), 'images must be 28x28'),
    ('train-labels-idx1-ubyte', idx(np.zeros(19)), 'one label for each of the 20 images'),
    ('train-labels-idx1-ubyte', idx(np.arange(20)), 'labels must be 0 to 9 .saw: 10 for image 10'),
    ('train-images-idx3-ubyte', idx(np.zeros(20)), 'wrong magic number'),
])
def test_files_that_do_not_fit(tmp_path, name, content, reason):
    folder = write_mnist(tmp_path / 'data')
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        load_mnist(str(folder))
    assert str(caught.value).startswith(str(folder / name))


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match='no such folder'):
        load_mnist(str(tmp_path / 'nowhere'))


@pytest.mark.skipif(not MNIST.is_dir(), reason=f'the real MNIST files are not in {MNIST}')
def test_real_mnist():
    train_images, train_labels, test_images, test_labels = load_mnist(str(MNIST))
    assert train_images.shape == (60000, 28, 28) and test_images.shape == (10000, 28, 28)
    assert train_labels[:5].tolist() == [5, 0, 4, 1, 9] and test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(train_labels).min() == 5421


def test_digits_are_split_by_class():
    train_images, train_labels, test_images, test_labels = load_digits(seed=3)
    assert train_images.shape == (4000, 28, 28) and test_images.shape == (1000, 28, 28)
    assert np.bincount(train_labels).tolist() == [400] * 10 and np.bincount(test_labels).tolist() == [100] * 10
    assert len(set(test_labels[:30].tolist())) > 5      # not sorted by class
    rows = {image.tobytes() for image in train_images}
    assert len(rows) == 4000 and not any(image.tobytes() in rows for image in test_images)
    again, other = load_digits(seed=3), load_digits(seed=4)
    np.testing.assert_array_equal(again[2], test_images)
    assert (other[2] != test_images).any()


@pytest.mark.parametrize('num_test', [0, 5, 5000, -10])
def test_bad_size_of_the_held_out_part(num_test):
    with pytest.raises(ValueError, match='num_test must be'):
        load_digits(num_test)


def test_checksum():
    images, labels = np.arange(12, dtype=np.uint8).reshape(3, 4), np.arange(3, dtype=np.uint8)
    known = checksum([images, labels])
    assert known == zlib.crc32(bytes(range(12)) + bytes(range(3)))
    assert known == checksum([np.asfortranarray(images), labels])
    assert known != checksum([labels, images]) and known != checksum([images[:2], labels])
