"""Compression and archives: what went in comes out, what is broken or hostile is named, and nothing swells."""

import gzip
import random
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.corpus import containers
from llm.corpus.containers import Entry, open_entries
from llm.corpus.readers.streams import ContentError, printable
from tests.corpus.archives import COMPRESS, make_tar, make_zip

COMPRESSIONS = [suffix for suffix in COMPRESS if suffix]
NOISE = random.Random(7).randbytes(300_000)  # as long compressed as it is: a cut falls within it
SMALL = {"FREE_BYTES": 1000, "MAX_RATIO": 10}
ZEROS = b"\0" * 200_000


MAKE = {"a.zip": make_zip, "a.tar": make_tar}


def outcome(folder: Path, name: str, content: bytes, **limits: int) -> tuple[dict, dict]:
    (folder / "file").write_bytes(content)
    return outcome_of(folder / "file", name, **limits)


def outcome_of(file: Path, name: str, **limits: int) -> tuple[dict, dict]:
    """Paths with their bytes, and paths with the reason why there are none."""
    contents, reasons = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        for constant, value in limits.items():
            patch.setattr(containers, constant, value)
        for entry in open_entries(file, name):
            try:
                if isinstance(entry.content, ContentError):
                    raise entry.content
                contents[entry.path] = entry.content.read()
            except ContentError as error:
                reasons[entry.path] = error.reason
                problem = str(error)
                assert problem.startswith("expected ") and "got " in problem and "\n" not in problem
    return contents, reasons


def drain(entry: Entry, add: Callable[[bytes], None]) -> None:
    while block := entry.content.read1():
        add(block)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_files_are_read(suffix: str, tmp_path: Path) -> None:
    compress = COMPRESS[suffix]
    frames = compress(b"one ") + compress(b"") + compress(b"two")  # an empty frame does not end the file
    for name, content, expected in (
        (f"a.txt{suffix}", compress(NOISE), NOISE),
        (f"a{suffix}", frames, b"one two"),
        (f"a.txt.gz{suffix}", compress(gzip.compress(b"one")), b"one"),
    ):
        assert outcome(tmp_path, name, content) == ({name: expected}, {})


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("damage", ["cut", "followed", "second", "other", "header"])
def test_bytes_before_damage_are_kept(suffix: str, damage: str, tmp_path: Path) -> None:
    whole = COMPRESS[suffix](NOISE)
    content, n_kept = {
        "cut": (whole[:-3000], 200_000 if suffix != ".bz2" else 0),  # a block of bzip2 is as long as the noise
        "followed": (whole + b"garbage", len(NOISE)),
        "second": (whole + b"\xff" + whole[1:], len(NOISE)),  # a frame whose beginning is damaged
        "other": (b"text that is not compressed at all", 0),
        "header": (whole[:3], 0),
    }[damage]
    (tmp_path / "a").write_bytes(content)
    entry = next(entries := open_entries(tmp_path / "a", f"a.txt{suffix}"))
    blocks: list[bytes] = []
    with pytest.raises(ContentError, match=f"^expected a whole {suffix} stream, got one that is cut short"):
        drain(entry, blocks.append)
    read = b"".join(blocks)
    assert n_kept <= len(read) and read == NOISE[: len(read)]
    assert list(entries) == []


TARS = {"a.tar": "", "a.tgz": ".gz", "a.TAR.BZ2": ".bz2", "a.tar.zst": ".zst"}


@pytest.mark.parametrize("name", [*TARS, "a.zip", "b.zip"])
def test_archives_give_their_files_in_order(name: str, tmp_path: Path) -> None:
    members = {"z.txt": NOISE, "b/a.txt": b"two", "./a.txt": b"three", "c.JSONL.GZ": gzip.compress(b"{}")}
    if name in TARS:
        content = COMPRESS[TARS[name]](make_tar(members))
    else:
        members = {"b/": b""} | members
        content = make_zip(members, zipfile.ZIP_STORED if name == "b.zip" else zipfile.ZIP_DEFLATED)
    order = ["z.txt", "b/a.txt", "a.txt", "c.JSONL.GZ"] if name in TARS else ["a.txt", "b/a.txt", "c.JSONL.GZ", "z.txt"]
    contents, reasons = outcome(tmp_path, name, content)
    plain = {"z.txt": NOISE, "b/a.txt": b"two", "a.txt": b"three", "c.JSONL.GZ": b"{}"}
    assert list(contents.items()) == [(f"{name}/{path}", plain[path]) for path in order]
    assert reasons == {}
    entries = list(open_entries(tmp_path / "file", name))  # unread entries do not disturb the next ones
    assert [entry.suffix for entry in entries] == [".jsonl" if "JSONL" in path else ".txt" for path in order]


