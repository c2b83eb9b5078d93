"""Which implementation runs: forced by a context manager or the environment, refused with a reason, or chosen."""

import pytest
import torch
from helpers import assert_close, randn, run_python

import alias_ops
from alias_ops import _backend
from alias_ops.ops import separable2d

OPS = ("separable2d", "alias_l1", "conv2d_alias_l1")
AVAILABLE = [name for name, reason in _backend.availability().items() if not reason]
UNAVAILABLE = {name: reason for name, reason in _backend.availability().items() if reason}

needs_extension = pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"])


@pytest.fixture
def unforced(monkeypatch):
    """As in a process without ALIAS_OPS_BACKEND; puts back whatever a test leaves behind."""
    monkeypatch.setattr(_backend, "_forced", "auto")


@pytest.fixture
def calls(monkeypatch):
    """Names of the registered ops that are called: the reference path calls none."""
    called = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "alias_ops":
                called.append(function._schema.name.removeprefix("alias_ops::").lstrip("_"))
            return function(*args, **(kwargs or {}))

    with Spy():
        yield called


def call_all():
    x = randn(1, 2, 8, 8)
    alias_ops.flc_pool2d(x)
    alias_ops.aliasing(x)
    alias_ops.conv2d_aliasing(x, randn(3, 2, 3, 3))


# ---- the context manager ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AVAILABLE)
def test_backend_is_in_force_inside_the_block_and_not_after(unforced, name):
    chosen = _backend.resolve("cpu")
    with alias_ops.backend(name):
        assert _backend.resolve("cpu") == name
    assert _backend.resolve("cpu") == chosen


def test_auto_takes_the_extension_where_there_is_one(unforced):
    expected = "cpu" if _backend.extension is not None else "reference"
    assert _backend.resolve("cpu") == expected
    with alias_ops.backend("reference"), alias_ops.backend("auto"):
        assert _backend.resolve("cpu") == expected
    assert _backend.resolve("meta") == "reference"


def test_blocks_nest(unforced):
    with alias_ops.backend("reference"):
        with alias_ops.backend("auto"):
            with alias_ops.backend("reference"):
                assert _backend._forced == "reference"
            assert _backend._forced == "auto"
        assert _backend._forced == "reference"
    assert _backend._forced == "auto"


def test_an_exception_inside_the_block_ends_it(unforced):
    with pytest.raises(KeyError, match="mine"), alias_ops.backend("reference"):
        raise KeyError("mine")
    assert _backend._forced == "auto"


@pytest.mark.parametrize("name", ["gpu", *UNAVAILABLE])
def test_a_backend_that_is_refused_changes_nothing(unforced, name):
    with alias_ops.backend("reference"):
        with pytest.raises((ValueError, RuntimeError)), alias_ops.backend(name):
            pytest.fail("entered")
        assert _backend._forced == "reference"
    assert _backend._forced == "auto"


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_unavailable_backends_raise_with_the_reason(unforced, name):
    with pytest.raises(_backend.Unavailable) as caught, alias_ops.backend(name):
        pytest.fail("entered")
    assert isinstance(caught.value, RuntimeError)
    assert str(caught.value) == f"backend {name!r} cannot run here: {UNAVAILABLE[name]}"


def test_every_backend_has_an_answer():
    assert set(_backend.BACKENDS) == {"auto", *_backend.availability()}
    assert "reference" in AVAILABLE
    for device_type in ("cuda", "meta"):
        assert _backend.availability(device_type)["cpu"]
        assert not _backend.availability(device_type)["reference"]


@needs_extension
def test_cpu_backend_refuses_tensors_elsewhere(unforced):
    x = torch.ones(1, 4, 4, device="meta")
    with alias_ops.backend("cpu"), pytest.raises(_backend.Unavailable, match="runs on CPU tensors, not on meta"):
        alias_ops.flc_pool2d(x)


# ---- what runs -------------------------------------------------------------------------------------------------------


def test_reference_backend_calls_no_op(calls):
    with alias_ops.backend("reference"):
        call_all()
    assert calls == []


@needs_extension
def test_cpu_backend_calls_every_op(calls):
    with alias_ops.backend("cpu"):
        call_all()
    assert calls == list(OPS)


