#!/usr/bin/env python3
"""The frame protocol of docs/protocol.md in plain Python, and a check of the committed byte vectors with it.

Nothing but the standard library is used: this file shows that a client needs no rkyv. It reads every vector, packs the client's
frames and the hot ones of the server byte for byte as the server's code does, and judges the broken ones alike.
Other tests import it: `Client` is a small blocking client; `pack_*` and `read_*` are what it is made of.

    python3 tests/vectors.py            check the vectors
"""

import json
import pathlib
import socket
import struct
import sys

MAGIC = b"\xe7MHF"
VERSION = 1
PREAMBLE = MAGIC + struct.pack("<H10x", VERSION)
HEADER = struct.Struct("<IHHQ")
IGNORABLE = 1
FRAME_BYTES_MAX = 64 * 1024

KINDS = {
    1: ("Hello", 8192), 2: ("Welcome", 1024), 3: ("Ping", 16), 4: ("Pong", 16), 5: ("Bye", 1024), 6: ("Reject", 1024),
    16: ("SetProgress", 48), 17: ("Ack", 48), 18: ("Progress", 64), 19: ("Get", 16), 20: ("State", FRAME_BYTES_MAX - 16),
    21: ("CatchUp", 32), 22: ("CaughtUp", 32), 32: ("Notice", 8192), 33: ("NoticeAck", 16),
}
NUMBER = {name: number for number, (name, _) in KINDS.items()}
FROM_CLIENT = {"Hello", "SetProgress", "Get", "CatchUp", "NoticeAck", "Ping", "Pong", "Bye"}
FROM_SERVER = {"Welcome", "Ack", "Reject", "Progress", "State", "CaughtUp", "Notice", "Ping", "Pong", "Bye"}
WANTS_PROGRESS, WANTS_NOTICES, WANTS_CATCH_UP = 1, 2, 4
CHAPTER_MAX = 100_000_000
VERSION_MAX = 2**53 - 1
STATUSES = ["", "reading", "completed", "plan_to_read", "on_hold", "dropped", "re_reading"]


class Close(Exception):
    """The stream is out of step; the connection must close. Carries the problem code."""


class Rejected(Exception):
    """One frame is not usable; it is answered with Reject. Carries the problem code."""


# --- frames ---------------------------------------------------------------------------------------------------------

def read_preamble(data):
    """The peer's version, or None while more bytes are needed."""
    if data[:4] != MAGIC[: len(data[:4])]:
        raise Close("bad_frame")
    if len(data) < 16:
        return None
    version = struct.unpack_from("<H", data, 4)[0]
    if not 1 <= version <= VERSION:
        raise Close("unsupported_version")
    return version


def split_frame(data):
    """(kind number, flags, seq, payload, bytes consumed) of the first frame, or None while more bytes are needed."""
    if len(data) < HEADER.size:
        return None
    length, kind, flags, seq = HEADER.unpack_from(data)
    if flags & ~IGNORABLE or length % 16:
        raise Close("bad_frame")
    if length > KINDS.get(kind, ("", FRAME_BYTES_MAX - 16))[1]:
        raise Close("too_large")
    if len(data) < HEADER.size + length:
        return None
    return kind, flags, seq, bytes(data[16 : 16 + length]), 16 + length


def frame(kind, seq, payload):
    assert len(payload) % 16 == 0 and len(payload) <= KINDS[NUMBER[kind]][1], (kind, len(payload))
    return HEADER.pack(len(payload), NUMBER[kind], 0, seq) + payload


def archive(parts, root_bytes, build_root):
    """An rkyv archive: the parts (texts, lists) one behind the other, padding, the root as the last bytes. `build_root` gets the
    parts' places relative to the root's start."""
    places, body = [], b""
    for part, align in parts:
        body += bytes(-len(body) % align)
        places.append(len(body))
        body += part
    body += bytes(-(len(body) + root_bytes) % 16)
    root = build_root([place - len(body) for place in places])
    assert len(root) == root_bytes
    return body + root


