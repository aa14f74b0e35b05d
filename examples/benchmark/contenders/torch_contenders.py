# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""PyTorch by hand, and the Bayesian layers that others wrote for it, by their public API.

All use the fused Adam, the fastest of PyTorch's on CPU. A package is imported where it is used: each may be missing.
"""
import os
import sys
from importlib import metadata

os.environ.setdefault('TORCHINDUCTOR_CACHE_DIR', os.path.join(sys.prefix, 'inductor'))

import torch
from network import ENTROPY, LEARNING_RATE, MU, NUM_TRAIN, PI, RHO, SIGMA1, SIGMA2, A, B, C, D, sizes
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', torch.get_num_threads())))


def training_step(params, loss):
    """What all share: ``loss()``, its gradients, Adam."""
    optimizer = torch.optim.Adam(params, lr=LEARNING_RATE, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        result = loss()
        result.backward()
        optimizer.step()
        return result

    return step


def mlp(data, weights):
    """The network with these weights and biases."""
    x = data
    for layer in range(0, len(weights), 2):
        x = F.linear(x if layer == 0 else F.relu(x), weights[layer], weights[layer + 1])
    return x


def negative_elbo(mus, rhos, epsilons, data, label):
    """Per example, with the scale mixture prior on the draw, and the posterior's entropy in closed form."""
    draws, kl = [], 0.
    for mu, rho, epsilon in zip(mus, rhos, epsilons):
        sigma = F.softplus(rho)
        w = torch.addcmul(mu, sigma, epsilon)
        squared = w * w
        kl = kl - sigma.log().sum() + B * squared.sum() - F.softplus(C - D * squared).sum() - (A + ENTROPY) * w.numel()
        draws.append(w)
    return F.cross_entropy(mlp(data, draws), label) + kl / NUM_TRAIN


def by_hand(function):
    """Bayes by Backprop with Parameters mu and rho; ``function`` is negative_elbo, or made of it.

    The noise is drawn outside of it: torch.compile's own generator takes twice as long as PyTorch's.
    """
    def contender(data, label, units):
        data, label = torch.from_numpy(data), torch.from_numpy(label)
        shapes = [shape for inputs, outputs in sizes(units) for shape in ((outputs, inputs), (outputs,))]
        mus = [nn.Parameter(MU * torch.randn(shape)) for shape in shapes]
        rhos = [nn.Parameter(torch.full(shape, RHO)) for shape in shapes]

        def loss():
            return function(mus, rhos, [torch.randn_like(mu) for mu in mus], data, label)

        return training_step(mus + rhos, loss), inference(lambda: mlp(data, mus))

    return contender


def inference(forward):
    """``forward`` without a record for gradients."""
    def run():
        with torch.inference_mode():
            return forward()
    return run


def sequential(dense, units):
    """The network of layers dense(inputs, outputs)."""
    first, second, third = (dense(*size) for size in sizes(units))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def deterministic(data, label, units):
    data, label = torch.from_numpy(data), torch.from_numpy(label)
    net = sequential(nn.Linear, units)
    return (training_step(net.parameters(), lambda: F.cross_entropy(net(data), label)), inference(lambda: net(data)))


def torchbnn(data, label, units):
    """A Gaussian prior is all that it has. It has no mean of the posterior to predict with."""
    import torchbnn as bnn
    data, label = torch.from_numpy(data), torch.from_numpy(label)
    # Sigma starts at the prior's: its README's 0.1.
    net = sequential(lambda inputs, outputs: bnn.BayesLinear(0, 0.1, inputs, outputs), units)
    nll, kl = nn.CrossEntropyLoss(), bnn.BKLLoss(reduction='sum', last_layer_only=False)
    return training_step(net.parameters(), lambda: nll(net(data), label) + kl(net)[0] / NUM_TRAIN), None


def blitz(data, label, units):
    from blitz.modules import BayesianLinear
    from blitz.utils import variational_estimator
    data, label = torch.from_numpy(data), torch.from_numpy(label)

    @variational_estimator
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = sequential(lambda inputs, outputs: BayesianLinear(
                inputs, outputs, prior_sigma_1=SIGMA1, prior_sigma_2=SIGMA2, prior_pi=PI, posterior_rho_init=RHO),
                units)

        def forward(self, x):
            return self.layers(x)

    net = Network()
    step = training_step(net.parameters(), lambda: net.sample_elbo(
        data, label, nn.CrossEntropyLoss(), sample_nbr=1, complexity_cost_weight=1 / NUM_TRAIN))

    def mean():
        if not net.layers[0].freeze:    # not before, since training needs it unset
            net.freeze_()
        return net(data)

    return step, inference(mean)


def bayesian_torch(layer):
    """``layer`` is a name in its ``layers``. The prior is Gaussian, and the KL divergence its own: a mean over the
    weights of a Parameter where the bound has their sum, which takes no longer."""
    def contender(data, label, units):
        from bayesian_torch import layers
        data, label = torch.from_numpy(data), torch.from_numpy(label)

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(
                    getattr(layers, layer)(*size, prior_variance=0.1, posterior_rho_init=RHO) for size in sizes(units))

            def forward(self, x):
                kl_sum = 0
                for place, each in enumerate(self.layers):
                    x, kl = each(x if place == 0 else F.relu(x))
                    kl_sum = kl_sum + kl
                return x, kl_sum

        net = Network()

        def loss():
            output, kl = net(data)
            return F.cross_entropy(output, label) + kl / len(data)      # as its README has it

        return training_step(net.parameters(), loss), None

    return contender


CONTENDERS = {
    'torch': by_hand(negative_elbo),
    'torch-compile': by_hand(torch.compile(negative_elbo)),
    'torch-deterministic': deterministic,
    'torchbnn': torchbnn,
    'blitz': blitz,
    'bayesian-torch': bayesian_torch('LinearReparameterization'),
    'bayesian-torch-flipout': bayesian_torch('LinearFlipout')}


def wait(result):
    """Nothing to wait for on CPU."""


def loss(result, batch):
    return result.item()


def threads():
    return torch.get_num_threads()


def versions():
    packages = ('torch', 'torchbnn', 'blitz-bayesian-pytorch', 'bayesian-torch')
    return {name: metadata.version(name) for name in packages if is_installed(name)}


def is_installed(name):
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
