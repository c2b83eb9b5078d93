"""AliasingMeasure beside and inside what torchmetrics brings."""

import math
import pickle
import warnings

import pytest
import torch
from helpers import randn

pytest.importorskip("torchmetrics")
import torchmetrics

import alias_ops
from alias_ops.integrations.torchmetrics import AliasingMeasure

STRIDES = [2, 3, (2, 1)]


def batches():
    """Of different numbers of maps, so that a mean of batch means is not the mean."""
    return [randn(n, 2, 11, 14, seed=n) for n in (1, 2, 4)]


def filled(stride=2):
    metric = AliasingMeasure(stride)
    for maps in batches():
        metric.update(maps)
    return metric


@pytest.mark.parametrize("stride", STRIDES)
def test_it_is_the_mean_over_all_maps(stride):
    metric = filled(stride)
    assert isinstance(metric, torchmetrics.Metric)
    torch.testing.assert_close(metric.compute(), alias_ops.aliasing(torch.cat(batches()), stride), rtol=1e-12, atol=0)
    assert metric.count.item() == 14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sums_are_float64_whatever_the_maps_are(dtype):
    metric = AliasingMeasure()
    maps = randn(3, 8, 8, dtype=dtype)
    metric.update(maps)
    assert metric.total.dtype == torch.float64
    expected = alias_ops.aliasing(maps, reduction="none").double().mean()
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-12, atol=0)


def test_forward_returns_the_batch_and_adds_it_up():
    metric = AliasingMeasure()
    for maps in batches():
        torch.testing.assert_close(metric(maps), alias_ops.aliasing(maps))
    assert metric.compute() == pytest.approx(filled().compute().item(), rel=1e-12)


def test_gradients_are_those_of_aliasing():
    maps = randn(2, 3, 10, 10).requires_grad_()
    (expected,) = torch.autograd.grad(alias_ops.aliasing(maps), maps)
    metric = AliasingMeasure()
    (found,) = torch.autograd.grad(metric(maps), maps)
    torch.testing.assert_close(found, expected)
    metric(maps)
    assert not metric.total.requires_grad


def test_reset_state_dict_and_pickle():
    metric = filled()
    value = metric.compute()
    assert pickle.loads(pickle.dumps(metric)).compute() == value
    metric.persistent(True)
    other = AliasingMeasure()
    other.load_state_dict(metric.state_dict())
    other.update(batches()[0])
    metric.update(batches()[0])
    assert other.compute() == metric.compute() != value
    metric.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics says that there was no update
        assert math.isnan(metric.compute())


def test_it_joins_a_collection_and_merges():
    collection = torchmetrics.MetricCollection({"am": AliasingMeasure(), "third": AliasingMeasure(3)})
    for maps in batches():
        collection.update(maps)
    values = collection.compute()
    assert values["am"] == filled().compute()
    assert values["third"] == filled(3).compute() != values["am"]
    one, rest = AliasingMeasure(), AliasingMeasure()
    one.update(batches()[0])
    for maps in batches()[1:]:
        rest.update(maps)
    one.merge_state(rest)
    assert one.compute() == pytest.approx(filled().compute().item(), rel=1e-12)


def test_a_device_without_float64_can_be_had():
    metric = AliasingMeasure().set_dtype(torch.float32)
    metric.update(batches()[0])
    assert metric.compute().dtype == metric.total.dtype == torch.float32
    assert metric.compute() == pytest.approx(alias_ops.aliasing(batches()[0]).item(), rel=1e-6)


def test_what_it_says_of_itself():
    assert (AliasingMeasure.higher_is_better, AliasingMeasure.is_differentiable) == (False, True)
    with pytest.raises(ValueError, match=r"stride must be .* got 0"):
        AliasingMeasure(0)
    with pytest.raises((TypeError, ValueError), match=r"x must be a floating tensor \[\.\.\., H, W\]"):
        AliasingMeasure().update(torch.ones(3))
