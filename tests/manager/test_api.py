"""The REST API over real HTTP, against a real Redis, no engine running."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis

from rules.contact import FAR_S
from rules.model import Billing
from tests.manager.site import Api, Manager, fill_log, read, write
from tests.patience import within

LINE, PEER, FAX, OTHER = (f"+3397210100{n}" for n in (1, 2, 3, 9))
FORWARDS = f"/lines/{LINE}/forwards"
MOBILE = "+33612345678"


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> None:
    for key in client.scan_iter("audit:*"):
        client.delete(key)
    write(client, LINE, label="Accueil", credentials={"user": "a", "ha1": "0" * 32}, extra=1)
    write(client, PEER, label="Atelier")
    write(client, FAX, label="Télécopie", offer={"fax": True})
    write(client, OTHER, fleet="globex", label="Secret")


def to(kind: str, number: str | None = None, **more: Any) -> dict[str, Any]:
    target = {"kind": kind} if number is None else {"kind": kind, "number": number}
    return {"on": True, "to": target, **more}


def test_without_a_token_nothing_is_served(manager: Manager, acme: Api) -> None:
    for header in ("", "Bearer", "Bearer x", "Bearer rvt_abc_def", "Basic YTpi"):
        answer = manager.get("/api/v1/lines", Authorization=header)
        assert answer.status == 401, header
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert acme.get("/lines").status == 200


def test_a_revoked_token_is_refused_at_once(manager: Manager) -> None:
    token = manager.token("--fleet", "acme")
    assert Api(manager, token).get("/lines").status == 200
    assert manager.command("manager", "token", "revoke", token.split("_")[1]).returncode == 0
    assert Api(manager, token).get("/lines").status == 401


def test_the_token_itself_is_kept_nowhere(manager: Manager, client: redis.Redis) -> None:
    secret = manager.token("--fleet", "acme").split("_", 2)[2]
    kept = [str(client.get(key)) for key in client.scan_iter("manager:token:*")]
    assert kept
    assert all(secret not in text for text in kept)


def test_lines_of_the_fleet_only(acme: Api, operator: Api) -> None:
    page = acme.get("/lines").json
    assert [item["number"] for item in page["items"]] == [LINE, PEER, FAX]
    assert page["total"] == 3
    assert page["next"] is None
    assert [i["number"] for i in operator.get("/lines").json["items"]] == [LINE, PEER, FAX, OTHER]
    assert operator.get("/lines?fleet=globex").json["total"] == 1
    assert acme.get("/lines?fleet=globex").json["total"] == 0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("accueil", [LINE]),
        ("telecopie", [FAX]),
        ("97210100", [LINE, PEER, FAX]),
        ("09%2072%2010%2010%2002", [PEER]),
        ("%2B33%209%2072101003", [FAX]),
        ("0033972101001", [LINE]),
        ("secret", []),
        ("nobody", []),
    ],
)
def test_search(acme: Api, words: str, found: list[str]) -> None:
    assert [i["number"] for i in acme.get(f"/lines?q={words}").json["items"]] == found


def test_pages_follow_one_another(acme: Api) -> None:
    first = acme.get("/lines?limit=2").json
    assert [i["number"] for i in first["items"]] == [LINE, PEER]
    second = acme.get(f"/lines?limit=2&cursor={first['next']}").json
    assert [i["number"] for i in second["items"]] == [FAX]
    assert second["next"] is None
    assert acme.get("/lines?cursor=@@").fields().keys() == {"cursor"}
    for limit in ("0", "-1", "201", "1e2", "٣", "9" * 5000):
        assert acme.get(f"/lines?limit={quote(limit)}").fields().keys() == {"limit"}


def test_what_other_programs_write_shows(acme: Api, client: redis.Redis) -> None:
    new = write(client, "+33972101050", label="Nouvelle")
    deadline = time.monotonic() + within(2)
    while acme.get("/lines?q=nouvelle").json["total"] != 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.delete(f"line:{new}")
    while acme.get("/lines?q=nouvelle").json["total"] != 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_key_that_holds_no_document_hides_no_line(acme: Api, client: redis.Redis) -> None:
    """Any program may write there, and another one's mistake is not a reason to list nothing."""
    client.rpush("line:+33972101051", "no string")
    try:
        write(client, "+33972101050", label="Nouvelle")
        deadline = time.monotonic() + within(5)
        while acme.get("/lines?q=nouvelle").json["total"] != 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        client.delete("line:+33972101050", "line:+33972101051")


def test_a_line_is_shown_without_its_credentials(acme: Api) -> None:
    answer = acme.get(f"/lines/{LINE}")
    assert answer.json == {"number": LINE, "fleet": "acme", "label": "Accueil", "extra": 1}
    assert "0" * 32 not in answer.text


@pytest.mark.parametrize(
    "path", ["", "/forwards", "/forwards/busy", "/state", "/usage", "/records", "/explain"]
)
def test_a_line_of_another_fleet_is_no_line(acme: Api, path: str) -> None:
    theirs = acme.get(f"/lines/{OTHER}{path}")
    nobodys = acme.get(f"/lines/+33972101099{path}")
    assert theirs.status == nobodys.status == 404
    assert theirs.text.replace(OTHER, "") == nobodys.text.replace("+33972101099", "")


