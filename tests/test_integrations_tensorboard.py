"""write_aliasing: what TensorBoard reads back from the file."""

import math

import pytest
import torch
from helpers import randn
from torch import nn

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from alias_ops import AliasingMonitor
from alias_ops.integrations.tensorboard import write_aliasing


def images(seed=0):
    return randn(3, 3, 16, 16, seed=seed, dtype=torch.float32)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.MaxPool2d(2), nn.Identity())


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0}).Reload()


@pytest.mark.parametrize("by", ["block", "layer"])
def test_every_epoch_is_a_point_of_each_curve(tmp_path, by):
    model, expected = net(), []
    blocks = {"0": "stem", "1": "stem"} if by == "block" else None
    with SummaryWriter(tmp_path) as writer, AliasingMonitor(model, blocks=blocks) as monitor:
        for epoch in range(3):
            model(images(epoch))
            expected.append({**monitor.compute(by), "mean": monitor.mean()})
            write_aliasing(writer, monitor, 10 * epoch, by=by)
            assert monitor.mean() == expected[-1]["mean"]
            monitor.reset()
    events = read(tmp_path)
    names = ["stem", "mean"] if by == "block" else ["0", "1", "mean"]
    assert sorted(events.Tags()["scalars"]) == sorted(f"aliasing/{name}" for name in names)
    assert events.Tags()["histograms"] == []
    for name in names:
        points = events.Scalars(f"aliasing/{name}")
        assert [point.step for point in points] == [0, 10, 20]
        assert [point.value for point in points] == pytest.approx([values[name] for values in expected], rel=1e-6)


def test_channels_are_a_histogram(tmp_path):
    model = net()
    with SummaryWriter(tmp_path) as writer, AliasingMonitor(model, per_channel=True) as monitor:
        write_aliasing(writer, monitor, 0, prefix="am ")  # nothing measured yet
        model(images())
        write_aliasing(writer, monitor, 1, prefix="am ")
        monitor.reset()
        model(images() * math.inf)
        write_aliasing(writer, monitor, 2, prefix="am ")
    events = read(tmp_path)
    assert events.Tags()["histograms"] == ["am 0/channels", "am 1/channels"]
    assert [math.isnan(point.value) for point in events.Scalars("am mean")] == [True, False, True]
    with AliasingMonitor(model, per_channel=True) as monitor:
        model(images())
    for name, values in monitor.compute("channel").items():
        (histogram,) = events.Histograms(f"am {name}/channels")
        assert histogram.step == 1
        assert histogram.histogram_value.num == len(values) == 5
        assert histogram.histogram_value.sum == pytest.approx(values.sum().item())
        assert histogram.histogram_value.min == pytest.approx(values.min().item())


def test_a_process_without_a_writer_takes_part():
    model = net()
    with AliasingMonitor(model, per_channel=True) as monitor:
        model(images())
        write_aliasing(None, monitor, 0)
        with pytest.raises(ValueError, match='by must be "layer" or "block", got \'channel\''):
            write_aliasing(None, monitor, 0, by="channel")
