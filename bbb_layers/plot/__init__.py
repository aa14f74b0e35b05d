# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pictures. Each function draws on a matplotlib Axes and returns it; showing or saving it is the caller's affair.

Arrays may be NDArrays, numpy arrays or sequences of either or of numbers. (n, 1) counts as (n,), since that is what a
layer with one unit returns. Whatever is wrong with an argument is raised before anything is drawn.

This package needs matplotlib, the rest of bbb_layers does not: ``pip install 'bbb-layers[plot]'``.
"""
from .predictions import plot_entropy, plot_images, plot_regression, plot_reliability
from .training import plot_accuracy, plot_training
from .weights import plot_posterior, plot_pruning_curve, plot_signal_to_noise

__all__ = ['plot_training', 'plot_accuracy', 'plot_posterior', 'plot_signal_to_noise', 'plot_pruning_curve',
           'plot_reliability', 'plot_entropy', 'plot_regression', 'plot_images']
