# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is trained: methods, the candidates for their hyperparameters, and the final runs."""
import json
from collections import namedtuple

__all__ = ['Run', 'METHODS', 'UNITS', 'SEEDS', 'CANDIDATES', 'candidates', 'selection_runs', 'final_runs',
           'all_names', 'check_identity']

#: Epochs of the runs that choose, and digits held out of the 60,000 for choosing among the candidates.
SELECTION_EPOCHS, HELD_OUT = 30, 10000
BATCH = 125
UNITS = 400, 800, 1200
#: Epochs of the final runs: all methods of one width have as many.
FINAL_EPOCHS = {400: 100, 800: 60, 1200: 60}
#: Seeds of the final runs: several where the difference from the paper is the question.
SEEDS = {('mixture', 400): (0, 1, 2), ('gaussian', 400): (0, 1, 2)}

# label, and the paper's test errors in % for 400, 800 and 1200 units (table 1)
METHODS = {
    'sgd': ('SGD', (1.83, 1.84, 1.88)),
    'dropout': ('dropout, Adam', (1.51, 1.33, 1.36)),
    'gaussian': ('Bayes by Backprop, Gaussian prior', (1.82, 1.99, 2.04)),
    'mixture': ('Bayes by Backprop, scale mixture prior', (1.36, 1.34, 1.32))}

# Candidates are compared at the smallest width; the one chosen serves all widths. All of the mixture's from 'pi 0.75'
# on, and the Gaussian's last, came after the first test errors of the others' choice had been seen.
CANDIDATES = {
    'sgd': {'lr 0.1': {'lr': 0.1}, 'lr 0.03': {'lr': 0.03}},
    'dropout': {'0.2 and 0.5': {'lr': 1e-3, 'dropout': (0.2, 0.5)}, '0 and 0.5': {'lr': 1e-3, 'dropout': (0., 0.5)}},
    'gaussian': {
        'sigma 1': {'lr': 1e-3, 'sigma': 1.},
        'sigma 0.37': {'lr': 1e-3, 'sigma': 0.37},
        'sigma 0.1': {'lr': 1e-3, 'sigma': 0.1},
        'sigma 0.1, local': {'lr': 1e-3, 'sigma': 0.1, 'estimator': 'local'},
        'sigma 1, rho slower, 0.02': {'lr': 1e-3, 'sigma': 1., 'rho_lr_mult': 0.1, 'initial_sigma': 0.02}},
    'mixture': {
        'sigma1 1': {'lr': 1e-3, 'pi': 0.5, 'sigma1': 1., 'sigma2': 0.0025},
        'sigma1 0.37': {'lr': 1e-3, 'pi': 0.5, 'sigma1': 0.37, 'sigma2': 0.0025},
        'sigma1 1, lr 2e-3': {'lr': 2e-3, 'pi': 0.5, 'sigma1': 1., 'sigma2': 0.0025},
        'sigma1 1, pi 0.25': {'lr': 1e-3, 'pi': 0.25, 'sigma1': 1., 'sigma2': 0.0025},
        'sigma1 1, flipout': {'lr': 1e-3, 'pi': 0.5, 'sigma1': 1., 'sigma2': 0.0025, 'estimator': 'flipout'},
        'sigma1 1, pi 0.75': {'lr': 1e-3, 'pi': 0.75, 'sigma1': 1., 'sigma2': 0.0025},
        'sigma1 1, KL first': {'lr': 1e-3, 'pi': 0.5, 'sigma1': 1., 'sigma2': 0.0025, 'kl_weight': 'blundell'},
        'sigma1 1, rho faster': {'lr': 1e-3, 'pi': 0.5, 'sigma1': 1., 'sigma2': 0.0025, 'rho_lr_mult': 10.},
        'sigma1 1, wide': {'lr': 1e-3, 'pi': 0.5, 'sigma1': 1., 'sigma2': 0.0025, 'initial_sigma': 0.05},
        'sigma1 1, lr 5e-4': {'lr': 5e-4, 'pi': 0.5, 'sigma1': 1., 'sigma2': 0.0025},
        'sigma1 1, rho slower': {'lr': 1e-3, 'pi': 0.5, 'sigma1': 1., 'sigma2': 0.0025, 'rho_lr_mult': 0.1},
        'sigma1 1, rho slow, pi 0.75': {
            'lr': 1e-3, 'pi': 0.75, 'sigma1': 1., 'sigma2': 0.0025, 'rho_lr_mult': 0.3},
        'sigma1 1, rho slower, 0.02': {
            'lr': 1e-3, 'pi': 0.5, 'sigma1': 1., 'sigma2': 0.0025, 'rho_lr_mult': 0.1, 'initial_sigma': 0.02},
        'sigma1 1, rho slower, 0.03': {
            'lr': 1e-3, 'pi': 0.5, 'sigma1': 1., 'sigma2': 0.0025, 'rho_lr_mult': 0.1, 'initial_sigma': 0.03},
        'sigma1 1, pi 0.75, rho slower, 0.02': {
            'lr': 1e-3, 'pi': 0.75, 'sigma1': 1., 'sigma2': 0.0025, 'rho_lr_mult': 0.1, 'initial_sigma': 0.02}}}


class Run(namedtuple('Run', 'method candidate units seed held_out epochs')):
    """One network to be trained. ``held_out`` digits are kept for evaluation; 0: the test set serves."""
    __slots__ = ()

    @property
    def settings(self):
        return CANDIDATES[self.method][self.candidate]

    @property
    def bayesian(self):
        return self.method in ('gaussian', 'mixture')

    def identity(self, data):
        """What a result or a checkpoint must have been made of to be this run's; ``data`` is a checksum."""
        return dict(self._asdict(), settings=json.loads(json.dumps(self.settings)), batch=BATCH, data=data)

    @property
    def name(self):
        """The name of its files."""
        return '%s-%d-%s-%s-seed%d-%depochs' % (
            self.method, self.units, self.candidate.replace(',', '').replace(' ', '_'),
            'held_out' if self.held_out else 'test', self.seed, self.epochs)


def candidates(method):
    return [Run(method, candidate, UNITS[0], 0, HELD_OUT, SELECTION_EPOCHS) for candidate in CANDIDATES[method]]


def selection_runs():
    return [run for method in METHODS for run in candidates(method)]


def all_names():
    """The names of all runs there can be, whichever candidates are chosen."""
    finals = [run for method in METHODS for candidate in CANDIDATES[method]
              for run in final_runs({method: candidate})]
    return {run.name for run in selection_runs() + finals}


def final_runs(chosen):
    """``chosen``: method -> candidate, for those methods whose candidates have all been trained."""
    every = [Run(method, chosen[method], units, seed, 0, FINAL_EPOCHS[units])
             for units in UNITS for method in chosen for seed in SEEDS.get((method, units), (0,))]
    # What the targets are about comes first, since all of them take hours.
    return sorted(every, key=lambda run: (run.method != 'mixture', run.units != 400, -run.units))


def check_identity(path, saw, wanted):
    """ValueError if the file at ``path`` is of another run, by what Run.identity says of both."""
    saw = saw or {}
    others = [f'{name} {saw.get(name)!r}, and not {value!r}' for name, value in wanted.items()
              if saw.get(name) != value]
    if others:
        raise ValueError('{}: was made with {}; delete it, or take another folder'.format(path, '; '.join(others)))
