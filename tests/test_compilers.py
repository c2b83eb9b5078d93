"""Inductor, AOTInductor, torch.export and TorchScript: what they run, save and load.

What a compiler makes of the functions before that is in test_transforms.py, on both backends.
"""

import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, randn, run_python
from torch import nn

import alias_ops

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # of TorchScript, by itself
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SINGLE = torch.float32
WEIGHT = randn(4, 3, 3, 3, seed=1, dtype=SINGLE)
FUNCTIONS = {
    "flc": alias_ops.flc_pool2d,
    "asap": alias_ops.asap_pool2d,
    "aliasing": alias_ops.aliasing,
    "conv2d_aliasing": lambda x: alias_ops.conv2d_aliasing(x, WEIGHT, padding=1),
}


class Residual(nn.Module):
    """A residual network with a pooling of each kind."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), alias_ops.FLCPool2d(8))
        self.body = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), alias_ops.ASAPPool2d(8), nn.Conv2d(8, 8, 3, padding=1))
        self.shortcut = alias_ops.ASAPPool2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.head((self.body(x) + self.shortcut(x)).mean((-2, -1)))


def network():
    torch.manual_seed(0)
    return Residual()


def images(batch, seed=0):
    return randn(batch, 3, 12, 10, dtype=SINGLE, seed=seed)


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    """What the compilers write goes here."""
    path = tmp_path_factory.mktemp("inductor")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(path / "cache"))
        yield path
    torch.compiler.reset()


def gradients(function, *inputs):
    """The result of a function or module and the gradients of its inputs, or parameters, of a sum of squares."""
    y = function(*inputs)
    wanted = list(function.parameters()) if isinstance(function, nn.Module) else inputs
    return [y.detach(), *torch.autograd.grad(y.square().sum(), wanted)]


def assert_all_close(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)


# ---- inductor --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inductor_compiles_once_for_all_batches(name):
    torch.compiler.reset()
    function = torch.compile(FUNCTIONS[name], fullgraph=True)
    for batch in (2, 5, 7):
        x = images(batch, seed=batch).requires_grad_()
        if batch == 2:
            torch._dynamo.mark_dynamic(x, 0)
        with torch.compiler.set_stance("default" if batch == 2 else "fail_on_recompile"):
            assert_all_close(gradients(function, x), gradients(FUNCTIONS[name], x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inductor_with_every_number_a_symbol(name):
    """Asked for dynamic shapes, the first batch's graph is the last. Its size is no other axis's: equal ones share a
    symbol.
    """
    torch.compiler.reset()
    function = torch.compile(FUNCTIONS[name], fullgraph=True, dynamic=True)
    for batch in (5, 6, 2):
        x = images(batch, seed=batch).requires_grad_()
        with torch.compiler.set_stance("default" if batch == 5 else "fail_on_recompile"):
            assert_all_close(gradients(function, x), gradients(FUNCTIONS[name], x))


def test_inductor_on_the_pytorch_form():
    """The form has no op of its own in the graph: here inductor writes the products."""
    torch.compiler.reset()
    with alias_ops.backend("reference"):
        function = torch.compile(alias_ops.flc_pool2d, fullgraph=True)
        x = images(3).requires_grad_()
        assert_all_close(gradients(function, x), gradients(alias_ops.flc_pool2d, x))


def test_a_network_trains_compiled():
    """The second batch is another size: one more graph, for any; then no more."""
    torch.compiler.reset()
    plain, model = network(), network()
    compiled = torch.compile(model, fullgraph=True)
    steps = [torch.optim.SGD(m.parameters(), 0.1) for m in (plain, model)]
    for i, batch in enumerate((4, 6, 3, 9)):
        x, labels = images(batch, seed=i), torch.arange(batch) % 5
        with torch.compiler.set_stance("default" if i < 2 else "fail_on_recompile"):
            losses = [F.cross_entropy(forward(x), labels) for forward in (plain, compiled)]
            for step, loss in zip(steps, losses):
                step.zero_grad()
                loss.backward()
                step.step()
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    assert_all_close(list(model.state_dict().values()), list(plain.state_dict().values()))


@pytest.mark.parametrize("ci", ["", "true"])
def test_inductor_where_the_environment_names_a_ci(ci, tmp_path):
    """There inductor refuses an op that has a decomposition in PyTorch's table and no lowering of inductor's own."""
    code = """
