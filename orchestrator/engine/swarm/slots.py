"""Memory that supervisor and children share: what each child does, readable at any time.

A child that is busy, stopped or dead can tell nothing any more. So it writes down
beforehand what its supervisor must know then: under which name it holds messages, which
one it runs since when and until when, and which ones it has done with.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from dataclasses import dataclass

#: Bytes of one slot, two pages.
SIZE = 8192
#: Serials of finished messages that are remembered; more than are ever on their way to the broker.
REMEMBERED = 160

_NUMBER = struct.Struct("<q")
#: Serial, wall clock and monotonic clock at its start, soft and hard deadline, hard limit in seconds.
_RUNNING = struct.Struct("<qddddd")
_NO_RUN = _RUNNING.pack(0, 0.0, 0.0, 0.0, 0.0, 0.0)
_TEXT = struct.Struct("<H")

# Where what lies. The supervisor writes the first and what it told, the child the others.
_ORDERS = 0
_STATE = 8
_STARTED = 16
_FINISHED = 24
_RUN = 32
_KEPT = 96
_TOLD = 104
_RING = 128
_OWNER = _RING + 8 * REMEMBERED
_ID = _OWNER + 256
_NAME = _ID + 512
_ARGS = _NAME + 512
_KWARGS = _ARGS + 512
_STAMPS = _KWARGS + 512

#: What a supervisor orders: nothing, or to take no more messages and end.
GO_ON, RETIRE = 0, 1
#: What a child says of itself.
STARTING, READY = 0, 1


@dataclass(frozen=True, slots=True)
class Running:
    """One task in one child. Deadlines are on the monotonic clock; 0 is none."""

    serial: int
    started_at: float
    since: float
    soft: float
    hard: float
    hard_limit: float
    task_id: str = ""
    name: str = ""
    args: str = ""
    kwargs: str = ""
    #: What it bears, as JSON; empty for nothing, and cut off where it is longer than a page.
    stamps: str = ""

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.since


class Slot:
    """One child's pages. Writing costs about a microsecond; nobody waits for anybody."""

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self._at = 0
        # Has no name, so it goes with the last process that has it open.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the swarm

    def clear(self) -> None:
        """Forget everything; before a new child begins."""
        self._page[:] = bytes(SIZE)

    # --- written by the child ---------------------------------------------------------

    def begins(self, owner: str) -> None:
        """Note under which name messages are held from now on."""
        self._page[_RING:_OWNER] = bytes(_OWNER - _RING)
        self._write(_OWNER, 256, owner)

    def done(self, serial: int) -> None:
        """Note a message that is done with."""
        _NUMBER.pack_into(self._page, _RING + 8 * (self._at % REMEMBERED), serial)
        self._at += 1

    def start(self, run: Running) -> None:
        """Note what begins now."""
        page = self._page
        _NUMBER.pack_into(page, _KEPT, 0)
        self._write(_ID, 512, run.task_id)
        self._write(_NAME, 512, run.name)
        self._write(_ARGS, 512, run.args)
        self._write(_KWARGS, 512, run.kwargs)
        self._write(_STAMPS, SIZE - _STAMPS, run.stamps)
        _NUMBER.pack_into(page, _STARTED, _NUMBER.unpack_from(page, _STARTED)[0] + 1)
        _RUNNING.pack_into(page, _RUN, run.serial, run.started_at, run.since, run.soft, run.hard, run.hard_limit)

    def keep(self, message: bytes) -> None:
        """Keep a message that is acknowledged before it has run: nobody else has it then."""
        os.pwrite(self._file.fileno(), message, 0)
        _NUMBER.pack_into(self._page, _KEPT, len(message))

    def end(self) -> None:
        """Note that nothing runs."""
        page = self._page
        page[_RUN : _RUN + _RUNNING.size] = _NO_RUN
        _NUMBER.pack_into(page, _FINISHED, _NUMBER.unpack_from(page, _FINISHED)[0] + 1)

    @property
    def state(self) -> int:
        """:data:`STARTING` or :data:`READY`."""
        return int(_NUMBER.unpack_from(self._page, _STATE)[0])

    @state.setter
    def state(self, value: int) -> None:
        _NUMBER.pack_into(self._page, _STATE, value)

    # --- written by the supervisor ----------------------------------------------------

    @property
    def orders(self) -> int:
        """:data:`GO_ON` or :data:`RETIRE`."""
        return int(_NUMBER.unpack_from(self._page, _ORDERS)[0])

    @orders.setter
    def orders(self, value: int) -> None:
        _NUMBER.pack_into(self._page, _ORDERS, value)

    @property
    def told(self) -> int:
        """How many commands were sent to the child, which looks here whether there are new ones."""
        return int(_NUMBER.unpack_from(self._page, _TOLD)[0])

    @told.setter
    def told(self, value: int) -> None:
        _NUMBER.pack_into(self._page, _TOLD, value)

    # --- read by the supervisor -------------------------------------------------------

    @property
    def owner(self) -> str:
        """The name under which the child holds messages; empty before its first connection."""
        return self._read(_OWNER)

    @property
    def started(self) -> int:
        """Tasks that this child has begun."""
        return int(_NUMBER.unpack_from(self._page, _STARTED)[0])

    @property
    def ended(self) -> int:
        """Tasks that this child has ended, or settled."""
        return int(_NUMBER.unpack_from(self._page, _FINISHED)[0])

    @property
    def serial(self) -> int:
        """Serial of the running message, 0 if none runs."""
        return int(_NUMBER.unpack_from(self._page, _RUN)[0])

    def deadlines(self) -> tuple[int, float, float]:
        """Return serial, soft and hard deadline of what runs; the cheap part of :meth:`running`."""
        serial, _, _, soft, hard, _ = _RUNNING.unpack_from(self._page, _RUN)
        return serial, soft, hard

    def running(self) -> Running | None:
        """Return what runs. If a task begins or ends during the reading, it is read again."""
        while True:
            serial, started_at, since, soft, hard, limit = _RUNNING.unpack_from(self._page, _RUN)
            if not serial:
                return None
            texts = [self._read(at) for at in (_ID, _NAME, _ARGS, _KWARGS, _STAMPS)]
            if self.serial == serial:
                return Running(serial, started_at, since, soft, hard, limit, *texts)

    def kept(self) -> bytes:
        """Return the message of :meth:`keep`, empty if what runs is not acknowledged yet."""
        return os.pread(self._file.fileno(), int(_NUMBER.unpack_from(self._page, _KEPT)[0]), 0)

    def finished(self) -> list[int]:
        """Return the serials of the last messages that the child has done with."""
        found = struct.unpack_from(f"<{REMEMBERED}q", self._page, _RING)
        return [serial for serial in found if serial]

    # --- details ----------------------------------------------------------------------

    def _write(self, at: int, room: int, text: str) -> None:
        raw = text.encode("utf-8", "surrogatepass")[: room - _TEXT.size]
        _TEXT.pack_into(self._page, at, len(raw))
        self._page[at + _TEXT.size : at + _TEXT.size + len(raw)] = raw

    def _read(self, at: int) -> str:
        (length,) = _TEXT.unpack_from(self._page, at)
        return bytes(self._page[at + _TEXT.size : at + _TEXT.size + length]).decode("utf-8", "replace")


class Slots:
    """The pages of all children, made before the first fork."""

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, count * SIZE)
        view = memoryview(self._memory)
        self.pages = [Slot(view[number * SIZE : (number + 1) * SIZE]) for number in range(count)]