def test_forwards_are_set_and_read_back(acme: Api, client: redis.Redis) -> None:
    wanted = {"busy": to("number", "06 12 34 56 78"), "no_answer": to("voicemail")}
    answer = acme.put(FORWARDS, wanted)
    assert answer.status == 200, answer.text
    assert answer.json["busy"]["to"] == {"kind": "number", "number": MOBILE}
    assert answer.json["no_answer"]["after_s"] == 20
    assert answer.json["no_answer"]["to"] == {"kind": "voicemail", "number": LINE}
    assert answer.json["in_force"]["workers"] == 0
    assert acme.get(FORWARDS).etag == answer.etag
    document = read(client, LINE)
    assert document["extra"] == 1
    assert document["credentials"]["ha1"] == "0" * 32
    one = acme.get(FORWARDS + "/busy").json
    assert one == {"on": True, "to": {"kind": "number", "number": MOBILE}, "after_s": None}


def test_put_is_idempotent(acme: Api, client: redis.Redis) -> None:
    first = acme.put(FORWARDS + "/busy", to("voicemail", PEER))
    again = acme.put(FORWARDS + "/busy", to("voicemail", PEER))
    assert (first.status, again.status) == (200, 200)
    assert first.etag == again.etag
    assert client.xlen("audit:acme") == 1


def test_turning_off_keeps_a_target_that_is_invalid_now(acme: Api, client: redis.Redis) -> None:
    acme.put(FORWARDS + "/busy", to("fax", FAX))
    write(client, FAX)
    assert acme.put(FORWARDS + "/unreachable", to("fax", FAX)).status == 422
    answer = acme.put(FORWARDS + "/busy", {"on": False})
    assert answer.status == 200, answer.text
    assert answer.json["to"] == {"kind": "fax", "number": FAX}


REFUSALS = [
    (to("number", LINE), "to.number", "is the line itself"),
    (to("fax", PEER), "to.number", "is a line without the fax offer"),
    (to("fax", OTHER), "to.number", "is no line of ours, so it has no fax"),
    (to("voicemail", OTHER), "to.number", "is no line of ours, so it has no voicemail"),
    (to("voicemail", MOBILE), "to.number", "is no line of ours, so it has no voicemail"),
    (to("number", "0899123456"), "to.number", "premium numbers cannot be targets"),
    (to("number", "15"), "to.number", "emergency numbers cannot be targets"),
    (to("number", "3900"), "to.number", "short numbers cannot be targets"),
    (to("number", "+4990012345670"), "to.number", "premium numbers cannot be targets"),
    (to("number", "+4911833"), "to.number", "short numbers cannot be targets"),
    (
        to("number", "+491805123456"),
        "to.number",
        "shared-cost numbers cannot be targets",
    ),
    (
        to("number", "+33700000001"),
        "to.number",
        "is no valid number of its country, see numbering.also_valid",
    ),
    (
        to("number", "+33612345678;ext=2"),
        "to.number",
        "has an extension, which cannot be dialled",
    ),
    (to("number", "hello"), "to.number", "is no telephone number"),
    (to("number", "06123456"), "to.number", "is too short to be a number"),
    (to("number"), "to.number", "is needed for kind number"),
    (to("pigeon", PEER), "to.kind", "expected one of voicemail, fax, number, reject"),
    ({"on": True}, "to", "is needed when it is on"),
    ({"to": {"kind": "voicemail"}}, "on", "is required"),
    ({"on": "yes", "to": {"kind": "voicemail"}}, "on", "expected true or false"),
    (to("voicemail", after_s=20), "after_s", "only no_answer waits"),
    ([to("voicemail", after_s=20)], "[0].after_s", "only no_answer waits"),
    (to("voicemail", afters=4), "afters", "is not known here"),
    ({"on": True, "to": {"kind": "voicemail", "n": 1}}, "to.n", "is not known here"),
]


@pytest.mark.parametrize(("forward", "field", "problem"), REFUSALS)
def test_what_cannot_work_is_refused_by_field(
    acme: Api, client: redis.Redis, forward: Any, field: str, problem: str
) -> None:
    before = client.get(f"line:{LINE}")
    answer = acme.put(FORWARDS + "/busy", forward)
    assert answer.status == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.fields() == {field: problem}
    assert client.get(f"line:{LINE}") == before
    assert client.xlen("audit:acme") == 0


def test_the_time_of_no_answer_is_checked(acme: Api) -> None:
    answer = acme.put(FORWARDS + "/no_answer", to("voicemail", after_s=4))
    assert (answer.status, answer.fields()) == (422, {"after_s": "expected 5 to 60 seconds"})


@pytest.mark.parametrize("several", [False, True])
def test_a_time_that_is_stored_for_another_condition_stays_and_is_not_shown(
    acme: Api, client: redis.Redis, several: bool
) -> None:
    forward = to("number", MOBILE, after_s=25)
    document = json.loads(str(client.get(f"line:{LINE}")))
    document["forwards"] = {"busy": [forward] if several else forward}
    client.set(f"line:{LINE}", json.dumps(document))
    shown = acme.get(FORWARDS + "/busy").json
    assert not (shown[0] if several else shown).get("after_s")
    assert acme.put(FORWARDS + "/busy", shown).status == 200
    assert acme.put(FORWARDS + "/unreachable", to("voicemail")).status == 200


