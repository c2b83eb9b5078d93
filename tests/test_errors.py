"""Wrong calls: each raises before any work and names the argument, what was expected and what came.

One table per kind of argument, joined into one list of (call, exception, parts of the message).
"""

import warnings

import numpy as np
import pytest
import torch
from helpers import run_python

import alias_ops
from alias_ops import ASAPPool2d, FLCPool2d, aliasing, asap_pool2d, conv2d_aliasing, flc_pool2d
from alias_ops.ops import separable2d

X, WEIGHT = torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3)
LEFT = torch.ones(1, 4, 8)


def on_meta(tensor):
    return tensor.to("meta")


def unusual_tensors():
    """Tensors that PyTorch warns about when it makes them, by what a message says of them."""
    ones = [torch.ones(2, 2), torch.ones(3, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "qint8 [4, 4]": torch.quantize_per_tensor(torch.ones(4, 4), 1.0, 0, torch.qint8),
            "torch.sparse_csr": torch.ones(4, 4).to_sparse_csr(),
            "a nested tensor": torch.nested.nested_tensor(ones, layout=torch.jagged),
            "got a nested tensor": torch.nested.nested_tensor(ones, layout=torch.strided),
        }


UNUSUAL = unusual_tensors()
# what is given instead of a tensor -> what the message says came
NOT_FLOATING = {
    "NoneType": None,
    "list": [[1.0, 2.0]],
    "str": "x",
    "float": 3.0,
    "ndarray": np.ones((4, 4)),
    "int64 [4, 4]": torch.ones(4, 4, dtype=torch.int64),
    "uint8 [4, 4]": torch.ones(4, 4, dtype=torch.uint8),
    "bool [4, 4]": torch.ones(4, 4, dtype=torch.bool),
    "complex64 [4, 4]": torch.ones(4, 4, dtype=torch.complex64),
    "float8_e4m3fn [4, 4]": torch.ones(4, 4).to(torch.float8_e4m3fn),
    "qint8 [4, 4]": UNUSUAL.pop("qint8 [4, 4]"),
}
NOT_DENSE = {
    "torch.sparse_coo": torch.ones(4, 4).to_sparse(),
    "torch._mkldnn": torch.ones(1, 1, 4, 4).to_mkldnn(),
    **UNUSUAL,
}
# argument -> (call with it, the shape that the message asks for)
TENSORS = {
    "x of flc_pool2d": (flc_pool2d, "[..., H, W]"),
    "x of asap_pool2d": (asap_pool2d, "[..., H, W]"),
    "x of aliasing": (aliasing, "[..., H, W]"),
    "x of conv2d_aliasing": (lambda t: conv2d_aliasing(t, WEIGHT), "[..., H, W]"),
    "x of separable2d": (lambda t: separable2d(t, LEFT, LEFT), "[..., H, W]"),
    "weight": (lambda t: conv2d_aliasing(X, t), "[Cout, Cin / groups, kH, kW]"),
    "bias": (lambda t: conv2d_aliasing(X, WEIGHT, t), "[Cout]"),
    "output": (lambda t: conv2d_aliasing(X, WEIGHT, output=t), "[B, Cout, N, M]"),
    "left": (lambda t: separable2d(X, t, LEFT), "[T, M, H]"),
    "right": (lambda t: separable2d(X, LEFT, t), "[T, N, W]"),
}
OPTIONAL = {("bias", "NoneType"), ("output", "NoneType")}

WRONG_TENSORS = [
    *[
        (lambda call=call, value=value: call(value), TypeError, [argument.split()[0], "floating tensor", shape, came])
        for argument, (call, shape) in TENSORS.items()
        for came, value in NOT_FLOATING.items()
        if (argument, came) not in OPTIONAL
    ],
    *[
        (lambda call=call, value=value: call(value), TypeError, [argument.split()[0], "dense tensor", shape, came])
        for argument, (call, shape) in TENSORS.items()
        for came, value in NOT_DENSE.items()
    ],
]

MAPS = (flc_pool2d, asap_pool2d, aliasing, lambda x: separable2d(x, LEFT, LEFT))
WRONG_MAPS = [
    (lambda call=call, shape=shape: call(torch.ones(shape)), ValueError, ["x must", wanted, f"float32 {list(shape)}"])
    for call in MAPS
    for shape, wanted in [
        ((), "floating tensor [..., H, W]"),
        ((3,), "floating tensor [..., H, W]"),
        ((4, 0), "maps of at least 1x1"),
        ((2, 0, 4), "maps of at least 1x1"),
    ]
]

# argument -> (call with it, kind, smallest value)
PAIRS = {
    "stride of flc_pool2d": (lambda v: flc_pool2d(X, v), "positive", 1),
    "stride of asap_pool2d": (lambda v: asap_pool2d(X, v), "positive", 1),
    "stride of aliasing": (lambda v: aliasing(X, v), "positive", 1),
    "stride of conv2d_aliasing": (lambda v: conv2d_aliasing(X, WEIGHT, stride=v), "positive", 1),
    "stride of FLCPool2d": (lambda v: FLCPool2d(stride=v), "positive", 1),
    "stride of ASAPPool2d": (lambda v: ASAPPool2d(16, v), "positive", 1),
    "padding": (lambda v: conv2d_aliasing(X, WEIGHT, padding=v), "non-negative", 0),
    "dilation": (lambda v: conv2d_aliasing(X, WEIGHT, dilation=v), "positive", 1),
}
NO_INTS = [None, True, False, 2.0, float("nan"), torch.tensor(2), {2, 3}, {2: 3}, np.array([2, 2]), b"22", range(2, 4)]
NO_PAIRS = ["2", "22", "same", (), (2,), [2], (2, 2, 2), (2, 2.0), (True, 2), ("2", "2"), ((2, 2), 2)]
WRONG_PAIRS = [
    (lambda call=call, value=value: call(value), error, [argument.split()[0], f"a {kind} int or a pair", repr(value)])
    for argument, (call, kind, smallest) in PAIRS.items()
    for values, error in [
        (NO_INTS, TypeError),
        (NO_PAIRS, ValueError),
        ([smallest - 1, -2, (2, smallest - 1), (-1, 2)], ValueError),
    ]
    for value in values
] + [
    (lambda call=call, value=value: call(value), ValueError, [f"{argument.split()[0]} must be at most", repr(value)])
    for argument, (call, _, _) in PAIRS.items()
    for value in [2**31, 10**30, (2, 2**31), (2**63, 2)]
]

WRONG_GROUPS = [
    (lambda v=v: conv2d_aliasing(X, WEIGHT, groups=v), error, ["groups must be a positive int", repr(v)])
    for values, error in [([None, True, 1.0, "1", (1, 1)], TypeError), ([0, -1], ValueError)]
    for v in values
]

WRONG_CHOICES = [
    *[
        (lambda v=v, call=call: call(v), ValueError, ["reduction must be one of 'none', 'mean', 'sum'", repr(v)])
        for v in ["max", "", "Mean", None, 1, True, ["mean"], ("none",), b"mean", np.array(["none", "mean"])]
        for call in (lambda v: aliasing(X, reduction=v), lambda v: conv2d_aliasing(X, WEIGHT, reduction=v))
    ],
    *[
        (lambda v=v, call=call: call(v), ValueError, [f"variant of {pool}_pool2d must be one of 'centered'", repr(v)])
        for v in ["none", "", "Centered", None, 2, ["centered"], np.array(["centered", "upstream"])]
        for pool, calls in {
            "flc": (lambda v: flc_pool2d(X, variant=v), lambda v: FLCPool2d(variant=v)),
            "asap": (lambda v: asap_pool2d(X, variant=v), lambda v: ASAPPool2d(variant=v)),
        }.items()
        for call in calls
    ],
    (lambda: flc_pool2d(X, variant="upstream_pad1"), ValueError, ["'centered', 'upstream'", "got 'upstream_pad1'"]),
    (lambda: FLCPool2d(variant="upstream_padlarge"), ValueError, ["'centered', 'upstream'", "'upstream_padlarge'"]),
    *[
        (
            lambda variant=variant, stride=stride: asap_pool2d(X, stride, variant=variant),
            ValueError,
            ["stride must be 2", repr(variant), f"got {wrong}"],
        )
        for variant in ("upstream", "upstream_pad1", "upstream_padlarge")
        for stride, wrong in [(1, 1), (3, 3), ((2, 1), 1), ((4, 2), 4)]
    ],
    *[
        (lambda size=size: flc_pool2d(torch.ones(size), variant="upstream"), ValueError, ["'upstream'", "1 samples"])
        for size in [(1, 8), (8, 1), (1, 1)]
    ],
    (lambda: asap_pool2d(X[..., :1], variant="upstream_padlarge"), ValueError, ["'upstream_padlarge'", "1 samples"]),
]

WRONG_CONVOLUTIONS = [
    (lambda: conv2d_aliasing(X[0, 0], WEIGHT), ValueError, ["x must be", "[B, Cin, H, W] or [Cin, H, W]", "[8, 8]"]),
    (lambda: conv2d_aliasing(X[None], WEIGHT), ValueError, ["x must be", "[Cin, H, W]", "float32 [1, 2, 3, 8, 8]"]),
    (lambda: conv2d_aliasing(X[..., :0], WEIGHT), ValueError, ["x must have maps of at least 1x1", "[2, 3, 8, 0]"]),
    (lambda: conv2d_aliasing(X, WEIGHT[0]), ValueError, ["weight must be", "kH, kW]", "float32 [3, 3, 3]"]),
    (lambda: conv2d_aliasing(X, WEIGHT[..., :0]), ValueError, ["weight must be", "float32 [4, 3, 3, 0]"]),
    (lambda: conv2d_aliasing(X, WEIGHT[:0]), ValueError, ["weight must be", "float32 [0, 3, 3, 3]"]),
    (lambda: conv2d_aliasing(X[:, :0], WEIGHT[:, :0]), ValueError, ["weight must be", "float32 [4, 0, 3, 3]"]),
    (lambda: conv2d_aliasing(X, WEIGHT[:, :2]), ValueError, ["weight must be", "[4, 2, 3, 3]", "x of 3 channels"]),
    (lambda: conv2d_aliasing(X, WEIGHT, groups=3), ValueError, ["weight must be", "groups=3", "x of 3 channels"]),
    (lambda: conv2d_aliasing(X, WEIGHT[:, :1], groups=3), ValueError, ["Cout a multiple of groups", "groups=3"]),
    (lambda: conv2d_aliasing(X, WEIGHT, groups=10**30), ValueError, ["weight must be", "groups=1000000"]),
    (lambda: conv2d_aliasing(X, WEIGHT.double()), TypeError, ["weight", "dtype of x (torch.float32)", "float64"]),
    (lambda: conv2d_aliasing(X.half(), WEIGHT), TypeError, ["weight", "dtype of x (torch.float16)", "float32"]),
    (lambda: conv2d_aliasing(X, on_meta(WEIGHT)), ValueError, ["weight", "device of x (cpu)", "got meta"]),
    (lambda: conv2d_aliasing(on_meta(X), WEIGHT), ValueError, ["weight", "device of x (meta)", "got cpu"]),
    (lambda: conv2d_aliasing(X, WEIGHT, dilation=4), ValueError, ["weight must fit", "[3, 3]", "dilation [4, 4]"]),
    (lambda: conv2d_aliasing(X[..., :2, :], WEIGHT), ValueError, ["weight must fit in the padded x", "[2, 8]"]),
    (lambda: conv2d_aliasing(X, WEIGHT, torch.ones(3)), ValueError, ["bias must be", "[4]", "float32 [3]"]),
    (lambda: conv2d_aliasing(X, WEIGHT, torch.ones(4, 1)), ValueError, ["bias must be", "[4]", "float32 [4, 1]"]),
    (lambda: conv2d_aliasing(X, WEIGHT, torch.tensor(1.0)), ValueError, ["bias must be", "[4]", "float32 []"]),
    (lambda: conv2d_aliasing(X, WEIGHT, on_meta(torch.ones(4))), ValueError, ["bias", "device of x (cpu)", "meta"]),
    *[
        (lambda shape=shape: conv2d_aliasing(X, WEIGHT, output=torch.ones(shape)), ValueError, parts)
        for shape in [(2, 4, 3, 4), (2, 4, 6, 6), (4, 3, 3), (1, 4, 3, 3), (2, 3, 3, 3), ()]
        for parts in [["output must be", "strided output [2, 4, 3, 3]", f"float32 {list(shape)}"]]
    ],
    (lambda: conv2d_aliasing(X[0], WEIGHT, output=torch.ones(1, 4, 3, 3)), ValueError, ["output [4, 3, 3]", "[1, 4,"]),
    (lambda: conv2d_aliasing(X, WEIGHT, output=torch.ones(2, 4, 3, 3).half()), TypeError, ["output", "dtype of x"]),
    (lambda: conv2d_aliasing(X, WEIGHT, output=on_meta(torch.ones(2, 4, 3, 3))), ValueError, ["output", "device of x"]),
]

WRONG_FACTORS = [
    *[
        (lambda shape=shape: separable2d(X, torch.ones(shape), LEFT), ValueError, ["left", "H = 8", f"{list(shape)}"])
        for shape in [(3, 4, 8), (0, 4, 8), (1, 4, 7), (1, 8, 4), (1, 0, 8), (4, 8), (1, 1, 4, 8), (8,)]
    ],
    *[
        (lambda shape=shape: separable2d(X, LEFT, torch.ones(shape)), ValueError, ["right", "W = 8", f"{list(shape)}"])
        for shape in [(3, 4, 8), (1, 4, 9), (1, 0, 8), (4, 8)]
    ],
    (lambda: separable2d(X, torch.ones(2, 4, 8), LEFT), ValueError, ["same number of terms", "2 and 1"]),
    (lambda: separable2d(X, on_meta(LEFT), LEFT), ValueError, ["left", "device of x (cpu)", "got meta"]),
    (lambda: separable2d(X, LEFT, on_meta(LEFT)), ValueError, ["right", "device of x (cpu)", "got meta"]),
    (lambda: separable2d(X, LEFT.clone().requires_grad_(), LEFT), ValueError, ["left must be a constant"]),
    (lambda: separable2d(X, LEFT, LEFT.clone().requires_grad_()), ValueError, ["right must be a constant"]),
]

WRONG_BACKENDS = [
    (lambda v=v: alias_ops.backend(v).__enter__(), ValueError, ["backend must be one of auto, reference, cpu", repr(v)])
    for v in ["CPU", "", "gpu", None, 1, ["cpu"], {"cpu"}, b"cpu"]
]

WRONG_CALLS = [
    *WRONG_TENSORS,
    *WRONG_MAPS,
    *WRONG_PAIRS,
    *WRONG_GROUPS,
    *WRONG_CHOICES,
    *WRONG_CONVOLUTIONS,
    *WRONG_FACTORS,
    *WRONG_BACKENDS,
]


@pytest.mark.parametrize(("call", "error", "parts"), WRONG_CALLS, ids=[" | ".join(c[2])[:90] for c in WRONG_CALLS])
def test_wrong_calls_say_what_is_wrong(call, error, parts):
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message


def test_arguments_of_layers():
    for layer in (FLCPool2d, ASAPPool2d):
        with pytest.raises(TypeError, match="unexpected keyword argument 'padding'"):
            layer(stride=2, padding=1)
        with pytest.raises(TypeError, match="positional argument"):
            layer(16, 2, "centered")


@pytest.mark.parametrize("call", [flc_pool2d, asap_pool2d, aliasing], ids=lambda f: f.__name__)
def test_arguments_by_name_and_by_place(call):
    assert torch.equal(call(x=X, stride=(2, 4)), call(X, (2, 4)))
    with pytest.raises(TypeError, match="positional argument"):
        call(X, 2, "centered")


# ---- calls that look odd and are right -------------------------------------------------------------------------------

RIGHT_CALLS = {
    "a list for a pair": lambda: flc_pool2d(X, [2, 4]),
    "torch.Size for a pair": lambda: aliasing(X, torch.Size([2, 2])),
    "a parameter": lambda: asap_pool2d(torch.nn.Parameter(X)),
    "thirty dimensions": lambda: flc_pool2d(torch.ones([1] * 28 + [4, 4])),
    "bias in another dtype": lambda: conv2d_aliasing(X, WEIGHT, torch.ones(4, dtype=torch.float64)),
    "strides far above the size": lambda: aliasing(X, 10**4),
    "dilation of a single tap": lambda: conv2d_aliasing(X, WEIGHT[..., :1, :1], dilation=2**31 - 1),
    "factors in half precision": lambda: separable2d(X, LEFT.half(), LEFT.bfloat16()),
}


@pytest.mark.parametrize("name", RIGHT_CALLS)
def test_calls_that_look_odd_and_are_right(backend, name):
    assert RIGHT_CALLS[name]().isfinite().all()


def test_meta_tensors_have_shapes_and_no_values():
    x, weight = on_meta(X), on_meta(WEIGHT)
    assert flc_pool2d(x).shape == (2, 3, 4, 4)
    assert asap_pool2d(x, variant="upstream_pad1").shape == (2, 3, 4, 4)
    assert aliasing(x, reduction="none").shape == (2, 3)
    assert conv2d_aliasing(x, weight, reduction="none").shape == (2, 4)
    assert conv2d_aliasing(x, weight, output=on_meta(torch.ones(2, 4, 3, 3))).shape == ()
    assert flc_pool2d(x).device.type == "meta"


HUGE = """
import resource
import torch
import alias_ops

resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
x = torch.arange(6.0, dtype=torch.float64).reshape(1, 1, 2, 3)
stride = 2**31 - 1
# All outputs but the first are gone; the replicas of the last sample are all but all there is.
assert abs(alias_ops.aliasing(x, stride).item() - 5.0) < 1e-6
assert abs(alias_ops.conv2d_aliasing(x, torch.ones(1, 1, 1, 1).double(), stride=stride).item() - 5.0) < 1e-6
assert abs(alias_ops.conv2d_aliasing(x, torch.ones(1, 1, 1, 2).double(), stride=stride).item() - 8.0) < 1e-6
assert abs(alias_ops.flc_pool2d(x, stride).item() - 2.5) < 1e-6
print("fine")
"""


def test_the_largest_stride_needs_no_memory():
    process = run_python(HUGE)
    assert process.stdout == "fine\n", process.stderr
