# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The mathematics of Bayes by Backprop: the Gaussian posterior, its Parameters, and the priors.

``gaussian`` and ``priors`` contain the formulas, and ``densities`` the parts that priors and likelihoods share. ``rho``
defines the Parameter that carries sigma and holds the prior, and ``parameters`` finds the posteriors of a network. This
subpackage imports only ``_mxnet``, so it can be read without the native operators.
"""
