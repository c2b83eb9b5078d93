"""Parts of ``alias-ops measure`` by themselves: images that have no known range, folders and files that fail."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from alias_ops.cli import errors, images, measure, output, results
from alias_ops.cli.results import Report
from alias_ops.cli.rows import Row

ROW = Row("layer1.0", "conv 3x3 /2", (8, 16, 16), 0.5, None, None, None)


def report_into(folder):
    return Report("model", "alias-ops measure model", "cpu", "images", 32, 4, 0, str(folder), images=3, complete=True)


def test_pixels_without_a_known_range_are_skipped_with_the_reason(tmp_path, capsys):
    Image.fromarray(np.full((40, 40), 128, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((40, 40), 0.5, np.float32)).save(tmp_path / "b.tif")
    found = list(images.choose_images(str(tmp_path), 10, 3, 32, 0).batches(4))
    assert [batch.shape for batch in found] == [(1, 3, 32, 32)]
    err = capsys.readouterr().err
    reason = "ValueError: floating-point pixels have no known range"
    assert err == f"alias-ops: skipped {tmp_path / 'b.tif'}, it cannot be read ({reason})\n"


def test_a_folder_of_images_needs_pillow_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match=r"--images needs Pillow; pip install 'alias-ops\[cli\]'"):
        images.choose_images(str(tmp_path), 10, 3, 32, 0)


@pytest.mark.parametrize("length", [299, 300, 301, 5000])
def test_what_an_exception_says_is_one_line_of_bearable_length(length):
    said = errors.one_line(ValueError("x" * length + "\nand more"))
    assert said == "ValueError: " + ("x" * length if length <= 300 else "x" * 300 + "...")


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(output.os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(errors.UserError, match=f"--output {tmp_path} cannot be written to"):
        report_into(tmp_path)


def test_a_figure_that_finds_no_space_is_one_sentence_and_the_tables_are_there(tmp_path, monkeypatch, capsys):
    def draw(path, title, rows):
        assert title == "Aliasing of model: 3 images, 32x32, cpu"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "draw", draw)
    with pytest.raises(errors.UserError) as caught:
        report_into(tmp_path).finish([ROW])
    assert str(caught.value) == f"{tmp_path / 'aliasing.png'} cannot be written (No space left on device)"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aliasing.csv", "aliasing.json"]
    assert "layer1.0" in capsys.readouterr().out


def test_times_are_taken_when_a_device_is_done(monkeypatch):
    """What computes behind Python's back is waited for, before the clock starts and before it is read."""
    log = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: log.append(("wait", device.type)))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: log.append("clock") or float(len(log)))
    _, times = measure._milliseconds(lambda: log.append("call") or torch.empty(1, device="meta"))
    each = ["clock", "call", ("wait", "meta"), "clock"]
    assert log == ["call", ("wait", "meta"), *each * measure.REPEATS]
    assert len(times) == measure.REPEATS
    log.clear()
    measure._milliseconds(lambda: torch.empty(1))
    assert log == ["clock"] * 2 * measure.REPEATS
