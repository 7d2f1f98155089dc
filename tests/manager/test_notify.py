"""The part `notify` of a line's document in the API: written, checked, described, always without
secrets."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import redis

from manager import models
from rules.notify import EVENTS, LANGUAGES, OF_FLEETS_ALONE
from tests.manager.site import Api, write

LINE = "+33972105001"


def test_an_operator_writes_it_and_what_is_wrong_is_named(
    operator: Api, client: redis.Redis
) -> None:
    write(client, LINE)
    path = f"/lines/{LINE}"
    document = operator.get(path).json
    notify = {"webhook": {"url": "https://crm.example.com/x"}, "events": ["missed_call"]}
    put = operator.put(path, {**document, "notify": notify}, if_match="*")
    assert put.status == 200, put.text
    assert operator.get(path).json["notify"] == notify
    for wrong, field in (
        ({"webhook": {"url": "http://127.1/"}}, "notify.webhook.url"),
        ({"email": ["marie"]}, "notify.email[0]"),
        ({**notify, "events": ["cap_used"]}, "notify.events[0]"),
        ({"events": ["missed_call"]}, "notify"),
    ):
        put = operator.put(path, {**document, "notify": wrong}, if_match="*")
        assert put.status == 422, put.text
        assert list(put.fields()) == [field]
    assert operator.get(path).json["notify"] == notify


def test_a_customer_reads_it_and_the_change_is_in_the_log(
    operator: Api, acme: Api, client: redis.Redis
) -> None:
    number = "+33972105002"
    write(client, number)
    client.set(f"notify:secret:line:{number}", json.dumps({"secret": "whsec_c2VjcmV0"}))
    notify = {"email": ["marie@example.com"]}
    document = {"number": number, "fleet": "acme", "notify": notify}
    assert operator.put(f"/lines/{number}", document, if_match="*").status == 200
    assert acme.get(f"/lines/{number}").json["notify"] == notify
    assert acme.put(f"/lines/{number}", document, if_match="*").status == 403
    changes = acme.get(f"/lines/{number}/changes").text
    assert "marie@example.com" in changes
    assert "whsec" not in changes


def test_the_description_has_the_events_and_languages() -> None:
    hints: Any = get_type_hints(models.Notify)
    (events,) = get_args(get_args(hints["events"])[0])
    assert set(get_args(events)) == set(EVENTS) - OF_FLEETS_ALONE
    assert get_args(get_args(hints["language"])[0]) == LANGUAGES
