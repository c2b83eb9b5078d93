"""Models as a user of the command line may write them; tests/test_cli.py copies this file."""

import torch
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 1, stride=2))


def grey():
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2))


def many_channels():
    return nn.Sequential(nn.Conv2d(5, 4, 3, stride=2))


def half():
    return net().to(torch.bfloat16)


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3, stride=2))


def diverged():
    model = net()
    nn.init.constant_(model[0].weight, float("nan"))
    return model


def exact():
    return net().double()


class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.MaxPool2d(2), nn.AvgPool2d(2)

    def forward(self, x):
        return self.used(x)


class Own(nn.AvgPool2d):
    def forward(self, x):
        return x


def own():
    return nn.Sequential(nn.AvgPool2d(2), Own(2))


class Fragile(nn.Sequential):
    seen = 0

    def forward(self, x):
        self.seen += 1
        y = super().forward(x)
        if self.seen == 2:
            raise self.error
        return y


def breaks():
    Fragile.error = RuntimeError("out of\ncoffee")
    return Fragile(nn.MaxPool2d(2), nn.AvgPool2d(2))


def interrupted():
    Fragile.error = KeyboardInterrupt()
    return Fragile(nn.MaxPool2d(2), nn.AvgPool2d(2))


def fails():
    raise ValueError("no weights here\nsecond line")


def word():
    return "model"


def plain():
    return nn.Linear(2, 2)


def needs(argument):
    return argument


number = 3
instance = nn.MaxPool2d(2)
