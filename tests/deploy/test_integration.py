"""Configurations for telephony servers beside Renvoi that Debian 12 does not have: their own logic.

Kamailio's is tested with calls: tests/scenarios/test_kamailio.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from engine.config import Destinations

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DOCS = DEPLOY.parent / "docs" / "integration.md"
ASTERISK, FREESWITCH = DEPLOY / "asterisk", DEPLOY / "freeswitch"
OPENSIPS = DEPLOY / "opensips" / "opensips.cfg"

Sections = list[tuple[str, list[tuple[str, str]]]]


def sections(path: Path) -> Sections:
    """An Asterisk configuration: sections in order, a name may come again; `=` and `=>` alike."""
    found: Sections = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = re.sub(r"(?<!\\);.*", "", line).strip()
        if not text:
            continue
        if heading := re.fullmatch(r"\[([\w-]+)\]", text):
            found.append((heading[1], []))
            continue
        name, equals, value = text.partition("=")
        assert equals, f"{path.name}:{number}: neither a section nor a setting: {line}"
        assert found, f"{path.name}:{number}: before any section"
        found[-1][1].append((name.strip(), value.removeprefix(">").strip()))
    return found


def test_asterisks_objects_name_one_another() -> None:
    objects = sections(ASTERISK / "pjsip.conf")
    kinds = {(name, dict(settings)["type"]) for name, settings in objects}
    assert kinds == {
        ("transport-renvoi", "transport"), ("renvoi", "endpoint"), ("renvoi", "aor"),
        ("renvoi", "identify"),
    }  # fmt: skip
    endpoint = dict(next(s for name, s in objects if dict(s)["type"] == "endpoint"))
    assert (endpoint["aors"], "aor") in kinds
    assert (endpoint["transport"], "transport") in kinds
    contexts = {name for name, _ in sections(ASTERISK / "extensions.conf")}
    assert endpoint["context"] in contexts
    # the caller's identity and the forward must cross
    for key in ("trust_id_inbound", "trust_id_outbound", "send_pai", "send_diversion"):
        assert endpoint[key] == "yes"


def pattern(exten: str) -> re.Pattern[str]:
    """An extension's pattern as Asterisk reads it: after `_`, X Z N stand for digits, `.` for the
    rest; what is in brackets for one of it."""
    if not exten.startswith("_"):
        return re.compile(re.escape(exten))
    parts = {"X": "[0-9]", "Z": "[1-9]", "N": "[2-9]", ".": ".+", "!": ".*"}
    read = re.findall(r"\[[^\]]*\]|.", exten[1:])
    written = [parts.get(p.upper(), p if p[0] == "[" else re.escape(p)) for p in read]
    return re.compile("".join(written))


def context(name: str) -> dict[str, list[str]]:
    """Extensions of a context with their steps; every `n` follows a first step."""
    extensions: dict[str, list[str]] = {}
    last = ""
    for key, value in dict(sections(ASTERISK / "extensions.conf"))[name]:
        if key == "exten":
            last, place, step = value.split(",", 2)
            assert place == "1"
            extensions[last] = [step]
        else:
            assert key == "same"
            assert re.match(r"n(\(\w+\))?,", value)
            extensions[last].append(value.partition(",")[2])
    return extensions


@pytest.mark.parametrize(
    ("dialled", "step"),
    [
        ("vm+33972101001", "Set(MAILBOX=${EXTEN:2})"),
        ("fax+33972101001", "Set(FAXFILE=/var/spool/asterisk/fax/${EXTEN:3}-${UNIQUEID}.tiff)"),
        ("+33612345678", "Dial(PJSIP/${EXTEN}@outside,180)"),
    ],
)
def test_asterisk_takes_what_the_destinations_make(dialled: str, step: str) -> None:
    known = context("from-renvoi").items()
    found = [steps for exten, steps in known if pattern(exten).fullmatch(dialled)]
    assert len(found) == 1
    assert found[0][0] == step


@pytest.mark.parametrize("dialled", ["+33972101001", "0972101001", "0033972101001"])
def test_asterisk_sends_the_engine_every_number_in_e164(dialled: str) -> None:
    (steps,) = [s for e, s in context("from-outside").items() if pattern(e).fullmatch(dialled)]
    target = re.fullmatch(r"Goto\(to-renvoi,(.*),1\)", steps[0])
    assert target
    skip = re.search(r"\$\{EXTEN(?::(\d))?\}", target[1])
    assert skip
    number = target[1].replace(skip[0], dialled[int(skip[1] or 0) :])
    assert number == "+33972101001"


def test_labels_that_asterisk_jumps_to_are_there() -> None:
    text = (ASTERISK / "extensions.conf").read_text()
    jumps = set(re.findall(r"GotoIf\(.*\?(\w+)\)", text))
    assert jumps
    assert jumps <= set(re.findall(r"n\((\w+)\)", text))


def trees() -> list[Path]:
    return sorted(FREESWITCH.rglob("*.xml"))


@pytest.mark.parametrize("path", trees(), ids=lambda path: path.name)
def test_freeswitchs_files_are_whole(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    assert root.tag == "include"  # what FreeSWITCH's preprocessor puts in place
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
def test_freeswitch_knows_one_way_for_each_number(
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


def test_opensips_parses_its_configuration(tmp_path: Path) -> None:
    program = shutil.which("opensips") or shutil.which("/usr/sbin/opensips")
    if program is None:
        pytest.skip("OpenSIPS is not in Debian 12")
    done = subprocess.run(
        [program, "-C", "-f", str(OPENSIPS)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_opensips_routes_are_all_there() -> None:
    text = re.sub(r"#.*", "", OPENSIPS.read_text())
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")
    named = set(re.findall(r"\broute\((\w+)\)", text))
    named |= set(re.findall(r't_on_failure\("(\w+)"\)', text))
    assert named <= set(re.findall(r"route\[(\w+)\]", text))


def test_the_destinations_in_the_docs_are_ones_the_engine_takes() -> None:
    told = re.findall(r'^ *(voicemail|fax|number): "(sip:[^"]+)"', DOCS.read_text(), re.M)
    assert {kind for kind, _ in told} == {"voicemail", "fax", "number"}
    reads = Destinations.__dataclass_fields__
    for kind, uri in told:
        assert reads[kind].metadata["read"](uri) == uri