def need(condition, code="invalid_input"):
    if not condition:
        raise Rejected(code)


def boxed(payload, at, element_bytes=1):
    """What a relative pointer at this offset leads to: (offset, count)."""
    offset, count = struct.unpack_from("<iI", payload, at)
    start = at + offset
    need(0 <= start and start + count * element_bytes <= len(payload))
    return start, count


def text(payload, at, root):
    start, count = boxed(payload, at)
    need(start + count <= root or count == 0)
    try:
        return payload[start : start + count].decode()
    except UnicodeDecodeError:
        raise Rejected("invalid_input") from None


def root_of(payload, root_bytes):
    need(len(payload) >= root_bytes)
    return len(payload) - root_bytes


def or_none(sixteen):
    return None if sixteen == bytes(16) else sixteen.hex()


def sixteen(hexadecimal):
    return bytes.fromhex(hexadecimal) if hexadecimal else bytes(16)


# --- the hot kinds: fixed layouts -----------------------------------------------------------------------------------

SET_PROGRESS = struct.Struct("<qQIIBB6x16s")
ACK = struct.Struct("<QqQQIIIBB2x")
ENTRY = struct.Struct("<qQQIIIBB2x16s8x")


def bits(fields, names, page=None):
    flags = sum(bit for name, bit in names.items() if fields.get(name))
    return flags | (4 if page is not None else 0)


def pack_set_progress(seq, f):
    flags = bits(f, {"force": 1, "ack_database": 2}, f.get("page"))
    return frame("SetProgress", seq, SET_PROGRESS.pack(
        f["manga"], f.get("device_seq", 0), f["chapter"], f.get("page") or 0, f.get("status", 0), flags,
        sixteen(f.get("conflict_token"))))


def pack_ack(seq, f):
    flags = bits(f, {"already": 1, "cumulative": 2, "ahead_of_catalogue": 8, "offers_completed": 16}, f["page"])
    return frame("Ack", seq, ACK.pack(
        f["up_to_seq"], f["manga"], f["version"], f["generation"], f["chapter"], f["page"] or 0, f["node"], f["status"], flags))


def pack_entry(f):
    flags = bits(f, {"deleted": 1, "ahead_of_catalogue": 8}, f["page"])
    return ENTRY.pack(f["manga"], f["version"], f["generation"], f["chapter"], f["page"] or 0, f["node"], f["status"], flags,
                      sixteen(f["device"]))


def pack_progress(seq, f):
    return frame("Progress", seq, pack_entry(f))


def pack_state(seq, f):
    entries = b"".join(map(pack_entry, f["entries"]))
    flags = (1 if f["last"] else 0) | (2 if f["snapshot"] else 0)
    return frame("State", seq, entries + struct.pack("<iIII", -len(entries), len(f["entries"]), flags, 0))


def checked(chapter, page, status, flags):
    """The page, once the values that every hot kind shares are found good."""
    need(chapter <= CHAPTER_MAX and status <= 6 and (flags & 4 or page == 0))
    return page if flags & 4 else None


def read_set_progress(payload):
    need(len(payload) == SET_PROGRESS.size)
    manga, device_seq, chapter, page, status, flags, token = SET_PROGRESS.unpack(payload)
    need(manga > 0 and not flags & ~7 and payload[26:32] == bytes(6))
    page = checked(chapter, page, status, flags)
    return {"manga": manga, "device_seq": device_seq, "chapter": chapter, "page": page, "status": status,
            "force": bool(flags & 1), "ack_database": bool(flags & 2), "conflict_token": or_none(token)}


def read_ack(payload):
    need(len(payload) == ACK.size)
    up_to_seq, manga, version, generation, chapter, page, node, status, flags = ACK.unpack(payload)
    need(manga > 0 and max(version, generation) <= VERSION_MAX)
    page = checked(chapter, page, status, flags)
    return {"up_to_seq": up_to_seq, "manga": manga, "version": version, "generation": generation, "chapter": chapter,
            "page": page, "node": node, "status": status, "already": bool(flags & 1), "cumulative": bool(flags & 2),
            "ahead_of_catalogue": bool(flags & 8), "offers_completed": bool(flags & 16)}


