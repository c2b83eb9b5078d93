"""Mutation testing of the designs and the public functions: one small change at a time, and a test has to fail.

    python tests/mutants.py [--again] [MODULE ...]    # `make mutants` runs all; --again: survivors of the last run

The changes are cosmic-ray's, of its standard operators the ones in CHANGES. Its own runner starts Python for every
mutant, most of whose time is the import of torch. Here a process that has imported torch, and nothing of alias_ops,
forks for each instead. The mutants are written into a copy of the checkout in build/mutants, with the results.

MUTANTS.md says which mutants survive and why.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "mutants"
COPY, RESULTS, LOG = FOLDER / "checkout", FOLDER / "results.jsonl", FOLDER / "output.txt"

# File by file until one fails, the closest first: to collect the tests of one costs more than a mutant's first failure.
AXES, CONVOLUTIONS, GOLDEN = "test_designs.py", "test_designs_conv2d.py", "test_golden.py"
TESTS = {
    "alias_ops/designs/_cache.py": (AXES, "test_func.py -k cached", "test_onnx.py -k leading_dimensions"),
    "alias_ops/designs/_roots.py": (CONVOLUTIONS, AXES),
    "alias_ops/designs/aliasing.py": (AXES, CONVOLUTIONS, GOLDEN),
    "alias_ops/designs/conv2d.py": (CONVOLUTIONS, AXES, GOLDEN),
    "alias_ops/designs/conv2d_lines.py": (CONVOLUTIONS, AXES, GOLDEN),
    "alias_ops/designs/pooling.py": (AXES, GOLDEN),
    "alias_ops/designs/spectrum.py": (AXES, GOLDEN),
    "alias_ops/functional.py": (
        *("test_errors.py", "test_nn.py", GOLDEN, "test_large_maps.py", "test_transforms.py -k autocast"),
        *("test_layers_in_use.py -k 'numbers or dtensors'", "test_onnx.py -k leading_dimensions"),
    ),
}

# One partner an operator: which one of ten it is turned into says little more than whether a test looks at it.
BINARY = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Div Mod_Div Pow_Mul BitOr_BitAnd BitAnd_BitOr".split()
COMPARISON = "Eq_NotEq NotEq_Eq Lt_LtE LtE_Lt Gt_GtE GtE_Gt Is_IsNot IsNot_Is".split()
UNARY = "USub_UAdd Delete_Not Delete_Invert".split()
CHANGES = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in BINARY),
    *(f"ReplaceComparisonOperator_{pair}" for pair in COMPARISON),
    *(f"ReplaceUnaryOperator_{pair}" for pair in UNARY),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer"),
    *("RemoveDecorator", "ZeroIterationForLoop"),
)

# Of a mutant: seconds, and bytes of addresses. One that loops or fills the memory is killed by that.
LIMIT, MEMORY = 120, 16 * 2**30
OUTCOMES = {0: "survived", 1: "failed a test", 2: "failed at import", 4: "failed at import"}


class Mutant(NamedTuple):
    """A changed module: where and how, and its text."""

    module: str
    line: int
    change: str
    occurrence: int
    text: str

    def key(self) -> tuple[str, str, int]:
        return self.module, self.change, self.occurrence


def mutants(module: str) -> Iterator[Mutant]:
    text = (ROOT / module).read_text()
    for change in CHANGES:
        operator = get_operator(f"core/{change}")()
        places = [place for node in ast_nodes(get_ast(text)) for place in operator.mutation_positions(node)]
        for occurrence, ((line, _), _) in enumerate(places):
            yield Mutant(module, line, change, occurrence, mutate_code(text, operator, occurrence))


def tested(tests: tuple[str, ...]) -> str:
    """What becomes of the copy as it lies there, each file of tests in a process that ends with the answer."""
    return next((outcome for outcome in map(tested_by, tests) if outcome != "survived"), "survived")


def tested_by(tests: str) -> str:
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        with LOG.open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        status = 3
        try:
            os.chdir(COPY)
            sys.path[:0] = [str(COPY), str(COPY / "tests")]
            status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *shlex.split(f"tests/{tests}")]))
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return OUTCOMES.get(status, "took too long" if status == -signal.SIGALRM else f"ended the process ({status})")


def say_what_changed(mutant: Mutant) -> str:
    lines = zip((ROOT / mutant.module).read_text().splitlines(), mutant.text.splitlines())
    before, after = next(((a, b) for a, b in lines if a != b), ("", "(nothing)"))
    return f"{mutant.module}:{mutant.line}  {mutant.change}\n    - {before.strip()}\n    + {after.strip()}"


def prepare() -> None:
    shutil.rmtree(COPY, ignore_errors=True)
    for folder in ("alias_ops", "tests"):
        shutil.copytree(ROOT / folder, COPY / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", COPY)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)}")
    parser.add_argument("--again", action="store_true", help="only what survived the last run")
    arguments = parser.parse_args()
    unknown = set(arguments.modules) - set(TESTS)
    if unknown:
        parser.error(f"MODULE must be one of {', '.join(TESTS)}, got {', '.join(sorted(unknown))}")
    chosen = [m for module in arguments.modules or TESTS for m in mutants(module)]
    if arguments.again:
        outcomes = {tuple(key): outcome for key, outcome in map(json.loads, RESULTS.read_text().splitlines())}
        chosen = [m for m in chosen if outcomes.get(m.key()) == "survived"]
    prepare()
    for tests in {TESTS[m.module] for m in chosen}:
        start = time.perf_counter()
        if tested(tests) != "survived":
            print(f"the tests fail without a mutant:\n{LOG.read_text()}")
            return 1
        print(f"{', '.join(tests)}: {time.perf_counter() - start:.0f} s", flush=True)
    counts: Counter[str] = Counter()
    with RESULTS.open("a" if arguments.again else "w") as results:
        for number, mutant in enumerate(chosen, 1):
            target = COPY / mutant.module
            target.write_text(mutant.text)
            outcome = tested(TESTS[mutant.module])
            shutil.copy(ROOT / mutant.module, target)
            counts[outcome] += 1
            results.write(json.dumps([mutant.key(), outcome]) + "\n")
            results.flush()
            if outcome == "survived":
                print(f"{number}/{len(chosen)} {say_what_changed(mutant)}", flush=True)
    print(f"{len(chosen)} mutants: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    return 0


if __name__ == "__main__":
    # The copies change within a second and keep their length, which is all that a cached compilation goes by.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    import numpy  # noqa: F401
    import pytest
    import torch  # noqa: F401

    sys.exit(main())
