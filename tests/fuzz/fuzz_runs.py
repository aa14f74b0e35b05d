# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Training runs of many kinds, whose files the fuzzer damages, and all that loading a file could change in them."""
import contextlib
import functools
from typing import NamedTuple

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from bbb_layers import (BayesConv2D, BayesDense, BayesLSTM, BBBLoss, GaussianNLLLoss, GaussianPrior, ScaleMixturePrior,
                        prune)
from bbb_layers._mxnet.arrays import classic, gluon_kind, value_of
from bbb_layers._mxnet.tree import leaves
from bbb_layers.posterior.gaussian import kept
from bbb_layers.posterior.rho import RhoParameter

__all__ = ['Kind', 'random_kind', 'Run', 'Pool', 'trained', 'arrays_of_world', 'wrong_masks', 'differences']

OPTIMIZERS = {'adam': {'learning_rate': 0.01}, 'fusedadam': {'learning_rate': 0.01},
              'sgd': {'learning_rate': 0.01, 'momentum': 0.9}}
SCHEDULES = {'none': lambda: None, 'factor': lambda: mx.lr_scheduler.FactorScheduler(2, 0.5, base_lr=0.01),
             'steps': lambda: mx.lr_scheduler.MultiFactorScheduler([1, 5], 0.5, base_lr=0.01),
             'cosine': lambda: mx.lr_scheduler.CosineScheduler(10, base_lr=0.01)}


class Kind(NamedTuple):
    """The kind of a run. The file of a run fits another run with the same network, optimizer and schedule."""
    network: str
    optimizer: str
    schedule: str
    hybridized: bool
    np_arrays: bool
    pruned: bool
    deferred: bool
    contexts: int


def random_kind(random):
    """A kind of run. There are few enough that a worker can keep one run of each."""
    np_arrays = random.random() < 0.2
    return Kind(random.choice(['dense', 'conv', 'recurrent']), random.choice(list(OPTIMIZERS)),
                random.choice(['none', 'none'] + list(SCHEDULES)), random.random() < 0.5, np_arrays,
                random.random() < 0.3, random.random() < 0.25, 2 if random.random() < 0.2 else 1)


@contextlib.contextmanager
def arrays_of_world(np_arrays):
    """Classic arrays or np arrays, as a user turns them on."""
    with mx.util.np_shape(np_arrays), mx.util.np_array(np_arrays):
        yield


