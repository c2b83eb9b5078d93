"""For the tests of AliasingCallback: a LightningModule, its loader, a quiet trainer, what should come out."""

import pytest
import torch
import torch.nn.functional as F
from helpers import randn
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from alias_ops import AliasingMonitor

BATCHES, SIZE = 3, 4


def loader(seed=0, batches=BATCHES):
    x = randn(batches * SIZE, 3, 16, 16, seed=seed, dtype=torch.float32)
    return DataLoader(TensorDataset(x, torch.arange(len(x)) % 5), batch_size=SIZE)


class Net(LightningModule):
    """Its training_step calls parts of it and never itself; made of layers, or making them later."""

    def __init__(self, rate=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.MaxPool2d(2)
        )
        self.head = nn.Linear(6, 5)
        self.rate = rate

    def loss(self, batch):
        x, labels = batch
        return F.cross_entropy(self.head(self.net(x).mean((-1, -2))), labels)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate)


def trainer(folder, *callbacks, **arguments):
    torch.manual_seed(1)
    defaults = {"max_epochs": 2, "enable_checkpointing": False, "log_every_n_steps": 1, "logger": False}
    return Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{**defaults, **arguments},
    )


class Record(Callback):
    """Callback metrics at the end of every epoch, and the hooks that a forward would meet outside of a fit."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def measured(model, part, batches):
    """AM that a monitor finds in these batches, whatever else the loader has; a frozen network's."""
    with torch.no_grad(), AliasingMonitor(part) as monitor:
        for x, _ in batches:
            part(x)
    return monitor
