"""The functions under PyTorch's own machinery: compilation, export, modes, forward derivatives, autocast."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, randn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import alias_ops
from alias_ops import reference

DOUBLE = torch.float64
WEIGHT = randn(4, 3, 3, 3, seed=1)
FUNCTIONS = {
    "flc": (alias_ops.flc_pool2d, reference.flc_pool2d),
    "asap": (alias_ops.asap_pool2d, reference.asap_pool2d),
    "aliasing": (alias_ops.aliasing, reference.aliasing),
    "conv2d_aliasing": (
        lambda x: alias_ops.conv2d_aliasing(x, WEIGHT.to(x.dtype), padding=1),
        lambda x: reference.conv2d_aliasing(x, WEIGHT.to(x.dtype), padding=1),
    ),
}
functions = pytest.mark.parametrize("name", FUNCTIONS)


def images(*size, dtype=DOUBLE):
    return randn(2, 3, *size, dtype=dtype).requires_grad_()


def assert_same(name, x, y, gradient=True):
    """y is the function of x, and back-propagates to x."""
    expected = FUNCTIONS[name][1](x)
    assert_close(y, expected, DOUBLE)
    if gradient:
        dy = randn(*y.shape, seed=2)
        gradients = [torch.autograd.grad(out, x, dy)[0] for out in (y, expected)]
        assert_close(*gradients, DOUBLE)


# ---- compilation -----------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled():
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield lambda function, **kwargs: torch.compile(function, backend="aot_eager", fullgraph=True, **kwargs)
    torch.compiler.reset()


@functions
def test_compiles_to_one_graph_and_differentiates(backend, compiled, name):
    function = compiled(FUNCTIONS[name][0])
    for _ in range(2):
        x = images(8, 10)
        assert_same(name, x, function(x))


@functions
def test_compiled_functions_meet_other_sizes(backend, compiled, name):
    """At the second size the compiler tries a graph for any size."""
    function = compiled(FUNCTIONS[name][0])
    for size in ((8, 8), (10, 12), (7, 9), (8, 8)):
        x = images(*size)
        assert_same(name, x, function(x))


@functions
def test_compiled_functions_meet_other_batches(backend, compiled, name):
    function = compiled(FUNCTIONS[name][0])
    for batch in (2, 5, 3):
        x = randn(batch, 3, 8, 8).requires_grad_()
        assert_same(name, x, function(x))


@functions
def test_compiles_with_every_number_a_symbol(backend, compiled, name):
    """Strides too are symbols then; a design wants numbers.

    The first batch is as large as one side of a table: the compiler takes equal numbers for the same symbol.
    """
    function = compiled(FUNCTIONS[name][0], dynamic=True)
    for batch in (2, 19):
        x = randn(batch, 3, 8, 10).requires_grad_()
        assert_same(name, x, function(x))


def test_compiled_layers_take_any_layout(backend, compiled):
    layer = compiled(alias_ops.ASAPPool2d())
    for x in (images(8, 8), images(8, 8).detach().to(memory_format=torch.channels_last), images(8, 8).mT):
        y = layer(x)
        assert y.stride() == alias_ops.asap_pool2d(x).stride()
        assert_same("asap", x, y, gradient=x.requires_grad)


@functions
def test_exports(backend, name):
    class Module(torch.nn.Module):
        def forward(self, x):
            return FUNCTIONS[name][0](x)

    x = images(8, 10).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Module(), (x,))
    assert_same(name, x, program.module()(x), gradient=False)


# ---- modes -----------------------------------------------------------------------------------------------------------


@functions
def test_forward_and_backward_under_a_dispatch_mode(backend, name):
    """Counting operations, tracing or offloading saved tensors all work as such modes."""
    x = images(8, 9)
    with FlopCounterMode(display=False):
        assert_same(name, x, FUNCTIONS[name][0](x))


@functions
def test_inference_mode_leaves_nothing_behind(backend, name):
    size = (11, 13)  # not met elsewhere: what is cached now is made in the mode
    with torch.inference_mode():
        assert FUNCTIONS[name][0](images(*size).detach()).is_inference()
    x = images(*size)
    assert_same(name, x, FUNCTIONS[name][0](x))


@functions
def test_no_grad_and_detached_inputs_keep_no_graph(backend, name):
    with torch.no_grad():
        assert not FUNCTIONS[name][0](images(8, 8)).requires_grad
    assert not FUNCTIONS[name][0](images(8, 8).detach()).requires_grad
    assert FUNCTIONS[name][0](images(8, 8)).requires_grad


@functions
def test_activation_checkpoints(backend, name):
    x = images(8, 9)
    assert_same(name, x, checkpoint(FUNCTIONS[name][0], x, use_reentrant=False))


@functions
def test_saved_tensors_can_be_packed(backend, name):
    x = images(8, 9)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        y = FUNCTIONS[name][0](x)
    assert_same(name, x, y)


# ---- derivatives -----------------------------------------------------------------------------------------------------


def derivative(backend, compute):
    """What ``compute`` returns, or None where a compiled op refuses; PyTorch itself never has to."""
    try:
        return compute()
    except (RuntimeError, NotImplementedError):
        assert backend != "reference"
        return None


@functions
def test_forward_derivatives_are_right_or_refused(backend, name):
    """Never silently zero, which is what an op without a rule passes for."""
    function, definition = FUNCTIONS[name]
    x, tangent = images(8, 9).detach(), randn(2, 3, 8, 9, seed=3)
    expected = torch.func.jvp(definition, (x,), (tangent,))[1]

    def dual():
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent

    for compute in (lambda: torch.func.jvp(function, (x,), (tangent,))[1], dual):
        result = derivative(backend, lambda compute=compute: (compute(),))
        if result is not None:
            assert result[0] is not None, "no tangent"
            assert_close(result[0], expected, DOUBLE)


@functions
def test_functional_gradients_are_right_or_refused(backend, name):
    function, definition = FUNCTIONS[name]
    x = images(8, 9).detach()
    expected = torch.func.grad(lambda t: definition(t).square().sum())(x)
    result = derivative(backend, lambda: torch.func.grad(lambda t: function(t).square().sum())(x))
    if result is not None:
        assert_close(result, expected, DOUBLE)


@functions
def test_gradients_accumulate_and_retain(backend, name):
    x = images(8, 9)
    y = FUNCTIONS[name][0](x).sum()
    y.backward(retain_graph=True)
    first = x.grad.clone()
    y.backward()
    assert_close(x.grad, 2 * first, DOUBLE)


@functions
@pytest.mark.filterwarnings("ignore:.*an autograd kernel was not registered:UserWarning")
def test_second_derivatives_are_right_or_refused(backend, name):
    """The poolings document any order, the measures the first one."""
    x = images(8, 9)

    def second(function):
        (dx,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), x)[0]

    actual, definition = FUNCTIONS[name]
    result = derivative(backend, lambda: second(actual))
    assert result is not None or name not in ("flc", "asap", "aliasing")
    if result is not None:
        assert_close(result, second(definition), DOUBLE)


# ---- autocast --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv2d_aliasing_takes_part_in_autocast_as_the_layer_does(backend, kernel, dtype):
    x, weight = randn(2, 3, 9, 8, dtype=torch.float32), randn(4, 3, kernel, kernel, dtype=torch.float32, seed=1)
    bias = randn(4, dtype=torch.float32, seed=2)
    with torch.autocast("cpu", dtype):
        output = F.conv2d(x, weight, bias, stride=2)
        assert output.dtype == dtype
        given = alias_ops.conv2d_aliasing(x, weight, bias, output=output, reduction="none")
        alone = alias_ops.conv2d_aliasing(x, weight, bias, reduction="none")
    rounded = reference.conv2d_aliasing(x.to(dtype).double(), weight.to(dtype).double(), reduction="none")
    for maps in (given, alone):
        assert maps.dtype == torch.float32
        assert_close(maps, rounded, dtype)


def test_poolings_and_aliasing_keep_the_dtype_under_autocast(backend):
    x = randn(2, 3, 9, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, measure = alias_ops.flc_pool2d(x), alias_ops.aliasing(x)
    assert y.dtype == measure.dtype == torch.float32
    assert_close(y, reference.flc_pool2d(x.double()), torch.float32)
    assert_close(measure, reference.aliasing(x.double()), torch.float32)
