"""The journal of active calls, which survives the death of the process. Thanks to it another
process continues the calls of a killed worker, and each call gets exactly one record.

One file in shared memory per worker process, which locks it. A call is in it from its INVITE until
its record is in Redis or on disk: first its facts and the state of its legs, then the record. A
write copies one or two kilobytes into a memory map, without a system call. What must outlive the
next message is written at once, other changes are collected for a moment. The next process takes
over the files of dead owners. That may happen twice, because records are identified by their call's
id (engine/records/writing_once.py), and of two entries of a call the one counts that has
changed the process more often.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import msgspec

from engine.call_entry import (
    VERSION,
    ActiveCall,
    EndedCall,
    Entry,
    active,
    decode,
    encode,
    id_of,
)
from engine.call_facts import CallFacts
from engine.records.record import CallRecord
from engine.telemetry.log import get_logger

SLOT_BYTES = 2048
FLUSH_S = 0.04
NEW_S = 0.005
AT_ONCE = 50  # changed calls written per turn of the loop: a quarter of a millisecond
GROW_BYTES = 1 << 20
MOST_BYTES = 1 << 28
SHARED_MEMORY = Path("/dev/shm")
_HEADER = struct.Struct("<IIQI")  # bytes of the whole entry, next slot, version, checksum of all
_pack = _HEADER.pack
_ROOM = SLOT_BYTES - _HEADER.size
# The checksum begins with the version: a slot may get the version of a new entry and keep the rest
# of an older one.
_LOW = 0xFFFFFFFF
_NOTHING = bytes(4)  # no bytes: a slot that is free
# Slot 0: when the worker's loop last ran, in unix and in monotonic seconds, and the boot of the
# machine from which the latter count; then the version of the entries, and whether the process has
# left its calls to the next one, and how often another process has begun to continue them.
_BEAT = struct.Struct("<dd16sIII")

log = get_logger("journal")


class Left:
    """The content of a dead process's journal: the calls that were active when its loop last ran
    (`died`, unix seconds; `died_at`, monotonic, None if the machine was rebooted since), and
    records that may not be safe. `is_handed_over`: it left them on purpose. `lost` counts entries
    that this version cannot read."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        content = _whole(descriptor)
        beat = _BEAT.unpack_from(content) if content else (0.0, 0.0, b"", 0, 0, 0)
        self.died, died_at, boot, _, handed, self.attempts = beat
        self.is_handed_over = bool(handed)
        self.died_at: float | None = died_at if _is_of_this_boot(path, boot) else None
        self.active: list[ActiveCall] = []
        self.over: list[CallRecord] = []
        entries, self.lost = _read(content)
        for entry in entries:
            if isinstance(entry, EndedCall):
                self.over.append(entry.record)
            else:
                if self.died_at is None:
                    entry.offset = 0.0  # of a clock that is gone
                self.active.append(entry)
        self.pending = {id_of(entry) for entry in entries}

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.name

    @property
    def epoch(self) -> str:
        """The name of its process."""
        return self.path.stem.removeprefix("calls-")

    def attempt(self) -> None:
        """Note that this process begins to continue the calls, in case one of them ends it."""
        self.attempts += 1
        number = struct.pack("<I", self.attempts)
        os.pwrite(self._descriptor, number, _BEAT.size - len(number))

    @property
    def age_s(self) -> float:
        """Seconds since its process was last seen alive."""
        return _since(self.died, self.died_at)

    def failed(self, call: ActiveCall) -> CallRecord:
        """The record of one of its calls that nobody continues."""
        return call.failed(self.died, self.died_at)

    def forget(self) -> None:
        """Delete the journal, because all of it is safe."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Journal:
    """The journal of one worker process. `full` counts calls for which there was no room."""

    def __init__(self, directory: Path, epoch: str) -> None:
        self.full = 0
        self.path = directory / f"calls-{epoch}.journal"
        self.changed: set[CallFacts] = set()  # calls whose facts are not written yet
        # For another host (engine/standby.py): the last entries of answered calls, None = it ended.
        self.standby: dict[str, bytes | None] | None = None
        self.dead: list[str] = []  # the names of the processes whose journals were taken over
        self._map: mmap.mmap | None = None
        self._descriptor = -1
        self._slots: dict[str, list[int]] = {}  # of each call
        self._without: dict[str, int] = {}  # calls without room, and the last version before
        self._free: list[int] = []
        self._safe: list[str] = []  # since the last beat
        self._safe_before: list[str] = []
        self._version = 0
        self._left: list[Left] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_soon = False  # new calls are written in NEW_S

    def open(self) -> None:
        """Make the file. A failure is logged and not fatal; calls are then not written."""
        draft = self.path.with_suffix(".new")  # no process takes it over before it is locked
        try:
            self._descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(self._descriptor, 0, GROW_BYTES)
            self._map = mmap.mmap(self._descriptor, GROW_BYTES)
            draft.rename(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            log.error("journal.unusable", path=str(self.path), error=str(error))
            return
        self._add_slots(1, GROW_BYTES)
        self.beat()

    def take_over(self, index: int = 0, workers: int = 1, takeover_s: float = 0.0) -> list[Left]:
        """The journals of dead owners. They are kept until everything in them is safe.

        `index` is that of this worker, of `workers`: the journals of others' predecessors are left
        to them for `takeover_s` seconds, because only they can continue the calls.
        """
        for path in sorted(self.path.parent.glob("calls-*.journal")):
            if path == self.path or (
                _index_of(path) != index
                and _index_of(path) < workers
                and _age_s(path) <= takeover_s
            ):
                continue
            if (descriptor := _lock(path)) >= 0:
                try:
                    left = Left(path, descriptor)
                except Exception as error:
                    log.error("journal.unreadable", path=str(path), error=str(error))
                    path.replace(path.with_suffix(".bad"))
                    os.close(descriptor)
                    continue
                self.dead.append(left.epoch)
                if left.pending or left.lost:
                    self._left.append(left)
                else:
                    left.forget()
        _drop_copies(self._left)
        return list(self._left)

    def beat(self) -> None:
        """Note that the loop runs. Entries that were safe two beats ago are dropped: the lease of a
        call is released a moment after its end, and a successor must know of it."""
        if self._map is not None:
            _BEAT.pack_into(self._map, 0, time.time(), time.monotonic(), _boot(), VERSION, 0, 0)
        self._forget(self._safe_before)
        self._safe_before, self._safe = self._safe, []

    def has_all(self) -> bool:
        """Whether it is usable, and had room for the last state of each call that was written."""
        memory = self._map
        if memory is None:
            return False
        for id_, before in list(self._without.items()):
            at = self._slots.get(id_, [0])[0] * SLOT_BYTES
            if at and _HEADER.unpack_from(memory, at)[2] > before:
                del self._without[id_]
        return not self._without

    def start(self) -> None:
        """Write changes regularly, until the end."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(FLUSH_S, self._flush_regularly)

    def begin(self, facts: CallFacts) -> None:
        """Write a new call in NEW_S: after the first step of its coroutine, which nearly always
        dials its first legs, and after those of calls that arrive with it."""
        self.changed.add(facts)
        if self._loop is not None and not self._is_soon:
            self._is_soon = True
            self._loop.call_later(NEW_S, self._flush_new)

    def _flush_new(self) -> None:
        self._is_soon = False
        self._flush_some()

    def write(self, facts: CallFacts) -> None:
        """Write a call as it is now, at once."""
        self.changed.discard(facts)
        self._write_active(facts)

    def _write_active(self, facts: CallFacts) -> None:
        content = encode(active(facts))
        self._write(facts.id, content)
        if self.standby is not None and facts.answered is not None:
            self.standby[facts.id] = content

    def flush(self, most: int = AT_ONCE) -> None:
        """Write changed calls, at most so many."""
        for _ in range(min(most, len(self.changed))):
            facts = self.changed.pop()
            if not facts.ended:
                self._write_active(facts)

    def _flush_regularly(self) -> None:
        """Write some of the changed calls now, and the others in the next turns of the loop."""
        assert self._loop is not None
        self._flush_some()
        pause_s = 0.0 if self.changed else FLUSH_S
        self._timer = self._loop.call_later(pause_s, self._flush_regularly)

    def _flush_some(self) -> None:
        """Write some of the changed calls; an error in one of them leaves the others alone."""
        try:
            self.flush()
        except Exception as error:
            log.error("journal.unwritten", error=str(error))

    def over(self, facts: CallFacts, record: CallRecord) -> None:
        """Add the record of an ended call, which is not safe yet."""
        self.changed.discard(facts)
        self._write(record.id, encode(EndedCall(record)))
        if self.standby is not None:
            self.standby[record.id] = None

    def safe(self, ids: Sequence[str]) -> None:
        """These records are in Redis or on disk."""
        self._safe.extend(ids)
        if self._without:
            for id_ in ids:
                self._without.pop(id_, None)
        self._settle(ids)

    def continued(self, ids: Sequence[str]) -> None:
        """These calls of dead processes are in this journal now, or in that of another host."""
        self._settle(ids)

    def elsewhere(self, id_: str) -> None:
        """Another host has this call."""
        self._forget([id_])
        self._without.pop(id_, None)
        if self.standby is not None:
            self.standby.pop(id_, None)

    def _settle(self, ids: Sequence[str]) -> None:
        """The entries of these calls in the journals of dead processes are not needed any more."""
        for left in list(self._left):
            left.pending.difference_update(ids)
            if not left.pending:
                left.forget()
                self._left.remove(left)

    def _forget(self, ids: list[str]) -> None:
        for id_ in ids:
            slots = self._slots.pop(id_, None)
            if slots is not None:
                self._release(slots)

    def hand_over(self) -> None:
        """Write everything, and that it is for the next process. Nothing is written later."""
        while self.changed:
            self._flush_some()
        memory, self._map = self._map, None
        if memory is not None:
            _BEAT.pack_into(memory, 0, time.time(), time.monotonic(), _boot(), VERSION, 1, 0)

    def close(self) -> None:
        """The normal end of this process; entries that are not safe remain for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._forget(self._safe_before)
        self._forget(self._safe)
        if self._map is not None:
            self._map.close()
            self._map = None
            if not self._slots:
                self.path.unlink(missing_ok=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self.path.parent.parent == SHARED_MEMORY:
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()  # if no other worker has its journal there

    # -- slots ------------------------------------------------------------------------------------

    def _write(self, id_: str, content: bytes) -> None:
        """Write a new version of a call's entry into new slots. A death in between leaves the old
        one, or both, of which the later counts. A half-written entry has a wrong checksum."""
        memory = self._map
        if memory is None:
            return
        size = len(content)
        free = self._free
        if size <= _ROOM and free:  # nearly always
            slot = free.pop()
            self._version = version = self._version + 1
            whole = _pack(size, 0, version, crc32(content, version & _LOW)) + content
            at = slot * SLOT_BYTES
            memory[at : at + len(whole)] = whole
            old = self._slots.get(id_)
            self._slots[id_] = [slot]
            if old is not None:
                at = old[0] * SLOT_BYTES
                memory[at : at + 4] = _NOTHING
                free += old
            return
        slots = self._take(1 if size <= _ROOM else -(-size // _ROOM))
        memory = self._map
        if slots is None or memory is None:
            self.full += 1
            self._without[id_] = self._version
            if self.full == 1:
                log.warning("journal.full", path=str(self.path), calls=len(self._slots))
            return
        self._version += 1
        check = crc32(content, self._version & _LOW)
        following = 0
        for part in range(len(slots) - 1, -1, -1):
            at = slots[part] * SLOT_BYTES
            piece = content[part * _ROOM : (part + 1) * _ROOM]
            memory[at + _HEADER.size : at + _HEADER.size + len(piece)] = piece
            _HEADER.pack_into(memory, at, 0 if part else size, following, self._version, check)
            following = slots[part]
        old = self._slots.get(id_)
        self._slots[id_] = slots
        if old is not None:
            self._release(old)

    def _take(self, count: int) -> list[int] | None:
        free = self._free
        while len(free) < count:
            if not self._grow():
                return None
        return [free.pop() for _ in range(count)]

    def _release(self, slots: list[int]) -> None:
        if self._map is not None:
            self._map[slots[0] * SLOT_BYTES : slots[0] * SLOT_BYTES + 4] = _NOTHING
        self._free.extend(slots)

    def _grow(self) -> bool:
        assert self._map is not None
        size = len(self._map)
        if size + GROW_BYTES > MOST_BYTES:
            return False
        try:
            # Writing to memory that is not available would kill the process.
            os.posix_fallocate(self._descriptor, size, GROW_BYTES)
            self._map.resize(size + GROW_BYTES)
        except OSError:
            return False
        self._add_slots(size // SLOT_BYTES, size + GROW_BYTES)
        return True

    def _add_slots(self, first: int, end_bytes: int) -> None:
        # Last freed, first reused, to touch as few pages as possible.
        self._free[:0] = range(end_bytes // SLOT_BYTES - 1, first - 1, -1)


def directory_of(data_dir: Path) -> Path:
    """The directory of the journals of the workers on this data directory: in shared memory, which
    never waits for a disk; otherwise beside the data."""
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    directory = SHARED_MEMORY / f"renvoi-{os.getuid()}-{name}"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        owner = directory.lstat()
        if owner.st_uid == os.getuid() and not owner.st_mode & 0o077:
            return directory
    except OSError:
        pass
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return data_dir


def active_in(journal: BinaryIO) -> list[str]:
    """The ids of the active calls in a journal, which is closed."""
    try:
        with journal:
            entries, _ = _read(journal.read())
    except OSError:
        return []
    return [entry.id for entry in entries if isinstance(entry, ActiveCall)]


@cache
def _boot() -> bytes:
    """Identifies the boot of the machine, from which monotonic seconds count; empty if that is not
    known."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        return bytes.fromhex(text.strip().replace("-", ""))
    except (OSError, ValueError):
        return b""


