"""A page faxed to a line: over T.38, through the engine, into Asterisk's spool."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.scenarios.setup import to_fax
from tests.servers.asterisk import Asterisk
from tests.servers.chroot import Chroot
from tests.servers.fax import HEIGHT, WIDTH, dimensions, write_page
from tests.servers.places import SERVER, SIP_PORT, TRUNK
from tests.servers.site import Site

NAME, PORT = "asterisk-carrier", 5070
PJSIP = f"""\
[transport]
type=transport
protocol=udp
bind={TRUNK}:{PORT}

[customer]
type=endpoint
transport=transport
context=nothing
aors=customer
disallow=all
allow=alaw
t38_udptl=yes
t38_udptl_ec=redundancy
[customer]
type=aor
contact=sip:{SERVER}:{SIP_PORT}
[customer]
type=identify
endpoint=customer
match={SERVER}/32
"""
# In Debian's asterisk.conf this section is a template, so it has no effect.
DIRECTORIES = f"""\
[directories]
astetcdir => /etc/{NAME}
astrundir => /run/{NAME}
astspooldir => /var/spool/{NAME}
astlogdir => /var/log/{NAME}
astdbdir => /var/lib/{NAME}
"""
EXTENSIONS = """\
[send]
exten => s,1,SendFAX(/tmp/page.tiff)
 same => n,Hangup()
"""


@pytest.fixture
def sender(chroot: Chroot, site: Site) -> Iterator[Asterisk]:
    """Another Asterisk at the trunk's address, which sends the fax."""
    etc = chroot.root / "etc" / NAME
    chroot.sh(f"rm -rf /etc/{NAME}; cp -a /pristine/etc/asterisk /etc/{NAME}")
    for place in ("/run", "/var/spool", "/var/log", "/var/lib"):
        chroot.sh(f"install -d -o asterisk -g asterisk {place}/{NAME}")
    (etc / "asterisk.conf").write_text(DIRECTORIES)
    (etc / "pjsip.conf").write_text(PJSIP)
    (etc / "extensions.conf").write_text(EXTENSIONS)
    write_page(chroot.root / "tmp" / "page.tiff")
    asterisk = Asterisk(chroot, NAME)
    try:
        asterisk.start()
        yield asterisk
    finally:
        asterisk.stop()


async def test_a_page_that_is_faxed_to_a_line_is_received(site: Site, sender: Asterisk) -> None:
    machine = site.line(offer={"fax": True})
    line = site.line(forwards={"unconditional": to_fax(machine)})
    await site.settle()
    sender.cli(f"channel originate PJSIP/{line}@customer extension s@send")
    pattern = rf"{re.escape(machine)}-\S+\.tiff: SUCCESS, 1 pages by T38"
    await site.asterisk.until(
        lambda: re.search(pattern, site.asterisk.log) is not None, "a page received", wait_s=90
    )
    (page,) = site.asterisk.spool("fax").glob(f"{machine}-*.tiff")
    assert dimensions(page) == (WIDTH, HEIGHT)
    record = await site.record_of(line)
    assert (record["destination"], record["outcome"]) == ("fax", "answered")
