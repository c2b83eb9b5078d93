"""What nvcc makes of the CUDA C++ kernels of separable2d, without a GPU: registers, shared memory, instructions.

    python -m benchmarks.sass [--arch sm_90] [--types "float, 3" ...] [--sides 56 112 ...]

Instructions are counted in the machine code by cuobjdump, of the CUDA toolkit or of Triton's package; loops that stay
loops (over tiles, tasks and groups) count once.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
FORMS = {"kDense": "dense", "kHalfIn": "half-band", "kHalfOut": "half-band"}
COUNTED = ("HMMA", "LDS", "STS", "LDGSTS", "STG", "FFMA", "BAR")
PRINT = """
#include <cstdio>
#include <vector>
using namespace alias_ops::cuda;
int main() { for (const SeparablePlan& p : std::vector<SeparablePlan>{PLANS})
  std::printf("%d %d %d\\n", p.shared_bytes(), p.threads(), p.maps); }
"""


def tool(name: str) -> str:
    """A tool of the CUDA toolkit, or of Triton's package."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which(name) or shutil.which(name, path=f"{home}/bin")
    if found is None:
        try:
            import triton

            found = str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)
        except ImportError:
            sys.exit(f"no {name}: neither the CUDA toolkit nor Triton is here")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--types", nargs="*", default=["float, 3", "BFloat16, 1"])
    parser.add_argument("--sides", nargs="*", type=int, default=[8, 14, 16, 28, 32, 56, 64, 112])
    arguments = parser.parse_args()
    cases = [
        (kind, *((side // 2, side) if grows else (side, side // 2)), form)
        for kind in arguments.types
        for side in arguments.sides
        for form, grows in (("kHalfIn", 0), ("kHalfOut", 1), ("kDense", 0), ("kDense", 1))
    ]
    if not (ROOT / "csrc" / "cuda").is_dir():
        sys.exit("the kernels' sources are not here: this needs a checkout")
    include = f"-I{ROOT / 'csrc' / 'cuda'}"
    with tempfile.TemporaryDirectory() as place:
        source, cubin, program = (Path(place, name) for name in ("k.cu", "k.cubin", "plans"))
        text = '#include "separable2d_kernel.h"\nusing namespace alias_ops::cuda;\n'
        plans = []
        for kind, size, out, form in cases:
            dtype, products = kind.split(", ")
            kernel = f"<{dtype}, {size}, {out}, Form::{form}, {products}>"
            text += f"template __global__ void alias_ops::cuda::separable2d_kernel{kernel}(const {dtype}*, {dtype}*, "
            text += "const char*, int64_t);\n"
            plans.append(f"SeparablePlan({size}, {out}, {4 if dtype == 'float' else 2}, Form::{form})")
        source.write_text(text)
        flags = ["-std=c++17", "-O3", f"-arch={arguments.arch}", include, "-Xptxas", "-v", "-cubin"]
        log = subprocess.run([tool("nvcc"), *flags, source, "-o", cubin], capture_output=True, text=True, check=True)
        listing = subprocess.run([tool("cuobjdump"), "-sass", cubin], capture_output=True, text=True, check=True).stdout
        host = Path(place, "plans.cpp")
        host.write_text('#include "separable2d_plan.h"\n' + PRINT.replace("PLANS", ", ".join(plans)))
        subprocess.run(["g++", "-std=c++17", include, str(host), "-o", str(program)], check=True)
        sizes = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    registers = {
        part.split("'")[0]: (int(re.search(r"Used (\d+)", part)[1]), int(re.search(r"(\d+) bytes spill st", part)[1]))
        for part in log.stderr.split("Compiling entry function '")[1:]
    }
    code = {part.split("\n")[0].strip(): part for part in listing.split("Function : ")[1:]}
    print("| kernel | registers, spilled | shared KB | warps x blocks | maps | " + " | ".join(COUNTED) + " | all |")
    print("|---" * (6 + len(COUNTED)) + "|")
    for (kind, size, out, form), plan in zip(cases, sizes, strict=True):
        shared, threads, maps = map(int, plan.split())
        number = {"kDense": 0, "kHalfIn": 1, "kHalfOut": 2}[form]
        pattern = (
            rf"I\w*?{'f' if kind.startswith('float') else kind.split(', ')[0]}\w*Li{size}ELi{out}E\w*FormE{number}"
        )
        (name,) = [n for n in registers if re.search(pattern + rf"ELi{kind[-1]}E", n)]
        used, spilled = registers[name]
        instructions = re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", code[name])
        counts = [sum(i.split(".")[0] == c for i in instructions) for c in COUNTED]
        blocks = min(2048 // threads, 65536 // (threads * -(-used // 8) * 8), 228 * 1024 // (shared + 1024))
        label = f"{size} to {out}, {FORMS[form]}, {kind.split(', ')[0]}{' 3xTF32' if kind[-1] == '3' else ''}"
        cells = [label, f"{used}, {spilled}", f"{shared / 1024:.0f}", f"{threads // 32} x {blocks}", maps, *counts]
        print("| " + " | ".join(map(str, [*cells, len(instructions)])) + " |")


if __name__ == "__main__":
    main()
