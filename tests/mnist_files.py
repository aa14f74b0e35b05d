# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Files in the format of MNIST."""
import gzip
import struct

import numpy as np


def idx(array, magic=None):
    array = np.asarray(array, np.uint8)
    header = struct.pack('>I', 0x0800 + array.ndim if magic is None else magic)
    return header + struct.pack('>%dI' % array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, num_train=20, num_test=10, ending=''):
    folder.mkdir(exist_ok=True)
    for part, count in (('train', num_train), ('t10k', num_test)):
        files = {'-images-idx3-ubyte': np.random.randint(0, 256, (count, 28, 28)),
                 '-labels-idx1-ubyte': np.arange(count) % 10}
        for name, array in files.items():
            content = idx(array)
            (folder / (part + name + ending)).write_bytes(gzip.compress(content, mtime=0) if ending else content)
    return folder
