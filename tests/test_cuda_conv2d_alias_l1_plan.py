"""How the one-pass convolution measure is cut, for every size it serves: what fits, who does what, which banks meet."""

import ctypes
import itertools

import pytest
from cuda_kernels import LIMITS, emulated, message_of

DRIVER = "conv2d_alias_l1_plan.cpp"
PRECISIONS = range(4)  # as csrc/cuda/ops.h numbers them
LIMITS_OF = sorted(set(LIMITS.values()))


def check(batch=3, channels=20, outputs=9, groups=1, precision=0, size=(32, 32), kernel=(3, 3), padding=1, dilation=1,
          limit=LIMITS_OF[-1]):  # fmt: skip
    """Whether a layer is served; fails where its plan is wrong."""
    served = ctypes.c_int()
    arguments = batch, channels, outputs, groups, precision, *size, *kernel, padding, dilation, limit
    assert message_of(emulated(DRIVER).check, *arguments, ctypes.byref(served)) == "", arguments
    return bool(served.value)


@pytest.mark.parametrize("limit", LIMITS_OF)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_square_maps_of_every_size(precision, limit):
    served = [
        (size, k)
        for size, k in itertools.product(range(1, 70), (1, 3, 5, 7))
        if size + 2 * (k // 2) >= k
        and check(precision=precision, size=(size, size), kernel=(k, k), padding=k // 2, limit=limit)
    ]
    # Whole maps of every size; cut ones of image networks with the shared memory of sm_90.
    assert {(size, k) for size in range(1, 33) for k in (1, 3)} <= set(served)
    assert ((56, 3) in served) == (limit > 200 << 10)
    assert max(size for size, _ in served) <= 64


@pytest.mark.parametrize("precision", PRECISIONS)
def test_with_little_shared_memory(precision):
    """As sm_86 and sm_89 have it: fewer images a block, one buffer, and the largest maps not at all."""
    served = [n for n in range(3, 40) if check(9, precision=precision, size=(n, n), limit=99 << 10)]
    assert served == list(range(3, len(served) + 3))
    assert 16 <= max(served) < 32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_maps_that_are_not_square(precision):
    for size, kernel in itertools.product(itertools.product((1, 2, 5, 8, 9, 17, 31, 40), repeat=2), ((1, 3), (5, 1))):
        if size[0] + 4 >= kernel[0] and size[1] + 4 >= kernel[1]:
            assert check(precision=precision, size=size, kernel=kernel, padding=2), (size, kernel)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_batches_channels_groups_dilation(precision):
    for batch, channels, outputs, groups in ((1, 3, 64, 1), (17, 64, 130, 2), (5, 6, 6, 6), (40, 8, 4, 1)):
        for size in (4, 7, 14, 16, 30):
            assert check(batch, channels, outputs, groups, precision, (size, size))
    assert check(precision=precision, size=(20, 20), kernel=(7, 7), padding=9, dilation=3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_left_to_others(precision):
    for kernel in ((2, 3), (3, 4), (9, 9), (11, 1)):
        assert not check(precision=precision, size=(16, 16), kernel=kernel, padding=5)
    assert not check(precision=precision, size=(66, 66), kernel=(1, 1), padding=0)
    assert not check(precision=precision, size=(20, 20), kernel=(3, 3), padding=30)
    assert not check(precision=precision, size=(2**20, 8), kernel=(3, 3), padding=1, dilation=2**19)
    assert not check(precision=precision, size=(16, 16), limit=16 << 10)