def test_all_faults_are_reported_at_once(acme: Api) -> None:
    answer = acme.put(FORWARDS, {"busy": to("number", LINE), "unreachable": to("fax", PEER)})
    assert answer.fields().keys() == {"busy.to.number", "unreachable.to.number"}


@pytest.mark.parametrize("body", [b"{", b"\xff", b"", b"nan"])
def test_no_json_is_400(acme: Api, body: bytes) -> None:
    assert acme.send("PUT", FORWARDS, body).status == 400


def test_bodies_have_a_limit(acme: Api) -> None:
    assert acme.send("PUT", FORWARDS, b"[" + b"1," * 50_000).status == 413
    assert acme.put(FORWARDS, [1]).status == 422


def test_two_writers_do_not_overwrite_one_another(acme: Api) -> None:
    etag = acme.get(FORWARDS).etag
    assert acme.put(FORWARDS + "/busy", to("voicemail"), if_match=etag).status == 200
    late = acme.put(FORWARDS + "/busy", to("number", MOBILE), if_match=etag)
    assert late.status == 412
    assert acme.get(FORWARDS + "/busy").json["to"]["kind"] == "voicemail"
    fresh = acme.get(FORWARDS).etag
    assert acme.put(FORWARDS + "/busy", to("number", MOBILE), if_match=fresh).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", FORWARDS, {"busy": {"on": True, "to": {"kind": "number", "number": MOBILE}}}),
        ("PUT", FORWARDS + "/busy", to("number", MOBILE)),
        ("PATCH", f"/lines/{LINE}", {"do_not_disturb": True}),
        ("PUT", f"/lines/{LINE}/do_not_disturb", {"on": True}),
        ("PUT", f"/lines/{LINE}/profile", {"use": None}),
        ("DELETE", f"/lines/{LINE}", None),
        ("PATCH", "/fleets/acme", {"lists": {"vip": ["+33612345678"]}}),
    ],
)
def test_what_is_there_is_not_written_if_it_must_be_new(
    operator: Api, client: redis.Redis, method: str, path: str, body: Any
) -> None:
    before = client.get(f"line:{LINE}"), client.get("fleet:acme")
    assert operator.send(method, path, body, if_none_match="*").status == 412
    assert (client.get(f"line:{LINE}"), client.get("fleet:acme")) == before


def test_not_modified(acme: Api) -> None:
    etag = acme.get(FORWARDS).etag
    assert acme.get(FORWARDS, if_none_match="*").status == 304
    assert acme.get(FORWARDS, if_none_match=etag).status == 304
    acme.put(FORWARDS + "/busy", to("voicemail"))
    assert acme.get(FORWARDS, if_none_match=etag).status == 200


def test_every_change_is_in_the_log(acme: Api, operator: Api) -> None:
    acme.put(FORWARDS + "/busy", to("voicemail", PEER))
    acme.put(FORWARDS + "/busy", {"on": False})
    changes = acme.get(f"/lines/{LINE}/changes").json["items"]
    assert [(c["who"], c["how"], c["what"]) for c in changes] == [("test", "api", "forwards")] * 2
    target = {"kind": "voicemail", "number": PEER}
    assert changes[0]["from"] == {"forwards": {"busy": {"on": True, "to": target}}}
    assert changes[0]["to"] == {"forwards": {"busy": {"on": False, "to": target}}}
    assert "ha1" not in json.dumps(changes)
    page = acme.get(f"/lines/{LINE}/changes?limit=1").json
    older = acme.get(f"/lines/{LINE}/changes?limit=1&cursor={page['next']}").json
    assert older["items"] == changes[1:]
    assert operator.get(f"/lines/{OTHER}/changes").json["items"] == []


def test_changes_of_a_line_are_found_behind_many_of_its_fleet(
    acme: Api, client: redis.Redis
) -> None:
    """One request does not read that far, and says so: the list goes on."""
    acme.put(FORWARDS + "/busy", to("voicemail"))
    fill_log(client, PEER)
    page = acme.get(f"/lines/{LINE}/changes").json
    assert page["items"] == []
    assert page["next"] is not None
    page = acme.get(f"/lines/{LINE}/changes?cursor={page['next']}").json
    assert [change["line"] for change in page["items"]] == [LINE]
    assert page["next"] is None


def test_only_operators_write_lines(acme: Api, operator: Api, client: redis.Redis) -> None:
    new = "+33972101070"
    document = {"number": new, "fleet": "acme", "max_calls": 2}
    assert acme.put(f"/lines/{new}", document).status == 403
    assert acme.send("DELETE", f"/lines/{LINE}").status == 403
    assert operator.put(f"/lines/{new}", document, if_match="*").status == 412
    assert client.get(f"line:{new}") is None
    made = operator.put(f"/lines/{new}", document, if_none_match="*")
    assert made.status == 200, made.text
    assert operator.put(f"/lines/{new}", document, if_none_match="*").status == 412
    assert operator.put(f"/lines/{new}", {**document, "max_calls": 0}).fields() == {
        "max_calls": "expected a whole number from 1"
    }
    assert operator.put(f"/lines/{new}", {**document, "number": PEER}).fields().keys() == {"number"}
    assert read(client, new) == document
    assert operator.put(f"/lines/{new}", document, if_match="*").status == 200
    assert operator.send("DELETE", f"/lines/{new}", if_match='"x"').status == 412
    assert operator.send("DELETE", f"/lines/{new}", if_match=made.etag).status == 204
    assert client.get(f"line:{new}") is None