import torch, alias_ops
x = torch.rand(2, 3, 8, 8)
torch.testing.assert_close(torch.compile(alias_ops.flc_pool2d, fullgraph=True)(x), alias_ops.flc_pool2d(x))
"""
    done = run_python(code, CI=ci, TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


# ---- files -----------------------------------------------------------------------------------------------------------


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), alias_ops.FLCPool2d(4), alias_ops.ASAPPool2d(4)).eval()


def exported(model):
    alias_ops.designs.pooling_factors.cache_clear()  # what is computed at a first call is no part of the program
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model, (images(2),), dynamic_shapes=({0: batch},))


# As the README says: with the op in it, whoever loads it imports alias_ops; in the PyTorch form nobody needs to.
backends = pytest.mark.parametrize("form", ["auto", "reference"])


def results(load, form, folder):
    """What ``load``, code for a function ``run``, makes of 2 and 5 images in a process without alias_ops, or with."""
    code = f"""
import sys
import torch
{{imported}}
{load}
inputs = torch.load({str(folder / "inputs.pt")!r})
torch.save([run(x) for x in inputs], {str(folder / "outputs.pt")!r})
print("alias_ops" in sys.modules)
"""
    torch.save([images(2), images(5)], folder / "inputs.pt")
    alone = run_python(code.format(imported=""))
    if form == "auto":
        assert "alias_ops" in alone.stderr
        alone = run_python(code.format(imported="import alias_ops"))
    assert alone.stdout.strip() == str(form == "auto"), alone.stderr
    return torch.load(folder / "outputs.pt")


@backends
def test_an_exported_network_is_saved_and_loaded(form, tmp_path):
    if form == "auto" and alias_ops._backend.extension is None:
        pytest.skip("the PyTorch form is all there is")
    path, model = tmp_path / "network.pt2", small()
    with alias_ops.backend(form):
        program = exported(model)
        torch.export.save(program, path)
    ops = [str(node.target) for node in program.graph.nodes if "alias_ops" in str(node.target)]
    assert ops == ["alias_ops.separable2d.default"] * (2 if form == "auto" else 0)
    outputs = results(f"run = torch.export.load({str(path)!r}).module()", form, tmp_path)
    assert_all_close(outputs, [model(images(2)).detach(), model(images(5)).detach()])


@backends
def test_aot_inductor(form, folder, tmp_path):
    if form == "auto" and alias_ops._backend.extension is None:
        pytest.skip("the PyTorch form is all there is")
    model = small()
    with alias_ops.backend(form):
        path = torch._inductor.aoti_compile_and_package(exported(model), package_path=str(tmp_path / "network.pt2"))
    outputs = results(f"run = torch._inductor.aoti_load_package({path!r})", form, tmp_path)
    assert_all_close(outputs, [model(images(2)).detach(), model(images(5)).detach()])


# ---- TorchScript -----------------------------------------------------------------------------------------------------


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


def layers(stride):
    torch.manual_seed(0)
    pools = alias_ops.FLCPool2d(4, stride), alias_ops.ASAPPool2d(stride=stride, variant="centered")
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *pools).double()


@pytest.mark.parametrize("stride", [2, (1, 3), [2, 1]], ids=str)
def test_layers_in_torchscript(backend, stride):
    """A script takes any size, as the layers do."""
    model = layers(stride)
    script = saved_and_loaded(torch.jit.script(model))
    for size in ((12, 10), (9, 7)):
        x = randn(2, 3, *size)
        for actual, expected in zip(gradients(script, x), gradients(model, x), strict=True):
            assert_close(actual, expected, torch.float64)
    assert torch.equal(torch.jit.freeze(torch.jit.script(model.eval()))(x), model(x))


def test_a_trace_keeps_the_op_and_its_gradients(backend):
    """First of all calls of a size: what is cached then is no part of the trace."""
    alias_ops.designs.pooling_factors.cache_clear()
    model = layers(2)
    trace = saved_and_loaded(torch.jit.trace(model, randn(2, 3, 22, 14), check_trace=True))
    ops = str(trace.inlined_graph).count("alias_ops::")
    assert ops == (2 if backend == "cpu" else 0)
    x = randn(5, 3, 22, 14)
    for actual, expected in zip(gradients(trace, x), gradients(model, x), strict=True):
        assert_close(actual, expected, torch.float64)


@pytest.mark.parametrize(("how", "form"), [("script", "auto"), ("trace", "reference")])
def test_what_a_torchscript_file_needs(how, form, tmp_path):
    path, model = tmp_path / "network.pt", small()
    with alias_ops.backend(form), torch.no_grad():
        module = torch.jit.script(model) if how == "script" else torch.jit.trace(model, images(3))
    torch.jit.save(module, path)
    outputs = results(f"run = torch.jit.load({str(path)!r})", form, tmp_path)
    assert_all_close(outputs, [model(images(2)).detach(), model(images(5)).detach()])


def test_torchscript_finds_the_same_errors():
    script = torch.jit.script(alias_ops.FLCPool2d())
    with pytest.raises(Exception, match=r"x must be a floating tensor \[\.\.\., H, W\], got int64 \[4, 4\]"):
        script(torch.ones(4, 4, dtype=torch.int64))
