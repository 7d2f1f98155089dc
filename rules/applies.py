"""Whether a forward applies at this hour and to this caller. Pure."""

from dataclasses import replace
from datetime import UTC, datetime

from rules.allowed import Targets
from rules.callers import CallerKind, Callers
from rules.decision import Circumstances, No, Situation
from rules.model import Forward, Line, ProfileUse

OFF = No("", "off")
# The words are completed from the forward by `reason_in_words`, which only `explain` calls.
_ENDED = No("", "off, it ended at {until}")
_OPEN = No("", "does not apply now, calendar {calendar} is open")
_CLOSED = No("", "does not apply now, calendar {calendar} is closed")
_NO_CALENDAR = No("", "does not apply, there is no calendar {calendar}")
_NO_LIST = No("", "does not apply, there is no list {list}")
_OTHER_CALLERS = No("", "does not apply to this caller ({callers})")
_NOT_KNOWN = No("", "does not apply, neither hour nor caller is known")


def profile_now(line: Line, found: Circumstances | None) -> ProfileUse | None:
    """Which profile of the line is used now: the first of `profile` that has not ended and whose
    calendar, if it names one, is so. None: the line's own forwards apply."""
    for use in line.profile:
        if use.when is None and use.until is None:
            return use
        if found is None or (use.until is not None and found.at >= use.until):
            continue
        if use.when is not None:
            name = use.when.calendar
            calendar = line.calendars.get(name) or found.calendars.get(name)
            if calendar is None or calendar.is_open(found.at) is use.when.negated:
                continue
        return use
    return None


def line_now(line: Line, found: Circumstances | None) -> Line:
    """The line as it is in the profile that is used now, and with its own switch of do not
    disturb, which holds in every profile."""
    use = profile_now(line, found) if line.profile else None
    if use is None:
        return line
    used = line.profiles[use.name]
    return replace(used, do_not_disturb=True) if line.do_not_disturb else used


def is_undisturbed(line: Line, found: Circumstances | None) -> bool:
    """Whether the line does not want to be disturbed, by itself or by the profile that is used."""
    return line_now(line, found).do_not_disturb


def reason_in_words(no: No, forward: Forward) -> str:
    """Why a forward does not apply (`why_not_now`), in words."""
    until = forward.until
    return no.text.format(
        until="" if until is None else datetime.fromtimestamp(until, UTC).isoformat(),
        calendar="" if forward.when is None else forward.when.calendar,
        list="" if forward.callers is None else forward.callers.name,
        callers=forward.callers,
    )


def why_not_now(forward: Forward, line: Line, now: Situation, targets: Targets) -> No | None:
    """Why a forward of a list is not taken for this call; None if it applies."""
    if not forward.on:
        return OFF
    if forward.when is None and forward.until is None and forward.callers is None:
        return None
    found = now.circumstances
    if found is None:
        return _NOT_KNOWN
    if forward.has_ended(found.at):
        return _ENDED
    if forward.when is not None:
        name = forward.when.calendar
        calendar = line.calendars.get(name) or found.calendars.get(name)
        if calendar is None:
            return _NO_CALENDAR
        if calendar.is_open(found.at) is forward.when.negated:
            return _OPEN if forward.when.negated else _CLOSED
    if forward.callers is not None:
        return _why_not_caller(forward.callers, line, now, found, targets)
    return None


def _why_not_caller(
    callers: Callers, line: Line, now: Situation, found: Circumstances, targets: Targets
) -> No | None:
    """Why a forward does not apply to this caller; None if it does."""
    kind, caller = callers.kind, None if found.withheld else now.caller
    if kind is CallerKind.WITHHELD:
        return None if found.withheld else _OTHER_CALLERS
    if kind is CallerKind.LIST:
        known = line.lists.get(callers.name) or found.lists.get(callers.name)
        if known is None:
            return _NO_LIST
        is_in = caller is not None and caller in known
        return _OTHER_CALLERS if is_in is callers.negated else None
    if found.withheld:
        return _OTHER_CALLERS
    other = targets.get(caller) if caller is not None else None
    inside = caller == line.number or (other is not None and other.fleet == line.fleet)
    return None if inside is (kind is CallerKind.FLEET) else _OTHER_CALLERS
