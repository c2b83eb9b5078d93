"""torch.func: mapped, differentiated, both, in either order, against autograd through the reference."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, randn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import alias_ops
from alias_ops import reference

DOUBLE = torch.float64
WEIGHT = randn(4, 3, 3, 3, seed=1)
POOLS = {
    "flc": (alias_ops.flc_pool2d, reference.flc_pool2d),
    "asap": (alias_ops.asap_pool2d, reference.asap_pool2d),
}
MEASURES = {
    "aliasing": (alias_ops.aliasing, reference.aliasing),
    "conv2d_aliasing": (
        lambda x: alias_ops.conv2d_aliasing(x, WEIGHT, padding=1),
        lambda x: reference.conv2d_aliasing(x, WEIGHT, padding=1),
    ),
}
FUNCTIONS = POOLS | MEASURES
functions = pytest.mark.parametrize("name", FUNCTIONS)

# PyTorch says so where it has no rule and maps in a loop.
pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")


def scalar(function):
    return lambda x: (function(x) ** 2).sum()


def by_autograd(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(scalar(function)(x), x)[0]


@functions
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_grad(backend, name, size):
    ours, exact = FUNCTIONS[name]
    x = randn(2, 3, *size)
    assert_close(grad(scalar(ours))(x), by_autograd(exact, x), DOUBLE)


@functions
@pytest.mark.parametrize("in_dim", [0, 2, -1])
def test_vmap(backend, name, in_dim):
    ours, exact = FUNCTIONS[name]
    x = randn(5, 2, 3, 8, 9)
    mapped = vmap(ours, in_dims=in_dim)(x.movedim(0, in_dim))
    assert_close(mapped, torch.stack([exact(one) for one in x]), DOUBLE)


@functions
def test_vmap_in_vmap(backend, name):
    ours, exact = FUNCTIONS[name]
    x = randn(2, 3, 2, 3, 6, 8)
    expected = torch.stack([torch.stack([exact(one) for one in row]) for row in x])
    assert_close(vmap(vmap(ours))(x), expected, DOUBLE)


@functions
def test_gradients_of_every_sample(backend, name):
    ours, exact = FUNCTIONS[name]
    x = randn(4, 2, 3, 8, 9)
    assert_close(vmap(grad(scalar(ours)))(x), torch.stack([by_autograd(exact, one) for one in x]), DOUBLE)


@functions
def test_gradient_of_what_is_mapped(backend, name):
    ours, exact = FUNCTIONS[name]
    x = randn(4, 2, 3, 8, 9)
    total = grad(lambda x: vmap(scalar(ours))(x).sum())(x)
    assert_close(total, torch.stack([by_autograd(exact, one) for one in x]), DOUBLE)


@functions
def test_jvp_and_forward_mode(backend, name):
    ours, exact = FUNCTIONS[name]
    x, tangent = randn(2, 3, 8, 9), randn(2, 3, 8, 9, seed=4)
    expected = torch.autograd.functional.jvp(exact, x, tangent)[1]
    value, slope = jvp(ours, (x,), (tangent,))
    assert_close(value, exact(x), DOUBLE)
    assert_close(slope, expected, DOUBLE)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(ours(forward_ad.make_dual(x, tangent)))
    assert_close(dual.primal, exact(x), DOUBLE)
    assert_close(dual.tangent, slope, DOUBLE)


@functions
def test_jacobians_by_rows_and_by_columns(backend, name):
    ours, exact = FUNCTIONS[name]
    x = randn(1, 3, 6, 7)
    expected = torch.autograd.functional.jacobian(exact, x)
    assert_close(jacrev(ours)(x), expected, DOUBLE)
    assert_close(jacfwd(ours)(x), expected, DOUBLE)
    _, back = vjp(ours, x)
    v = randn(*ours(x).shape, seed=5)
    assert_close(back(v)[0], torch.tensordot(v, expected, v.dim()), DOUBLE)


@functions
def test_hessian(backend, name):
    """Of a measure, too: torch.func goes through the PyTorch form, which has derivatives of any order."""
    ours, exact = FUNCTIONS[name]
    x = randn(1, 3, 4, 5)
    expected = torch.autograd.functional.hessian(scalar(exact), x)
    assert_close(hessian(scalar(ours))(x), expected, DOUBLE)
    assert_close(jacrev(jacrev(scalar(ours)))(x), expected, DOUBLE)


@pytest.mark.parametrize("name", POOLS)
def test_third_derivatives_of_poolings(backend, name):
    ours, exact = POOLS[name]
    x = randn(1, 1, 4, 4)

    def cubed(function):
        return lambda x: (function(x) ** 3).sum()

    third = jacfwd(jacrev(grad(cubed(ours))))(x)
    expected = jacfwd(jacfwd(jacfwd(cubed(exact))))(x)
    assert_close(third, expected, DOUBLE)


def test_aliasing_of_the_convolution_in_every_argument(backend):
    x, weight = randn(3, 3, 8, 8), randn(2, 4, 3, 3, 3, seed=7)

    def measure(weight, x):
        return alias_ops.conv2d_aliasing(x, weight, padding=1)

    def exact(weight, x):
        return reference.conv2d_aliasing(x, weight, padding=1)

    def gradient(weight, x):
        weight = weight.clone().requires_grad_()
        return torch.autograd.grad(exact(weight, x), weight)[0]

    assert_close(vmap(measure, (0, None))(weight, x), torch.stack([exact(w, x) for w in weight]), DOUBLE)
    assert_close(grad(measure)(weight[0], x), gradient(weight[0], x), DOUBLE)
    of_samples = vmap(grad(measure), (None, 0))(weight[0], x[:, None])
    assert_close(of_samples, torch.stack([gradient(weight[0], one[None]) for one in x]), DOUBLE)


@pytest.mark.parametrize("pool", [alias_ops.FLCPool2d, alias_ops.ASAPPool2d])
def test_gradients_of_every_sample_of_a_network(backend, pool):
    """As for differential privacy: the parameters' gradients, image by image, in one call."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), pool(4), torch.nn.Flatten())
    model = model.append(torch.nn.Linear(4 * 4 * 4, 5)).double()
    x, labels = randn(6, 3, 10, 10), torch.arange(6) % 5
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, label):
        return F.cross_entropy(functional_call(model, parameters, x[None]), label[None])

    found = vmap(grad(loss), (None, 0, 0))(parameters, x, labels)
    for i in range(len(x)):
        expected = torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), labels[i : i + 1]), model.parameters())
        for name, gradient in zip(parameters, expected):
            assert_close(found[name][i], gradient, DOUBLE)


@functions
def test_compiled(backend, name):
    torch.compiler.reset()
    ours, exact = FUNCTIONS[name]
    x = randn(3, 2, 3, 8, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function = torch.compile(vmap(grad(scalar(ours))), backend="aot_eager", fullgraph=True)
        found = function(x)
    torch.compiler.reset()
    assert_close(found, torch.stack([by_autograd(exact, one) for one in x]), DOUBLE)


@functions
def test_what_is_cached_under_a_transform_serves_everyone(backend, name):
    ours, exact = FUNCTIONS[name]
    x = randn(1, 3, 17, 19)  # not met elsewhere: its factors are made in here
    found = grad(scalar(ours))(x)
    assert_close(found, by_autograd(exact, x), DOUBLE)
    assert_close(ours(x), exact(x), DOUBLE)
    assert_close(by_autograd(ours, x), found, DOUBLE)


def test_factors_are_constants(backend):
    left, right = randn(2, 1, 4, 8), randn(1, 4, 8)
    x = randn(3, 8, 8)
    with pytest.raises((NotImplementedError, RuntimeError)):
        vmap(lambda f: torch.ops.alias_ops.separable2d(x, f, right))(left)