class Run:
    """A network with its loss and its Trainer."""

    def __init__(self, kind, deferred=False):
        self.kind = kind
        mx.random.seed(3)
        self.ctx = [mx.cpu(i) for i in range(kind.contexts)]
        self.net = nn.HybridSequential(prefix='run_')
        with self.net.name_scope():
            if kind.network == 'dense':
                self.net.add(BayesDense(3, activation='relu', prior=GaussianPrior(learnable=True)), nn.BatchNorm(),
                             BayesDense(1))
                self.shape = (4, 2)
            elif kind.network == 'conv':
                self.net.add(BayesConv2D(2, 2, prior=ScaleMixturePrior(0.5, 1., 0.1)), nn.BatchNorm(),
                             nn.Conv2D(2, 1), BayesDense(1))
                self.shape = (4, 2, 3, 3)
            else:
                self.net.add(BayesLSTM(3, layout='NTC'), nn.Dense(2), BayesDense(1))
                self.shape = (4, 3, 2)
        self.net.initialize(ctx=self.ctx)
        if kind.hybridized:
            self.net.hybridize()
        if not deferred:
            for ctx in self.ctx:
                self.net(self.batch(0, ctx)[0])
            if kind.pruned:
                prune(self.net, 0.5)
        self.loss = BBBLoss(self.net, 10, GaussianNLLLoss(sigma=0.5, learnable=True))
        self.loss.initialize(ctx=self.ctx)
        params = self.net.collect_params()
        params.update(self.loss.collect_params())
        options, schedule = dict(OPTIMIZERS[kind.optimizer]), SCHEDULES[kind.schedule]()
        if schedule is not None:
            options['lr_scheduler'] = schedule
        self.trainer = gluon.Trainer(params, kind.optimizer, options, update_on_kvstore=False)

    def batch(self, number, ctx):
        rng = np.random.RandomState(number)
        return tuple(gluon_kind(nd.array(rng.randn(*shape), ctx=ctx)) for shape in (self.shape, (4, 1)))

    def step(self, number):
        """One step of training."""
        mx.random.seed(number)
        self.loss.kl_weight = (number + 1) / 8
        losses = []
        with autograd.record():
            for place, ctx in enumerate(self.ctx):
                x, y = self.batch(10 * number + place, ctx)
                losses.append(self.loss(self.net(x), y))
        autograd.backward(losses)
        self.trainer.step(4 * len(self.ctx))
        nd.waitall()
        return self

    def params(self):
        """Name in a checkpoint -> Parameter."""
        return {f'{prefix}/{name}': param for prefix, block in (('params', self.net), ('loss', self.loss))
                for name, param in block._collect_params_with_prefix().items()}

    def state(self):
        """All that loading could change: a dict of names and values that can be compared."""
        nd.waitall()
        found = {'kl_weight': self.loss.kl_weight, 'num_train': self.loss.num_train,
                 'kvstore': (self.trainer._kv_initialized, self.trainer._kvstore is None,
                             [param.name for param in self.trainer._params_to_init])}
        for name, param in self.params().items():
            found.update({f'{name}/{key}': value for key, value in _of_parameter(param).items()})
        optimizer = self.trainer.optimizer
        for what, thing in (('optimizer', optimizer), ('schedule', optimizer.lr_scheduler)):
            for name, value in getattr(thing, '__dict__', {}).items():
                if name not in ('param_dict', 'lr_scheduler'):
                    found[f'{what}/{name}'] = f'{type(value).__name__} {value!r}'
        found['optimizer/lr_scheduler'] = id(optimizer.lr_scheduler)
        for place, updater in enumerate(self.trainer._updaters):
            for index, state in updater.states.items():
                for number, array in enumerate(leaves([state])):
                    found[f'states/{place}/{index}/{number}'] = (str(array.context), _bits(array))
        return found


def _bits(array):
    return array.dtype, array.shape, array.asnumpy().tobytes()


def _of_parameter(param):
    found = {'shape': param._shape, 'dtype': np.dtype(param.dtype).name, 'grad_req': param.grad_req,
             'lr_mult': param.lr_mult, 'wd_mult': param.wd_mult, 'deferred': repr(param._deferred_init),
             'data': None if param._data is None else [(str(each.context), _bits(each)) for each in param._data],
             'grad': None if param._grad is None else [(str(each.context), _bits(each)) for each in param._grad]}
    if isinstance(param, RhoParameter) and param._data is not None:
        mask = param.mask
        found['mask'] = None if mask is None else value_of(mask).asnumpy().tobytes()
    return found


def wrong_masks(run):
    """The names of the Parameters rho whose mask is not what their values say."""
    wrong = []
    for name, param in run.params().items():
        if isinstance(param, RhoParameter) and param._data is not None:
            alive = kept(classic(param.data())).asnumpy()
            mask = np.ones_like(alive) if param.mask is None else value_of(param.mask).asnumpy()
            if not np.array_equal(alive, mask):
                wrong.append(name)
    return wrong


def differences(one, other):
    """The names of the values that differ between two results of ``Run.state``."""
    return sorted(name for name in one.keys() | other.keys()
                  if name not in one or name not in other or one[name] != other[name])


class Pool:
    """Runs that stand before a file is loaded, one of each kind, made anew when one was changed."""

    def __init__(self):
        self._runs = {}

    def take(self, kind):
        """A run of this kind, and its state."""
        if kind not in self._runs:
            if len(self._runs) > 200:
                self._runs.clear()
            run = Run(kind, kind.deferred)
            if not kind.deferred:
                run.step(5)
            self._runs[kind] = run, run.state()
        return self._runs[kind]

    def drop(self, kind):
        """Forget the run of this kind, because it was changed."""
        self._runs.pop(kind, None)


@functools.lru_cache(maxsize=100)
def trained(kind):
    """A run of this kind that made two steps, from which files are written."""
    return Run(kind._replace(deferred=False)).step(0).step(1)
