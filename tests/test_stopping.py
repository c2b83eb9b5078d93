"""AliasingEarlyStopping: the rule against a definition of its own, and what a training loop needs of it."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import alias_ops
from alias_ops import AliasingEarlyStopping, AliasingMonitor

QUIET = [0.5, 0.52, 0.48, 0.51, 0.53]
values = st.lists(st.floats(0, 3, allow_nan=False).map(lambda v: round(v, 2)), max_size=30)


def first_stop(series, threshold, window):
    """The rule, from the end: the first step whose value exceeds the median of the full window before it."""
    for step in range(window, len(series)):
        if series[step] - np.median(series[step - window : step]) > threshold:
            return step
    return None


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))


def trained(steps):
    """A network with a state of its own for every number of steps."""
    model = network()
    model(torch.rand(2, 3, 8, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(steps)
    return model


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@given(values, st.sampled_from([0.0, 0.1, 0.33, 1.0]), st.integers(1, 7))
def test_the_rule(series, threshold, window):
    stopping = AliasingEarlyStopping(threshold, window)
    answers = [stopping.step(value) for value in series]
    stop = first_stop(series, threshold, window)
    assert answers == [stop is not None and step >= stop for step in range(len(series))]
    assert stopping.stopped == (stop is not None)
    assert stopping.history == series


def test_defaults_are_the_papers():
    stopping = AliasingEarlyStopping()
    assert not any(stopping.step(value) for value in [*QUIET, 0.83])
    assert stopping.step(0.86)
    assert (stopping.threshold, stopping.window) == (0.33, 5)


def test_a_value_at_the_threshold_does_not_stop():
    stopping = AliasingEarlyStopping(0.25, 1)
    assert [stopping.step(value) for value in (0.5, 0.75, 1.0, 1.5)] == [False, False, False, True]


def test_one_outlier_in_the_window_changes_nothing():
    """The median, and not the mean, of what came before: a single spike neither hides the rise nor lowers it."""
    stopping = AliasingEarlyStopping(0.33, 5)
    assert not any(stopping.step(value) for value in [0.5, 0.0, 0.5, 3.0, 0.5])
    assert stopping.step(0.84)


def test_the_first_window_is_not_judged():
    stopping = AliasingEarlyStopping(0.33, 3)
    assert [stopping.step(value) for value in (0.1, 5.0, 9.0, 5.3, 5.4)] == [False] * 5


def test_the_reason_is_a_sentence_and_stays():
    stopping = AliasingEarlyStopping(window=3)
    for value in (0.5, 0.52, 0.53):
        assert not stopping.step(value)
        assert stopping.reason is None
    assert stopping.step(1.23)
    said = "AM 1.23 at step 4 is 0.71 above 0.52, the median of the last 3, more than 0.33"
    assert stopping.reason == said
    assert stopping.step(0.1)  # back to normal: stopped all the same
    assert stopping.reason == said
    assert stopping.history == [0.5, 0.52, 0.53, 1.23, 0.1]
    assert said in repr(stopping)
    stopping.history.clear()
    assert len(stopping.history) == 5


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), torch.tensor(0.5, requires_grad=True), {"a": 0.25, "b": torch.tensor(0.75)}, {"a": 0.5}],
    ids=str,
)
def test_kinds_of_values(value):
    stopping = AliasingEarlyStopping(window=1)
    assert not stopping.step(value)
    assert stopping.history == [0.5]
    assert stopping.step(1)


def test_takes_what_a_monitor_computes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.MaxPool2d(2))
    stopping = AliasingEarlyStopping()
    with AliasingMonitor(model) as monitor:
        model(torch.rand(2, 3, 16, 16))
        stopping.step(monitor.compute())
        assert stopping.history == [pytest.approx(sum(monitor.compute().values()) / 2)]
        monitor.reset()
        with pytest.raises(ValueError, match=r"value\['0'\] must be finite, got nan: either nothing was measured"):
            stopping.step(monitor.compute())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("nan")), {"a": 1.0, "b": np.nan}])
def test_a_value_that_cannot_be_judged_is_not_recorded(value):
    model = trained(1)
    stopping = AliasingEarlyStopping(keep_best=True)
    with pytest.raises(ValueError, match="must be finite, got"):
        stopping.step(value, model)
    assert stopping.history == []
    assert stopping.best_state_dict is None


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: AliasingEarlyStopping("0.3"), TypeError, "threshold must be a non-negative number, got '0.3'"),
        (lambda: AliasingEarlyStopping(-1), ValueError, "threshold must be a non-negative number, got -1"),
        (lambda: AliasingEarlyStopping(float("nan")), ValueError, "threshold must be a non-negative number, got nan"),
        (lambda: AliasingEarlyStopping(window=2.0), TypeError, "window must be a positive int, got 2.0"),
        (lambda: AliasingEarlyStopping(window=0), ValueError, "window must be a positive int, got 0"),
        (lambda: AliasingEarlyStopping().step("1"), TypeError, "value must be a number, .* got '1'"),
        (lambda: AliasingEarlyStopping().step(True), TypeError, "value must be a number, .* got True"),
        (lambda: AliasingEarlyStopping().step(None), TypeError, "value must be a number, .* got None"),
        (lambda: AliasingEarlyStopping().step(torch.ones(2)), TypeError, r"got a tensor \[2\]"),
        (lambda: AliasingEarlyStopping().step({}), ValueError, "value must have at least one layer"),
        (lambda: AliasingEarlyStopping().step({"a": "b"}), TypeError, r"value\['a'\] must be a number"),
        (lambda: AliasingEarlyStopping(keep_best=True).step(1.0), TypeError, "model must be an nn.Module where"),
        (lambda: AliasingEarlyStopping().restore(nn.Identity()), RuntimeError, "keep_best was not set"),
        (lambda: AliasingEarlyStopping(keep_best=True).restore(nn.Identity()), RuntimeError, "no step has gone well"),
        (lambda: AliasingEarlyStopping().load_state_dict({"history": []}), KeyError, "no reason and no best"),
    ],
)
def test_wrong_calls(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_the_best_weights_are_those_before_the_rise():
    stopping = AliasingEarlyStopping(window=1, keep_best=True)
    model = network()
    for value, steps in ((0.5, 1), (0.6, 2), (1.5, 3), (0.5, 4)):
        model.load_state_dict(trained(steps).state_dict())
        stopping.step(value, model)
    before = trained(2)
    assert equal(stopping.best_state_dict, before.state_dict())  # neither of the step that rose nor a later one
    twin = trained(7)
    stopping.restore(twin)
    assert equal(twin.state_dict(), before.state_dict())
    assert all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in stopping.best_state_dict.values())


def test_kept_weights_are_copies():
    stopping, model = AliasingEarlyStopping(keep_best=True), trained(1)
    stopping.step(0.5, model)
    kept = copy.deepcopy(stopping.best_state_dict)
    nn.init.zeros_(model[0].weight)
    assert equal(stopping.best_state_dict, kept)
    stopping.restore(model)
    nn.init.zeros_(model[0].weight)  # and loading them again gives them again
    stopping.restore(model)
    assert equal(model.state_dict(), kept)


def test_keeps_state_that_is_no_tensor():
    class Counting(nn.Linear):
        counts = [1]  # noqa: RUF012

        def get_extra_state(self):
            return {"counts": self.counts}

        def set_extra_state(self, state):
            self.counts = state["counts"]

    model, stopping = Counting(1, 1), AliasingEarlyStopping(keep_best=True)
    stopping.step(0.5, model)
    model.counts.append(2)
    stopping.restore(model)
    assert model.counts == [1]


def test_weights_are_not_kept_unasked():
    stopping = AliasingEarlyStopping()
    stopping.step(0.5, trained(1))
    assert stopping.best_state_dict is None


@pytest.mark.parametrize("pause", range(8))
def test_a_resumed_run_is_the_same_run(pause):
    series = [0.5, 0.6, 0.5, 0.55, 0.6, 1.2, 0.4]
    whole = AliasingEarlyStopping(window=3, keep_best=True)
    first = AliasingEarlyStopping(window=3, keep_best=True)
    expected = [whole.step(value, trained(step)) for step, value in enumerate(series)]
    answers = [first.step(value, trained(step)) for step, value in enumerate(series[:pause])]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = AliasingEarlyStopping(window=3, keep_best=True)
    second.load_state_dict(torch.load(file, weights_only=True))
    answers += [second.step(value, trained(step)) for step, value in enumerate(series[pause:], pause)]
    assert answers == expected == [False] * 5 + [True] * 2
    assert (second.reason, second.history) == (whole.reason, whole.history)
    assert equal(second.best_state_dict, whole.best_state_dict)
    assert second.best_state_dict._metadata == whole.best_state_dict._metadata  # versions, for torch's own upgrades


def test_a_state_dict_does_not_change_afterwards():
    stopping = AliasingEarlyStopping(window=1)
    stopping.step(0.5)
    state = stopping.state_dict()
    stopping.step(1.5)
    assert state == {"history": [0.5], "reason": None, "best": None}


def test_is_exported():
    assert alias_ops.AliasingEarlyStopping is AliasingEarlyStopping
    assert "AliasingEarlyStopping" in alias_ops.__all__
