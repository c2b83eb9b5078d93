"""Any arguments of any operator: a result or a Python exception, never a crash and never a stray write."""

import fuzz_ops
import pytest
import torch
import torch.nn.functional as F
from helpers import run_python

from alias_ops import _backend, designs

pytestmark = pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"])

SEED, CASES = 0, 400
OPS = torch.ops.alias_ops


def test_random_arguments():
    """Every operator in turn, in a process of its own; tests/fuzz_ops.py runs more cases or one operator alone."""
    process = run_python(f"import fuzz_ops; fuzz_ops.main({SEED}, {CASES})", 300)
    lines = process.stdout.splitlines() or [""]
    case = f"seed {SEED}, exit status {process.returncode}, in the last of these calls:\n{lines[-1]}\n"
    assert process.returncode == 0, case + process.stderr[-3000:]
    returned = {name: int(count) for _, name, count in (line.split() for line in lines if line.startswith("returned "))}
    assert sorted(returned) == fuzz_ops.NAMES
    # A third of the calls have nothing wrong with them, or nothing that shows: the others are not all there is.
    assert min(returned.values()) >= CASES / 4, returned


def test_there_is_a_call_for_every_operator():
    assert {name for name in fuzz_ops.NAMES if not hasattr(fuzz_ops.Fuzzer, name)} == set()
    assert len(fuzz_ops.NAMES) >= 10


# ---- what it found ---------------------------------------------------------------------------------------------------

X, WEIGHT = torch.rand(2, 4, 6, 6), torch.rand(4, 4, 3, 3)
CONV_TABLES = [designs.conv_tables(6, 3, 2, 1, 1)] * 2
GEOMETRY = *CONV_TABLES, (2, 2), (1, 1), (1, 1), 1
FACTORS = designs.pooling_factors("flc", 6, 6, (2, 2))


def freed(t):
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


TAP_TABLES = designs.conv_tables_with_taps(6, 3, 2, 1, 1)


def tap_gradient(**changed):
    arguments = {
        "grad": torch.rand(2, 4),
        "output_gradient": torch.rand(2, 4, 3, 3),
        "x": X,
        "weight": WEIGHT,
        "tables_h": TAP_TABLES,
        "tables_w": TAP_TABLES,
        "stride": (2, 2),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
    }
    return OPS._conv2d_alias_l1_tap_gradient(*(arguments | changed).values())


FREED = {
    "x of a pooling": lambda: OPS.separable2d(freed(X), *FACTORS),
    "a factor": lambda: OPS.separable2d(X, freed(FACTORS[0]), FACTORS[1]),
    "maps": lambda: OPS.alias_l1(freed(X), *[designs.alias_tables(6, 2)] * 2, (2, 2)),
    "weight": lambda: OPS.conv2d_alias_l1(X, freed(WEIGHT), None, torch.rand(2, 4, 3, 3), *GEOMETRY),
    "output": lambda: OPS.conv2d_alias_l1(X, WEIGHT, None, freed(torch.rand(2, 4, 3, 3)), *GEOMETRY),
    "bias": lambda: OPS.conv2d_alias_l1(X, WEIGHT, freed(torch.rand(4)), torch.rand(2, 4, 3, 3), *GEOMETRY),
    "grad": lambda: OPS._residual_l1_gradient(freed(torch.rand(2, 4)), X.clone(), *[designs.dft_rows(6)] * 2),
    "grad of taps": lambda: tap_gradient(grad=freed(torch.rand(2, 4))),
    "output_gradient": lambda: tap_gradient(output_gradient=freed(torch.rand(2, 4, 3, 3))),
    "x of taps": lambda: tap_gradient(x=freed(X)),
    "weight of taps": lambda: tap_gradient(weight=freed(WEIGHT)),
    **{
        f"table {i} of taps": lambda i=i: tap_gradient(
            tables_w=[freed(t) if i == place else t for place, t in enumerate(TAP_TABLES)]
        )
        for i in range(6, 11)
    },
    **{
        f"table {i}": lambda i=i: OPS.conv2d_alias_l1(
            *(X, WEIGHT, None, None),
            [freed(t) if i == place else t for place, t in enumerate(CONV_TABLES[0])],
            *GEOMETRY[1:],
        )
        for i in range(5)
    },
}


@pytest.mark.parametrize("name", FREED)
def test_tensors_without_memory_are_refused(name):
    """A storage resized to nothing, as sharded training leaves it, has no address to read.

    Not among the random arguments: PyTorch crashes when it copies such a tensor, or prints it in an error.
    """
    with pytest.raises(RuntimeError, match="no memory|not allocated"):
        FREED[name]()


@pytest.mark.parametrize("written", ["dx", "dweight", "residual"])
@pytest.mark.parametrize("how", ["expanded", "overlapping"])
def test_what_is_written_must_have_memory_of_its_own(written, how):
    def laid_out(t):
        if how == "expanded":
            return t[:1].clone().expand(t.shape)
        return torch.zeros(t.numel()).as_strided(t.shape, [1, *t.stride()[1:]])

    operands = {"dx": torch.zeros_like(X), "dweight": torch.zeros_like(WEIGHT), "residual": X.clone()}
    operands[written] = laid_out(operands[written])
    op, arguments = OPS._residual_l1_gradient, (torch.rand(2, 4), operands.pop("residual"), *[designs.dft_rows(6)] * 2)
    if written != "residual":
        gradient = F.conv2d(X, WEIGHT, None, 2, 1)
        op, arguments = OPS._conv2d_alias_l1_low_gradient, (gradient, X, WEIGHT, *operands.values(), *GEOMETRY)
    with pytest.raises(RuntimeError, match=rf"{written} must"):
        op(*arguments)


@pytest.mark.parametrize("place", ["stride", "padding", "dilation", "groups"])
@pytest.mark.parametrize("number", [2**31, 2**62, 2**63 - 1])
def test_numbers_beyond_all_sizes_are_refused(place, number):
    geometry = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    geometry[place] = number if place == "groups" else (number, number)
    x = X[:, :0] if place == "groups" else X
    with pytest.raises(RuntimeError, match=r"below 2\^31|must fit|weight must be"):
        OPS.conv2d_alias_l1(x, WEIGHT, None, None, *CONV_TABLES, *geometry.values())
    with pytest.raises(RuntimeError, match=r"below 2\^31|must fit|weight must be"):
        tap_gradient(x=x, **geometry)


def test_the_largest_stride_takes_the_first_sample():
    stride = 2**63 - 1
    tables = [designs.alias_tables(6, 6)] * 2
    assert torch.equal(OPS.alias_l1(X, *tables, (stride, stride)), OPS.alias_l1(X, *tables, (6, 6)))


def test_results_beyond_all_memory_are_refused():
    factor = torch.zeros(1, 1, 6, dtype=torch.float64).expand(1, 2**40, 6)
    with pytest.raises(RuntimeError, match="too large"):
        OPS.separable2d(X, factor, factor)