def read_entry(payload, at=0):
    manga, version, generation, chapter, page, node, status, flags, device = ENTRY.unpack_from(payload, at)
    need(manga > 0 and max(version, generation) <= VERSION_MAX)
    page = checked(chapter, page, status, flags)
    return {"manga": manga, "version": version, "generation": generation, "chapter": chapter, "page": page, "node": node,
            "status": status, "device": or_none(device), "deleted": bool(flags & 1), "ahead_of_catalogue": bool(flags & 8)}


def read_progress(payload):
    need(len(payload) == ENTRY.size)
    return read_entry(payload)


def read_state(payload):
    root = root_of(payload, 16)
    start, count = boxed(payload, root, ENTRY.size)
    flags = struct.unpack_from("<I", payload, root + 8)[0]
    entries = [read_entry(payload, start + at * ENTRY.size) for at in range(count)]
    return {"entries": entries, "last": bool(flags & 1), "snapshot": bool(flags & 2)}


# --- the other kinds ------------------------------------------------------------------------------------------------

def pack_hello(seq, f):
    parts = [(f[name].encode(), 1) for name in ("token", "client_name", "client_version")]

    def root(places):
        head = sixteen(f["device"]) + bytes.fromhex(f["resume"])
        pointers = b"".join(
            struct.pack("<iI", place - at, len(part)) for place, at, (part, _) in zip(places, (40, 48, 56), parts))
        return head + pointers + struct.pack("<II", f["wants"], 0)

    return frame("Hello", seq, archive(parts, 72, root))


def pack_bye(seq, f):
    detail = f["detail"].encode()

    def root(places):
        return bytes.fromhex(f["resume"]) + struct.pack("<iIHHI", places[0] - 24, len(detail), f["code"], 0, f["retry_after_ms"])

    return frame("Bye", seq, archive([(detail, 1)], 40, root))


def pack_get(seq, f):
    return frame("Get", seq, struct.pack("<q8x", f["manga"]))


def pack_catch_up(seq, f):
    return frame("CatchUp", seq, bytes.fromhex(f["since"]) + bytes(8))


def pack_notice_ack(seq, f):
    return frame("NoticeAck", seq, struct.pack("<q8x", f["id"]))


def pack_ping(seq, f):
    return frame("Ping", seq, struct.pack("<Q8x", f["nonce"]))


def pack_pong(seq, f):
    return frame("Pong", seq, struct.pack("<QQ", f["nonce"], f["unix_ms"]))


def pack_caught_up(seq, f):
    flags = 2 if f["snapshot"] else 0
    return frame("CaughtUp", seq, bytes.fromhex(f["resume"]) + struct.pack("<II", f["entries"], flags))


def read_hello(payload):
    root = root_of(payload, 72)
    token, name, version = (text(payload, root + at, root) for at in (40, 48, 56))
    return {"token": token, "device": or_none(payload[root : root + 16]), "resume": payload[root + 16 : root + 40].hex(),
            "client_name": name, "client_version": version, "wants": struct.unpack_from("<I", payload, root + 64)[0]}


def read_welcome(payload):
    root = root_of(payload, 104)
    last_seq, window, idle = struct.unpack_from("<QII", payload, root + 56)
    start, count = boxed(payload, root + 96, 8)
    caps = [struct.unpack_from("<HHI", payload, start + at * 8)[::2] for at in range(count)]
    return {"session": payload[root : root + 16].hex(), "user": payload[root + 16 : root + 32].hex(),
            "username": text(payload, root + 72, root), "window": window, "idle_timeout_ms": idle, "last_seq": last_seq,
            "server_name": text(payload, root + 80, root), "server_version": text(payload, root + 88, root),
            "caps": [list(cap) for cap in caps], "resume": payload[root + 32 : root + 56].hex()}