def test_a_line_written_whole_keeps_its_credentials(operator: Api, client: redis.Redis) -> None:
    shown = operator.get(f"/lines/{LINE}").json
    assert operator.put(f"/lines/{LINE}", {**shown, "label": "Standard"}).status == 200
    assert read(client, LINE)["credentials"] == {"user": "a", "ha1": "0" * 32}
    assert operator.put(f"/lines/{LINE}", {**shown, "credentials": None}).status == 200
    assert read(client, LINE)["credentials"] is None


def test_a_refused_line_that_is_written_anew_keeps_its_credentials(
    operator: Api, client: redis.Redis
) -> None:
    """Its operator cannot read them, and its phones have no other password."""
    kept = {"user": "a", "ha1": "0" * 32}
    write(client, LINE, max_calls=0, credentials=kept)
    assert operator.get(f"/lines/{LINE}").status == 409
    assert operator.put(f"/lines/{LINE}", {"number": LINE, "fleet": "acme"}).status == 200
    assert read(client, LINE) == {"number": LINE, "fleet": "acme", "credentials": kept}


def test_a_contact_that_never_expires_has_a_time_too(acme: Api, client: redis.Redis) -> None:
    """Another program wrote it; JSON has no infinity, and `null` is no time."""
    client.zadd(f"reg:{LINE}", {"sip:a@10.0.0.1": float("inf")})
    assert acme.get(f"/lines/{LINE}/state").json["registrations"] == [
        {"contact": "sip:a@10.0.0.1", "expires": FAR_S}
    ]
    client.delete(f"reg:{LINE}")


def test_state_usage_and_explanation(acme: Api, client: redis.Redis) -> None:
    write(client, LINE, max_calls=2, offer={"mobile": "hours", "mobile_hours": 2})
    client.zadd(f"reg:{LINE}", {"sip:a@10.0.0.1": time.time() + 60, "sip:b@10.0.0.1": 1.0})
    client.zadd(f"live:{LINE}", {"x": time.time() + 60})
    foreign: dict[Any, Any] = {"bad": "x", "free": "1e999", "standard": "x", b"\xff": "1"}
    client.hset(f"usage:{LINE}:2026-11", mapping={"deducted": "600", **foreign})
    state = acme.get(f"/lines/{LINE}/state").json
    assert [c["contact"] for c in state["registrations"]] == ["sip:a@10.0.0.1"]
    assert (state["registered"], state["calls_in_progress"], state["max_calls"]) == (True, 1, 2)
    usage = acme.get(f"/lines/{LINE}/usage?month=2026-11").json
    assert usage["seconds"] == dict.fromkeys(Billing, 0) | {"deducted": 600}
    assert (usage["plan_hours"], usage["plan_left_s"]) == (2, 6600)
    assert acme.get(f"/lines/{LINE}/usage?month=november").fields().keys() == {"month"}
    acme.put(FORWARDS + "/busy", to("number", MOBILE))
    answer = acme.get(f"/lines/{LINE}/explain?from=0140000000").json
    assert answer["stages"][0]["decision"]["action"] == "ring"
    assert answer["stages"][1]["decision"]["number"] == MOBILE
    schemas = acme.get("/openapi.json").json["components"]["schemas"]
    assert answer.keys() <= schemas["Explanation"]["properties"].keys()
    assert answer["lines"][0].keys() == schemas["Facts"]["properties"].keys()
    assert acme.get(f"/lines/{LINE}/explain?from=x").fields().keys() == {"from"}
    client.delete(f"reg:{LINE}", f"live:{LINE}", f"usage:{LINE}:2026-11")


def test_a_fleets_countries_are_those_of_its_lines_targets(acme: Api, client: redis.Redis) -> None:
    client.set("fleet:acme", '{"name": "acme", "forward_countries": ["FR"]}')
    answer = acme.put(FORWARDS + "/unreachable", to("number", "+447400123456"))
    assert answer.status == 422
    assert "GB is not in forward_countries of fleet acme" in answer.fields()["to.number"]
    assert acme.put(FORWARDS + "/unreachable", to("number", MOBILE)).status == 200
    client.delete("fleet:acme")
    assert acme.put(FORWARDS + "/unreachable", to("number", "+447400123456")).status == 200
    stages = acme.get(f"/lines/{LINE}/explain").json["stages"]
    assert "billing international" in json.dumps(stages)
    # A stored forward that was valid before: it counts as off, and the state has the reason.
    assert acme.get(f"/lines/{LINE}/state").json["refused"] == {}
    client.set("fleet:acme", '{"name": "acme", "forward_countries": ["FR"]}')
    assert acme.get(f"/lines/{LINE}/state").json["refused"] == {"unreachable": "fleet_countries"}
    assert "which forward_countries of fleet acme does not have" in json.dumps(
        acme.get(f"/lines/{LINE}/explain").json
    )
    client.delete("fleet:acme")


