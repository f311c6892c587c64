"""Plays Autobahn's WebSocket cases, as its fuzzing client, against a server that echoes; says what each case makes of it.

The cases are Autobahn's own, with their own judgement. They are written for Python 2: they are read with the few changes that
Python 3 wants, and what they send with is written here. Text stands for bytes, a character for each.

    python3 websocket_cases.py CASES CATEGORIES PATIENCE HOST PORT NAME [CA_FILE]

PATIENCE is by how much a case waits longer than it would: the machine may be busy.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import re
import ssl
import sys
import types
from pathlib import Path

# How many are played at a time.
TOGETHER = 48
# Of the cases about sizes and times those that take no minutes; they are played one after the other.
HEAVY = ["9_1_1", "9_1_2", "9_1_3", "9_2_1", "9_2_2", "9_2_3", "9_3_4", "9_4_4", "9_5_3", "9_6_3", "9_7_3", "9_8_3"]
LIGHT = re.compile(r"case(1|2|3|4|5|6|7|10)_\w+")


class WebSocketProtocol:
    """What cases know of the protocol by name."""

    STATE_CLOSED, STATE_CONNECTING, STATE_CLOSING, STATE_OPEN = range(4)
    CLOSE_STATUS_CODE_NORMAL, CLOSE_STATUS_CODE_PROTOCOL_ERROR, CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1000, 1002, 1007


class Utf8Validator:
    def reset(self) -> None:
        pass

    def validate(self, text: str) -> tuple[bool, bool]:
        """Whether all of it may stand in UTF-8, and whether it ends with a character."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(text.encode("latin-1"))
        except UnicodeDecodeError:
            return False, False
        return True, not decoder.getstate()[0]


class Translated(importlib.machinery.SourceFileLoader):
    """A module for Python 2, read by Python 3. Nothing is written beside it."""

    def get_code(self, name: str):
        source = Path(self.path).read_text("latin-1")
        source = re.sub(r"^(\s*)print (.*)$", r"\1print(\2)", source, flags=re.MULTILINE)
        source = re.sub(r"^import binascii$", "", source, flags=re.MULTILINE)
        source = source.replace("len(self.payload) / ", "len(self.payload) // ").replace("(object, Case, )", "(Case, )")
        return compile(source, self.path, "exec")

    def exec_module(self, module) -> None:
        hexadecimal = types.SimpleNamespace(b2a_hex=lambda text: text.encode("latin-1").hex())
        module.__dict__.update(xrange=range, unichr=chr, binascii=hexadecimal)
        super().exec_module(module)


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, directory: Path):
        self.directory = directory

    def find_spec(self, name: str, path=None, target=None):
        file = self.directory / f"{name}.py"
        if not re.fullmatch(r"case\w*", name) or not file.is_file():
            return None
        return importlib.util.spec_from_file_location(name, file, loader=Translated(name, str(file)))


def cases(directory: Path) -> tuple[dict[str, type], dict[str, type]]:
    """The cases by their numbers: those that are played together, and those that are not."""
    protocol, validator = types.ModuleType("protocol"), types.ModuleType("utf8validator")
    protocol.WebSocketProtocol, validator.Utf8Validator = WebSocketProtocol, Utf8Validator
    sys.modules.update({"autobahn": types.ModuleType("autobahn"), "autobahn.websocket": types.ModuleType("websocket"),
                        "autobahn.websocket.protocol": protocol, "autobahn.websocket.utf8validator": validator})
    sys.meta_path.insert(0, Finder(directory))
    base = importlib.import_module("case").Case
    base.compare = lambda self, one, other: one == other
    wanted = sorted(file.stem for file in directory.glob("case*.py") if LIGHT.fullmatch(file.stem))
    found: dict[str, type] = {}
    for name in [*wanted, *sorted({f"case{number}" for number in HEAVY if number[:3] < "9_7"}), "case9_7_X"]:
        module = importlib.import_module(name)
        lists = [one for held in vars(module).values() if isinstance(held, list) for one in held]
        found |= {one.__name__.removeprefix("Case"): one for one in [*vars(module).values(), *lists]
                  if isinstance(one, type) and issubclass(one, base) and one is not base}
    return ({number: one for number, one in found.items() if not number.startswith("9_")},
            {number: found[number] for number in HEAVY})


