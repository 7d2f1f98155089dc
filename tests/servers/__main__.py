"""Make the chroot, then run these tests in their own network namespace. Takes options of pytest.

That isolated network has the addresses of the shipped files, so the tests use the files unchanged.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

from tests.scenarios.network import CLONE_NEWNET
from tests.servers.chroot import Chroot, Unavailable
from tests.servers.places import ADDRESSES, WITHOUT


def main(arguments: list[str]) -> None:
    rebuild = "--rebuild" in arguments
    options = [argument for argument in arguments if argument != "--rebuild"]
    chroot = Chroot()
    try:
        chroot.open(rebuild=rebuild)
        chroot.close()
        enter_network()
        os.environ.pop(WITHOUT, None)
    except Unavailable as reason:
        print(f"renvoi: no telephony servers here: {reason}", file=sys.stderr)
        os.environ[WITHOUT] = str(reason)
    if not any(option.startswith("tests/servers") for option in options):
        options.append("tests/servers")
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "-n", "0", *options])


def enter_network() -> None:
    """Enter a network namespace with the addresses of the files; it stays after an exec.

    Raises chroot.Unavailable.
    """
    program = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise Unavailable("no ip (Debian: apt install iproute2)")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise Unavailable(f"no network of its own: {os.strerror(ctypes.get_errno())}")
    subprocess.run([program, "link", "set", "lo", "up"], check=True)
    for address in ADDRESSES:
        subprocess.run([program, "addr", "add", f"{address}/32", "dev", "lo"], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
