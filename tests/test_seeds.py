# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The random numbers of a test stay the same when its file moves, and when it gets another name."""
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import seed_key


def node(nodeid, marker=None):
    """Stands for a test."""
    name = nodeid.rpartition('::')[2]
    return SimpleNamespace(nodeid=nodeid, name=name, originalname=name.partition('[')[0],
                           get_closest_marker={'seed_key': marker}.get)


@pytest.mark.parametrize('nodeid', [
    'tests/test_x.py::test_it', 'tests/test_x.py::test_it[1-eager]', 'tests/test_x.py::TestAll::test_it[a::b/c]'])
def test_key_has_no_folder(nodeid):
    assert seed_key(node(nodeid)) == nodeid
    for folder in ('tests/layers/', 'tests/a/b/', ''):
        assert seed_key(node(nodeid.replace('tests/', folder))) == nodeid


def test_keys_of_two_tests_differ():
    names = ['test_x.py::test_it', 'test_x.py::test_that', 'test_y.py::test_it', 'test_x.py::test_it[1]']
    assert len({seed_key(node(f'tests/{name}')) for name in names}) == 4


def test_marker_has_the_key_of_before():
    old = SimpleNamespace(args=('tests/test_x.py::test_old',))
    assert seed_key(node('tests/layers/test_y.py::test_new', old)) == 'tests/test_x.py::test_old'
    assert seed_key(node('tests/test_y.py::test_new[1-eager]', old)) == 'tests/test_x.py::test_old[1-eager]'


def assert_seeded(seed, key):
    assert seed == zlib.crc32(key.encode())
    assert np.random.uniform() == np.random.RandomState(seed).uniform()


@pytest.mark.parametrize('value', ['a', 'b[c]'])
def test_fixture(seed, value):
    assert_seeded(seed, f'tests/test_seeds.py::test_fixture[{value}]')


@pytest.mark.parametrize('value', ['a', 'b[c]'])
@pytest.mark.seed_key('tests/test_before.py::test_old')
def test_fixture_after_a_new_name(seed, value):
    assert_seeded(seed, f'tests/test_before.py::test_old[{value}]')
