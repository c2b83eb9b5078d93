"""separable2d's CUDA C++ kernels on a CPU: plans of every size, and results against float64 through the emulator.

The operators that the CUDA extension would register are the emulator's here; the package calls them as it would call
those.
"""

import ctypes
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from cuda_kernels import EMULATOR, FLAGS, KERNELS, LIMITS, emulated, message_of, pointer
from helpers import assert_close, randn, reference_pool2d

import alias_ops
from alias_ops import _backend, designs
from alias_ops.ops import _fastest
from alias_ops.ops.separable2d import apply
from benchmarks.gpu_report import write_fastest

pytest.importorskip("triton")

from alias_ops.kernels import separable2d_cuda as cuda

DRIVER = "separable2d.cpp"
FORMS = (cuda.DENSE, cuda.HALF_IN, cuda.HALF_OUT)

# What the driver compiles, by dtype; TF32 is float32 with PyTorch's switch on.
MADE = {torch.float32: cuda.SIDES, torch.bfloat16: (14, 64), torch.float16: (16, 28)}
TF32_SIDE = 28

CASES = [(dtype, side) for dtype, sides in MADE.items() for side in sides]
PLANS = [
    (*((side, side // 2) if form != cuda.HALF_OUT and not flat else (side // 2, side)), item, form)
    for side in cuda.SIDES
    for item in (4, 2)
    for form, flat in ((cuda.DENSE, False), (cuda.DENSE, True), (cuda.HALF_IN, False), (cuda.HALF_OUT, True))
]
FACTS = (
    "maps threads shared blocks x_conflicts z_read_conflicts z_write_conflicts x_pitch x_step z_pitch "
    "right_units right_tiles left_units left_tiles row_tiles"
).split()

cases = pytest.mark.parametrize(("dtype", "side"), CASES, ids=str)
pools = pytest.mark.parametrize("pool", ["flc", "asap"])


def plan_of(*arguments: int) -> dict[str, int]:
    facts = (ctypes.c_int32 * len(FACTS))()
    emulated(DRIVER).plan_of(*arguments, facts)
    return dict(zip(FACTS, facts))


@pytest.fixture
def calls(monkeypatch):
    """The backend "cuda" on CPU tensors, by the emulator; yields (form, precision, maps) of every launch."""
    library, listed = emulated(DRIVER), []
    allowed = _backend.availability("cpu")["triton"]
    if allowed:
        pytest.skip(allowed)

    def tables_of(factors, size, out, form, precision):
        tables = torch.empty(library.make_tables(precision, size, out, form, None, None), dtype=torch.uint8)
        library.make_tables(precision, size, out, form, pointer(factors), pointer(tables))
        return tables

    def launch(x, tables, form, tf32, y):
        precision = 1 if tf32 else cuda.PRECISIONS[x.dtype]
        size, out, maps = x.shape[-1], y.shape[-1], x.numel() // x.shape[-1] ** 2
        listed.append((form, precision, maps))
        y.fill_(torch.nan)
        blocks = ctypes.c_int64(2 if maps > 1 else 1)
        assert tables.data_ptr() % 16 == 0
        arguments = precision, size, out, form, *map(pointer, (x, tables, y)), ctypes.c_int64(maps), blocks
        assert message_of(library.run_separable2d, *arguments) == ""
        return True

    with torch.library._scoped_library("alias_ops", "FRAGMENT") as fragment:
        fragment.define("_cuda_separable2d_tables(Tensor factors, int n, int out, int form, int precision) -> Tensor")
        fragment.define("_cuda_separable2d(Tensor x, Tensor tables, int form, bool tf32, Tensor(a!) y) -> bool")
        fragment.impl("_cuda_separable2d_tables", tables_of, "CPU")
        fragment.impl("_cuda_separable2d", launch, "CPU")
        monkeypatch.setattr(_backend, "_why_no_cuda", lambda device_type: "")
        with alias_ops.backend("cuda"):
            yield listed


# ---- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", PLANS, ids=str)
def test_every_number_is_taken_once(arguments):
    size, out, _, form = arguments
    library, plan = emulated(DRIVER), plan_of(*arguments)
    inner = range(1, size, 2) if form == cuda.HALF_IN else range(size)
    results = out // 2 if form == cuda.HALF_OUT else out
    lanes = [(t, i) for t in range(4) for i in range(4)]
    columns = sorted(library.column_of(form, u, t, i) for u in range(plan["right_units"]) for t, i in lanes)
    assert [c for c in columns if c < size] == list(inner)
    assert len(set(columns)) == len(columns)
    found = sorted(library.result_of(form, n, slot) for n in range(plan["right_tiles"]) for slot in range(8))
    assert found == list(range(8 * plan["right_tiles"]))
    assert results <= len(found)
    rows = sorted(library.inner_of(u, t, i) for u in range(plan["left_units"]) for t, i in lanes)
    assert rows == list(range(16 * plan["left_units"]))
    assert len(inner) <= len(rows)
    assert results <= 16 * plan["left_tiles"]
    assert sorted(library.row_of(plan["x_step"], slot) for slot in range(16)) == list(range(16))
    assert plan["maps"] * size <= 16 * plan["row_tiles"] < plan["maps"] * size + 16


@pytest.mark.parametrize("arguments", PLANS, ids=str)
def test_plans_fit_the_chip(arguments):
    size, out, item, _ = arguments
    plan = plan_of(*arguments)
    assert plan["shared"] + 1024 <= LIMITS["sm_90"]
    assert plan["blocks"] * (plan["shared"] + 1024) <= 228 * 1024
    assert plan["blocks"] * plan["threads"] <= 2048
    # Groups begin at 16 bytes, in x and in y, and rows set apart do too.
    assert all(plan["maps"] * side * side * item % 16 == 0 for side in (size, out))
    assert plan["x_pitch"] == size or (plan["x_pitch"] * item % 16 == 0 and size * item % 16 == 0)
    assert plan["z_read_conflicts"] == 1
    assert plan["z_write_conflicts"] <= 2
    assert plan["x_conflicts"] <= 2


def test_which_plans_an_older_chip_has_no_room_for():
    """The launcher says so there, and Triton takes the call."""
    large = {p[:3] for p in PLANS if plan_of(*p)["shared"] + 1024 > LIMITS["sm_80"]}
    assert large <= {(112, 56, 4), (56, 112, 4)}


# ---- results ---------------------------------------------------------------------------------------------------------


@pools
@cases
def test_pooling_and_its_gradient(calls, pool, dtype, side):
    # Groups of several sizes: whole ones, one in part, a chunk of 16 bytes in part, more than one for a block.
    precision = cuda.PRECISIONS[dtype]
    group = plan_of(side, side // 2, dtype.itemsize, cuda.DENSE)["maps"]
    maps = 4 * group + 1 if side <= 32 else 3
    x = randn(maps, side, side, dtype=dtype).requires_grad_()
    pooling = getattr(alias_ops, f"{pool}_pool2d")
    y = pooling(x)
    exact = x.detach().double().requires_grad_()
    expected = reference_pool2d(pool, exact)
    assert_close(y, expected, dtype)
    dy = randn(*y.shape, seed=3).to(dtype)
    assert_close(torch.autograd.grad(y, x, dy)[0], torch.autograd.grad(expected, exact, dy.double())[0], dtype)
    forms = (cuda.HALF_IN, cuda.HALF_OUT) if pool == "flc" else (cuda.DENSE, cuda.DENSE)
    assert calls == [(form, precision, maps) for form in forms]


@pools
def test_tf32_is_taken_where_it_is_allowed(calls, monkeypatch, pool):
    monkeypatch.setattr(cuda, "tf32_allowed", lambda device_type: True)
    x = randn(3, TF32_SIDE, TF32_SIDE).float()
    y, expected = getattr(alias_ops, f"{pool}_pool2d")(x), reference_pool2d(pool, x)
    assert calls[0][1] == 1
    assert 2e-6 < (y.double() - expected).norm() / expected.norm() < 1e-3


@pytest.mark.parametrize("adjoint", [False, True])
def test_factors_without_structure(calls, adjoint):
    x = randn(2, 5, 14 if adjoint else 28, 14 if adjoint else 28).float()
    left, right = randn(1, 14, 28, seed=1), randn(1, 14, 28, seed=2)
    left, right = (torch.cat([f, randn(1, 14, 1, seed=3) * randn(1, 1, 28, seed=4)]) for f in (left, right))
    y = apply(x, left, right, adjoint)
    factors = (left.mT, right.mT) if adjoint else (left, right)
    assert_close(y, sum(a @ x.double() @ b.T for a, b in zip(*factors)), x.dtype)
    assert [form for form, *_ in calls] == [cuda.DENSE]


def test_large_numbers_of_float16_do_not_overflow_on_the_way(calls):
    x = torch.full((2, 28, 28), 60000.0).half()
    x[1, ::2] = 0
    assert_close(alias_ops.flc_pool2d(x), reference_pool2d("flc", x), x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pools
def test_what_is_not_a_number_stays_in_its_map(calls, pool, dtype):
    x = randn(9, 16, 16, dtype=dtype)
    clean = getattr(alias_ops, f"{pool}_pool2d")(x)
    x[3, 5, 7], x[6, 2, 3] = torch.nan, torch.inf
    y = getattr(alias_ops, f"{pool}_pool2d")(x)
    assert y[[3, 6]].isnan().any(-1).any(-1).all()
    others = [0, 1, 2, 4, 5, 7, 8]
    assert torch.equal(y[others], clean[others])


def test_the_same_maps_give_the_same_results_wherever_they_lie(calls):
    x = randn(1, 14, 14).float()
    assert (alias_ops.asap_pool2d(x.expand(37, 14, 14).contiguous()) == alias_ops.asap_pool2d(x)).all()


MUTATIONS = {
    "no barrier before the first product": ("barrier();\n      const float copied_right", "const float copied_right"),
    "no barrier before the second product": ("barrier();\n      // Of a group in part", "// Of a group in part"),
    "no barrier before y is written": ("barrier();\n      write_group", "write_group"),
    "no wait for x": ("wait_for_copies<1>();", "wait_for_copies<2>();"),
    "the next group over this one": ("copy_group(group + blocks(), stage ^ 1)", "copy_group(group + blocks(), stage)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, *MUTATIONS])
def test_a_fault_in_the_kernel_is_seen(tmp_path, fault):
    """The kernel with one line taken out: the emulator, or the result, says so."""
    folder, side, item = shutil.copytree(KERNELS, tmp_path / "cuda"), 14, 4
    kernel = folder / "separable2d_kernel.h"
    text = kernel.read_text()
    if fault is not None:
        before, after = MUTATIONS[fault]
        assert text.count(before) == 1
        text = text.replace(before, after)
    kernel.write_text(re.sub(r"SeparableSides = Sides<[\d, ]+>", f"SeparableSides = Sides<{side}>", text))
    driver = tmp_path / "driver.cpp"
    driver.write_text(re.sub(r"Sides<[\d, ]+>\(\)", f"Sides<{side}>()", (EMULATOR / DRIVER).read_text()))
    made = tmp_path / "made.so"
    subprocess.run(["g++", *FLAGS, f"-I{folder}", f"-I{EMULATOR}", str(driver), "-o", str(made)], check=True)
    library = ctypes.CDLL(str(made))
    form, numbers = cuda.factors_of(*factors("flc", side), False, 1e-7)
    numbers, out = torch.from_numpy(numbers), side // 2
    tables = torch.empty(library.make_tables(0, side, out, form, None, None), dtype=torch.uint8)
    library.make_tables(0, side, out, form, pointer(numbers), pointer(tables))
    maps = 4 * plan_of(side, out, item, form)["maps"] + 1
    x, y = randn(maps, side, side).float(), torch.full((maps, out, out), torch.nan)
    arguments = 0, side, out, form, *map(pointer, (x, tables, y)), ctypes.c_int64(maps), ctypes.c_int64(2)
    message = message_of(library.run_separable2d, *arguments)
    expected = reference_pool2d("flc", x)
    right = message == "" and (y.double() - expected).norm() <= 2e-6 * expected.norm()
    assert right == (fault is None), message


# ---- calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        randn(2, 3, 28, 28).float().to(memory_format=torch.channels_last),
        randn(2, 3, 28, 14).float(),
        randn(2, 3, 24, 24).float(),
        randn(2, 3, 15, 15).float(),
        randn(2 * 28 * 28 + 1).float()[1:].view(2, 28, 28),
        randn(2, 28, 28),
    ],
    ids=["channels_last", "not square", "24", "15", "misaligned", "float64"],
)
def test_other_calls_go_elsewhere(calls, x):
    assert_close(alias_ops.flc_pool2d(x), reference_pool2d("flc", x), x.dtype)
    assert calls == []


def test_no_maps(calls):
    assert alias_ops.flc_pool2d(torch.empty(0, 28, 28)).shape == (0, 14, 14)
    assert calls == []


@pytest.mark.parametrize(("table", "launched"), [({}, 0), ({"separable2d float32": [28]}, 1)])
def test_the_table_of_what_is_fastest_speaks_where_nobody_forces_a_backend(calls, monkeypatch, table, launched):
    monkeypatch.setattr(_fastest, "_table", lambda: table)
    monkeypatch.setattr(_backend, "resolve", lambda device_type: "triton")
    x = randn(2, 28, 28).float()
    alias_ops.flc_pool2d(x)
    assert len(calls) == 0  # "cuda" is forced by the fixture: resolve, which says otherwise here, is not the user
    monkeypatch.setattr(_backend, "forced", lambda: False)
    assert_close(alias_ops.flc_pool2d(x), reference_pool2d("flc", x), x.dtype)
    assert_close(alias_ops.flc_pool2d(x.half()), reference_pool2d("flc", x), torch.float16)
    assert len(calls) == launched


def test_the_committed_table_is_of_a_device_or_empty():
    table = json.loads(_fastest.TABLE.read_text())
    assert set(table) == {"device", "versions", "cuda"}
    assert table["device"] or table["cuda"] == {}


def test_the_table_is_made_of_what_was_measured(tmp_path):
    def case(n, pool, dtype="float32", **seconds):
        return {"op": "separable2d by cuda", "n": n, "pool": pool, "dtype": dtype, "errors": {}, "bytes": 1,
                "times": {name.replace("_", " "): {"median": s} for name, s in seconds.items()}}  # fmt: skip

    results = [
        case(56, "flc", triton=1.2, cuda=1.0, triton_backward=1.0, cuda_backward=1.0),
        case(56, "asap", triton=1.16, cuda=1.0, triton_backward=2.0, cuda_backward=1.0),
        case(28, "flc", triton=2.0, cuda=1.0, triton_backward=2.0, cuda_backward=1.0),  # but 56 backward has 28 too
        case(16, "flc", "bfloat16", triton=1.1, cuda=1.0, triton_backward=1.2, cuda_backward=1.0),
        case(64, "flc", triton=1.0),  # an error: no time
    ]
    document = {"dry run": False, "results": results, "device": {"name": "some GPU"}, "machine": {"versions": {}}}
    path = tmp_path / "fastest.json"
    write_fastest(document, path)
    table = json.loads(path.read_text())
    assert table["device"] == "some GPU"
    assert table["cuda"] == {"separable2d bfloat16": [8], "separable2d float32": [14, 56]}
    write_fastest({**document, "dry run": True}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def factors(pool: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    left, right = designs.pooling_factors(pool, size, size)
    return left.numpy(), right.numpy()


def test_which_form_factors_get():
    rounding = torch.finfo(torch.float32).eps
    for size in cuda.SIDES:
        assert cuda.factors_of(*factors("flc", size), False, rounding)[0] == cuda.HALF_IN
        assert cuda.factors_of(*factors("flc", size), True, rounding)[0] == cuda.HALF_OUT
        assert cuda.factors_of(*factors("asap", size), False, rounding)[0] == cuda.DENSE
    left, right = factors("flc", 28)
    spoiled = right.copy()
    spoiled[0, 3, 4] = 1e-3
    assert cuda.factors_of(left, spoiled, False, rounding)[0] == cuda.DENSE
    # A second term that reaches even columns: half-band axes do not look at them.
    outer = right.copy()
    outer[1] = np.outer(np.arange(14), np.arange(28))
    assert cuda.factors_of(left, outer, False, rounding)[0] == cuda.DENSE
    unstructured = np.random.default_rng(0).normal(size=right.shape)
    assert cuda.factors_of(left, unstructured, False, rounding) is None
    infinite = right.copy()
    infinite[0, 0, 0] = np.inf
    assert cuda.factors_of(left[:1], infinite[:1], False, rounding) is None
