# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Transposed convolution as a convolution of the stretched input.

MXNet 1.9.1's own operator, Deconvolution, cannot compute the gradient of a weight that is itself computed, as a draw
is. On CPU, its oneDNN version writes to memory that is not allocated yet (in ``NDArray::UpdateMKLDNNMemDesc``; the
error is "could not execute a primitive"). In float64, there is no 3D version.
"""
from mxnet import symbol

from .._mxnet.annotations import Mixin
from .._mxnet.arrays import classic, gluon_kind

__all__ = ['TransposedByConvolution']


class TransposedByConvolution(Mixin):
    """Mixin that replaces the operator of Gluon's transposed convolutions. The outputs are equal except for rounding.

    Raises
    ------
    ValueError
        If ``output_padding`` is not below ``strides``, or ``layout`` does not have the channels right after the batch
        axis. Gluon's layers detect both errors only in the first forward (on CPU).
    """

    _bayesian_only = True       # a deterministic layer does not need this mixin

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        strides, output_padding, layout = (self._kwargs[name] for name in ('stride', 'adj', 'layout'))
        if not all(0 <= adj < stride for adj, stride in zip(output_padding, strides)):
            raise ValueError(f'output_padding must be below strides, {strides}, and not negative '
                             f'(saw: {output_padding})')
        if not layout.startswith('NC'):
            raise ValueError(f"layout must start with 'NC' (saw: {layout!r})")

    def hybrid_forward(self, F, x, weight, bias=None):
        x, weight, bias = classic((x, weight, bias))
        kwargs, groups = self._kwargs, self._kwargs['num_group']
        # (in, out / groups, ...) -> (out, in / groups, ...)
        kernel = F.reshape(F.swapaxes(F.reshape(weight, shape=(-4, groups, -1, -2)), 1, 2), shape=(-3, -2))
        kernel = F.flip(kernel, axis=tuple(range(2, 2 + len(kwargs['kernel']))))
        if F is symbol:
            kernel = F.broadcast_add(kernel, self._shape_tie(F, x, weight))
        stretched, pad = _stretched(F, x, kwargs)
        out = F.Convolution(*[stretched, kernel] + ([] if bias is None else [bias]), no_bias=bias is None,
                            kernel=kwargs['kernel'], dilate=kwargs['dilate'], pad=pad,
                            num_filter=kwargs['num_filter'], num_group=groups, layout=kwargs['layout'])
        out = gluon_kind(out)
        return out if self.act is None else self.act(out)

    def _shape_tie(self, F, x, weight):
        """A 0 that can be added to any array, and from which Gluon can infer the number of input channels.

        Gluon cannot infer this number through the reshape of the weight. The operator here sees only one position of
        one example.
        """
        kwargs, ones = self._kwargs, (1,) * len(self._kwargs['kernel'])
        # BlockGrad comes before Deconvolution, because the backward of Deconvolution must not run. If BlockGrad came
        # after it, MXNet would run this backward on a gradient of 0, which raises "could not create a primitive
        # descriptor for a reorder primitive" in a layer with 1 output channel after a convolution with 16. BlockGrad
        # comes after slice, because in front of slice it would copy all of x.
        position = F.BlockGrad(F.slice(x, begin=(0, None) + (0,) * len(ones), end=(1, None) + ones))
        zeros = F.zeros_like(F.BlockGrad(weight))
        # In 3D, the operator has no dtype but float32.
        out = F.Deconvolution(F.cast(position, 'float32'), F.cast(zeros, 'float32'),
                              kernel=kwargs['kernel'], stride=ones, dilate=ones, pad=(0,) * len(ones),
                              num_filter=kwargs['num_filter'], num_group=kwargs['num_group'], no_bias=True,
                              layout=kwargs['layout'])
        # oneDNN may keep the output of a convolution in blocks of 8 or 16 channels. In 2D, a slice that ends inside a
        # block kills the process with SIGFPE. The slice above is safe because it takes all channels; a reduction is
        # safe too.
        tie = F.zeros_like(F.max(out, axis=tuple(range(2 + len(ones))), keepdims=True))
        return F.cast(tie, self.weight.dtype)


def _stretched(F, x, kwargs):
    """``x`` with ``stride - 1`` zeros between its positions, and the padding that the convolution of it needs."""
    begin, end, pad = [], [], []
    for axis, (kernel, stride, dilate, inner, adj) in enumerate(
            zip(*(kwargs[name] for name in ('kernel', 'stride', 'dilate', 'pad', 'adj'))), 2):
        if stride > 1:
            x = F.expand_dims(x, axis=axis + 1)
            x = F.concat(x, *[F.zeros_like(x)] * (stride - 1), dim=axis + 1)
            x = F.reshape(x, shape=(0,) * axis + (-3, -2))
        outer = dilate * (kernel - 1) - inner
        begin.append(max(-outer, 0))
        # stride - 1 zeros follow the last position too. The output has adj additional positions, which need adj zeros.
        end.append(adj - (stride - 1) - max(-outer, 0))
        pad.append(max(outer, 0))
    if any(begin) or any(end):
        x = F.slice(x, begin=[None, None] + [value or None for value in begin],
                    end=[None, None] + [value or None for value in end])
    return x, tuple(pad)
