# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""JAX with optax: a whole training step is one jitted function that is given its buffers to write into."""
import functools
import os
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import optax
from network import ENTROPY, LEARNING_RATE, MU, NUM_TRAIN, RHO, A, B, C, D, sizes


def mlp(data, weights):
    """The network with these weights and biases."""
    x = data
    for layer in range(0, len(weights), 2):
        x = (x if layer == 0 else jax.nn.relu(x)) @ weights[layer] + weights[layer + 1]
    return x


def nll(output, label):
    return optax.softmax_cross_entropy_with_integer_labels(output, label).mean()


def negative_elbo(params, key, data, label):
    """Per example, with the scale mixture prior on the draw, and the posterior's entropy in closed form."""
    draws, kl = [], 0.
    for mu, rho, subkey in zip(params['mu'], params['rho'], jax.random.split(key, len(params['mu']))):
        sigma = jax.nn.softplus(rho)
        w = mu + sigma * jax.random.normal(subkey, mu.shape)
        kl -= jnp.sum(jnp.log(sigma) + A + ENTROPY - B * w ** 2 + jax.nn.softplus(C - D * w ** 2))
        draws.append(w)
    return nll(mlp(data, draws), label) + kl / NUM_TRAIN


def cross_entropy(params, key, data, label):
    return nll(mlp(data, params['mu']), label)


def start(units, bayesian):
    random = np.random.RandomState(1)
    shapes = [shape for size in sizes(units) for shape in (size, size[1:])]
    params = {'mu': [jnp.asarray(random.normal(0, MU, shape).astype('float32')) for shape in shapes]}
    if bayesian:
        params['rho'] = [jnp.full(shape, RHO) for shape in shapes]
    return params


class TrainingStep:
    """Returns all that it has made: parameters, state of the optimizer, key, and the loss."""

    def __init__(self, loss, params, generator, batch):
        optimizer = optax.adam(LEARNING_RATE)

        @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
        def update(params, state, key, data, label):
            key, subkey = jax.random.split(key)
            value, gradients = jax.value_and_grad(loss)(params, subkey, data, label)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, key, value

        self.update, self.batch = update, batch
        self.state = params, optimizer.init(params), jax.random.key(0, impl=generator)

    def __call__(self):
        result = self.update(*self.state, *self.batch)
        self.state = result[:-1]
        return result


def contender(loss, bayesian, generator=None):
    """``generator`` is the name of a pseudo-random number generator of JAX's, by default its own."""
    def make(data, label, units):
        batch = jnp.asarray(data), jnp.asarray(label)
        step = TrainingStep(loss, start(units, bayesian), generator, batch)
        forward = jax.jit(mlp)
        return step, lambda: forward(batch[0], step.state[0]['mu'])
    return make


CONTENDERS = {
    'jax': contender(negative_elbo, True),
    'jax-rbg': contender(negative_elbo, True, 'rbg'),
    'jax-deterministic': contender(cross_entropy, False)}


def wait(result):
    jax.block_until_ready(result)


def loss(result, batch):
    return float(result[-1])


def threads():
    """XLA has a thread for each processor that it may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def versions():
    return {name: metadata.version(name) for name in ('jax', 'jaxlib', 'optax')}