def read_reject(payload):
    root = root_of(payload, 104)
    seq, retry_after_ms, code, flags = struct.unpack_from("<QIHH", payload, root + 80)
    return {"seq": seq, "code": code, "detail": text(payload, root + 96, root), "retry_after_ms": retry_after_ms,
            "stored": read_entry(payload, root) if flags & 1 else None,
            "conflict_token": or_none(payload[root + 64 : root + 80])}


def read_bye(payload):
    root = root_of(payload, 40)
    code, _, retry_after_ms = struct.unpack_from("<HHI", payload, root + 32)
    return {"code": code, "detail": text(payload, root + 24, root), "retry_after_ms": retry_after_ms,
            "resume": payload[root : root + 24].hex()}


def read_notice(payload):
    root = root_of(payload, 64)
    number, manga, created, chapter, old_chapter = struct.unpack_from("<qqQII", payload, root)
    kind, flags = struct.unpack_from("<BB", payload, root + 56)
    start, count = boxed(payload, root + 48, 24)
    need(1 <= kind <= 3)
    changes = [[text(payload, start + at * 24 + field, root) for field in (0, 8, 16)] for at in range(count)]
    return {"id": number, "notice_kind": kind, "manga": manga, "created_unix_ms": created,
            "chapter": chapter if flags & 1 else None, "old_chapter": old_chapter if flags & 2 else None,
            "title": text(payload, root + 32, root), "message": text(payload, root + 40, root), "changes": changes}


def read_get(payload):
    need(len(payload) == 16)
    manga = struct.unpack_from("<q", payload)[0]
    need(manga >= 0)
    return {"manga": manga}


def read_catch_up(payload):
    need(len(payload) == 32)
    return {"since": payload[:24].hex()}


def read_caught_up(payload):
    need(len(payload) == 32)
    entries, flags = struct.unpack_from("<II", payload, 24)
    return {"resume": payload[:24].hex(), "entries": entries, "snapshot": bool(flags & 2)}


def read_notice_ack(payload):
    need(len(payload) == 16)
    return {"id": struct.unpack_from("<q", payload)[0]}


def read_ping(payload):
    need(len(payload) == 16)
    return {"nonce": struct.unpack_from("<Q", payload)[0]}


def read_pong(payload):
    need(len(payload) == 16)
    return dict(zip(("nonce", "unix_ms"), struct.unpack("<QQ", payload)))


READ = {
    "Hello": read_hello, "Welcome": read_welcome, "Ping": read_ping, "Pong": read_pong, "Bye": read_bye, "Reject": read_reject,
    "SetProgress": read_set_progress, "Ack": read_ack, "Progress": read_progress, "Get": read_get, "State": read_state,
    "CatchUp": read_catch_up, "CaughtUp": read_caught_up, "Notice": read_notice, "NoticeAck": read_notice_ack,
}
PACK = {
    "Hello": pack_hello, "SetProgress": pack_set_progress, "Get": pack_get, "CatchUp": pack_catch_up,
    "NoticeAck": pack_notice_ack, "Ping": pack_ping, "Pong": pack_pong, "Bye": pack_bye, "Ack": pack_ack,
    "Progress": pack_progress, "State": pack_state, "CaughtUp": pack_caught_up,
}


def decode(kind, flags, payload, senders):
    """(name, fields) of a frame from this side; (None, None) for one to be skipped."""
    if kind not in KINDS:
        need(flags & IGNORABLE, "unknown_kind")
        return None, None
    name = KINDS[kind][0]
    need(name in senders)
    return name, READ[name](payload)


# --- a small client -------------------------------------------------------------------------------------------------