def test_stored_targets_that_are_refused_are_in_the_state(acme: Api, client: redis.Redis) -> None:
    bad = {"unconditional": "+4990012345670", "busy": "+33700000001", "no_answer": "+33112"}
    forwards = {condition: to("number", number) for condition, number in bad.items()}
    write(client, LINE, forwards=forwards)
    refused = {"unconditional": "premium", "busy": "invalid", "no_answer": "emergency"}
    assert acme.get(f"/lines/{LINE}/state").json["refused"] == refused
    steps = acme.get(f"/lines/{LINE}/explain").json["stages"][0]["steps"]
    assert steps[0].startswith("unconditional: not allowed, +4990012345670")


def test_that_a_number_is_a_line_of_others_is_not_shown(acme: Api, client: redis.Redis) -> None:
    forward = {"on": True, "to": {"kind": "voicemail", "number": OTHER}}
    write(client, LINE, forwards={"unconditional": forward})
    assert "another fleet" not in acme.get(f"/lines/{LINE}/explain").text


def test_a_refused_document_is_reported_to_its_fleet_only(acme: Api, client: redis.Redis) -> None:
    write(client, LINE, max_calls=0)
    write(client, OTHER, fleet="globex", max_calls=0)
    assert acme.get(f"/lines/{LINE}").status == 409
    assert "max_calls" in acme.get(f"/lines/{LINE}").json["detail"]
    assert acme.get(f"/lines/{OTHER}").status == 404


DEEP = b"[" * 300 + b"]" * 300


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", f"/lines/{LINE}/forwards/busy", b'{"on": true, "to": %b}' % DEEP),
        ("PUT", f"/lines/{LINE}/forwards", b'{"busy": {"on": true, "to": %b}}' % DEEP),
        ("PATCH", f"/lines/{LINE}", b'{"profiles": %b}' % DEEP),
        ("PATCH", "/fleets/acme", b'{"calendars": {"office": {"x": %b}}}' % DEEP),
        ("PUT", f"/lines/{LINE}", b'{"number": "%b", "fleet": "acme", "x": %b}'
         % (LINE.encode(), DEEP)),
    ],
)  # fmt: skip
def test_what_is_nested_too_deeply_is_refused(
    operator: Api, client: redis.Redis, method: str, path: str, body: bytes
) -> None:
    before = client.get(f"line:{LINE}"), client.get("fleet:acme")
    answer = operator.send(method, path, body)
    assert answer.status == 422, answer.text
    assert "too deeply" in str(answer.fields())
    assert (client.get(f"line:{LINE}"), client.get("fleet:acme")) == before


def test_a_stored_document_that_is_nested_too_deeply_is_replaced_and_deleted(
    operator: Api, client: redis.Redis
) -> None:
    stored = b'{"number": "%b", "fleet": "acme", "x": %b}' % (LINE.encode(), DEEP)
    client.set(f"line:{LINE}", stored)
    changed = operator.put(f"/lines/{LINE}/forwards/busy", to("number", MOBILE))
    assert changed.status == 422, changed.text
    new = operator.put(f"/lines/{LINE}", {"number": LINE, "fleet": "acme"})
    assert new.status == 200, new.text
    assert operator.get(f"/lines/{LINE}/changes").json["items"][0]["from"] == {"x": None}
    client.set(f"line:{LINE}", stored)
    assert operator.send("DELETE", f"/lines/{LINE}").status == 204


# -- lists, do not disturb, profiles, calendars ------------------------------------------------

OFFICE = {"weekly": {"mon": ["09:00-12:30"]}, "holidays": "FR"}
RULES: list[dict[str, Any]] = [
    to("voicemail", LINE, when="not office", until="2099-01-01T08:00:00+01:00"),
    {"on": True, "callers": "list:vip", "to": {"kind": "reject"}},
    {"on": False, "ring": "together", "callers": "outside",
     "to": [{"kind": "number", "number": MOBILE, "ring_s": 9}, {"kind": "number", "number": PEER}]},
]  # fmt: skip


@pytest.fixture
def office(client: redis.Redis) -> Iterator[None]:
    fleet = {"name": "acme", "label": "Acme", "calendars": {"office": OFFICE}, "cap_seconds": 60}
    client.set("fleet:acme", json.dumps(fleet))
    yield
    client.delete("fleet:acme")


