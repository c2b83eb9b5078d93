"""The three ops: schema, fake, autograd and vmap in one file each; kernels live in csrc."""

from .alias_l1 import alias_l1
from .conv2d_alias_l1 import conv2d_alias_l1
from .separable2d import separable2d

__all__ = ["alias_l1", "conv2d_alias_l1", "separable2d"]
