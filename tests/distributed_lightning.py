"""What each of two processes runs for test_integrations_distributed.py: a fit under Lightning's DDP, on the CPU.

``python distributed_lightning.py FOLDER``; Lightning starts the second process with the same command. Each writes
FOLDER/rank<n>.json.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from helpers import randn
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from alias_ops import AliasingEarlyStopping
from alias_ops.integrations.lightning import AliasingCallback
from alias_ops.integrations.torchmetrics import AliasingMeasure

EPOCHS, LOUD = 5, 3  # AM is ten times as large from the latter on


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2))


def images():
    return randn(12, 3, 16, 16, dtype=torch.float32)


def maps(rank):
    """Stride-1 maps of each process, not as many in each."""
    return randn(2 + 3 * rank, 9, 9, seed=rank)


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x)

    def train_dataloader(self):
        return DataLoader(images()[self.global_rank :: 2], batch_size=2)  # three batches; the first and last count

    def training_step(self, x, batch_idx):
        return self(10 * x if self.current_epoch >= LOUD else x).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


class Record(Callback):
    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append({name: value.item() for name, value in trainer.callback_metrics.items()})
        self.metric = AliasingMeasure()
        self.metric.update(maps(trainer.global_rank))
        self.metric = self.metric.compute().item()


def fit(folder, epochs, *callbacks, resume=None):
    arguments = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": epochs, "logger": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    # Without its sampler, which shuffles.
    trainer = Trainer(
        callbacks=list(callbacks), default_root_dir=folder, use_distributed_sampler=False, **arguments, **quiet
    )
    trainer.fit(Net(), ckpt_path=resume)
    return trainer.global_rank


def main(folder):
    torch.set_num_threads(1)
    record = Record()
    callback = AliasingCallback(stopping=AliasingEarlyStopping(window=2, keep_best=True), every=2)
    saved = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rank = fit(folder, EPOCHS, callback, record, saved)
    resumed = AliasingCallback(every=2)
    fit(folder, 1, resumed, ModelCheckpoint(folder / "rest"), resume=folder / "step=2.ckpt")
    found = {
        "epochs": record.epochs,
        "history": callback.stopping.history,
        "maps": callback.monitor.state_dict()["maps"],
        "resumed": resumed.monitor.state_dict()["maps"],
        "metric": record.metric,
        "advice": [str(one.message) for one in caught if "sync_dist" in str(one.message)],
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
