# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The file of tables that peers.py writes, from its measurements. Standard library only."""
import statistics

__all__ = ['LABELS', 'TARGETS', 'ratios', 'quartiles', 'report', 'summary']

OURS = 'fused'

# Contender -> (what it is called in a table, its prior)
LABELS = {
    'fused': ('**this package**, native operators, `fusedadam`', 'scale mixture'),
    'operators': ("this package, MXNet's operators only, `adam`", 'scale mixture'),
    'loaded': ('this package, loaded from a file, without a loss', ''),
    'to-deterministic': ('this package, `to_deterministic`', ''),
    'notebook': ("the notebook's code", 'scale mixture'),
    'gluon': ('deterministic Gluon, `adam`', 'none'),
    'gluon-fusedadam': ('deterministic Gluon, `fusedadam`', 'none'),
    'gluon-loaded': ('deterministic Gluon, loaded from a file', ''),
    'torch': ('PyTorch by hand', 'scale mixture'),
    'torch-compile': ('PyTorch by hand, `torch.compile`', 'scale mixture'),
    'torchbnn': ('torchbnn', 'Gaussian'),
    'blitz': ('blitz', 'scale mixture'),
    'bayesian-torch': ('bayesian-torch, reparameterization', 'Gaussian'),
    'bayesian-torch-flipout': ('bayesian-torch, flipout', 'Gaussian'),
    'torch-deterministic': ('deterministic PyTorch', 'none'),
    'jax': ('JAX, jit, optax', 'scale mixture'),
    'jax-rbg': ("JAX, jit, optax, generator 'rbg'", 'scale mixture'),
    'jax-deterministic': ('deterministic JAX, jit, optax', 'none')}

TITLES = {
    'step': 'Training step, 784-400-400-10, batch 128',
    'wide': 'Training step, 784-1200-1200-10, batch 128',
    'batch': 'Training step, 784-400-400-10, other batches',
    'width': 'Training step by width, batch 128',
    'predict': 'Prediction, 784-400-400-10, batch 128'}

NOTES = {
    'batch': 'The fastest of each kind only.',
    'width': 'This package and deterministic Gluon only.',
    'predict': 'With the mean of the posterior; torchbnn and bayesian-torch have no such mode. This package hybridized '
               'and after a training step, with its `BBBLoss`. Ratios in the same sense as above.'}

TORCH = ['torch', 'torch-compile', 'torchbnn', 'blitz', 'bayesian-torch', 'bayesian-torch-flipout']
JAX = ['jax', 'jax-rbg']


def ratios(part, one, other):
    """Time of ``one`` / time of ``other`` in each round; None if one of them did not take part."""
    times = part['milliseconds']
    if not (times.get(one) and times.get(other)):
        return None
    return [mine / theirs for mine, theirs in zip(times[one], times[other])]


def quartiles(numbers):
    """Lower quartile, median, upper quartile."""
    if len(numbers) == 1:
        return list(numbers) * 3
    return statistics.quantiles(numbers, n=4, method='inclusive')


def median_ratio(part, one, *others):
    """One's time by that of the fastest of the others; None if it cannot be said."""
    times = {name: statistics.median(part['milliseconds'][name]) for name in others if part['milliseconds'].get(name)}
    found = ratios(part, one, min(times, key=times.get)) if times else None
    return found and statistics.median(found)


def spread(parts, other):
    """By what factor our time divided by the other's varies over the widths."""
    found = [median_ratio(part, OURS, other) for part in parts]
    return max(found) / min(found) if len(found) > 1 and all(found) else None


# Section, what is asked, how it is found from the section's measurements, limit, whether the limit is the most or the
# least that it may be
TARGETS = [
    ('step', "training step / JAX's", lambda parts: median_ratio(parts[0], OURS, *JAX), 0.6, 'at most'),
    ('step', "training step / the fastest of PyTorch's", lambda parts: median_ratio(parts[0], OURS, *TORCH), 0.4,
     'at most'),
    ('step', 'training step / deterministic Gluon with `adam`', lambda parts: median_ratio(parts[0], OURS, 'gluon'),
     1.1, 'at most'),
    ('step', 'training step / deterministic Gluon with `fusedadam`',
     lambda parts: median_ratio(parts[0], OURS, 'gluon-fusedadam'), 1.7, 'at most'),
    ('step', "the notebook's training step / ours", lambda parts: median_ratio(parts[0], 'notebook', OURS), 25,
     'at least'),
    ('predict', 'predict mode / deterministic Gluon', lambda parts: median_ratio(parts[0], OURS, 'gluon'), 1.25,
     'at most'),
    ('predict', 'predict mode of a loaded network / deterministic Gluon, loaded',
     lambda parts: median_ratio(parts[0], 'loaded', 'gluon-loaded'), 1.25, 'at most'),
    ('predict', '`to_deterministic` / deterministic Gluon, loaded (1, and 0.05 for noise)',
     lambda parts: median_ratio(parts[0], 'to-deterministic', 'gluon-loaded'), 1.05, 'at most'),
    ('width', 'largest / smallest ratio to deterministic Gluon with `adam`, over the widths',
     lambda parts: spread(parts, 'gluon'), 1.5, 'at most'),
    ('width', 'largest / smallest ratio to deterministic Gluon with `fusedadam`, over the widths',
     lambda parts: spread(parts, 'gluon-fusedadam'), 1.5, 'at most')]


