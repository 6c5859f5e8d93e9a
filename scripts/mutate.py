"""Mutation testing: how many small faults, put into the code one at a time, do the tests find?

    python scripts/mutate.py --map build/mutation.json --sample 200 --seed 1 --output mutants.md   # an hour or two of one core
    python scripts/mutate.py --map build/mutation.json --only matching/windows.py --sample 0       # all mutants of a file

A mutant is the package with one expression or statement changed: a comparison, an operator, a constant, a condition, an argument, a call that
is left out. It is killed if a test fails, or hangs, and survives if all pass. The sample is the same for the same seed and code, and a change of the code
leaves the rest of it as it is.

The tests of a mutant are those that execute its line, and those of the test file that mirrors the module; the quick ones run first, as many as a minute
allows, and in any case those of the folder that mirrors the module's. Which these are is measured once and kept in the file `--map`; delete it when tests have changed. Tests marked `slow` are left out.

mutmut and cosmic-ray do not fit: mutmut routes every function through a trampoline, which numba cannot compile and which the exporter of the Hub would
upload, and leaves constants of modules and defaults of dataclasses alone; cosmic-ray changes the checkout in place and starts an interpreter for every
mutant, which here takes seconds to load torch and transformers. Here the mutants are forks of one process that has loaded what the
package needs, on a copy of the checkout made of links.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("matching", "tracking", "io", "metrics", "kernels", "coordinates.py", *(
    f"training/{name}.py"
    for name in ("objectives", "tracking_objective", "window_losses", "window_targets", "window_tiles", "ancestors/uvc", "ancestors/time_cycle")
))  # fmt: skip
ELSEWHERE = ("demo", "real", "hub", "docs", "conversion", "transformers_shared")  # folders of tests of other parts
TEST_BUDGET = 60.0  # seconds of a processor for the tests of a mutant, by the times of the unchanged code
CAPTURE = ("-q", "-x", "-o", "addopts=", "-p", "no:cacheprovider", "--no-header", "--tb=no")

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
NAMES = {"min": "max", "any": "all", "argmin": "argmax", "minimum": "maximum", "floor": "ceil", "zeros": "ones", "zeros_like": "ones_like",
         "amin": "amax", "sum": "mean", "cumsum": "cumprod", "sin": "cos", "argsort": "sort", "lstrip": "rstrip", "append": "extend"}  # fmt: skip
SYMMETRIC = {"min", "max", "minimum", "maximum", "hypot", "transpose", "swapaxes"}  # two arguments in either order
UNSEEN = {"annotation", "returns", "decorator_list", "type_params"}
NAMES |= {new: old for old, new in NAMES.items()}


class Mutant(NamedTuple):
    """One change of one file of the package: the text from `start` to `end` becomes `new`."""

    path: str
    place: str
    line: int
    start: int
    end: int
    new: str

    def rank(self, seed: int, text: str) -> str:
        """A random number of the mutant, which other changes of the code leave as it is."""
        return hashlib.sha1(f"{seed} {self.path} {self.place} {text} {self.new}".encode()).hexdigest()


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node is changed to."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                yield changed(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not isinstance(node.left, ast.JoinedStr):
        yield changed(node, op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from constants(node.value)
    elif isinstance(node, ast.Call):
        yield from calls(node)
    elif isinstance(node, ast.IfExp):
        yield changed(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.AugAssign | ast.Raise) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield ast.Pass()
    elif isinstance(node, ast.Break | ast.Continue):
        yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()
    elif isinstance(node, ast.Slice) and node.upper and not isinstance(node.upper, ast.Constant):
        yield changed(node, upper=ast.BinOp(node.upper, ast.Add(), ast.Constant(1)))


def constants(value: object) -> Iterator[ast.AST]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
        if value > 1:
            yield ast.Constant(value - 1)
    elif isinstance(value, float):
        yield ast.Constant(value * 1.5 if value else 1.0)


def calls(node: ast.Call) -> Iterator[ast.AST]:
    """Another function, two arguments in the other order, a named argument left out; not what only checks, or says what holds without it."""
    function = node.func
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    if isinstance(function, ast.Name) and function.id in NAMES:
        yield changed(node, func=ast.Name(NAMES[function.id]))
    elif isinstance(function, ast.Attribute) and function.attr in NAMES:
        yield changed(node, func=ast.Attribute(function.value, NAMES[function.attr]))
    either_order = name in SYMMETRIC and len(node.args) == 2
    if len(node.args) >= 2 and not either_order and not any(isinstance(one, ast.Starred) for one in node.args):
        yield changed(node, args=[node.args[1], node.args[0], *node.args[2:]])
    for i, keyword in enumerate(node.keywords):
        if keyword.arg and not changes_nothing(keyword):
            yield changed(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])


def changes_nothing(node: ast.AST) -> bool:
    """Whether a named argument is a check of lengths (`zip`), or says that a tensor is made on the CPU."""
    return isinstance(node, ast.keyword) and (node.arg == "strict" or ast.unparse(node) == "device='cpu'")


def changed(node: ast.AST, **fields) -> ast.AST:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def mutants_of(path: str) -> Iterator[Mutant]:
    """All mutants of a file of the package. Left alone: annotations, messages of errors and of the log, decorators, and what numba compiles."""
    text = (ROOT / path).read_bytes()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def mutant(place: str, old: ast.stmt | ast.expr, new: ast.AST) -> Mutant:
        start = starts[old.lineno - 1] + old.col_offset
        end = starts[(old.end_lineno or 0) - 1] + (old.end_col_offset or 0)
        piece = ast.unparse(ast.fix_missing_locations(new))
        return Mutant(path, place, old.lineno, start, end, f"({piece})" if isinstance(new, ast.expr) else piece)

    def visit(node: ast.AST, place: str) -> Iterator[Mutant]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if any("jit" in ast.unparse(one) for one in node.decorator_list):
                return
            place = f"{place}.{node.name}".lstrip(".")
        if isinstance(node, ast.If | ast.While):  # only the condition is replaced
            yield mutant(place, node.test, ast.UnaryOp(ast.Not(), node.test))
        elif isinstance(node, ast.stmt | ast.expr):
            for new in changes(node):
                yield mutant(place, node, new)
        for name, value in ast.iter_fields(node):
            if name not in UNSEEN and not isinstance(node, ast.Raise | ast.JoinedStr) and not is_message(node):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST) and not changes_nothing(child):
                        yield from visit(child, place)

    yield from visit(ast.parse(text), "")


def is_message(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("logger.", "warnings."))


def all_mutants(only: list[str]) -> list[Mutant]:
    found = []
    for target in only:
        path = ROOT / "fgvc_hf" / target
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            if "triton" not in file.name and "evaluate_modules" not in file.parts:
                found += mutants_of(str(file.relative_to(ROOT)))
    return found


def source(path: str) -> bytes:
    return (ROOT / path).read_bytes()


def drawn(mutants: list[Mutant], seed: int, count: int) -> list[Mutant]:
    """`count` of the mutants by the order of their random numbers, or all for 0."""
    by_rank = sorted(mutants, key=lambda one: one.rank(seed, source(one.path)[one.start : one.end].decode()))
    return by_rank[: count or None]


def copy_of_checkout(folder: Path) -> Path:
    """A copy of the checkout in which every file is a link."""
    skipped = shutil.ignore_patterns(".git", ".venv", "build", "outputs", ".hypothesis", ".pytest_cache")
    link = lambda a, b: os.symlink(os.path.realpath(a), b)  # noqa: E731
    return Path(shutil.copytree(ROOT, folder / "checkout", copy_function=link, ignore=skipped))


def forget_machine_code(checkout: Path, mutant: Mutant) -> None:
    """Remove what numba has kept, for a mutant of its kernels: it does not see that a function of another file has changed."""
    if "/kernels/" in mutant.path:
        for kept in (checkout / "fgvc_hf").rglob("*.nb[ic]"):
            kept.unlink()


def environment(checkout: Path) -> dict[str, str]:
    plain = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return {"PYTHONPATH": str(checkout), **plain}


class Lines:
    """A plugin of pytest: the lines of the package that each test executes, and the seconds that it takes, of the clock and of processors."""

    def __init__(self, coverage):
        self.coverage, self.seconds, self.processor = coverage, {}, {}

    def pytest_runtest_logstart(self, nodeid):
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid], self.processor[nodeid] = -time.perf_counter(), -sum(os.times()[:4])

    def pytest_runtest_logfinish(self, nodeid):
        self.seconds[nodeid] += time.perf_counter()
        self.processor[nodeid] += sum(os.times()[:4])
        self.coverage.switch_context("")


class Alarm:
    """A plugin of pytest that ends the process when a test takes far longer than it did with the unchanged code."""

    def __init__(self, seconds: dict[str, float]):
        self.seconds = seconds

    def pytest_runtest_logstart(self, nodeid):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 20 + 10 * self.seconds[nodeid])


def measure_map(file: Path) -> None:
    """Write which fast tests execute which lines, and how long they take."""
    import coverage
    import pytest

    measured = coverage.Coverage(data_file=None, source=[str(ROOT / "fgvc_hf")], messages=False)
    lines = Lines(measured)
    measured.start()
    pytest.main(
        [*CAPTURE[:1], *CAPTURE[2:], "-m", "not slow", *(f"--ignore=tests/{name}" for name in ELSEWHERE), "tests"],
        plugins=[lines],
    )
    measured.stop()
    data = measured.get_data()
    executed = {os.path.relpath(path, ROOT): data.contexts_by_lineno(path) for path in data.measured_files()}
    file.parent.mkdir(parents=True, exist_ok=True)
    measures = {"seconds": lines.seconds, "processor": lines.processor, "executed": executed}
    file.write_text(json.dumps(measures), encoding="utf-8")


def tests_of(mutant: Mutant, measured: dict) -> list[str]:
    """Tests that can tell, those that execute the line first and of these the quick ones, as far as the budget goes; all of the same folder."""
    executed, seconds = measured["executed"].get(mutant.path, {}), measured["processor"]
    here = {test for test in executed.get(str(mutant.line), []) if test}
    folder = "/".join(("tests", *Path(mutant.path).parts[1:-1], ""))
    near = {test for test in here if test.startswith(folder)}
    if not here:  # executed when the module was imported, or by a test's thread: all that execute any of the file
        here = {test for tests in executed.values() for test in tests if test}
    mirror = re.compile(rf"tests/.*test_{re.escape(Path(mutant.path).stem)}\w*\.py::")
    mirrored = {test for test in seconds if mirror.match(test)}
    chosen, total = [], 0.0
    for test in sorted(here | mirrored, key=lambda one: (one not in here, one not in mirrored, seconds.get(one, 0.0))):
        total += seconds.get(test, 0.0)
        if test in seconds and (total <= TEST_BUDGET or test in near):
            chosen.append(test)
    return chosen


def load_libraries(checkout: Path) -> None:
    """Import what the package and pytest import, but not the package."""
    listing = "import sys, fgvc_hf, pytest; from fgvc_hf import *; print(*sys.modules)"
    names = subprocess.run(
        [sys.executable, "-c", listing],
        env=os.environ | environment(checkout),
        capture_output=True,
        text=True,
        check=True,
    )
    for name in names.stdout.split():
        if not name.startswith(("fgvc_hf", "__")):
            try:
                __import__(name)
            except Exception:  # noqa: S110 - a module that cannot be loaded alone is loaded by the mutant
                pass


def in_fork(checkout: Path, work, limit: float) -> int | None:
    """Exit status of `work()` in a fork, at the checkout and without output; None if it takes longer than `limit` seconds."""
    child = os.fork()
    if not child:
        os.setsid()
        quiet = os.open(os.environ.get("MUTATE_LOG", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        os.chdir(checkout)
        sys.path.insert(0, str(checkout))
        os.environ.update(environment(checkout))
        status = 1
        try:
            status = int(work() or 0)
        finally:
            os._exit(status)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def verdict(mutant: Mutant, checkout: Path, measured: dict) -> str:
    """`killed`, `hangs`, `survives`, or `untested`, of a mutant that is put into the copy and taken out again."""
    import pytest

    tests, place, text = tests_of(mutant, measured), checkout / mutant.path, source(mutant.path)
    if not tests:
        return "untested"
    mutated = text[: mutant.start] + mutant.new.encode() + text[mutant.end :]
    place.unlink()
    place.write_bytes(mutated)
    forget_machine_code(checkout, mutant)
    try:
        alarm = Alarm(measured["seconds"])
        status = in_fork(checkout, lambda: pytest.main([*CAPTURE, *tests], plugins=[alarm]), 1200)
    finally:
        place.unlink()
        place.symlink_to(ROOT / mutant.path)
        forget_machine_code(checkout, mutant)
    return "hangs" if status in (None, -signal.SIGALRM) else "survives" if status == 0 else "killed"


def shown(mutant: Mutant) -> str:
    """Where a mutant is, and its line with the change in brackets."""
    text = source(mutant.path)
    old, before = text[mutant.start : mutant.end].decode(), text[: mutant.start].rpartition(b"\n")[2].decode()
    after = text[mutant.end :].partition(b"\n")[0].decode()
    change = " ".join(f"{before}[{old} -> {mutant.new}]{after}".split())
    return f"{mutant.path}:{mutant.line} {mutant.place}: {change}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    about_map = "file that keeps which tests execute which lines; measured if it is not there"
    parser.add_argument("--map", type=Path, required=True, help=about_map)
    parser.add_argument("--sample", type=int, default=200, help="mutants; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(TARGETS), help="files and folders of the package")
    about_output = "a file that every verdict is added to; mutants that are in it are not tried again"
    parser.add_argument("--output", type=Path, help=about_output)
    about_least = "share in per cent that must be killed; status 1 if fewer are"
    parser.add_argument("--least", type=float, default=0.0, help=about_least)
    arguments = parser.parse_args()
    known = {}
    if arguments.output and arguments.output.is_file():
        lines = arguments.output.read_text(encoding="utf-8").splitlines()
        known = {line.partition(" ")[2]: line for line in lines}
    with tempfile.TemporaryDirectory() as folder:
        checkout = copy_of_checkout(Path(folder))
        load_libraries(checkout)
        if not arguments.map.is_file():
            place = arguments.map.absolute()
            in_fork(checkout, lambda: measure_map(place), 7200)
        measured = json.loads(arguments.map.read_text(encoding="utf-8"))
        sample = drawn(all_mutants(arguments.only), arguments.seed, arguments.sample)
        counts = Counter()
        for mutant in sample:
            line = known.get(shown(mutant)) or f"{verdict(mutant, checkout, measured)} {shown(mutant)}"
            counts[line.partition(" ")[0]] += 1
            print(line, flush=True)
            if arguments.output and shown(mutant) not in known:
                with arguments.output.open("a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
    killed = counts["killed"] + counts["hangs"]
    share = 100 * killed / max(1, len(sample))
    print(f"{killed} of {len(sample)} killed, {share:.1f} %: {dict(counts)}")
    sys.exit(share < arguments.least)


if __name__ == "__main__":
    main()
