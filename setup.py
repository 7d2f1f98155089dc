"""The compiled SIP core. Everything else about the package is in pyproject.toml.

In a wheel the extensions lie beside their Python files. In a checkout (`make install`,
`python setup.py build_ext`) they lie in build/core/, in a directory named after what their sources
say: one that is out of date is never found. Each is optional: without a compiler the Python files
serve, only slower. With RENVOI_PURE=1, and where a compiler or Python's headers are missing, a
wheel has none and fits every machine.
"""

import multiprocessing
import os
import runpy
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
core = runpy.run_path(str(ROOT / "sip/compiled.py"))
PACKAGE = "sip"
OPTIONS = {"boundscheck": True, "nonecheck": True, "wraparound": False, "language_level": 3}
# Signed overflow wraps; a frame pointer, so that a profiler sees the callers.
# What every message passes is worth a second pass of the compiler; the rest is quick to build.
FLAGS = ["-O1", "-g0", "-fwrapv", "-fno-omit-frame-pointer", "-w"]
HOT = ("grammar", "message", "transaction", "udp")


class Build(build_ext):
    """Builds out of the tree unless a wheel is being made."""

    _built = 0

    @property
    def _is_for_wheel(self) -> bool:
        return "bdist_wheel" in self.distribution.command_obj and not self.inplace

    def run(self) -> None:
        self.parallel = self.parallel or os.cpu_count()
        target = core["directory"]()  # of the sources as they are now: they may change meanwhile
        if not self._is_for_wheel and target.is_dir():
            return  # of the very same sources
        made = Path(self.build_lib) / PACKAGE
        self._forget(made)  # what was made of other sources, or half of it
        super().run()
        # All of them or none: half a compiled core is nothing that anybody has tested.
        is_whole = len(list(made.glob("*.so"))) == len(self.extensions or ())
        if not is_whole:
            self._forget(made)
        if self.extensions and is_whole and not self._is_for_wheel:
            target.parent.mkdir(parents=True, exist_ok=True)
            for old in target.parent.iterdir():
                if old.name.endswith(sys.implementation.cache_tag):
                    shutil.rmtree(old)  # of sources that are no more
            made.rename(target)

    def build_extension(self, ext: Extension) -> None:
        super().build_extension(ext)
        if not self._is_for_wheel:
            self._built += 1
            end = "\r" if sys.stderr.isatty() and self._built < len(self.extensions) else "\n"
            told = f"renvoi: {self._built} of {len(self.extensions)} modules compiled"
            print(told, end=end, file=sys.stderr, flush=True)

    @staticmethod
    def _forget(made: Path) -> None:
        for extension in made.glob("*.so"):
            extension.unlink()

    def finalize_options(self) -> None:
        super().finalize_options()
        if not self._is_for_wheel:
            self.inplace = False
            self.build_temp = f"build/core-temp-{sys.implementation.cache_tag}"
            self.build_lib = "build/core-new"


def missing() -> str:
    """What is needed to compile and is not there; empty if nothing is."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if shutil.which(compiler) is None:
        return f"no C compiler ({compiler})"
    return "" if headers.exists() else f"no {headers}"


def extensions() -> list[Extension]:
    why = "RENVOI_PURE is set" if os.environ.get("RENVOI_PURE") else missing()
    if why:
        print(f"the SIP core is not compiled: {why}", file=sys.stderr)
        return []
    import Cython
    from Cython.Build import cythonize

    # From Python 3.14 on it would run this file anew in each process.
    multiprocessing.set_start_method("fork", force=True)
    made = [
        Extension(
            f"{PACKAGE}.{name}",
            [f"sip/{name}.py"],
            extra_compile_args=[*FLAGS, *(["-O2"] if name in HOT else [])],
        )
        for name in core["MODULES"]
        if (ROOT / f"sip/{name}.py").exists()
    ]
    compiled = cythonize(
        made,
        build_dir=f"build/core-c-{Cython.__version__}",
        compiler_directives=OPTIONS,
        quiet=True,
        nthreads=2,
    )
    for extension in compiled:
        extension.optional = True  # cythonize loses it
    return compiled


class Wheel(bdist_wheel):
    """Named so that Build finds it."""


os.chdir(ROOT)
if sys.argv[1:] == ["missing"]:  # the Makefile asks
    print(missing())
    sys.exit()
is_making = any(word in sys.argv for word in ("build_ext", "bdist_wheel"))
setup(
    ext_modules=extensions() if is_making else [],
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
)
