"""Random calls of every operator, for test_fuzz_ops.py; a process of its own, since a crash ends it.

    python tests/fuzz_ops.py SEED CASES [OP ...]

A case is a call as the functions make it, with up to three of its arguments changed: tensors of other ranks, sizes,
strides, dtypes and bytes, numbers up to 2^64, lists too long or too short. It may return or raise. It must not crash,
write beside what it is to write, or say that PyTorch's own invariants are broken. The last line printed tells the case.
"""

import os
import random
import resource
import sys
import warnings
from contextlib import suppress

import torch

from alias_ops import designs

OPS = torch.ops.alias_ops
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DTYPES = (
    *(*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.complex64, torch.complex128, torch.complex32, torch.float8_e4m3fn),
)
NUMBERS = (0, -1, 1, 2, 3, 7, 2**31 - 1, 2**31, 2**32, 2**61, 2**62, 2**63 - 1, -(2**62), -(2**63), 2**63, 2**64)
STORAGE = 6000  # elements; what tensors of random strides lie in


def describe(value):
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.device.type != "cpu":
            return f"<{value.layout} {value.device} {value.dtype} {tuple(value.shape)}>"
        return f"<{value.dtype} {tuple(value.shape)} {value.stride()} + {value.storage_offset()}>"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(describe(v) for v in value) + "]"
    return repr(value)


def in_memory(value):
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.untyped_storage().nbytes() > 0 or not value.numel()


def leaves(value, path=()):
    """(path, value) of everything that can be exchanged: arguments, and the members of lists."""
    if path:
        yield path, value
    if isinstance(value, list):
        for i, member in enumerate(value):
            yield from leaves(member, (*path, i))


def exchange(arguments, path, value):
    *outer, last = path
    for step in outer:
        arguments = arguments[step]
    arguments[last] = value