def _is_of_this_boot(path: Path, boot: bytes) -> bool:
    """Whether the monotonic seconds of a journal, which states this boot, count from the present
    one. systemd may hide its name (ProcSubset=pid); shared memory does not survive a boot."""
    known = _boot()
    if known and any(boot):
        return boot == known
    return path.parent.parent == SHARED_MEMORY


def _read(content: bytes) -> tuple[list[Entry], int]:
    """The last complete entry of each call, in order of writing, and how many cannot be read."""
    found: dict[str, tuple[int, Entry]] = {}
    lost = 0
    for version, whole in _entries(content):
        try:
            entry = decode(whole)
        except msgspec.DecodeError:
            lost += 1
            continue
        id_ = id_of(entry)
        if id_ not in found or found[id_][0] < version:
            found[id_] = version, entry
    return [entry for _, entry in sorted(found.values(), key=lambda pair: pair[0])], lost


def _entries(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The complete entries, each with its version."""
    for at in range(SLOT_BYTES, len(content) - SLOT_BYTES + 1, SLOT_BYTES):
        size, following, version, check = _HEADER.unpack_from(content, at)
        if not size:
            continue
        whole = bytearray(content[at + _HEADER.size : at + SLOT_BYTES])
        while 0 < following < len(content) // SLOT_BYTES and len(whole) < size <= len(content):
            begin = following * SLOT_BYTES
            whole += content[begin + _HEADER.size : begin + SLOT_BYTES]
            following = _HEADER.unpack_from(content, begin)[1]
        if len(whole) >= size and crc32(whole[:size], version & _LOW) == check:
            yield version, bytes(whole[:size])  # otherwise the process died while it wrote it


def _drop_copies(left: Sequence[Left]) -> None:
    """Of a call in several journals keep the entry that has changed the process most often: the
    others are of processes that were continued by one that died as well."""
    newest: dict[str, int] = {}
    for journal in left:
        for call in journal.active:
            newest[call.id] = max(newest.get(call.id, 0), call.takeovers)
        for record in journal.over:
            newest[record.id] = max(newest.get(record.id, 0), record.takeovers)
    for journal in left:
        journal.active = [call for call in journal.active if call.takeovers == newest[call.id]]
        journal.over = [record for record in journal.over if record.takeovers == newest[record.id]]


def _index_of(path: Path) -> int:
    """The worker whose journal it is."""
    number = path.name.removeprefix("calls-").partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _age_s(path: Path) -> float:
    """Seconds since its owner was last seen alive; 0 if that is not known."""
    try:
        with path.open("rb") as reader:
            died, died_at, boot, *_ = _BEAT.unpack(reader.read(_BEAT.size))
    except (OSError, struct.error):
        return 0.0
    return _since(died, died_at if _is_of_this_boot(path, boot) else None)


def _since(unix: float, monotonic: float | None) -> float:
    """Seconds since a moment, by the clock that is not set, unless the machine was rebooted."""
    return time.monotonic() - monotonic if monotonic is not None else max(0.0, time.time() - unix)


def _lock(path: Path) -> int:
    """Open and lock the journal of a dead owner: its descriptor, otherwise -1."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink and path.exists():
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return -1


def _whole(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as reader:
        reader.seek(0)
        return reader.read()