REFUSED = {
    "nested_archive": ["b.zip", "b.tgz", "b.zip.gz", "b.7z"],
    "bad_path": ["/etc/passwd", "../a.txt", "a/../../b.txt", "a/..", "C:/a.txt", "c:a.txt", "a\\b.txt", "..\\a.txt"],
    "hidden": [".git/config", "a/.b.txt", "__MACOSX/a.txt", "a/__pycache__/b.pyc", "CVS/Root", "a/Thumbs.db"],
}


@pytest.mark.parametrize(("reason", "name"), [(reason, name) for reason, names in REFUSED.items() for name in names])
@pytest.mark.parametrize("archive", MAKE)
def test_members_are_refused_by_their_names(archive: str, reason: str, name: str, tmp_path: Path) -> None:
    contents, reasons = outcome(tmp_path, archive, MAKE[archive]({name: b"bad", "good.txt": b"good"}))
    assert contents == {f"{archive}/good.txt": b"good"}
    assert list(reasons.values()) == [reason]


def test_names_are_shown_on_one_line(tmp_path: Path) -> None:
    assert outcome(tmp_path, "a.tar", make_tar({"é\n\udcff.txt": b"text"}))[0] == {"a.tar/é\\n\\udcff.txt": b"text"}
    assert printable("é 雨\u2028\x85") == "é 雨\\u2028\\x85"
    content = make_zip({"a.txt%.exe": b"bad"}).replace(b"a.txt%.exe", b"a.txt\0.exe")  # zipfile would cut it there
    assert outcome(tmp_path, "a.zip", content) == ({}, {"a.zip/a.txt\\x00.exe": "bad_path"})


TAR_KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, "sparse"]


