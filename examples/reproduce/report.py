# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The tables and pictures of what has been trained."""
import io
import os
from pathlib import Path

import matplotlib
import numpy as np

import runs
from bbb_layers.checkpoint import load_checkpoint, write_atomically
from bbb_layers.plot import plot_signal_to_noise, plot_training

matplotlib.use('Agg')
from matplotlib import pyplot

# What was aimed at, by either prior: units, fraction pruned or None, test error in %
TARGETS = [(400, None, 1.40), (1200, None, 1.32), (1200, '0.95', 1.35), (1200, '0.98', 1.45)]
PAPER_PRUNED = {'0.5': 1.24, '0.75': 1.24, '0.95': 1.29, '0.98': 1.39}      # table 2, 1200 units


def table(head, rows):
    lines = ['| {} |'.format(' | '.join(head)), '|{}|'.format('|'.join(['---'] + ['---:'] * (len(head) - 1)))]
    return '\n'.join(lines + ['| {} |'.format(' | '.join(row)) for row in rows])


def number(value, digits=2):
    return '-' if value is None else '%.*f' % (digits, value)


class Results:
    """The results of the final runs, and which of the two predictions the held-out digits favour."""

    def __init__(self, results):
        self.results = results
        self.selection = {run: results[run.name] for run in runs.selection_runs() if run.name in results}
        self.best = {}
        for method in runs.METHODS:
            tried = {run: result for run, result in self.selection.items() if run.method == method}
            if len(tried) == len(runs.CANDIDATES[method]):
                errors = {(run.candidate, part): result['evaluation'][part]['error'] for run, result in tried.items()
                          for part in ('mean', 'draws') if part in result['evaluation']}
                self.best[method] = min(errors, key=errors.get)
        chosen = {method: candidate for method, (candidate, _) in self.best.items()}
        self.final = [run for run in runs.final_runs(chosen) if run.name in results]
        # Those of an earlier choice, before there were more candidates: told of, but in no table of results.
        self.others = [run for run in (runs.Run(*[result[name] for name in runs.Run._fields])
                                       for result in results.values())
                       if run not in self.selection and run not in self.final]

    def of(self, method, units):
        """The evaluations of all seeds."""
        return [self.results[run.name]['evaluation'] for run in self.final
                if (run.method, run.units) == (method, units)]

    def errors(self, method, units, part=None):
        return [each[part or self.best[method][1]]['error'] for each in self.of(method, units)]


def mean(values):
    return float(np.mean(values)) if values else None


def error_rows(results):
    for method, (label, paper) in runs.METHODS.items():
        for part, name in (('mean', 'posterior mean'), ('draws', 'Monte Carlo')):
            if method not in results.best or (part == 'draws' and method not in ('gaussian', 'mixture')):
                continue
            row = [label + (', ' + name if method in ('gaussian', 'mixture') else '')]
            favoured = results.best[method][1] == part
            for i, units in enumerate(runs.UNITS):
                errors = results.errors(method, units, part)
                text = number(mean(errors)) + (f' ({", ".join(map(number, errors))})' if len(errors) > 1 else '')
                row += [('**%s**' if favoured and errors else '%s') % text,
                        number(paper[i]) if paper and len(runs.UNITS) == len(paper) else '-']
            yield row


def pruning_rows(results):
    for method in ('gaussian', 'mixture'):
        for units in runs.UNITS:
            every = results.of(method, units)
            if every:
                yield ['%s, %d' % (runs.METHODS[method][0], units), number(mean([each['mean']['error']
                                                                                for each in every]))] + [
                    number(mean([each['pruned'][fraction] for each in every])) for fraction in every[0]['pruned']]


def calibration_rows(results):
    for units in runs.UNITS:
        for method, (label, _) in runs.METHODS.items():
            for part, name in (('mean', ', posterior mean'), ('draws', ', Monte Carlo')):
                every = [each[part] for each in results.of(method, units) if part in each]
                if every:
                    yield [label + (name if method in ('gaussian', 'mixture') else ''), str(units)] + [
                        number(mean([each[score] for each in every]), digits)
                        for score, digits in (('error', 2), ('nll', 4), ('ece', 4), ('auroc', 4))]


def target_rows(results):
    for units, fraction, target in TARGETS:
        reached = [mean(results.errors(method, units) if fraction is None
                        else [each['pruned'][fraction] for each in results.of(method, units)])
                   if results.of(method, units) else None for method in ('mixture', 'gaussian')]
        best = min((error for error in reached if error is not None), default=None)
        what = '%d units' % units + (', pruned %g %%' % (100 * float(fraction)) if fraction else '')
        yield [what, number(target)] + [number(error) for error in reached] + [
            '-' if best is None else 'yes' if round(best, 2) <= target else 'no, by %.2f' % (best - target)]


def run_rows(results):
    for run in list(results.selection) + results.final + results.others:
        result = results.results[run.name]
        yield [runs.METHODS[run.method][0], run.candidate, str(run.units), str(run.seed), str(run.epochs),
               'held-out' if run.held_out else 'test, not chosen now' if run in results.others else 'test',
               number(result['evaluation']['mean']['error']),
               number(result['evaluation'].get('draws', {}).get('error')), '%.0f' % (result['seconds'] / 60)]