def table(header, rows):
    """A Markdown table; the columns whose header starts with a '>' are numbers."""
    lines = ['| {} |'.format(' | '.join(cells)) for cells in [[title.lstrip('>') for title in header]] + rows]
    lines.insert(1, '|{}|'.format('|'.join('---:' if title.startswith('>') else '---' for title in header)))
    return '\n'.join(lines) + '\n'


def section(name, measured):
    """Title, table, and who was left out."""
    parts = measured['parts']
    training = name != 'predict'
    several = len(parts) > 1
    header = (['>units', '>batch'] if several else []) + ['contender'] + (['prior'] if training else []) + [
        '>median ms', '>quartiles', '>this package / row', '>quartiles'] + (
            ['>loss at the start', '>memory, peak MB', '>after imports'] if training else [])
    rows = []
    for part in parts:
        for each in LABELS:
            times = part['milliseconds'].get(each)
            if not times:
                continue
            low, mid, high = quartiles(times)
            row = ['%d' % number for number in part['setting'][1:]] if several else []
            row += [LABELS[each][0]] + ([LABELS[each][1]] if training else []) + [
                f'{mid:.2f}', f'{low:.2f}, {high:.2f}']
            ratio = ratios(part, OURS, each)
            low, mid, high = quartiles(ratio) if ratio else (0, 0, 0)
            row += [f'{mid:.2f}', f'{low:.2f}, {high:.2f}'] if ratio else ['-', '-']
            if training:
                imported, peak = part['memory'][each]
                row += ['{:.1f}'.format(part['loss'][each]), '%d' % peak, '%d' % imported]
            rows.append(row)
    left_out = {}
    for part in parts:
        left_out.update(part['left_out'])
    text = f'## {TITLES[name]}\n\n' + table(header, rows) + '\n'
    if name in NOTES:
        text += NOTES[name] + '\n\n'
    for each, reason in left_out.items():
        text += 'Left out: {}: {}\n\n'.format(LABELS[each][0].replace('**', ''), reason)
    command = 'make benchmark' + (' ARGS="{}"'.format(' '.join(measured['arguments'])) if measured['arguments'] else '')
    return text + '%s; %d rounds; %d threads; %s; Python %s; %s; %.1f minutes; `%s`\n' % (
        measured['date'], measured['rounds'], measured['threads'], measured['processor'], measured['python'],
        versions(parts), measured['minutes'], command)


def versions(parts):
    found = {}
    for part in parts:
        found.update(part['versions'])
    return ', '.join('{} {}'.format(*item) for item in found.items())


def targets(results):
    """The table of each target, what was reached, and whether it holds."""
    rows = []
    for name, what, value, limit, direction in TARGETS:
        reached = value(results[name]['parts']) if name in results else None
        if reached is None:
            verdict = ['not measured', '-']
        else:
            verdict = [f'{reached:.2f}', 'yes' if (reached <= limit) == (direction == 'at most') else 'no']
        rows.append([what, f'{direction} {limit:g}'] + verdict)
    return table(['ratio', '>target', '>reached', 'holds'], rows)


def summary(results):
    """The tables that docs/performance.md shows: the training step of both networks, and the targets."""
    parts = [results[name]['parts'][0] for name in ('step', 'wide')]
    rows = []
    for each, (label, prior) in LABELS.items():
        if all(part['milliseconds'].get(each) for part in parts):
            row = [label, prior]
            for part in parts:
                row += ['{:.2f}'.format(statistics.median(part['milliseconds'][each])),
                        f'{statistics.median(ratios(part, OURS, each)):.2f}', '%d' % part['memory'][each][1]]
            rows.append(row)
    header = ['training step, batch 128', 'prior'] + [
        cell for part in parts for cell in ('>784-%d-%d-10, ms' % (part['setting'][1], part['setting'][1]),
                                            '>this package / row', '>peak MB')]
    return table(header, rows), targets(results)


INTRODUCTION = """# Benchmark

Written by `make benchmark`. Bayes by Backprop and deterministic training of a perceptron, CPU, float32, Adam, one batch
of random data that is in memory already. Each contender is a process in its own environment; they take turns of about
0.1 s, one computing while the others wait, with the same processors and number of threads for all. Times of one run
compare, others do not: look at the ratios. A ratio is taken within each round, and its median and quartiles are shown;
below 1 this package is faster.

The loss is NLL + KL / 60000 per example in nats, at the start, from mu of standard deviation 0.1 and rho = -3 where the
contender lets one choose: with the same prior all do the same work. bayesian-torch has a mean over each Parameter's
weights where the KL divergence is their sum; torchbnn's sigma starts at its prior's. Memory is the process's largest
resident set, compilers included where a framework has one, and what of it was there before the network was built.
"""


def report(results):
    """The whole file, from section -> measurements."""
    sections = [section(name, results[name]) for name in TITLES if name in results]
    return '\n'.join([INTRODUCTION] + sections + ['## Targets\n\n' + targets(results)])
