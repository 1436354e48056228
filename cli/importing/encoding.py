"""Which encoding a text file has, found out by reading it to its end in constant memory."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from cli.problems import Problem

CHUNK_BYTES = 1 << 20
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with UTF-16's mark, so it is looked for first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Bytes that no text in Windows-1252 has: its five empty places, control characters, and þ and ÿ, which
# only Icelandic and French names of places use and broken files are full of.
_NEVER_IN_CP1252 = bytes(sorted({*range(0x20), 0x7F, 0x81, 0x8D, 0x8F, 0x90, 0x9D, 0xFE, 0xFF} - {9, 10, 12, 13}))


# Accented letters and typographic signs in UTF-8, which as Windows-1252 would be nonsense such as "Ã£".
_LATIN_IN_UTF8 = re.compile(rb"[\xc3-\xc5][\x80-\xbf]|\xc2[\xa0-\xbf]|\xe2\x80[\x80-\xbf]")


@dataclass(frozen=True, slots=True)
class Encoding:
    """A codec's name, and what the user should know of the choice (empty where nothing)."""

    name: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first byte of a file that does not fit its encoding. Lines count from 1, offsets from 0."""

    line: int
    offset: int
    byte: int


def detect(path: Path, wanted: str | None = None) -> Encoding:
    """The encoding of a text file: `wanted`, else UTF-8, UTF-16 or UTF-32 by its mark or form, else
    Windows-1252 (which holds Latin-1's letters) where the whole file looks like it.

    Raises Problem naming line and byte offset when the file is broken, holds NUL bytes or is no text.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    name = wanted or by_mark(head) or by_zeros(head) or "utf-8"
    try:
        fault = first_fault(path, name)
    except LookupError as error:
        raise Problem(f"there is no encoding {wanted!r}: try utf-8, utf-16, cp1252 or latin-1") from error
    if fault is None:
        return Encoding(name)
    where = f"{path}: line {fault.line}, byte offset {fault.offset}"
    if fault.byte == 0:
        raise Problem(f"{where}: a NUL byte; this is not a text file")
    if wanted is None and name == "utf-8" and looks_like_cp1252(path):
        note = f"read as Windows-1252, since line {fault.line} is not UTF-8 (--encoding chooses another)"
        return Encoding("cp1252", note)
    raise Problem(
        f"{where}: byte 0x{fault.byte:02X} is not {name}; save the file as UTF-8 or name its encoding with --encoding"
    )


def by_mark(head: bytes) -> str | None:
    """The encoding that the byte order mark at the beginning tells."""
    return next((name for mark, name in _BOMS if head.startswith(mark)), None)


def by_zeros(head: bytes) -> str | None:
    """UTF-16 without a mark: in western text every second byte is zero."""
    pairs = len(head) // 2
    if pairs < 2:
        return None
    if head[1::2].count(0) > pairs * 0.8 and head[::2].count(0) < pairs * 0.1:
        return "utf-16-le"
    if head[::2].count(0) > pairs * 0.8 and head[1::2].count(0) < pairs * 0.1:
        return "utf-16-be"
    return None


def first_fault(path: Path, name: str) -> Fault | None:
    """Where a file first breaks its encoding or holds a NUL; None where it never does."""
    decoder = codecs.getincrementaldecoder(name)("strict")
    line, read = 1, 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK_BYTES)
            pending = decoder.getstate()[0]
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                sound = error.object[: error.start].decode(name, "replace")
                offset = read - len(pending) + error.start
                return Fault(line + sound.count("\n"), offset, error.object[error.start])
            if (zero := text.find("\0")) >= 0:
                before = text[:zero]
                offset = read - len(pending) + len(before.encode(decoder_without_mark(name)))
                return Fault(line + before.count("\n"), offset, 0)
            if not chunk:
                return None
            line += text.count("\n")
            read += len(chunk)


def decoder_without_mark(name: str) -> str:
    """The codec that writes the same bytes without a mark before them."""
    return {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(name, name)


def looks_like_cp1252(path: Path) -> bool:
    """Whether a file that is not UTF-8 reads as Windows-1252 throughout.

    One that holds whole UTF-8 characters as well is a broken UTF-8 file and not this.
    """
    with path.open("rb") as file:
        while line := file.readline(CHUNK_BYTES):
            if line.isascii():
                continue
            if len(line.translate(None, _NEVER_IN_CP1252)) != len(line) or _LATIN_IN_UTF8.search(line):
                return False
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                continue
            return False
    return True