def text(results, pictures):
    paper_pruned = ', '.join(f'{100 * float(fraction):g} %: {error}' for fraction, error in PAPER_PRUNED.items())
    parts = ['# MNIST as in Blundell et al. 2015, section 5.1',
             'Written by `python examples/reproduce/mnist.py --data FOLDER` from the files in `results/`, one for each '
             'of its runs. Test errors in %%, paper: its tables 1 and 2 as they are commonly quoted, not checked '
             'against the paper itself; its runs had 600 epochs, here those of %s, in batches of %d and with a '
             'learning rate that falls to 0 along a cosine. In bold what the held-out digits favour, posterior mean or '
             'the mean of 32 draws; several seeds: their mean, and each. A dash: not run yet, or without draws.' % (
                 ', '.join('%d units have %d' % pair for pair in runs.FINAL_EPOCHS.items()), runs.BATCH),
             '## Test error', table(['method'] + [cell for units in runs.UNITS
                                                  for cell in ('%d units' % units, 'paper')], error_rows(results)),
             '## Targets', table(['at most', 'target', 'scale mixture prior', 'Gaussian prior', 'holds for one'],
                                  target_rows(results)),
             '## Pruning by signal-to-noise ratio', f'Of the posterior mean. The paper, 1200 units: {paper_pruned}.',
             table(['net', 'not pruned', '50 %', '75 %', '95 %', '98 %', '99 %'], pruning_rows(results)),
             '## Calibration', 'NLL in nats per example; ECE in 15 bins; AUROC of the predictive entropy for telling '
             'the test digits from the same ones turned by 90 degrees.',
             table(['method', 'units', 'error', 'NLL', 'ECE', 'AUROC'], calibration_rows(results))]
    if pictures:
        parts += ['## Pictures'] + ['![{}]({})'.format(name.replace('_', ' '), name + '.png') for name in pictures]
    parts += ['## All runs', 'Candidates are compared on %d held-out digits of the training set, by one seed each: an '
              'error of 1.6 %% of 10,000 has a standard error of 0.13, more than most differences. There are %s; the '
              'last ones of the two methods with a posterior were added after test errors of an earlier choice had '
              'been seen, which stand at the end. Minutes are those of one run, several going on at the same time.' % (
                  runs.HELD_OUT, ', '.join('%d for %s' % (len(runs.CANDIDATES[method]), label)
                                           for method, (label, _) in runs.METHODS.items())),
              table(['method', 'candidate', 'units', 'seed', 'epochs', 'evaluated on', 'error of the mean',
                     'of Monte Carlo', 'minutes'], run_rows(results))]
    return '\n\n'.join(parts) + '\n'


def networks(results, work):
    """Method -> the network of the widest final run with seed 0, as far as their checkpoints are here."""
    import train
    found = {}
    for run in results.final:
        path = os.path.join(work, run.name + '.checkpoint')
        if run.seed == 0 and run.units == max(runs.UNITS) and os.path.exists(path):
            net = train.build(run)
            try:
                load_checkpoint(path, net)
            except ValueError as error:
                print(f'No pictures of the weights: {error}')
                return {}
            found[run.method] = net
    return found


def draw(results, work):
    """Name -> Axes of the pictures that can be drawn."""
    axes = {}
    for units in runs.UNITS:
        curves = {runs.METHODS[run.method][0]: results.results[run.name]['errors'] for run in results.final
                  if run.units == units and run.seed == 0}
        if curves:
            ax = axes['test_error_%d' % units] = plot_training(curves, ylabel='test error (%)')
            ax.set_title('%d units, seed 0; with a posterior, at its mean' % units, fontsize='medium')
            # What all of them do at first would leave no room for the rest.
            ax.set_ylim(0.9 * min(map(min, curves.values())), 2 * max(curve[-1] for curve in curves.values()))
            legend_below(ax)
    nets = networks(results, work)
    if len(nets) < len(runs.METHODS):       # not some of the curves, nor new pictures beside old ones
        return axes
    ax = axes['weights'] = pyplot.subplots(layout='constrained')[1]
    edges = np.linspace(-0.3, 0.3, 121)
    for method, net in nets.items():
        values = np.concatenate([param.data().asnumpy().ravel()
                                 for param in net.collect_params('.*weight$').values()])
        # A density of all weights, also of the few that are outside.
        ax.hist(values, edges, weights=np.full(values.size, 1 / (values.size * (edges[1] - edges[0]))),
                histtype='step', label=runs.METHODS[method][0])
    ax.set_title('%d units, seed 0' % max(runs.UNITS), fontsize='medium')
    ax.set_xlabel('weight; with a posterior, its mean')
    ax.set_ylabel('density')
    ax.set_yscale('log')
    legend_below(ax)
    for kind in ('density', 'cumulative'):
        axes['signal_to_noise_' + kind] = plot_signal_to_noise(nets['mixture'], cut=0.75, kind=kind)
    return axes


def legend_below(ax):
    """Put the legend of ``ax`` outside, where it covers nothing."""
    if ax.get_legend() is not None:
        ax.get_legend().remove()
    outside = tuple(map(int, matplotlib.__version__.split('.')[:2])) >= (3, 7)     # earlier versions have no such place
    ax.figure.legend(*ax.get_legend_handles_labels(), loc='outside lower center' if outside else 'lower center', ncol=2,
                     fontsize='small')


def write(results, args):
    """Write RESULTS.md and the pictures to the folder ``args.output``."""
    results, folder = Results(results), Path(args.output)
    axes = draw(results, args.work)
    for name, ax in axes.items():
        picture = io.BytesIO()
        ax.figure.savefig(picture, format='png')
        write_atomically(str(folder / (name + '.png')), picture.getvalue())
        pyplot.close(ax.figure)
    # Pictures that need checkpoints that are not here stay as they are.
    pictures = [path.stem for path in sorted(folder.glob('*.png'))]
    write_atomically(str(folder / 'RESULTS.md'), text(results, pictures).encode('utf-8'))
    print('Written: %s' % (folder / 'RESULTS.md'))