class Peer(WebSocketProtocol):
    """The end of a connection that plays a case: what cases ask of it has the names that they ask for."""

    factory = types.SimpleNamespace(isServer=False)
    patience = 1

    def __init__(self, case: type, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer
        self.state = self.STATE_OPEN
        self.connectionWasOpen, self.createWirelog = True, False
        self.closedByMe = self.failedByMe = self.droppedByMe = self.wasClean = False
        self.remoteCloseCode = self.localCloseReason = None
        self.autoFragmentSize, self.txFrameStats, self.trafficStats = 0, {}, None
        self.timers: list[asyncio.TimerHandle] = []
        self.case = case(self)

    # What a case does.

    def frame(self, opcode: int, length: int, fin: bool, rsv: int) -> bytes:
        """A frame's head. Its mask is zero: what follows is sent as it is."""
        self.txFrameStats[opcode] = self.txFrameStats.get(opcode, 0) + 1
        size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2) if length < 1 << 16 else b"\xff" + length.to_bytes(8)
        return bytes([fin << 7 | rsv << 4 | opcode]) + size + bytes(4)

    def sendFrame(self, opcode, payload="", fin=True, rsv=0, mask=None, payload_len=None, chopsize=None, sync=False):
        data = payload.encode("latin-1")
        if payload_len is not None:
            data = (data * (payload_len // len(data) + 1))[:payload_len] if data else b""
        self.write(self.frame(opcode, len(data), fin, rsv) + data, chopsize)

    def write(self, data: bytes, piece: int | None = None) -> None:
        if self.state != self.STATE_CLOSED:
            for start in range(0, len(data), piece or len(data)):
                self.writer.write(data[start:start + (piece or len(data))])

    def sendMessage(self, payload, isBinary=False, fragmentSize=None):
        size = fragmentSize or self.autoFragmentSize or len(payload)
        pieces = [payload[start:start + size] for start in range(0, len(payload), size)] or [""]
        for number, piece in enumerate(pieces):
            opcode = 0 if number else 2 if isBinary else 1
            self.sendFrame(opcode, piece, fin=number == len(pieces) - 1)

    def beginMessage(self):
        self.begun = True

    def beginMessageFrame(self, length):
        self.write(self.frame(1 if self.begun else 0, length, False, 0))
        self.begun = False

    def sendMessageFrameData(self, payload):
        self.write(payload.encode("latin-1"))

    def endMessage(self):
        self.sendFrame(0, "")

    def sendClose(self, code=None, reason=None):
        self.sendCloseFrame(code, (reason or "").encode().decode("latin-1"))

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        if self.state != self.STATE_OPEN:
            return
        body = code.to_bytes(2).decode("latin-1") if code is not None else ""
        self.sendFrame(8, body + (reasonUtf8 or ""))
        self.state, self.closedByMe, self.localCloseReason = self.STATE_CLOSING, not isReply, reasonUtf8
        self.later(self.patience, self.drop)

    def later(self, seconds, act, *arguments):
        self.timers.append(asyncio.get_running_loop().call_later(seconds, act, *arguments))

    def continueLater(self, delay, fun, tag=None):
        self.later(delay, lambda: self.state != self.STATE_CLOSED and fun())

    def killAfter(self, delay):
        self.later(delay * self.patience, self.fail)

    def closeAfter(self, delay):
        self.later(delay * self.patience, self.sendClose, self.CLOSE_STATUS_CODE_NORMAL)

    def enableWirelog(self, enable):
        pass

    def fail(self):
        self.failedByMe = True
        self.drop()

    def drop(self):
        if self.state != self.STATE_CLOSED:
            self.droppedByMe, self.state = True, self.STATE_CLOSED
            self.writer.transport.abort()

    # What comes in.

    async def played(self) -> dict:
        self.case.onOpen()
        try:
            await self.listen()
        except (asyncio.IncompleteReadError, OSError):
            pass
        for timer in self.timers:
            timer.cancel()
        self.state = self.STATE_CLOSED
        self.writer.close()
        self.case.onConnectionLost(self.failedByMe)
        return {"behavior": self.case.behavior, "close": self.case.behaviorClose, "code": self.remoteCloseCode,
                "why": f"{self.case.result} {self.case.resultClose}"}

    async def listen(self) -> None:
        begun, kind = "", 0
        while True:
            first, second = await self.reader.readexactly(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8))
            payload = (await self.reader.readexactly(length)).decode("latin-1")
            opcode, fin = first & 0xF, first >> 7
            if opcode == 8:
                self.remoteCloseCode = int.from_bytes(payload[:2].encode("latin-1")) if payload else None
                self.wasClean = True
                self.sendCloseFrame(self.remoteCloseCode, isReply=True)
            elif opcode in (9, 10):
                (self.case.onPing if opcode == 9 else self.case.onPong)(payload)
            elif first & 0x70 or opcode > 2:
                self.case.received.append(("unknown", first, payload))
            else:
                kind, begun = (opcode, payload) if opcode else (kind, begun + payload)
                if fin and self.state == self.STATE_OPEN:
                    self.case.onMessage(begun, kind == 2)


async def played(case: type, number: str, to: tuple) -> dict:
    host, port, name, trust = to
    reader, writer = await asyncio.open_connection(host, port, ssl=trust, server_hostname=name)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(f"GET /{number} HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return await asyncio.wait_for(Peer(case, reader, writer).played(), 45)


async def all_played(directory: Path, categories: set[str], to: tuple) -> dict:
    together, alone = ({number: case for number, case in some.items() if number.split("_")[0] in categories} for some in cases(directory))
    places = asyncio.Semaphore(TOGETHER)

    async def in_its_place(number: str, case: type) -> tuple[str, dict]:
        async with places:
            return number, await played(case, number, to)

    results = dict(await asyncio.gather(*(in_its_place(*one) for one in together.items())))
    for number, case in alone.items():
        results[number] = await played(case, number, to)
    return results


if __name__ == "__main__":
    directory, categories, patience, host, port, name, *trusted = sys.argv[1:]
    Peer.patience = int(patience)
    trust = ssl.create_default_context(cafile=trusted[0] if trusted else None)
    print(json.dumps(asyncio.run(all_played(Path(directory), set(categories.split(",")), (host, int(port), name, trust)))))
