"""AliasingCallback under Lightning's DDP, and AliasingMeasure, in two processes: what one has on all of the images."""

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from helpers import ROOT

import alias_ops
from alias_ops import AliasingMonitor

pytest.importorskip("lightning")
pytest.importorskip("torchmetrics")
pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()) or sys.platform == "win32", reason="needs gloo"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lightning")
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(ROOT / "tests" / "distributed_lightning.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    files = sorted(folder.glob("rank*.json"))
    assert [file.name for file in files] == ["rank0.json", "rank1.json"]
    stops = [line for line in done.stderr.splitlines() if "AliasingCallback stops the training" in line]
    return [json.loads(file.read_text()) for file in files], stops


def test_every_process_logs_and_judges_am_of_all_images(ranks):
    import distributed_lightning as script

    model, (found, _) = script.net(), ranks
    with torch.no_grad(), AliasingMonitor(model) as monitor:
        # Images go to the processes in turn, two of them a batch; each measures its first and third batch.
        model(torch.cat([script.images()[:4], script.images()[8:]]))
    expected = {f"aliasing/net.{name}": value for name, value in monitor.compute().items()}
    expected["aliasing/mean"] = monitor.mean()
    for rank in found:
        assert rank["epochs"][0] == pytest.approx(expected, rel=1e-6)
        assert rank["history"] == pytest.approx([monitor.mean()] * script.LOUD + [10 * monitor.mean()], rel=1e-6)
        assert rank["maps"] == {"net.0": 4 * 4, "net.1": 4 * 4}
        assert rank["advice"] == []
    assert found[0]["epochs"] == found[1]["epochs"]


def test_a_checkpoint_counts_once(ranks):
    """Saved before the last of three batches, of which every process measures the first and the last."""
    found, _ = ranks
    assert [rank["resumed"] for rank in found] == [{"net.0": 16, "net.1": 16}, {"net.0": 8, "net.1": 8}]


def test_the_reason_is_printed_once(ranks):
    _, stops = ranks
    assert len(stops) == 1
    assert "at step 4 " in stops[0]


def test_torchmetrics_joins_the_processes(ranks):
    import distributed_lightning as script

    found, _ = ranks
    expected = alias_ops.aliasing(torch.cat([script.maps(rank) for rank in range(2)])).item()
    assert [rank["metric"] for rank in found] == pytest.approx([expected] * 2, rel=1e-12)
