"""The two builds of the core: compiled out of the tree, and the Python files themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path

import pytest

from sip import compiled, message
from tests.patience import within

ROOT = Path(__file__).resolve().parents[2]
is_compiled = message.__file__.endswith(".so")


def python(*arguments: str, core: str) -> str:
    """The output of a new interpreter with this core."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, compiled.SWITCH: core},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return ran.stdout


def test_no_extension_is_in_the_tree() -> None:
    """An extension beside its Python file would be used silently, even if it is outdated."""
    assert not list((ROOT / "sip").rglob("*.so"))


def test_an_extension_whose_source_has_changed_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "sip"
    package.mkdir()
    source = package / "message.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(compiled, "HERE", package)
    monkeypatch.delenv(compiled.SWITCH, raising=False)
    assert compiled.search_path() == []
    made = compiled.directory()
    made.mkdir(parents=True)
    assert compiled.search_path() == [str(made)]
    source.write_text("x = 2\n")
    assert compiled.search_path() == []


def test_every_module_that_is_to_be_compiled_is_there() -> None:
    assert [name for name in compiled.MODULES if not (compiled.HERE / f"{name}.py").exists()] == []


def test_what_is_compiled_is_in_force_and_can_be_left_out() -> None:
    show = "from sip import layer, message; print(message.__file__, layer.__file__)"
    names = python("-c", show, core="python").split()
    assert all(name.endswith(".py") for name in names)
    if not is_compiled:
        pytest.skip("the core is not compiled")
    assert all(name.endswith(".so") for name in python("-c", show, core="").split())


@pytest.mark.skipif(not is_compiled, reason="the other tests already use the Python files")
def test_the_python_files_pass_the_same_tests() -> None:
    """Only in the compiled core integers wrap and attributes begin unset."""
    tests = ROOT / "tests" / "sip"
    quietly = ("-q", "-x", "-p", "no:cacheprovider", "-n", "0")
    python("-m", "pytest", *quietly, str(tests), core="python")


@pytest.mark.parametrize("is_compiled", [True, False])
def test_the_build_in_use_is_reported(monkeypatch: pytest.MonkeyPatch, is_compiled: bool) -> None:
    suffix = EXTENSION_SUFFIXES[0] if is_compiled else ".py"
    found = ModuleSpec("sip.layer", None, origin=f"layer{suffix}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    assert compiled.serving() == ("compiled" if is_compiled else "python")
    assert ("not compiled" in compiled.words()) is not is_compiled


def test_the_whole_product_starts_without_pjsip() -> None:
    """PJSIP is only for phones of the tests and the demo; many platforms have no wheel of it."""
    without = "import sys; sys.modules.update(dict.fromkeys(['pjsua2', '_pjsua2']))"
    what = "import engine.serve, engine.supervisor, engine.demo.show, manager.serve"
    assert python("-c", f"{without}; {what}; print('fine')", core="python") == "fine\n"


def test_a_source_archive_has_what_is_compiled(tmp_path: Path) -> None:
    """A wheel is built from it; without a declaration the build would fail."""
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True, timeout=within(60),
    )  # fmt: skip
    (made,) = tmp_path.iterdir()
    with tarfile.open(made) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    core = ROOT / "sip"
    needed = {*core.glob("*.py"), *core.glob("*.pxd"), ROOT / "setup.py", ROOT / "pyproject.toml"}
    assert {str(path.relative_to(ROOT)) for path in needed} <= inside


def test_what_compiling_lacks_is_named() -> None:
    def missing(**environment: str) -> str:
        return subprocess.run(
            [sys.executable, "setup.py", "missing"],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=within(60),
            check=True,
        ).stdout

    assert missing(CC="no-such-compiler -pthread") == "no C compiler (no-such-compiler)\n"
    if is_compiled:
        assert missing() == "\n"