class Fuzzer:
    def __init__(self, seed):
        self.random = random.Random(seed)
        torch.manual_seed(seed)

    def values(self, count, dtype):
        """Numbers as they come, zeros, or any bytes at all: NaN, infinity, 1e300."""
        kind = self.random.random()
        if kind < 0.2:
            return torch.zeros(count, dtype=dtype)
        if kind < 0.6 and dtype in FLOATS:
            return torch.randn(count).to(dtype)
        if kind < 0.8 and dtype == torch.int64:
            return torch.randint(-3, 9, (count,))
        if dtype == torch.bool:
            return torch.randint(0, 2, (count,)).bool()
        size = torch.empty(0, dtype=dtype).element_size()
        return torch.randint(0, 256, (count * size,), dtype=torch.uint8).view(dtype)

    def laid_out(self, shape, dtype):
        """Random strides, overlapping and zero ones among them, at a random place of a larger storage."""
        order = list(range(len(shape)))
        self.random.shuffle(order)
        strides, step = [0] * len(shape), 1
        for d in order:
            strides[d] = step
            step *= max(1, shape[d])
        kind = self.random.random()
        for d in range(len(shape)):
            if kind < 0.3:
                strides[d] = self.random.choice([strides[d], 0])
            elif kind < 0.6:
                strides[d] = self.random.randrange(12)
        used = 1 + sum((n - 1) * s for n, s in zip(shape, strides) if n > 0)
        offset = self.random.randrange(20)
        return self.values(max(STORAGE, used + offset), dtype).as_strided(shape, strides, offset)

    def packed(self, *shape, dtype=torch.float64):
        count = 1
        for n in shape:
            count *= n
        t = self.values(count, dtype).view(shape)
        if len(shape) == 4 and self.random.random() < 0.4:
            return t.to(memory_format=torch.channels_last)
        return self.laid_out(shape, dtype) if self.random.random() < 0.2 else t

    def anything(self):
        shape = [self.random.randrange(10) for _ in range(self.random.randrange(6))]
        if self.random.random() < 0.1:
            # One dimension beyond all memory; or several, of a tensor without elements.
            empty = self.random.random() < 0.3
            shape = [0, 2**31, 2**40, 2**62][: len(shape)] if empty else [1] * len(shape)
            shape[-1:] = [0 if empty and len(shape) == 1 else self.random.choice([2**20, 2**31, 2**40, 2**62])]
            self.random.shuffle(shape)
            t = torch.zeros(1, dtype=self.random.choice(DTYPES))
            if not empty or 0 not in shape:
                return t.expand(shape)
            return t.as_strided(shape, [self.random.choice([0, 1, 2**31, 2**62]) for _ in shape])
        return self.laid_out(shape, self.random.choice(DTYPES))

    def changed_tensor(self, t):
        kinds = ("anything", "bytes", "bytes", "dtype", "strides", "expanded", "part", "longer", "rank", "odd")
        kind = self.random.choice(kinds)
        dims = range(t.dim())
        d = self.random.choice(dims) if t.dim() else 0
        if kind == "anything" or not t.dim() or max(t.shape) > 10**4 or not in_memory(t):
            return self.anything()
        if kind == "bytes":
            return self.values(t.numel(), t.dtype).view(t.shape)
        if kind == "dtype":
            return self.values(t.numel(), self.random.choice(DTYPES)).view(t.shape)
        if kind == "strides":
            return self.laid_out(t.shape, t.dtype)
        if kind == "expanded":
            return t.narrow(d, 0, min(1, t.shape[d])).expand([n if n or i != d else -1 for i, n in enumerate(t.shape)])
        if kind == "part":
            return t.narrow(d, 0, self.random.randrange(t.shape[d] + 1))
        if kind == "longer":
            return torch.cat([t, t], d)
        if kind == "rank":
            return t.unsqueeze(d) if self.random.random() < 0.5 else t.select(d, 0) if t.shape[d] else t
        odd = (
            lambda: t.to("meta"),
            lambda: t.to_sparse() if t.dtype in FLOATS else None,
            lambda: torch._neg_view(t),  # to be negated by whoever reads it
            lambda: torch.empty_like(t).set_(),
            lambda: None,
        )
        return self.random.choice(odd)()

    def change(self, arguments):
        path, value = self.random.choice(list(leaves(arguments)))
        if isinstance(value, torch.Tensor):
            new = self.changed_tensor(value)
        elif isinstance(value, list):
            whole = [*value, *value[:1]]
            new = self.random.choice([value[:-1], whole, [], value[::-1], None])
        elif value is None:
            new = self.anything()
        else:
            new = self.random.choice(NUMBERS)
        exchange(arguments, path, new)

    # ---- calls as the functions make them ----------------------------------------------------------------------------

    def size(self):
        return self.random.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 17])

    def separable2d(self):
        height, width, terms = self.size(), self.size(), self.random.choice([1, 1, 2])
        dtype = self.random.choice(FLOATS)
        leading = [self.random.randrange(10) for _ in range(self.random.randrange(4))]
        left = self.packed(terms, self.size(), height, dtype=self.random.choice([torch.float64, dtype]))
        return [self.packed(*leading, height, width, dtype=dtype), left, self.packed(terms, self.size(), width)]

    def _separable2d(self):
        x, left, right = self.separable2d()
        return [x, left.mT, right.mT, True] if self.random.random() < 0.5 else [x, left, right, False]

    def pool2d(self):
        leading = [self.random.randrange(10) for _ in range(self.random.randrange(4))]
        x = self.packed(*leading, self.size(), self.size(), dtype=self.random.choice(FLOATS))
        pool, variant = self.random.choice(["flc", "asap"]), self.random.choice(["centered", "upstream"])
        stride = [2, 2] if variant == "upstream" else [self.random.randrange(1, 5) for _ in range(2)]
        return [x, pool, stride, variant]

    def alias_l1(self):
        stride = [self.random.randrange(1, 5) for _ in range(2)]
        size = [self.size(), self.size()]
        leading = [self.random.randrange(10) for _ in range(self.random.randrange(4))]
        tables = [list(designs.alias_tables(n, s)) for n, s in zip(size, stride)]
        return [self.packed(*leading, *size, dtype=self.random.choice(FLOATS)), *tables, stride]

    def alias_l1_backward(self):
        x, *rest = self.alias_l1()
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return [self.packed(*x.shape[:-2], dtype=wide), x, *rest]

    def layer(self, dtypes=FLOATS):
        """x, weight, the strided output's size, and the geometry."""
        groups, dtype = self.random.choice([1, 1, 1, 2, 3]), self.random.choice(dtypes)
        inputs, outputs = (groups * self.random.choice([1, 2, 3, 4, 17]) for _ in range(2))
        kernel = [self.random.choice([1, 1, 2, 3]) for _ in range(2)] if self.random.random() < 0.7 else [1, 1]
        stride = [self.random.randrange(1, 4) for _ in range(2)]
        padding = [self.random.randrange(3) for _ in range(2)] if self.random.random() < 0.6 else [0, 0]
        dilation = [self.random.randrange(1, 3) for _ in range(2)]
        size = [self.size() + d * (k - 1) for d, k in zip(dilation, kernel)]
        geometry = list(zip(size, kernel, stride, padding, dilation))
        make = self.random.choice([designs.conv_tables, designs.conv_tables_with_taps])
        tables = [list(make(*axis)) for axis in geometry]
        stride_1 = [designs.correlation_size(n, k, p, d) for n, k, _, p, d in geometry]
        strided = [designs.output_size(n, s) for n, s in zip(stride_1, stride)]
        x = self.packed(self.random.randrange(5), inputs, *size, dtype=dtype)
        weight = self.packed(outputs, inputs // groups, *kernel, dtype=dtype)
        return x, weight, strided, [*tables, stride, padding, dilation, groups]

    def conv2d_alias_l1(self, dtypes=FLOATS):
        x, weight, strided, geometry = self.layer(dtypes)
        output = self.packed(x.shape[0], weight.shape[0], *strided, dtype=x.dtype)
        bias = self.packed(weight.shape[0], dtype=x.dtype)
        return [x, weight, *self.random.choice([(None, None), (None, output), (bias, output)]), *geometry]

    def _conv2d_alias_l1_training(self):
        return self.conv2d_alias_l1((torch.float64, torch.float32))

    def conv2d_alias_l1_backward(self):
        x, weight, _, geometry = self.layer()
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return [self.packed(x.shape[0], weight.shape[0], dtype=wide), x, weight, *geometry]

    def _conv2d_alias_l1_training_backward(self):
        x, weight, strided, geometry = self.layer((torch.float64, torch.float32))
        maps = x.shape[0], weight.shape[0]
        return [self.packed(*maps, dtype=x.dtype), self.packed(*maps, *strided, dtype=x.dtype), x, weight, *geometry]

    _conv2d_alias_l1_through_output_backward = _conv2d_alias_l1_training_backward

    def _conv2d_alias_l1_low_gradient(self):
        x, weight, strided, geometry = self.layer((torch.float64, torch.float32))
        output_gradient = self.packed(x.shape[0], weight.shape[0], *strided, dtype=x.dtype)
        dweight = self.packed(*weight.shape, dtype=x.dtype)
        return [output_gradient, x, weight, self.packed(*x.shape, dtype=x.dtype), dweight, *geometry]

    def _conv2d_alias_l1_low_part(self):
        output_gradient, x, weight, _, _, *geometry = self._conv2d_alias_l1_low_gradient()
        return [output_gradient, x, weight, *geometry]

    def _conv2d_alias_l1_tap_gradient(self):
        x, weight, strided, (*_, stride, padding, dilation, groups) = self.layer((torch.float64, torch.float32))
        maps = x.shape[0], weight.shape[0]
        axes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation)
        gradients = self.packed(*maps, dtype=x.dtype), self.packed(*maps, *strided, dtype=x.dtype)
        tables = [designs.conv_tables_with_taps(*axis)[:] for axis in axes]
        return [*gradients, x, weight, *tables, stride, padding, dilation, groups]

    def _residual_l1_gradient(self):
        dtype = self.random.choice((torch.float64, torch.float32))
        maps, size = [self.random.randrange(6) for _ in range(2)], [self.size(), self.size()]
        tables = [designs.dft_rows(n) for n in size]
        return [self.packed(*maps, dtype=dtype), self.packed(*maps, *size, dtype=dtype), *tables]