@pytest.mark.usefixtures("office")
def test_a_list_of_forwards_is_put_and_read_back(acme: Api, client: redis.Redis) -> None:
    assert (
        acme.send("PATCH", f"/lines/{LINE}", {"lists": {"vip": ["01 40 00 00 01"]}}).status == 200
    )
    local = [*RULES[:2], {**RULES[2], "to": [{**RULES[2]["to"][0], "number": "0612345678"},
                                             RULES[2]["to"][1]]}]  # fmt: skip
    answer = acme.put(FORWARDS + "/unconditional", local)
    assert answer.status == 200, answer.text
    assert answer.json["rules"] == RULES
    assert answer.json["in_force"]["workers"] == 0
    assert acme.get(FORWARDS + "/unconditional").json == RULES
    assert acme.get(FORWARDS).json["unconditional"] == RULES
    assert read(client, LINE)["forwards"]["unconditional"] == RULES
    assert acme.get(f"/lines/{LINE}").json["forwards"]["unconditional"] == RULES
    answer = acme.put(FORWARDS, {"unconditional": RULES[:1], "busy": to("voicemail", LINE)})
    assert answer.json["unconditional"] == RULES[:1]
    kept = acme.put(FORWARDS + "/unconditional", {"on": False})
    assert kept.fields() == {"": "has 1 forwards, send a list of them"}


@pytest.mark.usefixtures("office")
@pytest.mark.parametrize(
    ("rules", "field", "problem"),
    [
        (
            [to("voicemail", when="beach")],
            "[0].when",
            "is no calendar of the line or of fleet acme",
        ),
        ([{"on": False, "callers": "list:no"}], "[0].callers", "is no list of the line"),
        ([to("voicemail", until="2099-01-01")], "[0].until", "expected a moment with its offset"),
        ([to("voicemail"), to("number", LINE)], "[1].to.number", "is the line itself"),
        ([to("voicemail", whenn="office")], "[0].whenn", "is not known here"),
        ([{"on": True, "to": [{"kind": "voicemail", "x": 1}]}], "[0].to[0].x", "is not known here"),
        ([{"on": True, "to": [{"kind": "reject"}]}], "[0].to[0].kind", "no target of a list"),
        ([], "", ""),
        ([3], "[0]", "expected an object"),
    ],
)
def test_a_list_is_refused_by_its_field(
    acme: Api, client: redis.Redis, rules: Any, field: str, problem: str
) -> None:
    before = client.get(f"line:{LINE}")
    answer = acme.put(FORWARDS + "/busy", rules)
    assert answer.status == 422, answer.text
    assert list(answer.fields()) == [field]
    assert problem in answer.fields()[field]
    assert client.get(f"line:{LINE}") == before


GONE = to("voicemail", PEER, when="gone", callers="list:gone")
PREMIUM = to("number", "+4990012345670")


@pytest.mark.parametrize("busy", [GONE, PREMIUM, [GONE, PREMIUM]])
def test_what_was_wrong_before_prevents_no_other_change(
    acme: Api, client: redis.Redis, busy: Any
) -> None:
    """A calendar was deleted, a country is allowed no more: nobody could turn off the others."""
    own = {"busy": busy, "no_answer": to("voicemail", after_s=20)}
    write(client, LINE, forwards=own, profiles={"a": {}})
    assert acme.put(FORWARDS + "/no_answer", {"on": False}).status == 200
    assert acme.put(f"/lines/{LINE}/do_not_disturb", {"on": True}).status == 200
    assert acme.put(f"/lines/{LINE}/profile", {"use": "a"}).status == 200
    assert read(client, LINE)["forwards"]["busy"] == busy
    # What is new is checked, also beside it, at its place.
    added = (
        [*busy, PREMIUM | {"ring": "in_turn"}] if isinstance(busy, list) else PREMIUM | {"x_n": 1}
    )
    write(client, LINE, forwards=own)
    answer = acme.send("PATCH", f"/lines/{LINE}", {"forwards": {"busy": added}})
    place = "[2]" if isinstance(busy, list) else ""
    assert list(answer.fields()) == [f"forwards.busy{place}.to.number"], answer.text


def test_an_offer_that_was_wrong_before_prevents_no_other_change(
    acme: Api, operator: Api, client: redis.Redis
) -> None:
    """Its customer cannot mend it, and could turn off no forward."""
    offer = {"mobile": "hours", "mobile_hours": 0}
    write(client, LINE, offer=offer, forwards={"busy": to("number", MOBILE)})
    assert acme.put(FORWARDS + "/busy", {"on": False}).status == 200
    assert acme.put(FORWARDS + "/busy", {"on": True}).status == 200
    assert acme.put(f"/lines/{LINE}/do_not_disturb", {"on": True}).status == 200
    document = read(client, LINE)
    assert operator.put(f"/lines/{LINE}", document | {"label": "x"}).status == 200
    answer = operator.put(f"/lines/{LINE}", document | {"offer": {"mobile": "hours"}})
    assert list(answer.fields()) == ["offer.mobile_hours"], answer.text


def test_a_line_that_moves_is_checked_as_a_whole(operator: Api, client: redis.Redis) -> None:
    forwards = {"busy": to("voicemail", PEER)}
    write(client, LINE, forwards=forwards)
    moved = {"number": LINE, "fleet": "globex", "forwards": forwards}
    assert list(operator.put(f"/lines/{LINE}", moved).fields()) == ["forwards.busy.to.number"]


