"""How the one-pass convolution measure is cut, for every size it serves: what fits, who does what, which banks meet."""

import ctypes
import itertools

import pytest
from cuda_kernels import LIMITS, emulated, message_of

DRIVER = "conv2d_alias_l1_plan.cpp"
PRECISIONS = range(4)  # as csrc/cuda/ops.h numbers them
LIMITS_OF = sorted(set(LIMITS.values()))


def check(batch=3, channels=20, outputs=9, groups=1, precision=0, size=(32, 32), kernel=(3, 3), padding=1, dilation=1,
          limit=LIMITS_OF[-1], clusters=True):  # fmt: skip
    """How many blocks keep a map on chip or a band of it, -1 where x comes in parts, 0 where a layer is not served.

    Fails where its plan is wrong.
    """
    served = ctypes.c_int()
    arguments = batch, channels, outputs, groups, precision, *size, *kernel, padding, dilation, limit, clusters
    assert message_of(emulated(DRIVER).check, *arguments, ctypes.byref(served)) == "", arguments
    return served.value


@pytest.mark.parametrize(("limit", "clusters"), [*((limit, False) for limit in LIMITS_OF), (LIMITS_OF[-1], True)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_square_maps_of_every_size(precision, limit, clusters):
    how = {"precision": precision, "limit": limit, "clusters": clusters}
    served = {
        (size, k): blocks
        for size, k in itertools.product(range(1, 70), (1, 3, 5, 7))
        if size + 2 * (k // 2) >= k and (blocks := check(size=(size, size), kernel=(k, k), padding=k // 2, **how))
    }
    # All of them; as wholes maps of up to 16 outputs, cut ones of image networks with the shared memory of sm_90.
    assert set(served) == {
        (size, k) for size, k in itertools.product(range(1, 70), (1, 3, 5, 7)) if size + 2 * (k // 2) >= k
    }
    kept = {key: blocks for key, blocks in served.items() if blocks > 0}
    assert {(size, k) for size in range(1, 33) for k in (1, 3)} <= set(kept)
    assert ((56, 3) in kept) == (limit > 200 << 10)
    assert max(size for size, _ in kept) <= 64
    # A block takes 16 rows of 16 outputs, or 8 of up to 32, and as many blocks as a map needs keep it on chip.
    needed = {size: 1 if size <= 32 else 3 if size <= 48 else 4 for size, _ in kept}
    assert {key: needed[key[0]] if clusters else 1 for key in kept} == kept


@pytest.mark.parametrize("limit", LIMITS_OF)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_maps_whose_x_comes_in_parts(precision, limit):
    """Up to 112 outputs, so 224 samples; every kernel, in one pass or several, tables as a whole or in stages."""
    for size, k in itertools.product(
        (65, 70, 79, 80, 96, 97, 111, 112, 127, 128, 160, 192, 200, 223, 224), (1, 3, 5, 7)
    ):
        for batch, channels, groups in ((1, 3, 1), (2, 40, 2)):
            served = check(batch, channels, 8, groups, precision, (size, size), (k, k), k // 2, limit=limit)
            assert served == -1, (size, k)
    for size, kernel in itertools.product(
        itertools.product((1, 5, 9, 17, 33, 72, 112, 220), repeat=2), ((1, 7), (3, 1))
    ):
        outputs = [-(-(n + 4 - (k - 1)) // 2) for n, k in zip(size, kernel, strict=True)]
        if min(outputs) > 0 and 32 < max(outputs) <= 112:
            assert check(precision=precision, size=size, kernel=kernel, padding=2, limit=limit) == -1, (size, kernel)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("outputs", [1, 40, 64, 100, 300])
def test_clusters_of_every_size(precision, outputs):
    """Of every shape that is cut, the trade between its blocks; few channels, where some of them have none, or many."""
    found = {
        (n, m): check(1, 3, outputs, precision=precision, size=(2 * n, 2 * m), kernel=(1, 1), padding=0)
        for n, m in itertools.product(range(1, 33), (3, 8, 9, 13, 16, 17, 28, 31, 32))
    }
    assert {(n, m): blocks for (n, m), blocks in found.items() if blocks > 1} == {
        (n, m): -(-n // rows) for n, m in found if n > (rows := 16 if m <= 16 else 8) and m > 8
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bands_whose_residual_does_not_fit(precision):
    """Nothing is on chip but what the products need: the residual goes through memory."""
    how = {"precision": precision, "size": (42, 34), "kernel": (1, 1), "padding": 0, "outputs": 128}
    assert check(**how, limit=160 << 10) == 3
    assert check(**how, limit=150 << 10) == 1
    assert check(**how, limit=160 << 10, clusters=False) == 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_with_little_shared_memory(precision):
    """As sm_86 and sm_89 have it: fewer images a block, one buffer, x in parts from 32 samples on or before."""
    served = {n: check(9, precision=precision, size=(n, n), limit=99 << 10) for n in (*range(3, 40), 56, 64, 112)}
    kept = [n for n, blocks in served.items() if blocks > 0]
    assert kept == list(range(3, len(kept) + 3))
    assert 16 <= max(kept) < 32
    assert all(blocks == -1 for n, blocks in served.items() if n not in kept)


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
    assert not check(precision=precision, size=(226, 8), kernel=(1, 1), padding=0)
    assert not check(precision=precision, size=(8, 300), kernel=(1, 3), padding=0, dilation=100)
    assert not check(precision=precision, size=(20, 20), kernel=(3, 3), padding=110)
    assert not check(precision=precision, size=(2**20, 8), kernel=(3, 3), padding=1, dilation=2**19)
    assert not check(precision=precision, size=(16, 16), limit=16 << 10)