@needs_extension
@pytest.mark.parametrize("op", OPS)
def test_extension_has_a_cpu_kernel_for_every_op(op):
    """Without it, PyTorch would quietly run the pure-Python kernel that serves all devices."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"alias_ops::{op}", "CPU")


def test_backends_agree(backend):
    x, weight = randn(2, 3, 14, 15), randn(4, 3, 3, 3, seed=1)
    factors = randn(2, 5, 14, seed=2), randn(2, 6, 15, seed=3)
    with alias_ops.backend("reference"):
        expected = separable2d(x, *factors), alias_ops.aliasing(x), alias_ops.conv2d_aliasing(x, weight)
    actual = separable2d(x, *factors), alias_ops.aliasing(x), alias_ops.conv2d_aliasing(x, weight)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, torch.float64)


# ---- the environment -------------------------------------------------------------------------------------------------

SHOW = """
import torch, alias_ops
from alias_ops import _backend
print(_backend.resolve("cpu"))
print(alias_ops.flc_pool2d(torch.ones(1, 4, 4)).sum().item())
"""


@pytest.mark.parametrize("value", ["REFERENCE", *([] if _backend.extension is None else ["cpu"])])
def test_environment_forces_a_backend(value):
    process = run_python(SHOW, ALIAS_OPS_BACKEND=value)
    assert process.stdout.split() == [value.lower(), "4.0"], process.stderr


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_environment_that_forces_an_unavailable_backend_raises_at_the_call(monkeypatch, name):
    monkeypatch.setattr(_backend, "_forced", name)
    with pytest.raises(_backend.Unavailable) as caught:
        alias_ops.aliasing(torch.ones(1, 4, 4))
    assert str(caught.value) == f"backend {name!r} cannot run here: {UNAVAILABLE[name]}"


def test_environment_that_names_no_backend_says_so_at_the_call_unless_overridden():
    code = "import alias_ops\ncontext = alias_ops.backend('reference')\nwith context:" + SHOW.replace("\n", "\n    ")
    process = run_python(f"{code}\n{SHOW}", ALIAS_OPS_BACKEND="gpu")
    assert process.stdout.split() == ["reference", "4.0"]
    assert process.returncode == 1
    sentence = "ALIAS_OPS_BACKEND must be one of auto, reference, cpu, triton, cuda, got 'gpu'"
    assert f"ValueError: {sentence}" in process.stderr


# ---- without the extension -------------------------------------------------------------------------------------------

HIDE = """
import importlib.abc, sys, warnings

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "alias_ops._C":
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Hide())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import alias_ops
    import torch
    x, weight = torch.randn(2, 3, 9, 8, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    x.requires_grad_()
    assert torch.allclose(alias_ops.asap_pool2d(x), alias_ops.reference.asap_pool2d(x))
    assert torch.allclose(alias_ops.aliasing(x), alias_ops.reference.aliasing(x))
    loss = alias_ops.conv2d_aliasing(x, weight)
    assert torch.allclose(loss, alias_ops.reference.conv2d_aliasing(x, weight))
    loss.backward()
    assert x.grad.isfinite().all()
mine = [w for w in caught if "alias_ops" in str(w.message)]
assert [w.category for w in mine] == [RuntimeWarning], mine
print(mine[0].message)
try:
    alias_ops.backend("cpu").__enter__()
except RuntimeError as error:
    print(error)
"""

MISSING = "the C++ extension was not built (no compiler at install time, or ALIAS_OPS_BUILD_CPU=0)"


def test_without_the_extension_the_package_warns_once_and_works():
    process = run_python(HIDE, ALIAS_OPS_BACKEND="auto")
    lines = process.stdout.splitlines()
    assert len(lines) == 2, process.stderr
    assert lines[0].startswith(f"alias_ops runs on the slower pure-PyTorch path: {MISSING}.")
    assert lines[1] == f"backend 'cpu' cannot run here: {MISSING}"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module named 'alias_ops._C'", name="alias_ops._C"), MISSING),
        (ImportError("undefined symbol: sqrtz"), "the C++ extension does not load: undefined symbol: sqrtz"),
        (OSError("libtorch_cpu.so: not found"), "the C++ extension does not load: libtorch_cpu.so: not found"),
    ],
    ids=["not built", "wrong build", "missing library"],
)
def test_why_the_extension_does_not_load(monkeypatch, error, reason):
    def import_module(name):
        assert name == "alias_ops._C"
        raise error

    monkeypatch.setattr(_backend.importlib, "import_module", import_module)
    assert _backend._load_extension() == (None, reason)
