"""The words of e-mails: subject and text of a delivery, in its language. The texts are in
`texts/`, one file per language, with the same keys in each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import phonenumbers
import yaml

from notify.deliveries import Delivery
from notify.occurrences import forwards_of, plain
from rules.notify import LANGUAGES

TEXTS = Path(__file__).with_name("texts")
CONDITIONS = ("unconditional", "busy", "no_answer", "unreachable")
_MOST_TARGETS = 10


def _read(language: str) -> dict[str, str]:
    text = (TEXTS / f"{language}.yaml").read_text(encoding="utf-8")
    words: dict[str, str] = yaml.safe_load(text)
    return words


WORDS = {language: _read(language) for language in LANGUAGES}
"""By language, then by key. {names} are filled in."""


class Wording:
    """`zone`: of the times. `country`: of numbers that are shown without their country code."""

    def __init__(self, zone: ZoneInfo, country: str) -> None:
        self._zone = zone
        self._country = country

    def of(self, delivery: Delivery) -> tuple[str, str]:
        """Subject and text."""
        return _Letter(delivery, self._zone, self._country).written()


class _Letter:
    def __init__(self, delivery: Delivery, zone: ZoneInfo, country: str) -> None:
        self._words = WORDS[delivery.language if delivery.language in WORDS else LANGUAGES[0]]
        self._event = delivery.event
        self._data = delivery.data
        self._at = delivery.at
        self._zone = zone
        self._country = country

    def written(self) -> tuple[str, str]:
        tell = getattr(self, f"_{self._event}")
        facts = {"line": self._line(), "fleet": self._fleet(), "at": self._moment(self._at)}
        key, more, rest = tell()
        subject = self._say(f"{key}.subject", **facts, **more)
        lines = [self._say(f"{key}.text", **facts, **more), *rest]
        return subject, "\n".join([*lines, "", self._say("footer", **facts)]) + "\n"

    # The events: the key of the texts, what they name, and more lines

    def _missed_call(self) -> tuple[str, dict[str, Any], list[str]]:
        data = self._data
        key = "missed_call.voicemail" if data.get("voicemail") else "missed_call"
        caller = data.get("caller")
        rang_s = data.get("rang_s")
        rest = [self._say("missed_call.outcome", outcome=self._word("outcome", data["outcome"]))]
        if data.get("voicemail"):
            rest = [self._say("missed_call.left")]
        if rang_s is not None:
            rest.append(self._say("missed_call.rang", seconds=rang_s))
        who = self._number(caller) if caller else self._say("caller.withheld")
        return key, {"caller": who}, rest

    def _forward_changed(self) -> tuple[str, dict[str, Any], list[str]]:
        data = self._data
        by = self._say(f"by.{data['how']}", who=data["who"]) if data.get("who") else ""
        before, after = data.get("from") or {}, data.get("to") or {}
        rest = []
        was, now = before.get("forwards") or {}, after.get("forwards") or {}
        for condition in CONDITIONS:
            if condition in was or condition in now:
                sentence = self._say(
                    "change", what=self._word("condition", condition),
                    before=self._forwards(was.get(condition)),
                    after=self._forwards(now.get(condition)),
                )  # fmt: skip
                rest.append(sentence)
        for name in ("do_not_disturb", "profile", "also_ring"):
            if name in before or name in after:
                sentence = self._say(
                    "change", what=self._say(name), before=self._value(before.get(name)),
                    after=self._value(after.get(name)),
                )  # fmt: skip
                rest.append(sentence)
        was, now = (_mapping(side.get("profiles")) for side in (before, after))
        changed = sorted(n for n in was.keys() | now.keys() if was.get(n) != now.get(n))
        if changed:
            rest.append(self._say("profiles_changed", names=plain(", ".join(changed))))
        return "forward_changed", {"by": by}, rest

    def _plan_used(self) -> tuple[str, dict[str, Any], list[str]]:
        return self._used("plan_used")

    def _cap_used(self) -> tuple[str, dict[str, Any], list[str]]:
        return self._used("cap_used")

    def _used(self, event: str) -> tuple[str, dict[str, Any], list[str]]:
        data = self._data
        key = f"{event}.all" if data["percent"] >= 100 else event
        values = {
            "percent": data["percent"],
            "month": data["month"],
            "used": self._duration(data["used_s"]),
            "of": self._duration(data["of_s"]),
        }
        return key, values, []

    def _forward_prevented(self) -> tuple[str, dict[str, Any], list[str]]:
        data = self._data
        values = {
            "condition": self._word("condition", data["condition"]),
            "reason": self._word("reason", data["reason"]),
            "since": self._moment(data["since"]),
            "last": self._moment(data["last"]),
            "calls": data["calls"],
        }
        return "forward_prevented", values, []

    def _test(self) -> tuple[str, dict[str, Any], list[str]]:
        return "test", {}, []

    # The parts

    def _say(self, key: str, **values: object) -> str:
        text = self._words[key]
        return text.format(**values) if values else text

    def _word(self, kind: str, value: object) -> str:
        return self._words.get(f"{kind}.{value}", plain(str(value)))

    def _line(self) -> str:
        number = self._data.get("line")
        if not number:
            return ""
        label = plain(str(self._data.get("label") or ""))
        return f"{label} ({self._number(number)})" if label else self._number(number)

    def _fleet(self) -> str:
        return plain(str(self._data.get("fleet_label") or self._data.get("fleet") or ""))

    def _number(self, text: object) -> str:
        shown = plain(str(text))
        try:
            number = phonenumbers.parse(shown, self._country)
        except phonenumbers.NumberParseException:
            return shown
        if not shown.startswith("+"):
            return shown
        inside = phonenumbers.region_code_for_number(number) == self._country
        kind = phonenumbers.PhoneNumberFormat
        return phonenumbers.format_number(number, kind.NATIONAL if inside else kind.INTERNATIONAL)

    def _moment(self, unix_s: float) -> str:
        moment = datetime.fromtimestamp(unix_s, self._zone)
        return moment.strftime(self._say("moment"))

    def _duration(self, seconds: float) -> str:
        minutes = int(seconds) // 60
        return self._say("duration", hours=minutes // 60, minutes=minutes % 60)

    def _forwards(self, given: Any) -> str:
        """A condition's forwards, the first of which that applies is taken."""
        on = [forward for forward in forwards_of(given) if forward.get("on")]
        if not on:
            return self._say("off")
        return "; ".join(self._forward(forward) for forward in on)

    def _forward(self, forward: Mapping[str, Any]) -> str:
        to = self._targets(forward.get("to"))
        after_s = forward.get("after_s")
        timed = isinstance(after_s, int) and not isinstance(after_s, bool)
        parts = [self._say("after", to=to, seconds=after_s) if timed else to]
        limits = ((name, forward.get(name)) for name in ("when", "callers", "until"))
        parts += [self._say(name, value=plain(str(value))) for name, value in limits if value]
        return ", ".join(parts)

    def _targets(self, to: Any) -> str:
        found = [each for each in (to if isinstance(to, list) else [to]) if isinstance(each, dict)]
        targets = [self._target(each) for each in found[:_MOST_TARGETS]]
        return self._say("and").join(targets) or "?"

    def _target(self, to: Mapping[str, Any]) -> str:
        kind, number = str(to.get("kind")), to.get("number")
        word = self._word("kind", kind)
        return f"{word} {self._number(number)}" if number else word

    def _value(self, value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict) and "use" in value[0]:
            names = [each.get("use") for each in value if isinstance(each, dict)]  # of `profile`
            return plain(", ".join(map(str, names)))
        if isinstance(value, list):
            return self._targets(value) if value else self._say("off")
        if value is None or value is False:
            return self._say("off")
        return self._say("on") if value is True else plain(str(value))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