@pytest.mark.parametrize("kind", [*TAR_KINDS, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_only_regular_files_are_read(kind: bytes | str | int, tmp_path: Path) -> None:
    name = "a.zip" if isinstance(kind, int) else "a.tar"
    if isinstance(kind, int):
        content = make_zip({"strange.txt": b"good.txt", "good.txt": b"good"}, mode=kind | 0o644)
    else:
        member = tarfile.TarInfo("strange.txt")
        if kind == "sparse":  # five bytes that claim to be a million, most of them a hole
            member.pax_headers = {"GNU.sparse.map": "0,5", "GNU.sparse.size": "1000000"}
        else:
            member.type, member.linkname = kind, "good.txt"
        content = make_tar({"strange.txt": b"12345" if kind == "sparse" else b"", "good.txt": b"good"}, member)
    expected = {f"{name}/good.txt": b"good"}, {f"{name}/strange.txt": "not_a_file"}
    assert outcome(tmp_path, name, content) == expected


def encrypt(members: list[zipfile.ZipInfo]) -> None:
    members[0].flag_bits |= 1


TWO = {"a.txt": b"1" * 500, "b.txt": b"2" * 500}
STORED = zipfile.ZIP_STORED
BROKEN = {
    "compressed zip": ("a.zip.gz", gzip.compress(make_zip(TWO)), {}, {"a.zip.gz": "nested_archive"}),
    "encrypted": ("a.zip", make_zip(TWO, STORED, encrypt), {"b.txt": TWO["b.txt"]}, {"a.zip/a.txt": "encrypted"}),
    "bzip2 in zip": ("a.zip", make_zip({"a": ZEROS}, zipfile.ZIP_BZIP2), {}, {"a.zip/a": "unsupported"}),
    "a second tar": ("a.tar", make_tar({"a": b"1"}) + make_tar({"b": b"2"}), {"a": b"1"}, {"a.tar": "damaged"}),
    "a cut tgz": (
        "a.tgz",
        gzip.compress(make_tar({"a": b"1", "b": NOISE, "c": b"3"}))[:-1000],
        {"a": b"1"},
        {"a.tgz/b": "damaged"},
    ),
    "a checksum": (
        "a.zip",
        make_zip({"a": b"the right text", "b": b"2"}, STORED).replace(b"right", b"wrong"),
        {"b": b"2"},
        {"a.zip/a": "damaged"},
    ),
    "a damaged member": (
        "a.zip",
        make_zip({"a.gz": gzip.compress(NOISE)[:-9], "b": b"2"}),
        {"b": b"2"},
        {"a.zip/a.gz": "damaged"},
    ),
    "text": ("a.tar", b"not an archive", {}, {"a.tar": "damaged"}),
    "text as zip": ("a.zip", b"not an archive", {}, {"a.zip": "damaged"}),
    "no members": ("b.zip", make_zip({"folder/": b""}), {}, {"b.zip": "empty"}),
    "an empty zip": ("c.zip", b"", {}, {"c.zip": "empty"}),
    "an empty tar": ("d.tar", make_tar({}), {}, {"d.tar": "empty"}),
}


@pytest.mark.parametrize(("name", "content", "contents", "reasons"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_archives_are_named(name: str, content: bytes, contents: dict, reasons: dict, tmp_path: Path) -> None:
    whole = {f"{name}/{path}": text for path, text in contents.items()}
    assert outcome(tmp_path, name, content) == (whole, reasons)


@pytest.mark.parametrize("n_bytes", [100, 512, 512 + 1024, 512 + 300_032, 512 + 300_032 + 100, -1024 - 512, None])
def test_a_cut_or_damaged_tar_is_reported_once(n_bytes: int | None, tmp_path: Path) -> None:
    content = bytearray(make_tar({"a.txt": NOISE, "b.txt": b"two"})[: 2 * 512 + 300_032 + 512 + 1024])
    if n_bytes is None:
        content[512 + 300_032 + 20] ^= 1  # within the second header
    contents, reasons = outcome(tmp_path, "a.tar", bytes(content[:n_bytes]))
    assert list(reasons.values()) == ["damaged"]
    assert contents.get("a.tar/a.txt", NOISE) == NOISE


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_bombs_are_refused_at_every_layer(suffix: str, tmp_path: Path) -> None:
    bomb = COMPRESS[suffix](ZEROS)
    for name, content in {
        f"a.txt{suffix}": bomb,
        "c.zip": make_zip({"x.txt": ZEROS}),
        "d.zip": make_zip({f"x.txt{suffix}": bomb}, STORED),
        "e.tar": make_tar({f"x.txt{suffix}": bomb}),
        f"g.txt.gz{suffix}": COMPRESS[suffix](gzip.compress(ZEROS)),
    }.items():
        contents, reasons = outcome(tmp_path, name, content, **SMALL)
        assert list(reasons.values()) == ["bomb"], name
        assert not contents


def test_limits_hold_for_all_members_together(tmp_path: Path) -> None:
    three = make_zip({"1": ZEROS, "2": ZEROS, "3": b"a"})
    contents, reasons = outcome(tmp_path, "a.zip", three, **(SMALL | {"FREE_BYTES": 300_000}))
    assert contents["a.zip/1"] == ZEROS and reasons["a.zip/2"] == "bomb"
    text = "".join(f"{n} is the number after {n - 1}.\n" for n in range(20_000)).encode()
    content = make_zip({"a.txt": text, "b.txt.gz": gzip.compress(text)})  # compresses well, but is no bomb
    assert outcome(tmp_path, "a.zip", content, FREE_BYTES=1000)[1] == {}


@pytest.mark.parametrize("suffix", [".bz2", ".zst"])
def test_a_bomb_is_refused_in_bounded_memory(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(COMPRESS[suffix](b"\0" * 20_000_000) * 6)
    entry = next(entries := open_entries(tmp_path / "a", f"a.txt{suffix}"))
    sizes: list[int] = []
    tracemalloc.start()
    with pytest.raises(ContentError, match="expected at most 200 bytes from each compressed byte"):
        drain(entry, lambda block: sizes.append(len(block)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 100_000_000 - (64 << 20) <= sum(sizes) <= 100_000_000
    assert peak < 80_000_000
    entries.close()


MEMBERS = {"a.txt": NOISE[:700], "b.txt": b"two" * 50, "c.txt.gz": gzip.compress(b"three")}
WHOLE = {"a.zip": make_zip(MEMBERS)} | {f"a.tar{suffix}": COMPRESS[suffix](make_tar(MEMBERS)) for suffix in COMPRESS}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), max_size=3))
def test_no_damage_raises_anything(name: str, damage: list[tuple[float, bytes]]) -> None:
    content = bytearray(WHOLE[name])
    for fraction, wrong in damage:
        place = int(fraction * len(content))
        content[place : place + 2] = wrong
    with tempfile.TemporaryDirectory() as folder:
        contents, reasons = outcome(Path(folder), name, bytes(content))
    assert contents or reasons
    assert damage or list(contents.values()) == [MEMBERS["a.txt"], MEMBERS["b.txt"], b"three"]


@pytest.mark.parametrize("name", ["folder", "folder.zip", "missing.txt", "missing.tar.gz", "zero\0.txt"])
def test_folders_and_missing_files_are_unreadable(name: str, tmp_path: Path) -> None:
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    assert outcome_of(tmp_path / name, name) == ({}, {printable(name): "unreadable"})
