"""AliasingCallback under Lightning's own Trainer: what is measured, what is logged, and what is left alone."""

import csv
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import run_python
from lightning_fits import BATCHES, SIZE, Net, Record, hooks, loader, measured, trainer
from torch import nn
from torch.utils.checkpoint import checkpoint

pytest.importorskip("lightning")
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from alias_ops import AliasingEarlyStopping
from alias_ops.integrations.lightning import AliasingCallback

# Lightning's, about loaders without workers, steps fewer than a log interval, and its own use of PyTorch.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore:::torch")


@pytest.mark.parametrize("by", ["block", "layer"])
@pytest.mark.parametrize("every", [1, 2])
def test_each_epoch_logs_am_of_its_training_batches_alone(tmp_path, by, every):
    model, record = Net(rate=0.0), Record()
    callback = AliasingCallback(every=every, by=by, blocks={"net.0": "stem"} if by == "block" else None)
    trainer(tmp_path, callback, record).fit(model, loader(), loader(seed=9))
    batches = list(loader())[::every]
    monitor = measured(model, model.net.train(), batches)
    # Batch statistics and dropout lie behind the convolution; the pooling's AM depends on the dropout's draw.
    conv = monitor.compute()["0"]
    name = "stem" if by == "block" else "net.0"
    for epoch in record.epochs:
        assert set(epoch) == {f"aliasing/{name}", "aliasing/net.4", "aliasing/mean"}
        assert epoch[f"aliasing/{name}"] == pytest.approx(conv, rel=1e-6)
        assert epoch["aliasing/mean"] == pytest.approx((conv + epoch["aliasing/net.4"]) / 2, rel=1e-5)
    assert len(record.epochs) == 2
    assert callback.monitor.state_dict()["maps"] == {"net.0": 6 * SIZE * len(batches), "net.4": 6 * SIZE * len(batches)}


@pytest.mark.parametrize("stage", ["train", "validate"])
def test_only_its_stage_is_measured(tmp_path, stage):
    model, record = Net(rate=0.0), Record()
    callback = AliasingCallback(stage=stage, layers=["net.0"], max_samples=3)
    fit = trainer(tmp_path, callback, record, val_check_interval=1, num_sanity_val_steps=2)
    fit.validate(model, loader(), verbose=False)
    assert callback.monitor is None
    fit.fit(model, loader(), loader(seed=9, batches=2))
    batches = [(x[:3], y[:3]) for x, y in (loader() if stage == "train" else loader(seed=9, batches=2))]
    expected = measured(model, model.net[:1], batches).mean()
    assert [epoch["aliasing/mean"] for epoch in record.epochs] == pytest.approx([expected] * 2, rel=1e-6)
    assert callback.monitor.state_dict()["maps"] == {"net.0": 6 * 3 * len(batches)}
    before = callback.monitor.state_dict()
    fit.validate(model, loader(), verbose=False)
    assert str(callback.monitor.state_dict()) == str(before)


def test_two_callbacks_for_two_stages(tmp_path):
    model, record = Net(), Record()
    callbacks = [AliasingCallback(prefix="train/"), AliasingCallback(stage="validate", prefix="val/")]
    trainer(tmp_path, *callbacks, record).fit(model, loader(), loader(seed=9))
    assert {name for name in record.epochs[-1] if name.endswith("mean")} == {"train/mean", "val/mean"}
    assert callbacks[0].state_key != callbacks[1].state_key


def test_the_training_is_the_same_bit_for_bit(tmp_path):
    trained = []
    for callbacks in ([], [AliasingCallback(on_step=True, stopping=AliasingEarlyStopping(keep_best=True))]):
        model = Net()
        trainer(tmp_path, *callbacks).fit(model, loader(), loader(seed=9))
        trained.append(model.state_dict())
    assert all(map(torch.equal, trained[0].values(), trained[1].values()))
    assert not torch.equal(trained[0]["net.0.weight"], Net().state_dict()["net.0.weight"])


