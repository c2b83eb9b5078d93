"""What watching costs a training: PreActResNet-18, batch 128, 32x32, all six downsampling layers, 100 images."""

import statistics
import time

import pytest
import torch
import torch.nn.functional as F

import alias_ops
from alias_ops._downsampling import layer_aliasing
from alias_ops.models import preact_resnet18

from .bench_memory import extra, needs_fork, one_thread  # noqa: F401  (a fixture)
from .peers import Unavailable
from .race import race

BATCH, SAMPLES, EPSILON, PGD_STEPS = 128, 100, 8 / 255, 5
NAME = "PreActResNet-18"


def case(what, error=0.0):
    return {
        "group": "training",
        "op": "AliasingMonitor",
        "layer": f"{NAME}, {what}",
        "shape": [BATCH, 3, 32, 32],
        "dtype": "float32",
        "direction": "forward+backward",
        "relative error": error,
    }


def training(device, batch=BATCH):
    """A model and a step of its training on ``n`` images."""
    torch.manual_seed(0)
    model = preact_resnet18().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x, labels = torch.rand(batch, 3, 32, 32, device=device), torch.randint(10, (batch,), device=device)

    def step(n=batch):
        optimizer.zero_grad()
        F.cross_entropy(model(x[:n]), labels[:n]).backward()
        optimizer.step()

    return model, x, labels, step


class Timed(alias_ops.AliasingMonitor):
    """Counts the seconds that its hooks take."""

    def __init__(self, *args, **kwargs):
        self.seconds = 0.0
        super().__init__(*args, **kwargs)

    def _count(self, hook, *call):
        start = time.perf_counter()
        hook(*call)
        torch.accelerator.synchronize() if torch.accelerator.is_available() else None
        self.seconds += time.perf_counter() - start

    def _enter(self, *call):
        self._count(super()._enter, *call)

    def _observe(self, *call):
        self._count(super()._observe, *call)

    def _leave(self, *call):
        self._count(super()._leave, *call)


def test_step(benchmark, settings):
    """A step with all layers measured; without a monitor; with one whose turn it is not (``every``).

    Steps of a second or two differ by more than a monitor takes. So its hooks are timed, too, in the same steps.
    """
    model, _, _, step = training(settings.device)
    taken = {1: [], 10: []}

    def watched(every):
        def call():
            with Timed(model, max_samples=SAMPLES, every=every) as monitor:
                monitor._forwards = 1 if every > 1 else 0  # of many steps the second, which is not measured
                step()
            taken[every].append(monitor.seconds)

        return call

    rivals = {"no monitor": step, "not its turn": watched(10)}
    race(benchmark, settings, case("step"), watched(1), rivals)
    settings.results[-1]["monitor"] = {
        "seconds": statistics.median(taken[1]),
        "seconds when it is not its turn": statistics.median(taken[10]),
    }


def test_check(benchmark, settings):
    """AM of all six layers, inputs and outputs at hand as in a passing forward, against the check by PGD."""
    model, x, labels, step = training(settings.device)
    model.eval()
    seen = []
    modules = dict(model.named_modules())
    with alias_ops.AliasingMonitor(model, max_samples=SAMPLES) as monitor:
        handles = [
            modules[name].register_forward_hook(
                lambda module, args, output: seen.append((module, args[0][:SAMPLES].clone(), output[:SAMPLES].clone()))
            )
            for name in monitor.layers
        ]
        with torch.no_grad():
            model(x)
        for handle in handles:
            handle.remove()
        expected = list(monitor.compute().values())
    assert len(seen) == 6

    @torch.no_grad()
    def measure():
        return [layer_aliasing(*one).mean() for one in seen]

    torch.testing.assert_close([am.item() for am in measure()], expected)

    def own_forward():
        with alias_ops.AliasingMonitor(model, max_samples=SAMPLES) as monitor:
            monitor.update(x[:SAMPLES])

    def attack():
        try:
            import foolbox
        except ImportError as error:
            raise Unavailable("foolbox is not installed") from error
        target = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        pgd = foolbox.attacks.LinfPGD(steps=PGD_STEPS)
        return pgd(target, x, labels, epsilons=EPSILON)

    rivals = {f"PGD-{PGD_STEPS}": attack, "with a forward of its own": own_forward, "training step": step}
    race(benchmark, settings, case("check"), measure, rivals)


@needs_fork
def test_memory(settings, one_thread):  # noqa: F811
    def call(n, watch):
        model, _, _, step = training("cpu")
        if not watch:
            return step(n)
        with alias_ops.AliasingMonitor(model, max_samples=SAMPLES):
            return step(n)

    taken = {
        name: extra(lambda n, watch=watch: call(n, watch), BATCH)
        for name, watch in (("alias_ops", True), ("no monitor", False))
    }
    settings.memory.append({"op": "training step", "layer": NAME, "input": BATCH * 3 * 32 * 32 * 4, "bytes": taken})


@pytest.mark.quick
def test_what_is_watched():
    """The names and the number of layers that the cases above take for granted."""
    model = preact_resnet18()
    with alias_ops.AliasingMonitor(model) as monitor:
        assert len(monitor.layers) == 6
        assert len(monitor.blocks) == 3
