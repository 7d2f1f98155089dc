"""Effect and cost when the target has its own forwards or cannot be reached; incomplete names."""

from __future__ import annotations

import time

import pytest
import redis

from tests.manager.browser import PASSWORD, Visitor, text
from tests.manager.site import Json, Manager, read, write

BOSS, SHOP, DESK, DEPOT = (f"+3397210100{n}" for n in (1, 2, 3, 4))
FORM = f"/lines/{DESK}/forwards"
MOBILE = "+33612345678"


@pytest.fixture(scope="module")
def marie(manager: Manager) -> Visitor:
    manager.command("manager", "account", "add", "marie", "--fleet", "acme", typed=PASSWORD + "\n")
    visitor = Visitor(manager)
    assert visitor.log_in("marie").status == 200
    return visitor


@pytest.fixture(autouse=True)
def lines(client: redis.Redis) -> None:
    for key in [*client.scan_iter("reg:*"), *client.scan_iter("audit:*")]:
        client.delete(key)
    write(client, BOSS, label="Direction", offer={"mobile": "unlimited"})
    write(client, SHOP, label="Boutique")
    write(client, DESK, label="Accueil", offer={"mobile": "hours", "mobile_hours": 2})
    write(client, DEPOT, label="Poste du dépôt")
    for number in (BOSS, SHOP, DESK):
        client.zadd(f"reg:{number}", {"sip:phone@127.0.0.1:9": time.time() + 600})


def number(to: str) -> Json:
    return {"on": True, "to": {"kind": "number", "number": to}}


def preview(marie: Visitor, to: str, service: str = "number") -> str:
    fields = {"busy__on": "on", "busy__service": service, f"busy__{service}": to}
    return text(marie.submit(marie.get(FORM), FORM, step="check", **fields))


def test_a_chain_says_where_it_goes_on_and_who_pays(marie: Visitor, client: redis.Redis) -> None:
    write(
        client, BOSS, label="Direction", offer={"mobile": "unlimited"},
        forwards={"unconditional": number(MOBILE)},
    )  # fmt: skip
    shown = preview(marie, BOSS)
    name = "09 72 10 10 01 (Direction)"
    assert (
        f"La ligne {name} renvoie à son tour tous ses appels vers : numéro 06 12 34 56 78" in shown
    )
    assert f"C’est la ligne {name} qui paie ce renvoi." in shown
    assert "→ ligne 09 72 10 10 01 (Direction) Hors forfait" in shown  # not "Gratuit"
    assert "C’est cette ligne qui paie" not in shown
    assert "C’est cette ligne qui paie l’appel renvoyé" in preview(marie, MOBILE)


def test_a_chain_of_three_is_shown_to_its_end(marie: Visitor, client: redis.Redis) -> None:
    write(client, SHOP, label="Boutique", forwards={"unconditional": number(BOSS)})
    write(
        client, BOSS, label="Direction", forwards={"no_answer": {**number(MOBILE), "after_s": 20}}
    )
    shown = preview(marie, SHOP)
    assert "La ligne 09 72 10 10 02 (Boutique) renvoie à son tour tous ses appels vers : " in shown
    assert "Sans réponse, la ligne 09 72 10 10 01 (Direction) renvoie à son tour vers" in shown
    assert "→ ligne 09 72 10 10 02 (Boutique) Gratuit" in shown  # the certain part


def test_a_ring_of_lines_ends(marie: Visitor, client: redis.Redis) -> None:
    write(client, SHOP, label="Boutique", forwards={"unconditional": number(BOSS)})
    write(client, BOSS, label="Direction", forwards={"unconditional": number(SHOP)})
    assert "tous ses appels vers : ligne 09 72 10 10 01" in preview(marie, SHOP)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"suspended": True}, "La ligne 09 72 10 10 02 (Boutique) est suspendue"),
        ({}, "aucun téléphone n’est connecté à la ligne 09 72 10 10 02 (Boutique)"),
    ],
)
def test_a_target_that_cannot_be_reached_has_a_warning(
    marie: Visitor, client: redis.Redis, change: Json, warning: str
) -> None:
    assert warning not in preview(marie, SHOP)
    write(client, SHOP, label="Boutique", **change)
    client.delete(f"reg:{SHOP}")
    answer = marie.get(FORM)
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": SHOP}
    answer = marie.submit(answer, FORM, step="check", **fields)
    assert warning in text(answer)
    assert 'class="badge warned"' in answer.text
    assert 'class="badge free"' not in answer.text


def test_what_was_not_shown_is_not_written(marie: Visitor, client: redis.Redis) -> None:
    """The other line changes after the preview: the new cost must be shown first."""
    fields = {"busy__on": "on", "busy__service": "number", "busy__number": BOSS}
    check = marie.submit(marie.get(FORM), FORM, step="check", **fields)
    write(client, BOSS, label="Direction", forwards={"unconditional": number(MOBILE)})
    again = marie.submit(check, FORM, step="validate")
    assert "Vérifiez, puis validez" in text(again)
    assert "forwards" not in read(client, DESK)


@pytest.mark.parametrize("service", ["number", "voicemail", "fax"])
def test_a_part_of_a_name_picks_no_line(marie: Visitor, client: redis.Redis, service: str) -> None:
    fields = {"busy__on": "on", "busy__service": service, f"busy__{service}": "poste"}
    fields["busy__box"] = "other"
    answer = marie.submit(marie.get(FORM), FORM, step="validate", **fields)
    assert answer.status == 422
    said = "Aucune ligne ne s’appelle « poste ». Cherchiez-vous Poste du dépôt (09 72 10 10 04) ?"
    assert said in text(answer)
    assert "forwards" not in read(client, DESK)


def test_the_whole_name_is_taken_and_shown_beside_the_number(
    marie: Visitor, client: redis.Redis
) -> None:
    fields = {"busy__on": "on", "busy__service": "voicemail", "busy__voicemail": "poste DU depot"}
    fields["busy__box"] = "other"
    check = marie.submit(marie.get(FORM), FORM, step="validate", **fields)
    shown = "messagerie du 09 72 10 10 04 (Poste du dépôt)"
    assert shown in text(check)
    done = marie.submit(check, FORM, step="validate")
    for page in (done, marie.get(f"/lines/{DESK}")):
        assert shown in text(page)
    assert read(client, DESK)["forwards"]["busy"]["to"]["number"] == DEPOT
