"""One process or several under torchrun, and an interrupt that lets them finish what they are at."""

import os
import signal
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["Interrupt", "Processes"]


@dataclass(frozen=True)
class Processes:
    """This process's rank among how many, and its device."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls) -> "Processes":
        """Meet the others that torchrun started, if it did: over NCCL where there are GPUs, else over gloo."""
        gpu = torch.cuda.is_available()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
        if gpu:
            torch.cuda.set_device(device)
        if not dist.is_torchelastic_launched():
            return cls(0, 1, device)
        dist.init_process_group("nccl" if gpu else "gloo")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def leave(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()

    def share(self, items: torch.Tensor) -> torch.Tensor:
        """This process's part of what all of them have alike."""
        return items[self.rank :: self.world]

    def totals(self, *values: float) -> list[float]:
        """Sums over all processes, each of which has to call it."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def average_statistics(self, model: nn.Module) -> None:
        """Give all batch norms the mean of the processes' statistics, so that they evaluate the same network.

        DDP has the first one's everywhere before each forward, not after the last.
        """
        if self.world > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.world


class Interrupt:
    """Ctrl-C as a request to stop soon: ``asked`` turns True. A second one ends the process at once.

    Not under torchrun, which passes on the signal that the terminal has sent already: there all further ones are
    ignored, and torchrun ends what does not end by itself.
    """

    def __init__(self, world: int) -> None:
        self.asked = False
        self._then = signal.SIG_IGN if world > 1 else signal.SIG_DFL
        self._before: Any = None

    def __enter__(self) -> "Interrupt":
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:  # as in the background of a shell script
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self._then)
