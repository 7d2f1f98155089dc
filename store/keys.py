"""Every key of Redis, by name: no other module spells one (`tests/test_house.py`).

README, "The rules", has the keys that other programs may read and write. The part in braces
determines the slot of a key in a Redis Cluster: keys with the same part are on one node.
"""

LINE = "line:"
"""String: a line's document, by number."""
REGISTRATIONS = "reg:"
"""Sorted set: a line's contacts, by number; the score is when each expires, in unix seconds."""
LIVE = "live:"
"""Sorted set: calls of a line with `max_calls`, by number; the score is when the lease expires."""
USAGE = "usage:"
"""Hash: seconds used in a month, by billing class; of a line, or of a fleet's lines together."""
FLEET = "fleet:"
"""String: a fleet's document, by name. Also the prefix of a fleet where a number is possible."""
AUDIT = "audit:"
"""Stream: a fleet's log of changes, by name; without a name that of imports."""
RECORDS = "cdr"
"""Stream: the records of calls."""

ACTIVE_CALLS = "standing:"
"""Hash: notes of a fleet's active calls by call id (`rules.usage_notes`)."""
FORWARDS, FORWARDS_LAST_HOUR = "forwards:", "forwards:hour:"
"""Sorted sets, as LIVE: a line's forwarded calls beyond its workers' local quotas
(`engine.forwards`)."""
TRANSFER = "transfer:"
"""String: who pays for the call that follows a transfer."""
STANDBY = "standby:"
"""By the SIP address of a worker (`store.standby`). Sorted set: the processes there that leave
their calls to other hosts; the score is when each was last alive, by the clock of Redis. With a
process, hash: its answered calls, by id. With `:taken`, set: those that another process has
claimed."""
STANDBY_PLACES = "standby:places"
"""Set: all such addresses."""

WORKERS = "workers"
"""Sorted set: ids of workers; the score is the unix time in seconds until which each counts as
live."""
WORKER = "worker:"
"""String: what a worker reports about itself, by id."""
PROBE, ACK = "probe:", "ack:"
"""String and hash: a writer's question whether its write is in force, and the workers' answers."""
CANARY = "canary:"
"""String: what a worker writes to measure the delay of notifications, by worker."""

REGISTRAR_SECRET, REGISTRAR_NONCE = "registrar:secret", "registrar:nonce:"
"""Strings: the secret that signs nonces; the highest count used with each nonce."""

ACCOUNT, TOKEN, SESSION = "manager:account:", "manager:token:", "manager:session:"
"""Strings: the manager's accounts by name, tokens and sessions by id."""
LOGIN_ATTEMPTS = "manager:attempts:"
"""Strings: failed logins in the last minutes."""
KEPT_FORM, DONE, DONE_SEVERAL = "manager:kept:", "manager:done:", "manager:several:"
"""Strings: a form that waits for a login; the result of a change of one line, or of many, for its
page."""

NOTIFY_LEASE = "{notify}:lease"
"""String: which process of `renvoi notify` reads and sends now; it expires."""
NOTIFY_POSITIONS = "{notify}:positions"
"""Hash: the last entry read of each stream, and `began`: when the first process began, as an id."""
NOTIFY_WAITING = "{notify}:waiting"
"""Hash: notifications that wait to be sent, by id."""
NOTIFY_ONCE = "{notify}:once"
"""Hash: what is notified once, such as 80 % of a month's plan; the value is when, unix seconds."""
NOTIFY_PREVENTED = "{notify}:prevented"
"""Hash: forwards that have prevented themselves, by line and condition."""
NOTIFY_SECRET = "notify:secret:"
"""String: the secrets that sign the webhooks of `line:<number>` or `fleet:<name>`."""


def notify_secret_key(owner: str) -> str:
    """Of an owner such as `fleet:acme`."""
    return NOTIFY_SECRET + owner


def line_key(number: str) -> str:
    return LINE + number


def registrations_key(number: str) -> str:
    return REGISTRATIONS + number


def live_key(number: str) -> str:
    return LIVE + number


def fleet_key(name: str) -> str:
    return FLEET + name


def usage_key(owner: str, month: str) -> str:
    """Of a line by its number, or of a fleet by `fleet:<name>`; the month such as "2026-11"."""
    return f"{USAGE}{owner}:{month}"


def fleet_usage_key(name: str, month: str) -> str:
    return f"{USAGE}{FLEET}{name}:{month}"


def active_calls_key(usage: str) -> str:
    """The notes of a fleet's active calls: beside its usage."""
    return f"{ACTIVE_CALLS}{{{usage}}}"


def fleet_of_active_calls(key: str) -> str:
    """The fleet whose active calls a key has; "" when it is no such key."""
    return key.removeprefix(f"{ACTIVE_CALLS}{{{USAGE}{FLEET}").rpartition(":")[0]


def added_key(usage: str, day: int) -> str:
    """Hash, in a Cluster: the calls that were added to a usage key and ended that day."""
    return f"once:{{{usage}}}:{day}"


def written_key(calls: str) -> str:
    """String: whether the record of a call, or of each of several calls, has been written."""
    return f"{{{RECORDS}}}:done:{calls}"


def audit_key(fleet: str = "") -> str:
    return AUDIT + fleet


def transfer_key(caller: str, called: str) -> str:
    return f"{TRANSFER}{caller}:{called}"


def parties_of_transfer(key: str) -> tuple[str, str]:
    """The caller and the called party of the expected call."""
    caller, _, called = key.removeprefix(TRANSFER).partition(":")
    return caller, called


def standby_key(place: str, process: str = "") -> str:
    """Of a SIP address, or the calls of one process there."""
    key = f"{STANDBY}{{{place}}}"
    return f"{key}:{process}" if process else key


def standby_taken_key(place: str, process: str) -> str:
    return f"{standby_key(place, process)}:taken"


def worker_key(worker: str) -> str:
    return WORKER + worker


def probe_key(number: str, token: str) -> str:
    """In the slot of the line, so that its node reports both on one stream, in order."""
    return f"{PROBE}{{{LINE}{number}}}:{token}"


def number_of_probe(probe: str) -> str:
    """The line that a probe asks about; "" if it is none of ours."""
    return probe.partition(f"{{{LINE}")[2].partition("}")[0]


def ack_key(probe: str) -> str:
    """The key for the workers' answers to a probe."""
    return ACK + probe.removeprefix(PROBE)
