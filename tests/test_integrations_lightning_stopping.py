"""AliasingCallback ends a training, and resumes one: the rule, the weights, the checkpoint."""

import copy
import logging

import pytest
import torch
from lightning_fits import BATCHES, SIZE, Net, loader, measured, trainer

pytest.importorskip("lightning")
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from alias_ops import AliasingEarlyStopping
from alias_ops.integrations.lightning import AliasingCallback

# Lightning's, about loaders without workers, steps fewer than a log interval, and its own use of PyTorch.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore:::torch")


class Louder(Net):
    """AM rises with the weights, which grow a hundredfold in epoch 3."""

    def on_train_epoch_start(self):
        if self.current_epoch == 3:
            with torch.no_grad():
                self.net[0].weight.mul_(100)


@pytest.mark.parametrize("stage", ["train", "validate"])
def test_the_rule_stops_the_trainer_says_why_once_and_restores(tmp_path, caplog, stage):
    weights = []

    class Keep(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            weights.append(copy.deepcopy(pl_module.state_dict()))

    model = Louder()
    stopping = AliasingEarlyStopping(threshold=0.5, window=2, keep_best=True)
    callback = AliasingCallback(stage=stage, stopping=stopping)
    fit = trainer(tmp_path, callback, Keep(), max_epochs=9, min_epochs=6, num_sanity_val_steps=1)
    with caplog.at_level(logging.INFO):
        fit.fit(model, loader(), loader(seed=9))
    assert stopping.stopped
    assert "at step 4 " in stopping.reason
    assert fit.current_epoch == 6  # not before min_epochs
    assert len(stopping.history) == 6
    assert [r.getMessage() for r in caplog.records].count(
        f"AliasingCallback stops the training: {stopping.reason}"
    ) == 1
    # Validation comes before the hooks of the training epoch, with the same weights.
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[2][name])
    assert not torch.equal(model.net[0].weight, weights[5]["net.0.weight"])


def test_without_a_rise_it_trains_to_the_end(tmp_path):
    stopping = AliasingEarlyStopping(threshold=0.5, window=2, keep_best=True)
    model = Net()
    fit = trainer(tmp_path, AliasingCallback(stopping=stopping), max_epochs=4)
    fit.fit(model, loader())
    assert (fit.current_epoch, stopping.stopped, len(stopping.history)) == (4, False, 4)
    assert torch.equal(model.net[0].weight, stopping.best_state_dict["net.0.weight"])  # the last step's, not restored


@pytest.mark.parametrize("step", [2, 3, 4])  # in the first epoch, in its last batch, in the second
def test_a_resumed_fit_goes_on_as_if_it_had_not_stopped(tmp_path, step):
    def run(folder, resume=None):
        stopping, model = AliasingEarlyStopping(keep_best=True), Net(rate=0.0)
        model.net[3].p = 0.0
        callback = AliasingCallback(stopping=stopping)
        saved = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        fit = trainer(folder, callback, saved, enable_checkpointing=True)
        fit.fit(model, loader(), ckpt_path=resume)
        return callback, model

    whole, model = run(tmp_path / "whole")
    resumed, _ = run(tmp_path / "rest", tmp_path / "whole" / f"step={step}.ckpt")
    # An ordinary loader begins anew: the rest of the epoch is its first batches.
    first, second, third = loader()
    again = {2: [first, second, first], 3: [first, second, third], 4: [first, first, second]}[step]
    expected = measured(model, model.net, again).mean()
    usual = whole.monitor.mean()
    # Resuming from an epoch's last batch, Lightning calls neither the end of this epoch nor the start of the next.
    history = {2: [expected, usual], 3: [usual], 4: [usual, expected]}[step]
    assert resumed.stopping.history == pytest.approx(history, rel=1e-6)
    assert resumed.monitor.state_dict()["maps"]["net.0"] == 6 * SIZE * BATCHES
    assert torch.equal(resumed.stopping.best_state_dict["head.weight"], model.head.weight)
    assert whole.stopping.history == [usual, usual]


@pytest.mark.parametrize(("stage", "validated"), [("train", True), ("train", False), ("validate", True)])
def test_a_fit_resumed_between_epochs_has_every_value_once(tmp_path, stage, validated):
    def run(folder, resume=None):
        callback = AliasingCallback(stage=stage, stopping=AliasingEarlyStopping())
        saved = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        fit = trainer(folder, callback, saved, enable_checkpointing=True, max_epochs=3)
        model = Net()
        model.net[3].p = 0.0
        fit.fit(model, loader(), loader(seed=9) if validated else None, ckpt_path=resume)
        return callback.stopping.history

    whole = run(tmp_path / "whole")
    assert len(set(whole)) == 3
    assert run(tmp_path / "rest", tmp_path / "whole" / "epoch=0.ckpt") == whole


def test_a_checkpoint_from_am(tmp_path):
    saved = ModelCheckpoint(tmp_path, monitor="aliasing/mean", mode="min", filename="best")
    callback, model = AliasingCallback(stopping=AliasingEarlyStopping(keep_best=True)), Net(rate=0.0)
    trainer(tmp_path, callback, saved, enable_checkpointing=True).fit(model, loader())
    assert saved.best_model_score.item() == pytest.approx(min(callback.stopping.history), rel=1e-6)
    state = torch.load(tmp_path / "best.ckpt", weights_only=True)["callbacks"][callback.state_key]
    assert torch.equal(state["stopping"]["best"]["head.weight"], model.head.weight)
    assert state["monitor"]["maps"]["net.4"] == 6 * SIZE * BATCHES
