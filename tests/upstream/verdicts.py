# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the runs say of each test, and RESULTS.md."""
import sys

import mxnet
import numpy
from processes import LEFT_OUT, VARIANTS

__all__ = ['Comparison', 'markdown']

ESCAPED_BAR = r'\|'


class Comparison:
    """What two runs say of each test: a dict from test to a pair of lines of their records, for each verdict.

    Attributes
    ----------
    unchanged, different : dict
        With the same outcome, passed or skipped, in both runs; with another one in the second.
    failing : dict
        Failed in both runs.
    without : dict
        Unchanged, but no Bayesian layer was built in the test.
    narrow : dict
        Test -> line of the record of the third run, which has only tests that differ.
    """

    def __init__(self, plain, exchanged):
        self.narrow = {}
        self.unchanged, self.different, self.failing, self.without = {}, {}, {}, {}
        nothing = {'outcome': 'missing', 'layers': 0, 'message': ''}
        for test in sorted({**plain, **exchanged}):
            pair = before, after = plain.get(test, nothing), exchanged.get(test, nothing)
            if before['outcome'] != after['outcome']:
                verdict = self.different
            elif before['outcome'] not in ('passed', 'skipped'):
                verdict = self.failing
            else:
                verdict = self.unchanged if after['layers'] else self.without
            verdict[test] = pair

    def failed(self):
        """The tests that differ because they fail with Bayesian layers."""
        return [test for test, (_, after) in self.different.items() if after['outcome'] == 'failed']

    def noisy(self):
        """The tests of these that pass where all draws are the mean."""
        return [test for test in self.failed() if self.narrow.get(test, {}).get('outcome') == 'passed']

    def mistakes(self, reasons):
        """What ``reasons``, a dict from test to sentence, lacks and what it has too many, one line each."""
        for test, (before, after) in self.different.items():
            if test not in reasons:
                yield f'{test}: {before["outcome"]}, with Bayesian layers {after["outcome"]}: {after["message"]}'
        if not (self.unchanged or self.different or self.failing or self.without):
            yield 'no test was chosen'
        for test in sorted(reasons.keys() & {**self.unchanged, **self.without}):
            yield f'{test}: has a reason to differ, but does not'

    def summary(self):
        return (f'{len(self.unchanged) + len(self.different)} tests with layers exchanged: {len(self.unchanged)} '
                f'unchanged, {len(self.different)} different, {len(self.noisy())} of which pass without noise; '
                f'{len(self.failing)} fail in plain MXNet too; {len(self.without)} build none of these layers')


def table(head, rows):
    """The lines of a Markdown table."""
    return ['', f'| {" | ".join(head)} |', f'|{"---|" * len(head)}',
            *(f'| {" | ".join(cell.replace("|", ESCAPED_BAR) for cell in row)} |' for row in rows)]


def markdown(comparison, reasons):
    """RESULTS.md."""
    verdicts = {'unchanged': comparison.unchanged, 'different': comparison.different,
                'fail in plain MXNet too': comparison.failing, 'build none of these layers': comparison.without}
    files = sorted({test.partition('::')[0] for tests in verdicts.values() for test in tests})
    return '\n'.join([
        '# The tests of MXNet with Bayesian layers', '',
        f'Written by `python tests/upstream/compare.py MXNET_SOURCE --write`, with MXNet {mxnet.__version__}, NumPy '
        f'{numpy.__version__} and CPython {sys.version.split()[0]}, on CPU and without network. The script runs tests '
        'of MXNet twice, plain and with Bayesian layers in the place of those of Gluon, and compares the outcomes test '
        'by test.', '', f'{comparison.summary()}.',
        *table(['file', *verdicts], [
            [name, *(str(sum(test.partition('::')[0] == name for test in tests)) for tests in verdicts.values())]
            for name in files] + [['all', *(str(len(tests)) for tests in verdicts.values())]]),
        '', '## Different', '',
        'These tests have another outcome with Bayesian layers. Without noise: the outcome with an `initial_sigma` of '
        f'{VARIANTS["narrow"][-1]}, with which all draws are the mean.',
        *table(['test', 'plain', 'Bayesian', 'without noise', 'reason'], [
            [test, before['outcome'], after['outcome'], comparison.narrow.get(test, {'outcome': ''})['outcome'],
             reasons.get(test, '')] for test, (before, after) in comparison.different.items()]),
        '', '## Fail in plain MXNet too', '',
        'These tests say nothing about the layers. A ProxyError means that the test downloads something.',
        *table(['test', 'error in plain MXNet'], [
            [test, f'`{before["message"][:100]}`'] for test, (before, _) in comparison.failing.items()]),
        '', '## Left out', *table(['test', 'reason'], LEFT_OUT.items())]) + '\n'
