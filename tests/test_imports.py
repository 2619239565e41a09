"""What imports what, that importing starts nothing, and that no kernel adds into shared memory."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ALLOWED = {
    "taichi_sim": set(),
    "tasks": {"taichi_sim"},
    "learner": {"taichi_sim", "tasks"},
    "viz": {"taichi_sim", "tasks"},
    "benchmarks": {"taichi_sim", "tasks", "learner", "viz"},
    "commands": {"taichi_sim", "tasks", "learner", "viz", "benchmarks"},
    "pods": {"taichi_sim", "learner", "commands"},
}
SOURCES = {name: sorted((ROOT / name).rglob("*.py")) for name in ALLOWED} | {"pods": [ROOT / "pods.py"]}


def imported(source: str) -> set[str]:
    """Top-level names of the modules that `source` imports, wherever in the file; relative imports stay inside."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, "a package imports from above itself"
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package):
    assert SOURCES[package]
    for path in SOURCES[package]:
        ours = imported(path.read_text()) & ALLOWED.keys() - {package}
        assert ours <= ALLOWED[package], path


def test_only_the_simulator_and_the_viewer_import_taichi():
    for package in ("tasks", "learner", "benchmarks", "commands", "pods"):
        for path in SOURCES[package]:
            assert not imported(path.read_text()) & {"taichi", "gstaichi", "quadrants"}, path


def test_the_walk_sees_an_import_hidden_in_a_function():
    source = "def f():\n    import learner.pods as l\n    from taichi.lang import impl\n    from . import here"
    assert imported(source) == {"learner", "taichi"}


def test_no_file_is_a_drawer_for_odds_and_ends():
    names = {path.stem.lower() for paths in SOURCES.values() for path in paths}
    assert not names & {"util", "utils", "common", "helper", "helpers", "misc", "manager"}


def test_importing_starts_no_taichi():
    """In a process of its own, every module of the packages and pods.py, but for those of the extra `bench`."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for paths in SOURCES.values()
        for path in paths
        if path.stem != "__main__" and "peers" not in path.parts
    ]
    assert {"taichi_sim.simulator", "tasks", "learner.pods", "viz.curves", "pods"} <= set(modules)
    code = f"""
import importlib
for module in {modules!r}:
    importlib.import_module(module)
import taichi_sim
assert not taichi_sim.runtime.started()
taichi_sim.init("cpu")
assert taichi_sim.runtime.started()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0 and done.stdout == "", done.stderr


# Kernels


def decorated(tree, decorator):
    """Functions under @ti.<decorator>."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            if any(ast.unparse(d).partition("(")[0] == f"ti.{decorator}" for d in node.decorator_list):
                yield node


def parameters(function):
    names = [argument.arg for argument in function.args.args]
    return names[names[:1] == ["self"] :]


def calls(function):
    """(name, arguments) of every call; a method by its last name."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            yield ast.unparse(node.func).rpartition(".")[2], node.args


def windows(function, arrays):
    """Names that `function` gives to windows of `arrays`."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = (target, node.value)
                names, values = (part.elts if isinstance(part, ast.Tuple) else [part] for part in pairs)
                for name, value in zip(names, values, strict=False):
                    if isinstance(name, ast.Name) and isinstance(value, ast.Subscript):
                        keys = value.slice.elts if isinstance(value.slice, ast.Tuple) else []
                        if keys and isinstance(keys[0], ast.Name) and keys[0].id in arrays:
                            found.add(name.id)
    return found


def additions_into_arrays(sources):
    """ "function: line" of every augmented assignment to an element of a kernel's ndarray, and every ti.atomic_*.

    Taichi makes atomics of them, whose order, and so whose rounding, changes from run to run. Arrays are followed
    into ti.funcs by position; functions are told apart by name and number of arguments. A name that is given a window
    of an array, `y = slot[array, b]`, stands for the array (see taichi_sim/loops.py), and so does y.name.
    """
    trees = [ast.parse(source) for source in sources]
    functions = [(f, set()) for tree in trees for f in decorated(tree, "func")]
    kernels = [
        (f, {argument.arg for argument in f.args.args if argument.annotation and "ndarray" in ast.unparse(argument)})
        for tree in trees
        for f in decorated(tree, "kernel")
    ]
    by_signature = {}
    for function, arrays in functions:
        by_signature.setdefault((function.name, len(parameters(function))), []).append((function, arrays))
    waiting = list(kernels)
    while waiting:
        function, arrays = waiting.pop()
        arrays |= windows(function, arrays)
        for name, arguments in calls(function):
            for callee, known in by_signature.get((name, len(arguments)), []):
                passed = {
                    parameter
                    for parameter, argument in zip(parameters(callee), arguments, strict=True)
                    if isinstance(argument, ast.Name) and argument.id in arrays
                }
                if not passed <= known:
                    known |= passed
                    waiting.append((callee, known))
    found = []
    for function, arrays in kernels + functions:
        for node in ast.walk(function):
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
                into = node.target.value.value if isinstance(node.target.value, ast.Attribute) else node.target.value
                if isinstance(into, ast.Name) and into.id in arrays:
                    found.append(f"{function.name}: {ast.unparse(node)}")
        found += [f"{function.name}: {name}" for name, _ in calls(function) if name.startswith("atomic_")]
    return len(kernels), sum(bool(arrays) for _, arrays in functions), found


def test_no_kernel_adds_into_an_array():
    kernels, reached, found = additions_into_arrays(path.read_text() for path in SOURCES["taichi_sim"])
    assert kernels >= 7 and reached >= 12  # rollout, three sweeps, two Gauss–Newton steps, the doctor's; functions
    assert found == []


PLANTED = """
@ti.kernel
def direct(x: ti.types.ndarray(ndim=1), y: ti.types.ndarray()):
    for i in range(4):
        z = ti.Matrix.zero(float, 2)
        z[0] += 1.0
        y[i] = y[i] + 1.0
        here, there = self.slot[i], self.slot[x, i]
        here[0] += 1.0
        KERNEL

@ti.func
def inner(out: ti.template(), b):
    INNER

@ti.func
def outer(b, into: ti.template()):
    inner(into, b)

@ti.kernel
def through(x: ti.types.ndarray(ndim=1)):
    outer(0, x)
"""


@pytest.mark.parametrize("kernel, inner, expected", [
    ("pass", "out[b] = 1.0", []),
    ("x[i] += 1.0", "pass", ["direct: x[i] += 1.0"]),
    ("ti.atomic_add(x[i], 1.0)", "pass", ["direct: atomic_add"]),
    ("there[0] += 1.0", "pass", ["direct: there[0] += 1.0"]),
    ("there.x[0] += 1.0", "pass", ["direct: there.x[0] += 1.0"]),
    ("pass", "out[b] -= 1.0", ["inner: out[b] -= 1.0"]),
    ("pass", "row = rows[out, b]; row[0] -= 1.0", ["inner: row[0] -= 1.0"]),
])  # fmt: skip
def test_the_walk_finds_additions_wherever_they_hide(kernel, inner, expected):
    source = PLANTED.replace("KERNEL", kernel).replace("INNER", inner)
    assert additions_into_arrays([source]) == (2, 2, expected)


def test_no_benchmark_hides_a_package_that_torch_looks_for():
    """A script's folder comes first in its path: `python benchmarks/points.py`."""
    program = "import sys; sys.path.insert(0, 'benchmarks'); import torch"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
