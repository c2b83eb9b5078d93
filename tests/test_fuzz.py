"""Random sizes, strides, dtypes and layouts of the public functions against ``reference``, forward and gradient.

Cases are the same in every run. ``HYPOTHESIS_MAX_EXAMPLES=20000`` looks further.
"""

import os

import pytest
import torch
import torch.nn.functional as F
from helpers import DTYPES, VARIANTS, aliases, assert_close, pool2d, reference_pool2d, spectrum_l1
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import alias_ops
from alias_ops import _backend, reference

BACKENDS = [
    pytest.param(name, marks=[] if not reason else pytest.mark.skip(reason=reason))
    for name, reason in _backend.availability().items()
    if name in ("reference", "cpu")
]
EXAMPLES = int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "0"))


def fuzz(examples):
    """Every example of either backend; the same ones each time."""
    settled = settings(max_examples=EXAMPLES or examples, deadline=None, derandomize=True, database=None)
    return lambda test: pytest.mark.parametrize("name", BACKENDS)(settled(test))


sides = st.one_of(st.integers(1, 12), st.integers(1, 40))
steps = st.tuples(st.integers(1, 5), st.integers(1, 5))
dtypes = st.sampled_from(DTYPES)
leading = st.lists(st.one_of(st.integers(1, 4), st.integers(0, 9)), max_size=3)


@st.composite
def tensors(draw, shape, dtype):
    """A tensor of this shape whose elements lie anywhere: permuted, apart, overlapping, expanded, at an offset."""
    kind = draw(st.sampled_from(["contiguous", "channels_last", "permuted", "apart", "expanded", "overlapping"]))
    order = draw(st.permutations(range(len(shape))))
    if kind == "contiguous":
        order = list(reversed(range(len(shape))))
    elif kind == "channels_last" and len(shape) == 4:
        order = [1, 3, 2, 0]
    strides, step = [0] * len(shape), 1
    for d in order:
        if kind == "apart":
            step *= draw(st.integers(1, 3))
        strides[d] = step
        step *= max(1, shape[d])
        if kind == "apart":
            step += draw(st.integers(0, 3))
    if kind in ("expanded", "overlapping"):
        d = draw(st.integers(0, len(shape) - 1))
        strides[d] = 0 if kind == "expanded" else draw(st.integers(1, 5))
    offset = draw(st.integers(0, 7))
    count = offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    storage = torch.randn(max(count, offset + 1), generator=generator, dtype=torch.float64).to(dtype)
    return storage.as_strided(shape, strides, offset)


def gradients(found, wanted, leaves, exact):
    """Of both with respect to their own leaves, for the same incoming gradient, which comes first."""
    dy = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found.dtype)
    actual = torch.autograd.grad(found, leaves, dy)
    assert [g.dtype for g in actual] == [t.dtype for t in leaves]
    return dy, actual, torch.autograd.grad(wanted, exact, dy.double())


def assert_measure(found, stride_1, stride, leaves, exact, parts=0.0):
    """Values; the gradients too where bins of D are neither 0 nor nearly so, or D / |D| would be rounding noise."""
    dtype = leaves[0].dtype
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wanted = reference.aliasing(stride_1, stride, reduction="none")
    # Of minuend and subtrahend, either of which can be all there is, and of the parts that they are made from.
    scale = spectrum_l1(stride_1, stride) + wanted + parts
    assert_close(found, wanted, dtype, scale=scale)
    dy, actual, expected = gradients(found, wanted, leaves, exact)
    for t, gradient, exact_gradient in zip(leaves, actual, expected, strict=True):
        # A norm is the inner product of its gradient and its argument, whatever the bins.
        product = (gradient.double() * t.double()).sum()
        size = (dy.abs() * scale).sum() + gradient.double().norm() * t.double().norm()
        assert_close(product, (dy * wanted).sum(), dtype, scale=size)
        if dtype == torch.float64 and generic(t) and aliases(stride_1.shape[-2:], stride):
            assert_close(gradient, exact_gradient, dtype)


