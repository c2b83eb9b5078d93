"""Mutation testing of the designs and the public functions: one small change at a time, and a test has to fail.

    python tests/mutants.py [--again] [MODULE ...]    # `make mutants` runs all; --again: survivors of the last run

The changes are cosmic-ray's, of its standard operators the ones in CHANGES. Its own runner starts Python for every
mutant, and most of the time goes into importing torch and collecting tests. Here both are done once: a process that
has collected the tests forks for each mutant, and the child exchanges the code of the changed function before it runs
them. What a module does when it is imported (decorators, defaults) cannot be exchanged: such mutants are written into
a copy of the checkout, build/mutants, and a process that has imported nothing of alias_ops runs the tests there.

MUTANTS.md says which mutants survive and why.
"""

import argparse
import gc
import inspect
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import _lru_cache_wrapper
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "mutants"
COPY, RESULTS, LOG = FOLDER / "checkout", FOLDER / "results.jsonl", FOLDER / "output.txt"

# Files of tests, the closest first, and what of them: whose name has one of the words. A failure ends them.
AXES, CONVOLUTIONS = "test_designs.py", "test_designs_conv2d.py"
POOLINGS = "test_golden.py variant_is"
TESTS = {
    "alias_ops/designs/_cache.py": (
        *(AXES, "test_func.py cached", "test_onnx.py leading_dimensions", "test_transforms.py one_graph"),
    ),
    "alias_ops/designs/_roots.py": (AXES, CONVOLUTIONS),
    "alias_ops/designs/spectrum.py": (AXES, POOLINGS),
    "alias_ops/designs/pooling.py": (AXES, POOLINGS),
    "alias_ops/designs/aliasing.py": (f"{AXES} subsample low_ dft residual tables designs_", CONVOLUTIONS),
    "alias_ops/designs/conv2d_lines.py": (CONVOLUTIONS, f"{AXES} designs_"),
    "alias_ops/designs/conv2d_taps.py": (CONVOLUTIONS, f"{AXES} designs_"),
    "alias_ops/designs/conv2d.py": (CONVOLUTIONS, f"{AXES} designs_ memory"),
    "alias_ops/functional.py": (
        *("test_errors.py", "test_nn.py", "test_conv2d_alias_l1.py unbatched at_its_word", "test_golden.py is_the"),
        *("test_transforms.py autocast", "test_layers_in_use.py numbers dtensors", "test_onnx.py leading_dimensions"),
        "test_large_maps.py",
    ),
}
# Whose functions run when others are imported.
DECORATORS = ("alias_ops/designs/_cache.py",)
# Long ones that see what others see.
WITHOUT = ("at_large_sizes", "largest_stride")

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

# Of a mutant: seconds of computing, and bytes of addresses. One that loops or fills the memory is killed by that.
LIMIT, MEMORY = 30, 16 * 2**30
# Status of a process in which something else went wrong than a test.
NEITHER = 70


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


# ---- code in place of code -------------------------------------------------------------------------------------------


def parts(code: CodeType) -> tuple:
    """What runs when a module or the body of a class does, with functions as so many blanks, and the functions."""
    blank, functions = [], []
    for constant in code.co_consts:
        if not isinstance(constant, CodeType):
            blank.append(repr(constant))
        elif constant.co_flags & inspect.CO_OPTIMIZED:
            blank.append("")
            functions.append(constant)
        else:
            shape, inside = parts(constant)
            blank.append(shape)
            functions += inside
    return (code.co_code, code.co_names, tuple(blank)), functions


def exchanged(module: str, text: str) -> dict[CodeType, CodeType] | None:
    """Code for code of the functions, None if the change shows in an import."""
    if module in DECORATORS:
        return None
    path = str(COPY / module)
    (shape, before), (new_shape, after) = (parts(compile(t, path, "exec")) for t in ((ROOT / module).read_text(), text))
    return dict(pairs(before, after)) if shape == new_shape else None


def pairs(before: list[CodeType], after: list[CodeType]) -> Iterator[tuple[CodeType, CodeType]]:
    """With the functions inside of functions: of those that are there already, the outer one's code makes no others."""
    for old, new in zip(before, after, strict=True):
        yield old, new
        inside = ([c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new))
        yield from pairs(*inside)


def exchange(codes: dict[CodeType, CodeType]) -> None:
    places = {(old.co_filename, old.co_name, old.co_firstlineno): new for old, new in codes.items() if old != new}
    found = 0
    for thing in gc.get_objects():
        if type(thing) is FunctionType:  # isinstance would ask things that warn of being asked
            code = thing.__code__
            new = places.get((code.co_filename, code.co_name, code.co_firstlineno))
            if new is not None:
                thing.__code__ = new
                found += 1
        elif type(thing) is _lru_cache_wrapper and str(thing.__module__).startswith("alias_ops"):
            thing.cache_clear()
    assert found, "the change is in no function that there is"


