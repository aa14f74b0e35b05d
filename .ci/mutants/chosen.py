# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A plugin of pytest that runs the tests which a file names, by the environment variable CHOSEN_TESTS.

Thousands of names do not fit into a command. With ``CHOSEN_TESTS_EXCEPT=1`` it runs all tests but the named ones.
"""
import os
from pathlib import Path


def pytest_collection_modifyitems(config, items):
    names = set(Path(os.environ['CHOSEN_TESTS']).read_text(encoding='utf-8').splitlines())
    without = os.environ.get('CHOSEN_TESTS_EXCEPT') == '1'
    left_out = [item for item in items if (item.nodeid in names) == without]
    items[:] = [item for item in items if (item.nodeid in names) != without]
    config.hook.pytest_deselected(items=left_out)
