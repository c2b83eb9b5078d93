"""Identity 4 on the CPU: norms without a strided output, gradients without a strided convolution."""

import pytest
import torch
import torch.nn.functional as F
from helpers import DTYPES, LAYOUTS, SINGLE_AND_DOUBLE, aliases, assert_close, randn
from test_conv2d_alias_l1 import CASES, aliasing, assert_measures, expected_aliasing, operands, stride_1_size

from alias_ops import _backend, designs
from alias_ops.ops import _adjoints, _taps

DOUBLE = torch.float64
KERNELS = torch.ops.alias_ops
pytestmark = pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


# ---- norms -----------------------------------------------------------------------------------------------------------


def wide(name, dtype):
    """The geometry of a case, with as many channels as the kernel asks for, and a few more."""
    (batch, inputs, *size), (outputs, _, *kernel), geometry = CASES[name]
    groups = min(geometry["groups"], 3)
    inputs, outputs = (groups * (n + 16) if n < 16 else groups * n for n in (inputs // groups, outputs // groups))
    x = randn(batch, inputs, *size, dtype=dtype)
    return (
        x,
        randn(outputs, inputs // groups, *kernel, dtype=dtype, seed=1),
        {"stride": 2, **geometry, "groups": groups},
    )


@dtypes
@pytest.mark.parametrize("name", CASES)
def test_norms_of_wide_layers(name, dtype):
    assert_measures(*wide(name, dtype), dtype)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_wide_layers(name):
    x, weight, geometry = wide(name, DOUBLE)
    if not aliases(stride_1_size(x, weight, geometry), geometry["stride"]):
        pytest.skip("D is 0, and the direction of D/|D| rounding noise")
    leaves = x.requires_grad_(), weight.requires_grad_()
    weights = randn(len(x), len(weight), seed=5)
    gradients, expected = (
        torch.autograd.grad((measure(*leaves, **geometry) * weights).sum(), leaves)
        for measure in (aliasing, expected_aliasing)
    )
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert_close(gradient, wanted, DOUBLE)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(16, 16, 1), (35, 50, 1), (64, 34, 2)])
def test_norms_of_wide_layers_in_any_layout(layout, inputs, outputs, groups):
    for dtype in DTYPES:
        x = LAYOUTS[layout](3, inputs, 10, 9, dtype=dtype)
        weight = randn(outputs, inputs // groups, 3, 2, dtype=dtype, seed=1)
        if layout == "expanded columns":  # constant rows: what aliases does so along the height alone
            x = x + randn(1, 1, 10, 1, dtype=dtype, seed=3)
        geometry = {"stride": 2, "padding": (1, 0), "dilation": (1, 2), "groups": groups}
        assert_measures(x, weight, geometry, dtype)


# Several images together, rows of one image, more blocks of outputs than one, more threads than tasks.
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "size"),
    [(33, 16, 20, (13, 12)), (2, 18, 130, (65, 70)), (1, 16, 300, (9, 9)), (1, 40, 16, (64, 64)), (2, 16, 3, (3, 224))],
)
def test_norms_of_wide_layers_in_parts(threads, batch, inputs, outputs, size):
    for dtype in SINGLE_AND_DOUBLE:
        x, weight = randn(batch, inputs, *size, dtype=dtype), randn(outputs, inputs, 3, 3, dtype=dtype, seed=1)
        assert_measures(x, weight, {"stride": 2, "padding": 1}, dtype)
        threads(1)
        first = aliasing(x, weight, padding=1)
        for count in (1, 2, 3, 7):
            threads(count)
            assert torch.equal(aliasing(x, weight, padding=1), first)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_stay_in_their_image(value):
    x, weight = randn(5, 20, 9, 8), randn(18, 20, 3, 3, seed=1)
    clean = aliasing(x, weight, padding=1)
    x[2, 17, 4, 4] = value
    norms = aliasing(x, weight, padding=1)
    assert norms[2].isnan().all()
    others = [0, 1, 3, 4]
    assert torch.equal(norms[others], clean[others])


def test_half_precision_is_not_rounded_on_the_way():
    x, weight = randn(3, 24, 14, 12, dtype=torch.bfloat16), randn(20, 24, 3, 3, dtype=torch.bfloat16, seed=1)
    assert_close(aliasing(x, weight, padding=1), expected_aliasing(x, weight, padding=1), torch.float32)


# ---- gradients -------------------------------------------------------------------------------------------------------


def taps(x, weight, stride, padding, dilation, groups):
    axes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    return *(list(designs.conv_tables_with_taps(*axis)) for axis in axes), stride, padding, dilation, groups


class Ways:
    """Gradients of some norms by identity 4, and by identity 7 beside PyTorch's backward of the strided layer."""

    def __init__(self, x, weight, stride=2, padding=0, dilation=1, groups=1):
        self.x, self.weight = x, weight
        self.geometry = *((n, n) if isinstance(n, int) else tuple(n) for n in (stride, padding, dilation)), groups
        axes = zip(x.shape[2:], weight.shape[2:], *self.geometry[:3], strict=True)
        self.tables = [designs.conv_tables(*axis) for axis in axes]
        norms, self.d_output = KERNELS._conv2d_alias_l1_training(x, weight, None, None, *self.tables, *self.geometry)
        # Norms grow with a weight: gradients of one sign do not cancel where there is a single one.
        self.grad = randn(*norms.shape, dtype=x.dtype, seed=2).abs()

    def by_taps(self):
        operands = self.grad, self.d_output, self.x, self.weight
        return KERNELS._conv2d_alias_l1_tap_gradient(*operands, *taps(self.x, self.weight, *self.geometry))

    def by_bins(self, dtype=DOUBLE):
        x, weight = self.x.to(dtype), self.weight.to(dtype)
        d_output = self.d_output.to(dtype) * self.grad.to(dtype)[:, :, None, None]
        dx, dweight = _adjoints.convolution_backward(d_output, x, weight, *self.geometry)
        dweight = dweight.contiguous()
        KERNELS._conv2d_alias_l1_low_gradient(d_output, x, weight, dx, dweight, *self.tables, *self.geometry)
        return dx, dweight

    def assert_same(self):
        for by_taps, by_bins in zip(self.by_taps(), self.by_bins(), strict=True):
            assert by_taps.dtype == self.x.dtype
            assert_close(by_taps, by_bins, self.x.dtype)


