"""Into which cache the next maps are asked is a matter of speed alone."""

import pytest
from helpers import run_python

from alias_ops import _backend

pytestmark = pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"])

CODE = """
import hashlib, torch, alias_ops
torch.manual_seed(0)
digest = hashlib.sha256()
for pool in (alias_ops.flc_pool2d, alias_ops.asap_pool2d):
    for n in (5, 8, 14, 16, 28, 32, 33, 40, 56, 64, 112, 225):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            x = torch.randn(3, 11, n, n).to(dtype).requires_grad_()
            y = pool(x)
            (dx,) = torch.autograd.grad(y, x, y)
            for t in (y, dx):
                digest.update(t.detach().contiguous().view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


def test_either_gives_the_same_bits():
    digests = set()
    for first_cache in ("49152", "32768", "none of its bytes", None):
        environment = {} if first_cache is None else {"ALIAS_OPS_FIRST_CACHE": first_cache}
        process = run_python(CODE, **environment)
        assert process.returncode == 0, process.stderr
        digests.add(process.stdout)
    assert len(digests) == 1
