"""The rules of this repository: which package may import which, and where pjsua2 may be used."""

import ast
import re
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).resolve().parent.parent
OURS = {"engine", "rules", "sip", "store", "manager", "notify", "benchmarks", "tests"}
ALLOWED = {
    "engine": {"engine", "store", "rules", "sip"},
    "store": {"store", "rules"},
    "rules": {"rules"},
    "sip": {"sip"},
    "manager": {"manager", "engine", "store", "rules"},
    "notify": {"notify", "engine", "store", "rules"},
}
# The command line also includes the commands of page and notifications.
FRONT_DOOR = {"engine/commands/program.py": {"manager", "notify"}}
# The modules of the engine that the page and the notifications may use: none that handles calls.
PLAIN = {
    "engine.__version__",
    "engine.admin",
    "engine.changes.acks",
    "engine.commands",
    "engine.config",
    "engine.ports",
    "engine.explain",
    "engine.loop",
    "engine.telemetry.exposition",
    "engine.telemetry.log",
    "engine.records.record",
    "engine.embedded_redis",
}
# The modules that rules may import: no I/O, no waiting, no threads or processes.
PURE = {
    "__future__", "bisect", "collections", "dataclasses", "datetime", "difflib", "enum",
    "functools", "holidays", "ipaddress", "itertools", "math", "msgspec", "phonenumbers", "re",
    "typing", "urllib", "zoneinfo",
}  # fmt: skip
PHONE = {"pjsua2"}  # another SIP stack, for the phones of tests and demo


def imported(path: Path) -> Iterator[str]:
    """The top-level names that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[0]
            yield package if node.level else (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_in_one_direction_and_only_the_demo_imports_phones(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules, f"no modules in {package}"
    for module in modules:
        names, place = set(imported(module)), module.relative_to(ROOT)
        allowed = ALLOWED[package] | FRONT_DOOR.get(str(place), set())
        assert names & OURS <= allowed, f"{place} imports {names & OURS}"
        assert not names & PHONE or place.parts[:2] == ("engine", "demo"), place


def texts(module: Path) -> Iterator[str]:
    """The module's string literals. Of an f-string only the part before its first field."""
    parts: set[ast.expr] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"), str(module))):
        if isinstance(node, ast.JoinedStr):
            parts.update(node.values)
            node = node.values[0] if node.values else node
        elif node in parts:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")


def test_keys_of_redis_are_spelt_in_one_module() -> None:
    begin = {text for text in texts(ROOT / "store" / "keys.py") if re.fullmatch(r"[a-z:]+:", text)}
    assert {"line:", "standing:", "manager:account:"} <= begin
    spelt = re.compile(f"({'|'.join(begin)})[^ ]*")
    for module in sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py")):
        if module != ROOT / "store" / "keys.py":
            found = [text for text in texts(module) if spelt.fullmatch(text)]
            assert not found, f"{module.relative_to(ROOT)} spells {found}"


def modules_of(package: str) -> dict[str, Path]:
    """Its modules by import name."""
    paths = (ROOT / package).rglob("*.py")
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in paths}
    return {".".join(p for p in names if p != "__init__"): path for path, names in parts.items()}


def imports(path: Path, ours: Collection[str]) -> set[str]:
    """The modules of ours that one imports, including those only for type checkers."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name in ours}
        elif isinstance(node, ast.ImportFrom):
            whole = node.module or ""
            names = {f"{whole}.{name.name}" for name in node.names}
            found |= {name for name in names if name in ours} or {whole} & {*ours}
    return found


def test_no_modules_import_one_another() -> None:
    ours = {name: path for package in ALLOWED for name, path in modules_of(package).items()}
    graph = {name: imports(path, ours) for name, path in ours.items()}
    assert len(graph) > 100
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules


def test_rules_are_pure() -> None:
    for module in sorted((ROOT / "rules").rglob("*.py")):
        assert set(imported(module)) <= PURE | {"rules"}, module.relative_to(ROOT)


@pytest.mark.parametrize("package", ["manager", "notify"])
def test_page_and_notifications_use_only_parts_of_the_engine_without_calls(package: str) -> None:
    for module in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"), str(module))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                whole = node.module or ""
                known = whole in PLAIN
                names = [whole] if known else [f"{whole}.{name.name}" for name in node.names]
            for name in names:
                if name.split(".")[0] == "engine":
                    known = name in PLAIN or name.startswith("engine.commands.")
                    assert known, f"{module.relative_to(ROOT)} imports {name}"


def test_the_modules_that_begin_a_parallel_run_exist() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / f"{name}.py").exists()] == []