def test_names_of_a_forward_that_is_turned_off_are_checked_too(
    acme: Api, client: redis.Redis
) -> None:
    """Turning it off alone is always possible, whatever it names."""
    write(client, LINE, forwards={"busy": GONE, "no_answer": PREMIUM})
    assert acme.put(FORWARDS + "/busy", {"on": False}).status == 200
    assert acme.put(FORWARDS + "/no_answer", {"on": False}).status == 200
    for name, value in (("when", "nope"), ("callers", "list:nope")):
        write(client, LINE, forwards={"busy": to("voicemail", PEER)})
        answer = acme.put(FORWARDS + "/busy", {"on": False, name: value})
        assert list(answer.fields()) == [name], answer.text


def test_a_forward_that_has_ended_is_not_on(acme: Api, client: redis.Redis) -> None:
    ended, ends = (
        to("voicemail", until=f"{year}-01-01T08:00:00+01:00") for year in ("2020", "2099")
    )
    write(client, LINE, forwards={"unconditional": ended, "busy": [ended, ends], "no_answer": ends})
    (line,) = (each for each in acme.get("/lines").json["items"] if each["number"] == LINE)
    assert line["forwards"] == ["busy", "no_answer"]


@pytest.mark.usefixtures("office")
def test_a_single_forward_keeps_its_hours_until_they_are_taken_away(acme: Api) -> None:
    one = to("number", MOBILE, when="office", callers="outside")
    assert acme.put(FORWARDS + "/busy", one).status == 200
    assert acme.put(FORWARDS + "/busy", {"on": False}).json["when"] == "office"
    acme.put(FORWARDS + "/busy", {"on": True, "when": None})
    assert acme.get(FORWARDS + "/busy").json == {**one, "when": None}


def test_do_not_disturb_is_one_request(acme: Api, client: redis.Redis) -> None:
    path = f"/lines/{LINE}/do_not_disturb"
    assert acme.get(path).json == {"on": False, "now": False}
    done = acme.put(path, {"on": True})
    assert (done.status, done.json["on"], done.json["now"]) == (200, True, True)
    assert done.json["in_force"]["complete"] is False  # no worker runs
    assert read(client, LINE)["do_not_disturb"] is True
    change = acme.get(f"/lines/{LINE}/changes").json["items"][0]
    assert (change["how"], change["to"]) == ("api", {"do_not_disturb": True})
    assert acme.put(path, {"on": 1}).fields() == {"on": "expected true or false"}
    assert acme.put(path, {}).fields() == {"on": "is required"}
    assert acme.put(path, {"on": True, "x": 1}).fields() == {"x": "is not known here"}
    assert acme.put(path, {"on": False}, if_match="old").status == 412
    assert acme.put(f"/lines/{OTHER}/do_not_disturb", {"on": True}).status == 404


def test_a_profile_is_chosen(acme: Api, client: redis.Redis) -> None:
    path = f"/lines/{LINE}/profile"
    profiles = {"bureau": {"also_ring": [{"kind": "number", "number": MOBILE}]},
                "conges": {"do_not_disturb": True}}  # fmt: skip
    made = acme.send("PATCH", f"/lines/{LINE}", {"profiles": profiles})
    assert made.status == 200, made.text
    assert made.json["profiles"] == profiles
    assert "credentials" not in made.json
    assert acme.get(path).json == {
        "now": None, "profiles": ["bureau", "conges"], "profile": None}  # fmt: skip
    until = "2099-01-01T08:00:00+01:00"
    acme.put(path, {"use": "bureau"})
    done = acme.put(path, {"use": "conges", "until": until}).json
    assert (done["now"], done["profile"]) == (
        "conges", [{"use": "conges", "until": until}, {"use": "bureau"}])  # fmt: skip
    assert acme.get(f"/lines/{LINE}/do_not_disturb").json == {"on": False, "now": True}
    assert acme.put(FORWARDS + "/busy", to("voicemail")).json["profile"] == "conges"
    answer = acme.get(f"/lines/{LINE}/explain?at=2099-01-02T10:00").json
    assert answer["stages"][0]["steps"][0] == "profile: bureau"
    assert acme.get(f"/lines/{LINE}/explain").json["stages"][0]["decision"]["code"] == 486
    assert acme.get(f"/lines/{LINE}/state").json["refused"] == {}
    assert acme.get(f"/lines/{LINE}/explain?at=soon").fields().keys() == {"at"}
    assert "is no profile of the line" in acme.put(path, {"use": "ete"}).fields()["use"]
    assert acme.put(path, {"use": "bureau", "until": "2020-01-01T00:00Z"}).fields() == {
        "until": "is in the past"}  # fmt: skip
    assert acme.put(path, {"use": 3}).fields().keys() == {"use"}
    assert acme.put(path, {"use": None}).json["now"] is None
    assert "profile" not in read(client, LINE)
    wrong = acme.send("PATCH", f"/lines/{LINE}", {"profile": "ete"})
    assert wrong.fields().keys() == {"profile"}
    bad = {"profiles": {"a": {"also_ring": [{"kind": "number", "number": LINE}]}}}
    assert acme.send("PATCH", f"/lines/{LINE}", bad).fields() == {
        "profiles.a.also_ring[0].number": "is the line itself"}  # fmt: skip
    assert acme.send("PATCH", f"/lines/{LINE}", {"suspended": True}).fields().keys() == {
        "suspended"
    }