class Client:
    """A blocking client. `send_*` write at once; `next()` gives (kind, seq, fields) of the server's next frame."""

    def __init__(self, address, token, device=None, wants=WANTS_PROGRESS, resume=bytes(24).hex(), timeout_s=10, context=None):
        self.socket = socket.create_connection(address, timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname=address[0])
        self.buffer = bytearray()
        self.seq = 0
        hello = {"token": token, "device": device, "resume": resume, "client_name": "python", "client_version": "1",
                 "wants": wants}
        self.socket.sendall(PREAMBLE + pack_hello(self.take_seq(), hello))
        while read_preamble(self.buffer) is None:
            self.receive()
        del self.buffer[:16]

    def take_seq(self):
        self.seq += 1
        return self.seq

    def receive(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the server closed the connection")
        self.buffer += data

    def send(self, kind, **fields):
        """Sends one frame and gives the seq that its answer will carry."""
        seq = self.take_seq()
        self.socket.sendall(PACK[kind](seq, fields))
        return seq

    def set_progress(self, manga, chapter, **fields):
        """`chapter` as people write it: 5.5."""
        return self.send("SetProgress", manga=manga, chapter=round(chapter * 100), **fields)

    def next(self):
        while (split := split_frame(self.buffer)) is None:
            self.receive()
        kind, flags, seq, payload, consumed = split
        del self.buffer[:consumed]
        name, fields = decode(kind, flags, payload, FROM_SERVER)
        return (name, seq, fields) if name else self.next()

    def expect(self, *kinds):
        """The next frame of one of these kinds; others are skipped."""
        while True:
            name, seq, fields = self.next()
            if name in kinds:
                return name, seq, fields

    def close(self):
        self.socket.close()


# --- the check ------------------------------------------------------------------------------------------------------

def check_frame(vector):
    data = bytes.fromhex(vector["hex"])
    kind, flags, seq, payload, consumed = split_frame(data)
    assert consumed == len(data), "it is exactly one frame"
    senders = FROM_CLIENT if vector["from"] == "client" else FROM_SERVER
    name, fields = decode(kind, flags, payload, senders)
    assert (name, seq, fields) == (vector["kind"], vector["seq"], vector["fields"]), fields
    for end in range(len(data)):
        assert split_frame(data[:end]) is None, f"cut at {end} it needs more"
    if name in PACK:
        packed = PACK[name](seq, fields)
        assert packed == data, f"packed differently: {packed.hex()}"
        return 1
    return 0


def check_broken(vector):
    data = bytes.fromhex(vector["hex"])
    try:
        split = split_frame(data)
        if split is None:
            outcome = ("need_more", None)
        else:
            name, _ = decode(split[0], split[1], split[3], FROM_CLIENT)
            outcome = ("read", name) if name else ("ignored", None)
    except Close as error:
        outcome = ("close", str(error))
    except Rejected as error:
        outcome = ("reject", str(error))
    assert outcome == (vector["outcome"], vector.get("code")), outcome


def check_preamble(vector):
    try:
        version = read_preamble(bytes.fromhex(vector["hex"]))
        outcome = ("need_more", None) if version is None else ("version", version)
    except Close as error:
        outcome = ("close", str(error))
    assert outcome == (vector["outcome"], vector.get("code", vector.get("version"))), outcome


def main():
    folder = pathlib.Path(__file__).resolve().parent.parent / "proto" / "vectors"
    counts = {}
    for file, check in (("frames.json", check_frame), ("broken.json", check_broken), ("preambles.json", check_preamble)):
        vectors = json.loads((folder / file).read_text())
        assert vectors, f"{file} is empty"
        packed = 0
        for vector in vectors:
            try:
                packed += check(vector) or 0
            except Exception as error:
                sys.exit(f"{file}: {vector['name']}: {type(error).__name__}: {error}")
        counts[file] = (len(vectors), packed)
    read, packed = counts["frames.json"]
    print(f"{read} frames read, {packed} of them packed to the same bytes; {counts['broken.json'][0]} broken frames and "
          f"{counts['preambles.json'][0]} preambles judged alike")


if __name__ == "__main__":
    main()