# What an op writes besides its results, by place among its arguments.
WRITTEN = {"_conv2d_alias_l1_low_gradient": (3, 4), "_residual_l1_gradient": (1,)}
NAMES = sorted(
    name.removeprefix("alias_ops::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("alias_ops::") and not name.startswith("alias_ops::_cuda_")  # those take tensors on a GPU
)


def bytes_of(t):
    return torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage())


def watched(name, arguments):
    """(storage's bytes, copy of them, which of them may change) of every tensor among the arguments."""
    writable = {}
    for place in WRITTEN.get(name, ()):
        t = arguments[place] if place < len(arguments) else None
        if in_memory(t) and t.numel() and max(t.shape, default=0) < 10**6:
            mask = torch.zeros(len(bytes_of(t)) // t.element_size(), t.element_size(), dtype=torch.bool)
            rows = torch.arange(len(mask)).as_strided(t.shape, t.stride(), t.storage_offset())
            mask[rows.flatten()] = True
            writable.setdefault(t.untyped_storage().data_ptr(), []).append(mask.flatten())
    for _, t in leaves(arguments):
        if in_memory(t):
            here = bytes_of(t)
            masks = [m for m in writable.get(t.untyped_storage().data_ptr(), []) if len(m) == len(here)]
            yield here, here.clone(), torch.stack(masks).any(0) if masks else None


def one_call(fuzzer, name):
    arguments = getattr(fuzzer, name)()
    for _ in range(fuzzer.random.choice([0, 0, 1, 1, 1, 2, 3])):
        with suppress(RuntimeError):  # PyTorch does not make every tensor that is asked for
            fuzzer.change(arguments)
    print(name, describe(arguments), flush=True)
    before = list(watched(name, arguments))
    try:
        getattr(OPS, name)(*arguments)
        returned = True
    except SystemError:
        raise  # the interpreter's own invariants
    except Exception as error:
        if "INTERNAL ASSERT" in str(error):
            raise
        returned = False
    for now, copy, writable in before:
        changed = now != copy
        assert not (changed if writable is None else changed & ~writable).any(), "wrote where it must not"
    return returned


def main(seed, cases, names=()):
    unbounded = resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    if unbounded and "asan" not in os.environ.get("LD_PRELOAD", ""):  # which reserves terabytes for itself
        resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))  # absurd sizes fail to be allocated
    warnings.simplefilter("ignore")
    for name in names or NAMES:
        fuzzer = Fuzzer(seed)
        returned = sum(one_call(fuzzer, name) for _ in range(cases))
        print("returned", name, returned, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