@pytest.mark.parametrize(
    ("naming", "field"),
    [
        ({"profile": [{"use": "a", "when": "summer"}]}, "profile[0].when"),
        ({"profiles": {"a": {"forwards": {"busy": to("voicemail", when="not summer")}}}},
         "profiles.a.forwards.busy.when"),
        ({"profiles": {"a": {"forwards": {"busy": to("voicemail", callers="list:vip")}}}},
         "profiles.a.forwards.busy.callers"),
        ({"forwards": {"busy": to("voicemail", when="summer") | {"on": False}}},
         "forwards.busy.when"),
    ],
)  # fmt: skip
def test_a_line_keeps_the_calendars_and_lists_that_it_names(
    acme: Api, client: redis.Redis, naming: dict[str, Any], field: str
) -> None:
    """Also where the names themselves do not change."""
    whole: dict[str, Any] = {"profiles": {"a": {}}, "lists": {"vip": ["+331411*"]}}
    write(client, LINE, **(whole | {"calendars": {"summer": {}}} | naming))
    before = client.get(f"line:{LINE}")
    answer = acme.send("PATCH", f"/lines/{LINE}", {"calendars": None, "lists": None})
    assert answer.status == 422, answer.text
    assert list(answer.fields()) == [field]
    assert client.get(f"line:{LINE}") == before
    (name,) = naming
    less = {"calendars": None, "lists": None, "profile": None, name: None}
    assert acme.send("PATCH", f"/lines/{LINE}", less).status == 200


@pytest.mark.usefixtures("office")
def test_the_calendars_of_a_fleet(
    manager: Manager, acme: Api, operator: Api, client: redis.Redis
) -> None:
    shown = acme.get("/fleets/acme")
    assert shown.json == {"name": "acme", "label": "Acme", "calendars": {"office": OFFICE}}
    assert acme.get("/fleets/globex").status == 404
    acme.put(FORWARDS + "/busy", [to("voicemail", when="office")])
    change = {"calendars": {"summer": {}}, "lists": {"vip": ["+331411*"]}}
    assert acme.send("PATCH", "/fleets/acme", change, if_match="old").status == 412
    done = acme.send("PATCH", "/fleets/acme", change, if_match=shown.etag)
    assert done.status == 200, done.text
    assert done.json["still_named"] == [
        {"what": "calendar", "name": "office", "lines": 1, "first": [LINE]}]  # fmt: skip
    kept = json.loads(str(client.get("fleet:acme")))
    assert kept == {"name": "acme", "label": "Acme", "cap_seconds": 60, **change}
    assert done.etag == acme.get("/fleets/acme").etag
    same = acme.send("PATCH", "/fleets/acme", change, if_match=done.etag)
    assert (same.status, same.etag) == (200, done.etag)
    wrong = {"calendars": {"a": {"weekly": {"mon": ["9-12"]}}}}
    answer = operator.send("PATCH", "/fleets/acme", wrong)
    assert list(answer.fields()) == ["calendars.a.weekly.mon[0]"]
    assert acme.send("PATCH", "/fleets/acme", {"cap_seconds": 0}).fields().keys() == {"cap_seconds"}
    paul = Api(manager, manager.token("--fleet", "acme", "--line", LINE))
    assert paul.get("/fleets/acme").status == 200
    assert paul.send("PATCH", "/fleets/acme", {"lists": None}).status == 403
    assert acme.send("PATCH", "/fleets/acme", {"lists": None}).json == {
        "name": "acme", "label": "Acme", "calendars": {"summer": {}}, "still_named": [],
    }  # fmt: skip


def test_a_fleet_with_what_is_no_json_is_refused_by_name(acme: Api, client: redis.Redis) -> None:
    document = '{"name": "acme", "crm": "é"}'.encode("latin-1")
    client.set("fleet:acme", document)
    try:
        for answer in (acme.get("/fleets/acme"), acme.send("PATCH", "/fleets/acme", {"lists": {}})):
            assert answer.status == 400, answer.text
            assert "fleet acme: its document is refused" in answer.json["detail"]
    finally:
        client.delete("fleet:acme")


def test_unknown_paths_and_methods(acme: Api) -> None:
    assert acme.get(f"/lines/{LINE}/forwards/sometimes").status == 404
    assert acme.get("/nothing").status == 404
    assert acme.send("POST", "/lines").status == 405
    assert acme.send("PATCH", FORWARDS, {}).headers["content-type"] == "application/problem+json"


def test_the_description_names_every_route(manager: Manager) -> None:
    described = manager.get("/api/v1/openapi.json").json
    assert described["openapi"].startswith("3.1")
    assert "/api/v1/lines/{number}/forwards/{condition}" in described["paths"]
    line = described["paths"]["/api/v1/lines/{number}"]
    for method, headers in (("get", ["If-None-Match"]), ("put", ["If-Match", "If-None-Match"])):
        told = [each["name"] for each in line[method]["parameters"] if each["in"] == "header"]
        assert told == headers
    refs = set(_refs(described))
    assert refs
    assert refs <= {f"#/components/schemas/{n}" for n in described["components"]["schemas"]}


def _refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for part in value.values() for ref in _refs(part)]
    return [ref for part in value for ref in _refs(part)] if isinstance(value, list) else []