@pytest.mark.parametrize("dtype", SINGLE_AND_DOUBLE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_identities_4_and_7_give_the_same_gradients(name, dtype):
    x, weight, geometry = operands(name, dtype)
    geometry = {"stride": 2, **geometry}
    if not aliases(stride_1_size(x, weight, geometry), geometry["stride"]):
        pytest.skip("D is 0, and the direction of D/|D| rounding noise")
    Ways(x, weight, **geometry).assert_same()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(5, 6, 1), (33, 17, 1), (40, 36, 2), (18, 36, 9)])
def test_identities_4_and_7_agree_in_any_layout(layout, inputs, outputs, groups):
    for dtype in SINGLE_AND_DOUBLE:
        x = LAYOUTS[layout](3, inputs, 10, 9, dtype=dtype)
        weight = randn(outputs, inputs // groups, 3, 2, dtype=dtype, seed=1)
        Ways(x, weight, 2, (1, 0), (1, 2), groups).assert_same()


# One image in rows, rows that do not divide it, images that do not divide a part, and more parts than images.
PARTS = [(1, 3, (64, 70)), (3, 17, (65, 47)), (70, 20, (13, 12)), (37, 300, (5, 4)), (2, 1, (3, 1200))]


@pytest.mark.parametrize(("batch", "inputs", "size"), PARTS)
def test_identity_4_in_parts(threads, batch, inputs, size):
    for dtype in SINGLE_AND_DOUBLE:
        weight = randn(9, inputs, 3, 3, dtype=dtype, seed=1)
        ways = Ways(randn(batch, inputs, *size, dtype=dtype), weight, 2, 1)
        ways.assert_same()
        threads(1)
        first = ways.by_taps()
        for count in (1, 2, 3, 7):
            threads(count)
            for again, once in zip(ways.by_taps(), first, strict=True):
                assert torch.equal(again, once)


# ---- where it serves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "groups", "by_taps"),
    [
        ((4, 3, 7, 7), 1, True),
        ((4, 3, 5, 11), 1, False),
        ((4, 3, 1, 1), 1, False),
        ((16, 8, 3, 3), 2, True),
        ((16, 4, 3, 3), 4, False),
    ],
)
def test_which_identity_serves(monkeypatch, shape, groups, by_taps):
    asked = []
    convolution_backward = _adjoints.convolution_backward
    monkeypatch.setattr(_adjoints, "convolution_backward", lambda *a: asked.append(a) or convolution_backward(*a))
    x, weight = randn(2, shape[1] * groups, 12, 12).requires_grad_(), randn(*shape, seed=1).requires_grad_()
    assert _taps.by_taps(weight, groups) == by_taps
    aliasing(x, weight, padding=1, groups=groups).sum().backward()
    assert bool(asked) != by_taps


@pytest.mark.parametrize(
    ("inputs", "groups", "kernel", "size", "convolved"),
    [
        (16, 1, 3, (12, 12), False),
        (15, 1, 3, (12, 12), True),
        (32, 2, 3, (12, 12), False),
        (30, 2, 3, (12, 12), True),
        (16, 1, 5, (12, 12), False),
        (16, 1, 6, (12, 12), True),
        (16, 1, 2, (4, 224), False),
        (16, 1, 2, (4, 226), True),
    ],
)
def test_whether_the_layer_is_convolved_where_its_output_is_not_given(inputs, groups, kernel, size, convolved):
    x, weight = randn(1, inputs, *size), randn(2 * groups, inputs // groups, kernel, kernel, seed=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        aliasing(x, weight, groups=groups)
    assert ("aten::conv2d" in {event.key for event in profile.key_averages()}) == convolved


@pytest.mark.parametrize("wrong", ["grad", "output", "dtype", "table", "tables", "places", "sources", "kernel"])
def test_what_does_not_fit_taps_is_refused(wrong):
    x, weight = randn(2, 3, 9, 8), randn(4, 3, 3, 3, seed=1)
    output, grad = F.conv2d(x, weight, None, 2, 1), randn(2, 4)
    tables_h, tables_w, *geometry = taps(x, weight, (2, 2), (1, 1), (1, 1), 1)
    tables_w = [t.clone() for t in tables_w]
    if wrong == "grad":
        grad = grad[:1]
    elif wrong == "output":
        output = output[:, :, :4]
    elif wrong == "dtype":
        output = output.float()
    elif wrong == "table":
        tables_w[6] = tables_w[6][:, :-1].contiguous()
    elif wrong == "tables":
        tables_h = tables_h[:10]
    elif wrong == "places":
        tables_w[8][0, 1] = 4
    elif wrong == "sources":
        tables_w[10][0, 0] = 8
    else:
        weight = weight[..., :2]
    with pytest.raises(RuntimeError, match=r"must|takes eleven"):
        KERNELS._conv2d_alias_l1_tap_gradient(grad, output, x, weight, tables_h, tables_w, *geometry)