def test_steps_reach_the_logger(tmp_path):
    model = Net(rate=0.0)
    logger = CSVLogger(tmp_path)
    # Measured in batches 0, 2, 4; written after batches 1, 3, 5.
    callback = AliasingCallback(on_step=True, every=2, layers=["net.0"])
    trainer(tmp_path, callback, logger=logger, log_every_n_steps=2, max_epochs=1).fit(model, loader(batches=6))
    with open(logger.experiment.metrics_file_path) as file:
        table = list(csv.DictReader(file))
    steps = [(int(row["step"]), float(row["aliasing/net.0_step"])) for row in table if row["aliasing/net.0_step"]]
    batches = list(loader(batches=6))
    expected = [measured(model, model.net[:1], batches[i : i + 1]).mean() for i in (0, 2, 4)]
    assert [step for step, _ in steps] == [1, 3, 5]
    assert [value for _, value in steps] == pytest.approx(expected, rel=1e-6)
    (mean,) = [float(row["aliasing/mean"]) for row in table if row["aliasing/mean"]]
    assert mean == pytest.approx(sum(expected) / 3, rel=1e-6)


def test_the_model_is_as_it_was_after_a_fit_and_after_an_exception(tmp_path):
    model, callback = Net(), AliasingCallback()
    fit = trainer(tmp_path, callback)
    fit.fit(model, loader())
    assert hooks(model) == 0
    assert callback.monitor.mean() > 0

    class Fails(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            assert hooks(pl_module) > 0
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        trainer(tmp_path, callback, Fails()).fit(model, loader())
    assert hooks(model) == 0


@pytest.mark.parametrize("hook", ["setup", "configure_model"])
def test_layers_that_are_made_late_are_seen(tmp_path, hook):
    def make(self, stage=None):
        if not hasattr(self, "net"):
            self.net, self.head = Net().net, nn.Linear(6, 5)

    late = type("Late", (Net,), {"__init__": LightningModule.__init__, "rate": 0.1, hook: make})()
    callback = AliasingCallback()
    trainer(tmp_path, callback).fit(late, loader())
    assert list(callback.monitor.layers) == ["net.0", "net.4"]
    assert callback.monitor.mean() > 0


@pytest.mark.parametrize("part", ["net", lambda module: module.net])
def test_a_part_can_be_watched(tmp_path, part):
    callback = AliasingCallback(model=part, layers=["4"])
    trainer(tmp_path, callback, max_epochs=1).fit(Net(), loader())
    assert list(callback.monitor.compute()) == ["4"]
    assert callback.monitor.mean() > 0


@pytest.mark.parametrize("compiled", ["part", "module"])
def test_what_is_compiled_is_measured(tmp_path, compiled):
    torch.compiler.reset()
    model, record = Net(rate=0.0), Record()
    if compiled == "part":
        model.net = torch.compile(model.net, backend="eager")
    whole = torch.compile(model, backend="eager") if compiled == "module" else model
    callback = AliasingCallback(layers=lambda name, _: name.endswith(".0"))
    trainer(tmp_path, callback, record, max_epochs=1).fit(whole, loader(), loader(seed=9))
    plain = Net()
    expected = measured(plain, plain.net[:1], loader()).mean()
    assert record.epochs[0]["aliasing/mean"] == pytest.approx(expected, rel=1e-6)
    assert callback.monitor.state_dict()["maps"] == dict.fromkeys(callback.monitor.layers, 6 * SIZE * BATCHES)


class Checkpointed(Net):
    """Manual optimisation with activation checkpointing: backward runs the layers again, within the batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, labels = batch
        features = checkpoint(self.net, x, use_reentrant=bool(batch_idx % 2))
        loss = F.cross_entropy(self.head(features.mean((-1, -2))), labels)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()


def test_what_a_backward_repeats_is_not_measured(tmp_path):
    callback = AliasingCallback()
    trainer(tmp_path, callback, max_epochs=1).fit(Checkpointed(), loader())
    assert callback.monitor.state_dict()["maps"]["net.0"] == 6 * SIZE * BATCHES


class Skips(Net):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 1 else None


def test_an_epoch_that_is_cut_short(tmp_path):
    callback = AliasingCallback()
    trainer(tmp_path, callback).fit(Skips(), loader(), loader(seed=9))
    assert callback.monitor.state_dict()["maps"]["net.0"] == 6 * SIZE
    assert not callback.monitor.open


def test_its_monitor_can_be_asked_to_measure(tmp_path):
    class Asks(Callback):
        def on_validation_start(self, trainer, pl_module):
            if not trainer.sanity_checking:
                callback.monitor.reset()
                pl_module.net(torch.rand(1, 3, 16, 16))
                assert math.isnan(callback.monitor.mean())
                callback.monitor.update(torch.rand(2, 3, 16, 16))
                self.maps = callback.monitor.state_dict()["maps"]["0"]

    callback, asks = AliasingCallback(model="net"), Asks()
    trainer(tmp_path, callback, asks, max_epochs=1).fit(Net(), loader(), loader(seed=9))
    assert asks.maps == 2 * 6


class Unused(Net):
    def training_step(self, batch, batch_idx):
        return self.head(batch[0].mean((-1, -2)).repeat(1, 2)).square().mean()


def test_layers_that_never_run_are_told_once(tmp_path):
    with pytest.warns(UserWarning, match="AliasingCallback saw none of its layers run in the first batch") as told:
        trainer(tmp_path, AliasingCallback()).fit(Unused(), loader())
    assert sum("AliasingCallback" in str(one.message) for one in told) == 1


def test_wrong_arguments_are_named(tmp_path):
    for arguments, error, message in (
        ({"every": 0}, ValueError, "every must be a positive int, got 0"),
        ({"max_samples": 0.5}, TypeError, "max_samples must be"),
        ({"by": "channel"}, ValueError, 'by must be "layer" or "block", got \'channel\''),
        ({"stage": "test"}, ValueError, 'stage must be "train" or "validate", got \'test\''),
        ({"stopping": 0.3}, TypeError, "stopping must be an AliasingEarlyStopping or None, got float"),
        ({"model": 3}, TypeError, "model must be a submodule's path, a function or None, got int"),
    ):
        with pytest.raises(error, match=message):
            AliasingCallback(**arguments)
    with pytest.raises(ValueError, match="'net.1'"):
        trainer(tmp_path, AliasingCallback(layers=["net.1"])).fit(Net(), loader())


ELSEWHERE = """
import sys
import {module} as pl, torch
from torch.utils.data import DataLoader
from alias_ops.integrations.lightning import AliasingCallback
class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, 2, 1)
    def training_step(self, x, i):
        return self.conv(x).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
callback = AliasingCallback()
trainer = pl.Trainer(accelerator="cpu", devices=1, callbacks=[callback], max_epochs=1, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Net(), DataLoader(torch.rand(4, 3, 8, 8), batch_size=2))
print(isinstance(callback, pl.Callback), trainer.callback_metrics["aliasing/mean"].item(), callback.monitor.mean())
print([m for m in ("lightning.pytorch", "pytorch_lightning") if m in sys.modules])
"""


def test_it_is_of_the_lightning_that_the_user_imports(tmp_path):
    pytest.importorskip("pytorch_lightning")
    done = run_python(ELSEWHERE.format(module="pytorch_lightning"), cwd=tmp_path)
    *_, (right, logged, mean), imported = map(str.split, done.stdout.splitlines()) if done.stdout else [done.stderr]
    assert (right, imported) == ("True", ["['pytorch_lightning']"])
    assert float(logged) == pytest.approx(float(mean), rel=1e-6)
    assert float(mean) > 0