# ---- tests -----------------------------------------------------------------------------------------------------------


def forked(function: Callable[[], int]) -> str:
    """What becomes of a process of its own that does this and ends with its result."""
    child = os.fork()
    if child == 0:
        status = NEITHER
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 5))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            status = int(function())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status != NEITHER, "no test says so, see the output"
    ends = {0: "survived", 1: "failed a test", 2: "failed at import", 4: "failed at import"}
    return ends.get(status, "computed too long" if status == -signal.SIGXCPU else f"ended with {status}")


class Session:
    """Selects tests, and runs them: as they are, or once for each mutant."""

    def __init__(self, tests: tuple[str, ...], loop: Callable[[Callable[[], int]], None] | None = None) -> None:
        self.words = {entry.split()[0]: entry.split()[1:] for entry in tests}
        self.loop = loop

    def pytest_collection_modifyitems(self, items: list) -> None:
        def wanted(item) -> bool:
            words = self.words[item.path.name]
            return (not words or any(w in item.name for w in words)) and not any(w in item.name for w in WITHOUT)

        items[:] = [item for item in items if wanted(item)]

    def pytest_runtestloop(self, session) -> bool:
        def run() -> int:
            for item, following in zip(session.items, [*session.items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.testsfailed:
                    return 1
            return 0

        if session.testsfailed:
            raise session.Interrupted("not all tests could be collected")
        self.loop(run) if self.loop else run()
        return True


def pytest_of(tests: tuple[str, ...], loop: Callable[[Callable[[], int]], None] | None = None) -> int:
    with LOG.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(COPY)
    sys.path[:0] = [str(COPY), str(COPY / "tests")]
    files = [f"tests/{entry.split()[0]}" for entry in tests]
    return int(pytest.main(["-q", "-p", "no:cacheprovider", *files], plugins=[Session(tests, loop)]))


def say(mutant: Mutant, outcome: str) -> None:
    with RESULTS.open("a") as results:
        results.write(json.dumps([mutant.key(), outcome]) + "\n")
    if outcome == "survived":
        lines = zip((ROOT / mutant.module).read_text().splitlines(), mutant.text.splitlines())
        before, after = next(((a, b) for a, b in lines if a != b), ("", "(nothing)"))
        where = f"{mutant.module}:{mutant.line}  {mutant.change}"
        os.write(TERMINAL, f"{where}\n    - {before.strip()}\n    + {after.strip()}\n".encode())


def test(module: str, chosen: list[Mutant]) -> str:
    """Say of every mutant of a module what became of it; returns what is wrong without any."""
    codes = {mutant: exchanged(module, mutant.text) for mutant in chosen}

    def loop(run: Callable[[], int]) -> None:
        assert forked(run) == "survived"
        for mutant, code in codes.items():
            if code is not None:
                say(mutant, forked(lambda c=code: exchange(c) or run()))

    if forked(lambda: pytest_of(TESTS[module], loop)) != "survived":
        return LOG.read_text()
    for mutant, code in codes.items():
        if code is None:
            (COPY / module).write_text(mutant.text)
            say(mutant, forked(lambda: pytest_of(TESTS[module])))
            shutil.copy2(ROOT / module, COPY / module)
    return ""


def outcomes() -> dict[tuple, str]:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {tuple(key): outcome for key, outcome in map(json.loads, lines)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)}")
    parser.add_argument("--again", action="store_true", help="only what survived the last run")
    arguments = parser.parse_args()
    unknown = set(arguments.modules) - set(TESTS)
    if unknown:
        parser.error(f"MODULE must be one of {', '.join(TESTS)}, got {', '.join(sorted(unknown))}")
    shutil.rmtree(COPY, ignore_errors=True)
    for folder in ("alias_ops", "tests"):
        shutil.copytree(ROOT / folder, COPY / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", COPY)
    modules = arguments.modules or list(TESTS)
    earlier = outcomes()
    if not arguments.again:
        others = [json.dumps(result) + "\n" for result in earlier.items() if result[0][0] not in modules]
        RESULTS.write_text("".join(others))
    for module in modules:
        chosen = [m for m in mutants(module) if not arguments.again or earlier.get(m.key()) == "survived"]
        wrong = test(module, chosen) if chosen else ""
        if wrong:
            print(f"{module}: its tests fail without a mutant\n{wrong}")
            return 1
        counts = Counter(outcome for key, outcome in outcomes().items() if key[0] == module)
        print(f"{module}: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()), flush=True)
    total = Counter(outcomes().values())
    print(f"{total.total()} mutants: " + ", ".join(f"{count} {outcome}" for outcome, count in total.most_common()))
    return 0


if __name__ == "__main__":
    # By its date and length the compilation of one mutant could be taken for the next one's.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    TERMINAL = os.dup(1)
    import pytest
    import torch  # noqa: F401

    sys.exit(main())
