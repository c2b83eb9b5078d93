"""How many products a call's precision needs; PyTorch's own switches decide for float32."""

import torch

__all__ = ["products", "tf32_allowed"]


def tf32_allowed(device_type: str) -> bool:
    """Whether PyTorch lets float32 products on this device drop to TF32.

    Reading the older switch fails where a program has set the newer one, which then is what holds.
    """
    if device_type != "cuda":
        return False
    newer = getattr(torch.backends.cuda.matmul, "fp32_precision", "none")
    if newer in ("tf32", "ieee"):
        return newer == "tf32"
    try:
        return torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:
        return False


def products(x: torch.Tensor) -> int:
    """1 for half-precision x and where TF32 is allowed, 3 for float32-grade results; _arithmetic says of what."""
    return 1 if x.dtype != torch.float32 or tf32_allowed(x.device.type) else 3
