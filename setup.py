# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import os
import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

# pip asks for the metadata before it looks at python_requires, and then names no reason.
if not (3, 8) <= sys.version_info[:2] <= (3, 13):
    sys.exit('bbb-layers needs CPython 3.8 to 3.13 (this is %d.%d): earlier ones lack parts of the language that it '
             'uses, and MXNet 1.9.1, the last release of MXNet, has not been tried with later ones'
             % sys.version_info[:2])

here = Path(__file__).parent
version = re.search(r"__version__ = '(.+)'", (here / 'bbb_layers' / '__init__.py').read_text(encoding='utf-8')).group(1)

# An index of packages shows README without the files beside it, so that its links and pictures need whole addresses.
# A release names the repository that has them, at the tag of its version: REPOSITORY_URL=https://... python -m build.
# Without a name, the text of a link stands alone, and so does the description of a picture.
repository = os.environ.get('REPOSITORY_URL', '').rstrip('/')


def whole_address(link):
    picture, text, target = link.groups()
    if re.match('https?://|#', target):
        return link.group()
    if not repository:
        return text
    return f'{picture}[{text}]({repository}/{"raw" if picture else "blob"}/v{version}/{target})'


readme = re.sub(r'(!?)\[([^\]]*)\]\(([^)\s]+)\)', whole_address, (here / 'README.md').read_text(encoding='utf-8'))

plot = ['matplotlib']
examples = plot + ['mlxtend', 'tqdm']
# No version is pinned. export_onnx does without MXNet's exporter, which needs an onnx below 1.15. For CPython 3.8 and
# 3.9, pip itself finds the last onnx and onnxruntime that have wheels for them.
onnx = ['onnx', 'onnxruntime']
# For work on the package: the pages, with the tutorials that run while they are built, and what make check runs.
docs = examples + ["%s; python_version >= '3.10'" % name for name in (
    'furo', 'ipykernel', 'myst-nb', 'sphinx>=8.1', 'sphinx-mathjax-offline')]
check = plot + ['build', 'mypy', 'pytest-cov', 'pytest-random-order', 'pytest-reverse', 'ruff']

setup(
    name='bbb-layers',
    version=version,
    description='Bayes by Backprop as layers for Apache MXNet Gluon',
    long_description=readme,
    long_description_content_type='text/markdown',
    author='The bbb_layers authors',
    url=repository or None,
    license='Apache-2.0',
    keywords=['Bayesian neural networks', 'Bayes by Backprop', 'variational inference', 'uncertainty', 'pruning',
              'deep learning', 'MXNet', 'Gluon'],
    packages=find_packages(include=['bbb_layers', 'bbb_layers.*']),
    package_data={'bbb_layers': ['py.typed'], 'bbb_layers.native': ['src/*.h', 'src/*.cc']},
    # What mxnet 1.9.1 misses in newer versions of Python and numpy, bbb_layers has. But mxnet's metadata ask for numpy
    # below 2, and there is none for CPython 3.13: there, mxnet is installed by itself, and the other packages that it
    # asks for are named here in its stead.
    python_requires='>=3.8,<3.14',
    install_requires=["mxnet>=1.9.1,<2; python_version < '3.13'", 'numpy>=1.17',
                      "requests>=2.20,<3; python_version >= '3.13'", "graphviz>=0.8.1,<0.9; python_version >= '3.13'"],
    extras_require={'plot': plot, 'examples': examples, 'onnx': onnx, 'docs': docs, 'check': check,
                    'test': examples + onnx + ['hypothesis', 'pytest', 'pytest-xdist', 'scikit-learn', 'scipy']},
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Programming Language :: C++',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3 :: Only',
        *['Programming Language :: Python :: 3.%d' % minor for minor in range(8, 14)],
        'Programming Language :: Python :: Implementation :: CPython',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
)
