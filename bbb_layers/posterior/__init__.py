# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The mathematics of Bayes by Backprop: the Gaussian posterior, its Parameters, and the priors.

``gaussian`` and ``priors`` have the formulas, ``densities`` what priors and likelihoods share. ``rho`` is the Parameter
that carries sigma and knows the prior, and ``parameters`` finds the posteriors of a network. This room imports
``_mxnet`` alone: all of it can be read without the native operators.
"""
