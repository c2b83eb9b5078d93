"""AliasingMonitor and AliasingPenalty in two processes: the same AM as one process on all of the images.

DDP, FSDP and FSDP2 (``fully_shard``) on the CPU with gloo; distributed_monitor.py is what each process runs.
"""

import json
import math
import sys

import pytest
import torch
import torch.distributed as dist
from helpers import run_two_ranks

from alias_ops import AliasingMonitor, AliasingPenalty

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()) or sys.platform == "win32", reason="needs gloo"
)

WRAPPED = [f"{how} {attach}" for how in ("ddp", "fsdp2", "fsdp") for attach in ("before", "after")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_two_ranks("distributed_monitor.py", folder)
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def one_process():
    """The model of the two, and the images of both."""
    import distributed_monitor

    batches = [distributed_monitor.images(rank) for rank in range(distributed_monitor.WORLD)]
    return distributed_monitor.net(), batches


@pytest.mark.parametrize("how", WRAPPED)
def test_two_ranks_report_what_one_process_does(found, one_process, how):
    model, batches = one_process
    with AliasingMonitor(model) as monitor:
        model(torch.cat(batches))
    result = found[how]
    assert result["layers"] == pytest.approx(monitor.compute(), rel=1e-6)
    assert list(result["blocks"]) == ["0.0", "0.1", "0.2", "0.3"]
    assert result["blocks"] == pytest.approx(monitor.compute("block"), rel=1e-6)
    assert result["mean"] == pytest.approx(monitor.mean(), rel=1e-6)
    assert result["again"]


@pytest.mark.parametrize("how", WRAPPED)
def test_each_rank_keeps_its_own(found, one_process, how):
    model, batches = one_process
    with AliasingMonitor(model) as monitor:
        model(batches[0])
    expected = list(monitor.compute().values())
    assert found[how]["local"] == pytest.approx(expected, rel=1e-6)
    assert found[how]["last"] == found[how]["local"]
    assert found[how]["local"] != pytest.approx(list(found[how]["layers"].values()), rel=1e-3)


def test_a_rank_that_measured_nothing_takes_part(found, one_process):
    model, batches = one_process
    with AliasingMonitor(model, per_channel=True) as monitor:
        model(batches[1])
    assert found["uneven"]["layers"] == pytest.approx(monitor.compute(), rel=1e-6)
    for name, values in monitor.compute("channel").items():
        assert found["uneven"]["channels"][name] == pytest.approx(values.tolist(), rel=1e-6)
    assert found["uneven"]["local"] == []


def test_a_group_of_its_own(found):
    assert math.isnan(found["uneven"]["alone"])


def test_ranks_of_different_layers_are_told(found):
    assert found["uneven"]["error"] == "rank 1 of the group watches ['0.0'], this one ['0.1']"


@pytest.mark.parametrize("how", ["penalty", "penalty fsdp2"])
def test_penalty_under_ddp_and_fsdp2(found, one_process, how):
    model, batches = one_process
    model.zero_grad()
    with AliasingPenalty(model) as penalty:
        for x in batches:
            model(x)
            (penalty() / 2).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(torch.tensor(found[how][name]), parameter.grad, rtol=1e-4, atol=1e-6)
    assert model[0][0].weight.grad.norm() > 0
