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
from lightning.pytorch.callbacks import Callback
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


def main(folder):
    torch.set_num_threads(1)
    record = Record()
    callback = AliasingCallback(stopping=AliasingEarlyStopping(window=2, keep_best=True), every=2)
    arguments = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": EPOCHS, "logger": False}
    arguments["use_distributed_sampler"] = False  # it shuffles
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = Trainer(callbacks=[callback, record], default_root_dir=folder, **arguments, **quiet)
        trainer.fit(Net())
    found = {
        "epochs": record.epochs,
        "history": callback.stopping.history,
        "maps": callback.monitor.state_dict()["maps"],
        "metric": record.metric,
        "advice": [str(one.message) for one in caught if "sync_dist" in str(one.message)],
    }
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