def assert_empty(found, x, plane=()):
    """Of no maps: a result of the right size, and a gradient."""
    assert tuple(found.shape) == (*x.shape[:-2], *plane)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert gradient.shape == x.shape


def generic(t):
    """No two elements are one."""
    return t.detach().unique().numel() == t.numel()


def leaf(t):
    return t.detach().requires_grad_()


@fuzz(150)
@given(data=st.data())
def test_poolings(name, data):
    pool, variant = data.draw(st.sampled_from([("flc", "centered"), ("asap", "centered"), *VARIANTS.values()]))
    size = data.draw(sides), data.draw(sides)
    stride = data.draw(steps)
    if variant != "centered":
        stride = 2
        assume(min(size) >= 4)
    x = leaf(data.draw(tensors([*data.draw(leading), *size], data.draw(dtypes))))
    exact = leaf(x.double())
    with alias_ops.backend(name):
        found = pool2d(pool, x, stride, variant)
        if not x.numel():
            return assert_empty(found, x, reference_pool2d(pool, torch.ones(size), stride, variant).shape)
        wanted = reference_pool2d(pool, exact, stride, variant)
        _, (actual,), (expected,) = gradients(found, wanted, [x], [exact])
    assert_close(found, wanted, x.dtype)
    assert_close(actual, expected, x.dtype)


@fuzz(120)
@given(data=st.data())
def test_aliasing(name, data):
    size, stride = (data.draw(sides), data.draw(sides)), data.draw(steps)
    x = leaf(data.draw(tensors([*data.draw(leading), *size], data.draw(dtypes))))
    exact = leaf(x.double())
    with alias_ops.backend(name):
        found = alias_ops.aliasing(x, stride, reduction="none")
        if not x.numel():
            return assert_empty(found, x)
        assert_measure(found, exact, stride, [x], [exact])


@st.composite
def convolutions(draw):
    """x, weight, and the geometry of a layer."""
    dtype, groups = draw(dtypes), draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs, outputs = (groups * draw(st.integers(1, 6)) for _ in range(2))
    kernel, padding, dilation = (
        (draw(st.integers(*bounds)), draw(st.integers(*bounds))) for bounds in ((1, 4), (0, 3), (1, 3))
    )
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    size = [low + draw(st.integers(0, 20)) for low in smallest]
    x = draw(tensors([draw(st.integers(0, 4)), inputs, *size], dtype))
    weight = draw(tensors([outputs, inputs // groups, *kernel], dtype))
    return x, weight, {"stride": draw(steps), "padding": padding, "dilation": dilation, "groups": groups}


@fuzz(120)
@given(data=st.data())
def test_conv2d_aliasing(name, data):
    x, weight, geometry = data.draw(convolutions())
    leaves, exact = (leaf(x), leaf(weight)), (leaf(x.double()), leaf(weight.double()))
    stride_1 = F.conv2d(*exact, None, **{**geometry, "stride": 1})
    output = F.conv2d(*exact, None, **geometry).detach().to(x.dtype) if data.draw(st.booleans()) else None
    with alias_ops.backend(name):
        found = alias_ops.conv2d_aliasing(*leaves, **geometry, output=output, reduction="none")
        if not x.numel():
            assert found.shape == (0, len(weight))
            assert torch.autograd.grad(found.sum(), leaves)[1].count_nonzero() == 0
            return
        # Identity 7 starts from the full correlation; all of it but a few lines may be cut off.
        margins = [d * (k - 1) for d, k in zip(geometry["dilation"], weight.shape[-2:], strict=True)]
        full = F.conv2d(*exact, None, 1, margins, geometry["dilation"], geometry["groups"]).detach()
        parts = spectrum_l1(full, 1) * (full[0, 0].numel() / stride_1[0, 0].numel())
        assert_measure(found, stride_1, geometry["stride"], leaves, exact, parts)
