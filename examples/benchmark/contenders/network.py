# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The network and the prior of all contenders but the Gluon ones, which have them from step_time.py.

No framework is imported here, since each runs without the others.
"""
import math

INPUTS, OUTPUTS, NUM_TRAIN = 784, 10, 60000
PI, SIGMA1, SIGMA2 = 0.5, 0.75, 0.01
MU, RHO = 0.1, -3.      # at the start: mu from N(0, MU^2), rho = RHO
LEARNING_RATE = 1e-3

# log(pi N(w; 0, sigma1^2) + (1 - pi) N(w; 0, sigma2^2)) = A - B w^2 + softplus(C - D w^2): one softplus, and nothing
# that underflows; of the ways to write it this was the fastest in PyTorch and in JAX.
A = math.log(PI) - math.log(SIGMA1) - 0.5 * math.log(2 * math.pi)
B = 0.5 / SIGMA1 ** 2
C = math.log(1 - PI) - math.log(SIGMA2) - math.log(PI) + math.log(SIGMA1)
D = 0.5 / SIGMA2 ** 2 - B
# The expectation of log q(w) is -log sigma - ENTROPY.
ENTROPY = 0.5 + 0.5 * math.log(2 * math.pi)


def sizes(units):
    """(inputs, outputs) of each layer."""
    return (INPUTS, units), (units, units), (units, OUTPUTS)
