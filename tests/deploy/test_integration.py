"""The shipped configurations of telephony servers that Debian does not have: static checks.

Tests with calls: tests/scenarios/test_kamailio.py for Kamailio; tests/servers for Asterisk, and for
OpenSIPS where it is installed.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from engine.config import Destinations

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DOCS = DEPLOY.parent / "docs" / "integration.md"
FREESWITCH = DEPLOY / "freeswitch"
OPENSIPS = DEPLOY / "opensips" / "opensips.cfg"


def trees() -> list[Path]:
    return sorted(FREESWITCH.rglob("*.xml"))


@pytest.mark.parametrize("path", trees(), ids=lambda path: path.name)
def test_freeswitch_files_are_well_formed(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    assert root.tag == "include"  # FreeSWITCH's preprocessor includes its content
    for condition in root.iter("condition"):
        expression = re.compile(condition.attrib["expression"])
        used = {int(n) for a in condition for n in re.findall(r"\$(\d)", a.attrib.get("data", ""))}
        assert max(used, default=0) <= expression.groups


@pytest.mark.parametrize(
    ("file", "dialled", "first", "data"),
    [
        ("from-renvoi", "vm+33972101001", "answer", None),
        ("from-renvoi", "fax+33972101001", "set", "fax_enable_t38=true"),
        ("from-renvoi", "+33612345678", "set", "hangup_after_bridge=true"),
        ("to-renvoi", "+33972101001", "set", "hangup_after_bridge=true"),
        ("to-renvoi", "0972101001", "transfer", "+33$1 XML public"),
        ("to-renvoi", "0033972101001", "transfer", "+$1 XML public"),
    ],
)
def test_freeswitch_has_one_extension_for_each_number(
    file: str, dialled: str, first: str, data: str | None
) -> None:
    root = ElementTree.parse(FREESWITCH / "dialplan" / f"{file}.xml").getroot()
    found = [c for c in root.iter("condition") if re.search(c.attrib["expression"], dialled)]
    assert len(found) == 1
    action = found[0].find("action")
    assert action is not None
    assert (action.attrib["application"], action.attrib.get("data")) == (first, data)


def test_freeswitch_bridges_to_the_gateway_that_is_defined() -> None:
    (gateway,) = ElementTree.parse(FREESWITCH / "gateway.xml").getroot().iter("gateway")
    text = (FREESWITCH / "dialplan" / "to-renvoi.xml").read_text()
    assert f"sofia/gateway/{gateway.attrib['name']}/" in text


def users() -> dict[str, ElementTree.Element]:
    root = ElementTree.parse(FREESWITCH / "directory" / "renvoi.xml").getroot()
    return {user.attrib["id"]: user for user in root.iter("user")}


def test_freeswitch_identifies_engines_and_trunk_by_address() -> None:
    contexts = {
        user.attrib["cidr"]: variable.attrib["value"]
        for user in users().values()
        for variable in user.iter("variable")
    }
    assert contexts == {"192.0.2.20/32": "renvoi", "192.0.2.10/32": "public"}


def test_no_user_of_freeswitchs_registers_without_a_password() -> None:
    for name, user in users().items():
        params = {p.attrib["name"]: p.attrib["value"] for p in user.iter("param")}
        assert params["allow-empty-password"] == "false", name


@pytest.mark.parametrize("file", ["from-renvoi", "to-renvoi"])
def test_freeswitch_asserts_the_caller_on_the_leg_that_it_makes(file: str) -> None:
    """`set` applies to the wrong leg: a withheld number stayed in From."""
    root = ElementTree.parse(FREESWITCH / "dialplan" / f"{file}.xml").getroot()
    bridges = 0
    for condition in root.iter("condition"):
        actions = [(a.attrib["application"], a.attrib.get("data", "")) for a in condition]
        if any(application == "bridge" for application, _ in actions):
            bridges += 1
            assert ("export", "nolocal:sip_cid_type=pid") in actions
    assert bridges


def test_opensips_routes_are_all_there() -> None:
    text = re.sub(r"#.*", "", OPENSIPS.read_text())
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")
    named = set(re.findall(r"\broute\((\w+)\)", text))
    named |= set(re.findall(r't_on_failure\("(\w+)"\)', text))
    assert named <= set(re.findall(r"route\[(\w+)\]", text))


def test_the_destinations_in_the_docs_are_ones_the_engine_takes() -> None:
    uris = re.findall(r'^ *(voicemail|fax|number): "(sip:[^"]+)"', DOCS.read_text(), re.M)
    assert {kind for kind, _ in uris} == {"voicemail", "fax", "number"}
    reads = Destinations.__dataclass_fields__
    for kind, uri in uris:
        assert reads[kind].metadata["read"](uri) == uri
