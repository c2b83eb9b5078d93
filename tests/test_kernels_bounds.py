"""No configuration reads a table beyond its end: blocks against tables, for every size class, without running any."""

import pytest
import torch
from kernels import module

from alias_ops import designs

WIDTHS = (1, 9, 17, 32, 33, 64, 66, 68, 128, 129, 132, 256, 258)
HEIGHTS = (1, 8, 33, 65, 130)
CHIPS = (80, 90, 100)
KINDS = [
    (chip, dtype, form)
    for chip in CHIPS
    for dtype in (torch.float32, torch.bfloat16)
    for form in (torch.contiguous_format, torch.channels_last)
]


class Recorder:
    """In place of a kernel: keeps the arguments of its launches by name."""

    def __init__(self, kernel, found):
        self.names, self.found = kernel.arg_names, found

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.found.append((grid, {**dict(zip(self.names, args)), **kwargs}))


@pytest.fixture
def chip(monkeypatch):
    """A list: have launchers go through all candidates for the chip that it holds."""
    chips = [90]

    def chosen(name, size_class, candidates, run, *rest):
        for config in candidates[1:]:
            run(config)
        return candidates[0]

    for name in ("separable2d", "alias_l1"):
        monkeypatch.setattr(module(name), "chosen", chosen)
        monkeypatch.setattr(module(name), "capability", lambda device: chips[0])
    return chips


def up(size, block):
    return -(-size // block) * block


@pytest.mark.parametrize("height", HEIGHTS)
def test_separable2d_stays_in_its_tables(monkeypatch, chip, height):
    launcher, found = module("separable2d"), []
    for name in ("small", "split", "tiled"):
        monkeypatch.setattr(launcher, name, Recorder(getattr(launcher, name), found))
    for width in WIDTHS:
        left, right = designs.pooling_factors("asap", height, width)
        shapes = (1, 2, left.shape[1], right.shape[1]), (1, 2, height, width)
        for adjoint in (False, True):
            source, target = shapes if adjoint else shapes[::-1]
            for chip[0], dtype, form in KINDS:
                x, y = (torch.empty(s, dtype=dtype, memory_format=form) for s in (source, target))
                launcher.separable2d(x, left, right, adjoint, out=y)
    assert len(found) > 300
    for grid, a in found:
        if "table" in a:
            rows, pitch = a["table"].shape[2:]
            assert up(a["outputs"] * a["ALIGN_Y"], a["BO"]) <= rows
            assert up(a["inputs"] * a["ALIGN_X"], a["BK"]) <= pitch
            continue
        assert grid[2] * a["BM"] <= a["left"].shape[2]
        assert up(a["height"], a["HB"]) <= a["left"].shape[3] == a["left_pitch"]
        assert grid[1] * a["BN"] <= a["right"].shape[2]
        assert up(a["width"] * a["ALIGN_X"], a["WB"]) <= a["right"].shape[3] == a["right_pitch"]
        assert grid[1] * a["BN"] >= a["out_width"] * a["ALIGN_Y"]
        assert grid[2] * a["BM"] >= a["out_height"]
        if a["OUTER"]:
            halves = 1 + ("CB" not in a)
            lengths = a["left"].shape[2] + a["left"].shape[3] + halves * (a["right"].shape[2] + a["right"].shape[3])
            assert a["outer"].numel() == lengths


@pytest.mark.parametrize("height", HEIGHTS)
def test_alias_l1_stays_in_its_tables(monkeypatch, chip, height):
    launcher, found = module("alias_l1"), []
    monkeypatch.setattr(launcher, "spectrum", Recorder(launcher.spectrum, found))
    for width in WIDTHS:
        for stride in ((2, 2), (1, 1), (3, 5)):
            for chip[0], dtype, form in KINDS:
                x = torch.empty((1, 2, height, width), dtype=dtype, memory_format=form)
                launcher.alias_l1(x, [], [], stride, out=torch.empty(1, 2))
    assert len(found) > 100
    for grid, a in found:
        for side, rows, block in (("h", "rows", "BM"), ("w", "columns", "BN")):
            covered = grid[2 if side == "h" else 1] * a[block]
            assert covered >= a[rows]
            assert a["CB"] == 1 or a["HB"] == a["HO"]
            for name in (f"dft_{side}", f"low_{side}"):
                assert covered <= a[name].shape[2]
        assert up(a["height"], a["HB"]) <= a["low_h"].shape[3] == a["low_h_pitch"]
        assert up(a["out_height"], a["HO"]) <= a["dft_h"].shape[3] == a["dft_h_pitch"]
        assert up(a["width"] * a["ALIGN_X"], a["WB"]) <= a["low_w"].shape[3] == a["low_w_pitch"]
        assert up(a["out_width"], a["WO"]) <= a["dft_w"].shape[3] == a["dft_w_pitch"]
