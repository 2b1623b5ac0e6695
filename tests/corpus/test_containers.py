"""Compression and archives: what went in comes out, what is broken or hostile is named, and nothing swells."""

import bz2
import gzip
import io
import lzma
import os
import random
import re
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.corpus.containers import Entry, Limits, open_entries, split_suffixes
from llm.corpus.readers.streams import ContentError, printable

LIMITS = Limits()

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
COMPRESSIONS = [suffix for suffix in COMPRESS if suffix]
NOISE = random.Random(7).randbytes(300_000)  # as long compressed as it is: a cut falls within it
SMALL = Limits(free_bytes=1000, ratio=10, members=3)
ZEROS = b"\0" * 100_000

# What came of a file: paths with bytes, and paths with the reason why there are none.
Outcome = tuple[dict[str, bytes], dict[str, str]]


def make_zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def make_tar(members: dict[str, bytes]) -> bytes:
    return make_tar_of([(tarfile.TarInfo(name), content) for name, content in members.items()])


def make_tar_of(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def outcome(folder: Path, name: str, content: bytes, limits: Limits = LIMITS) -> Outcome:
    (folder / "file").write_bytes(content)
    return outcome_of(folder / "file", name, limits)


def outcome_of(file: Path, name: str, limits: Limits = LIMITS) -> Outcome:
    contents, reasons = {}, {}
    for entry in open_entries(file, name, limits):
        if isinstance(entry.content, ContentError):
            assert re.match(r"expected .*got ", str(entry.content))
            assert "\n" not in str(entry.content)
            reasons[entry.path] = entry.content.reason
            continue
        try:
            contents[entry.path] = entry.content.read()
        except ContentError as error:
            reasons[entry.path] = error.reason
    return contents, reasons


def copy(entry: Entry, to: io.BytesIO) -> None:
    while block := entry.content.read1():
        to.write(block)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_is_its_content(suffix: str, tmp_path: Path) -> None:
    assert outcome(tmp_path, f"a.txt{suffix}", COMPRESS[suffix](NOISE)) == ({f"a.txt{suffix}": NOISE}, {})


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_concatenated_frames_are_one_file_and_an_empty_one_in_between_ends_nothing(suffix: str, tmp_path: Path) -> None:
    compress = COMPRESS[suffix]
    content = compress(b"one ") + compress(b"") + compress(b"two")
    assert outcome(tmp_path, f"a{suffix}", content) == ({f"a{suffix}": b"one two"}, {})


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compression_twice_is_taken_off_twice(suffix: str, tmp_path: Path) -> None:
    contents, _ = outcome(tmp_path, f"a.txt.gz{suffix}", COMPRESS[suffix](gzip.compress(b"one")))
    assert contents == {f"a.txt.gz{suffix}": b"one"}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("damage", ["cut", "followed", "second", "none", "header"])
def test_a_damaged_stream_is_named_and_what_came_before_is_kept(suffix: str, damage: str, tmp_path: Path) -> None:
    whole = COMPRESS[suffix](NOISE)
    content, n_kept = {
        "cut": (whole[:-3000], 200_000 if suffix != ".bz2" else 0),  # a block of bzip2 is as long as the noise
        "followed": (whole + b"garbage that is none", len(NOISE)),
        "second": (whole + b"\xff" + whole[1:], len(NOISE)),  # a frame that does not begin ends nothing silently
        "none": (b"text that is not compressed at all", 0),
        "header": (whole[:3], 0),
    }[damage]
    (tmp_path / "a").write_bytes(content)
    entry = next(entries := open_entries(tmp_path / "a", f"a.txt{suffix}"))
    assert isinstance(entry.content, io.BufferedReader)
    read = io.BytesIO()
    with pytest.raises(ContentError, match=f"^expected a whole {suffix} stream, got one that is cut short"):
        copy(entry, read)
    assert n_kept <= read.tell()
    assert read.getvalue() == NOISE[: read.tell()]
    assert list(entries) == []


def test_what_is_inside_the_layers_is_named_by_the_suffixes_of_any_case(tmp_path: Path) -> None:
    (tmp_path / "A.ZIP").write_bytes(make_zip({"B.JSONL.GZ": gzip.compress(b"{}")}))
    entry = next(entries := open_entries(tmp_path / "A.ZIP", "A.ZIP"))
    assert isinstance(entry.content, io.BufferedReader)
    assert (entry.path, entry.suffix, entry.content.read()) == ("A.ZIP/B.JSONL.GZ", ".jsonl", b"{}")
    assert list(entries) == []


@pytest.mark.parametrize(
    ("name", "suffix", "compressions"),
    [
        ("a.txt", ".txt", []),
        ("a", "", []),
        ("a.gz", "", [".gz"]),
        ("a.b/c.csv.xz", ".csv", [".xz"]),
        ("a.tar.zst", ".tar", [".zst"]),
        ("a.tbz2", ".tar", [".bz2"]),
        ("a.TXZ", ".tar", [".xz"]),
        ("a.tgz.bz2", ".tgz", [".bz2"]),
    ],
)
def test_suffixes_name_the_layers(name: str, suffix: str, compressions: list[str]) -> None:
    assert split_suffixes(name) == (suffix, compressions)


TARS = {"a.tar": "", "a.tar.gz": ".gz", "a.tgz": ".gz", "a.TAR.BZ2": ".bz2", "a.tbz": ".bz2", "a.tar.zst": ".zst"}


@pytest.mark.parametrize("name", TARS)
def test_a_tar_gives_its_files_in_its_order(name: str, tmp_path: Path) -> None:
    members = {"z.txt": NOISE, "b/a.txt": b"two", "./a.txt": b"three"}
    contents, reasons = outcome(tmp_path, name, COMPRESS[TARS[name]](make_tar(members)))
    assert list(contents.items()) == [
        (f"{name}/z.txt", NOISE),
        (f"{name}/b/a.txt", b"two"),
        (f"{name}/a.txt", b"three"),
    ]
    assert reasons == {}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_its_files_sorted_by_name(method: int, tmp_path: Path) -> None:
    contents, reasons = outcome(tmp_path, "a.zip", make_zip({"z.txt": NOISE, "b/": b"", "b/a.txt": b"two"}, method))
    assert list(contents.items()) == [("a.zip/b/a.txt", b"two"), ("a.zip/z.txt", NOISE)]
    assert reasons == {}


@pytest.mark.parametrize("archive", ["a.zip", "a.tar", "a.tar.zst"])
@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_member_may_be_compressed_itself(archive: str, suffix: str, tmp_path: Path) -> None:
    members = {f"x.jsonl{suffix}": COMPRESS[suffix](b"{}\n"), "y.txt": b"after"}
    content = make_zip(members) if archive == "a.zip" else make_tar(members)
    contents, _ = outcome(tmp_path, archive, COMPRESS[".zst"](content) if archive == "a.tar.zst" else content)
    assert contents == {f"{archive}/x.jsonl{suffix}": b"{}\n", f"{archive}/y.txt": b"after"}


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_what_is_left_unread_does_not_disturb_what_follows(make: Callable, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(make({"a.txt": NOISE, "b.txt": b"two"}))
    entries = open_entries(tmp_path / "a", "a.zip" if make is make_zip else "a.tar")
    next(entries)
    last = next(entries)
    assert isinstance(last.content, io.BufferedReader)
    assert last.content.read() == b"two"


@pytest.mark.parametrize("inner", ["b.zip", "b.tar", "b.tgz", "b.tar.xz", "b.zip.gz", "b.7z"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_in_an_archive_is_refused_by_its_name(make: Callable, inner: str, tmp_path: Path) -> None:
    name = "a.zip" if make is make_zip else "a.tar"
    contents, reasons = outcome(tmp_path, name, make({inner: b"whatever", "c.txt": b"text"}))
    assert (contents, reasons) == ({f"{name}/c.txt": b"text"}, {f"{name}/{inner}": "nested_archive"})


def test_a_zip_that_is_compressed_again_is_refused(tmp_path: Path) -> None:
    content = gzip.compress(make_zip({"a.txt": b"text"}))
    assert outcome(tmp_path, "a.zip.gz", content) == ({}, {"a.zip.gz": "nested_archive"})


BAD_PATHS = ["/etc/passwd", "../a.txt", "a/../../b.txt", "a/..", "C:/a.txt", "c:a.txt", "a\\b.txt", "..\\a.txt"]


@pytest.mark.parametrize("name", BAD_PATHS)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_name_that_points_out_of_the_archive_is_refused(make: Callable, name: str, tmp_path: Path) -> None:
    archive = "a.zip" if make is make_zip else "a.tar"
    contents, reasons = outcome(tmp_path, archive, make({name: b"bad", "good.txt": b"good"}))
    assert contents == {f"{archive}/good.txt": b"good"}
    assert list(reasons.values()) == ["bad_path"]


def test_a_name_with_a_zero_is_refused_though_zipfile_would_cut_it_there(tmp_path: Path) -> None:
    content = make_zip({"a.txt%.exe": b"bad"}).replace(b"a.txt%.exe", b"a.txt\0.exe")
    assert outcome(tmp_path, "a.zip", content) == ({}, {"a.zip/a.txt\\x00.exe": "bad_path"})


def test_names_are_shown_on_one_line_and_in_unicode(tmp_path: Path) -> None:
    contents, _ = outcome(tmp_path, "a.tar", make_tar({"é\n\udcff.txt": b"text"}))
    assert contents == {"a.tar/é\\n\\udcff.txt": b"text"}
    assert printable("é 雨\u2028\x85") == "é 雨\\u2028\\x85"


@pytest.mark.parametrize(
    "name", [".git/config", "a/.hidden.txt", "__MACOSX/a.txt", "a/__pycache__/b.pyc", "CVS/Root", "a/Thumbs.db"]
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_hidden_files_are_counted_and_not_read(make: Callable, name: str, tmp_path: Path) -> None:
    archive = "a.zip" if make is make_zip else "a.tar"
    assert outcome(tmp_path, archive, make({name: b"x"})) == ({}, {f"{archive}/{name}": "hidden"})


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, "sparse"]
)
def test_what_is_no_regular_file_in_a_tar_is_refused(kind: bytes | str, tmp_path: Path) -> None:
    member = tarfile.TarInfo("strange.txt")
    if kind == "sparse":  # Five bytes that claim to be a million, most of them a hole.
        member.pax_headers = {"GNU.sparse.map": "0,5", "GNU.sparse.size": "1000000"}
    else:
        member.type, member.linkname = kind, "good.txt"
    content = make_tar_of([(member, b"12345" if kind == "sparse" else b""), (tarfile.TarInfo("good.txt"), b"good")])
    assert outcome(tmp_path, "a.tar", content) == ({"a.tar/good.txt": b"good"}, {"a.tar/strange.txt": "not_a_file"})


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_what_is_no_regular_file_in_a_zip_is_refused(mode: int, tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        strange, plain = zipfile.ZipInfo("strange.txt"), zipfile.ZipInfo("good.txt")
        strange.external_attr, plain.external_attr = (mode | 0o644) << 16, (stat.S_IFREG | 0o644) << 16
        archive.writestr(strange, b"good.txt")
        archive.writestr(plain, b"good")
    expected = {"a.zip/good.txt": b"good"}, {"a.zip/strange.txt": "not_a_file"}
    assert outcome(tmp_path, "a.zip", file.getvalue()) == expected


@contextmanager
def forged_zip(members: dict[str, bytes]) -> Iterator[tuple[io.BytesIO, list[zipfile.ZipInfo]]]:
    """A zip whose directory says what the test makes of it; the members stay as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        yield file, archive.infolist()


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    with forged_zip({"a.txt": b"secret", "b.txt": b"open"}) as (file, members):
        members[0].flag_bits |= 1
    assert outcome(tmp_path, "a.zip", file.getvalue()) == ({"a.zip/b.txt": b"open"}, {"a.zip/a.txt": "encrypted"})


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_cannot_be_read_in_bounds_is_refused(method: int, tmp_path: Path) -> None:
    content = make_zip({"a.txt": ZEROS}, method)
    assert outcome(tmp_path, "a.zip", content) == ({}, {"a.zip/a.txt": "unsupported"})


@pytest.mark.parametrize("forgery", ["one place", "quoted", "over the directory"])
def test_members_of_a_zip_that_overlap_are_refused(forgery: str, tmp_path: Path) -> None:
    with forged_zip({"a.txt": b"1" * 500, "b.txt": b"2" * 500}) as (file, (first, second)):
        match forgery:
            case "one place":
                second.header_offset = first.header_offset
            case "quoted":  # The first one's content holds the second one's header.
                first.compress_size = first.file_size = 600
            case "over the directory":
                second.compress_size = second.file_size = 600
    assert outcome(tmp_path, "a.zip", file.getvalue()) == ({}, {"a.zip": "bomb"})


def test_a_zip_of_too_many_members_is_refused(tmp_path: Path) -> None:
    members = {f"{n}.txt": b"x" for n in range(4)}
    assert outcome(tmp_path, "a.zip", make_zip(members), SMALL) == ({}, {"a.zip": "bomb"})
    del members["3.txt"]
    assert len(outcome(tmp_path, "a.zip", make_zip(members), SMALL)[0]) == 3


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_what_swells_too_much_is_refused_at_every_layer(suffix: str, tmp_path: Path) -> None:
    bomb = COMPRESS[suffix](ZEROS)
    for name, content in {
        f"a.txt{suffix}": bomb,
        f"b.tar{suffix}": COMPRESS[suffix](make_tar({"x.txt": ZEROS})),
        "c.zip": make_zip({"x.txt": ZEROS}),
        "d.zip": make_zip({f"x.txt{suffix}": bomb}, zipfile.ZIP_STORED),
        "e.tar": make_tar({f"x.txt{suffix}": bomb}),
        "f.tar": make_tar({"noise": NOISE, f"x.txt{suffix}": bomb}),  # long honest bytes do not pay for a bomb
        f"g.txt.gz{suffix}": COMPRESS[suffix](gzip.compress(ZEROS)),
    }.items():
        contents, reasons = outcome(tmp_path, name, content, SMALL)
        assert list(reasons.values()) == ["bomb"], name
        assert len(contents) == (1 if name == "f.tar" else 0)


def test_bombs_too_small_to_be_one_are_one_together(tmp_path: Path) -> None:
    limits = SMALL._replace(free_bytes=150_000)
    contents, reasons = outcome(tmp_path, "a.zip", make_zip({"1": ZEROS, "2": ZEROS, "3": b"a"}), limits)
    assert contents["a.zip/1"] == ZEROS
    assert reasons["a.zip/2"] == "bomb"


def test_text_that_compresses_well_is_no_bomb(tmp_path: Path) -> None:
    limits = Limits(free_bytes=1000, ratio=200)
    text = "".join(f"{n} is the number after {n - 1}.\n" for n in range(20_000)).encode()
    contents, reasons = outcome(tmp_path, "a.zip", make_zip({"a.txt": text, "b.txt.gz": gzip.compress(text)}), limits)
    assert (list(contents.values()), reasons) == ([text, text], {})


class Counted(io.BytesIO):
    n_bytes = 0

    def write(self, block: bytes) -> int:
        self.n_bytes += len(block)
        return len(block)


@pytest.mark.parametrize("suffix", [".bz2", ".zst"])
def test_a_bomb_is_refused_in_bounded_memory_by_the_limits_that_hold_for_all(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(COMPRESS[suffix](b"\0" * 20_000_000) * 6)
    entry = next(entries := open_entries(tmp_path / "a", f"a.txt{suffix}"))
    assert isinstance(entry.content, io.BufferedReader)
    counted = Counted()
    tracemalloc.start()
    with pytest.raises(ContentError, match="expected at most 200 bytes from each compressed byte"):
        copy(entry, counted)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 100_000_000 - (64 << 20) <= counted.n_bytes <= 100_000_000
    assert peak < 80_000_000
    entries.close()


@pytest.mark.parametrize("n_bytes", [100, 512, 512 + 1024, 512 + 300_032, 512 + 300_032 + 100, -1024 - 512])
def test_a_tar_that_is_cut_anywhere_says_so_once(n_bytes: int, tmp_path: Path) -> None:
    content = make_tar({"a.txt": NOISE, "b.txt": b"two"})
    content = content[: 2 * 512 + 300_032 + 512 + 1024]  # without its padding
    contents, reasons = outcome(tmp_path, "a.tar", content[:n_bytes])
    assert list(reasons.values()) == ["damaged"]
    assert contents.get("a.tar/a.txt", NOISE) == NOISE


def test_bytes_after_the_end_of_a_tar_are_not_lost_silently(tmp_path: Path) -> None:
    content = make_tar({"a.txt": b"one"}) + make_tar({"b.txt": b"two"})
    assert outcome(tmp_path, "a.tar", content) == ({"a.tar/a.txt": b"one"}, {"a.tar": "damaged"})


def test_a_header_that_is_damaged_does_not_end_a_tar_silently(tmp_path: Path) -> None:
    content = bytearray(make_tar({"a.txt": b"one", "b.txt": b"two"}))
    content[1024 + 20] ^= 1
    assert outcome(tmp_path, "a.tar", bytes(content)) == ({"a.tar/a.txt": b"one"}, {"a.tar": "damaged"})


def test_damage_in_a_compressed_tar_is_said_once(tmp_path: Path) -> None:
    content = gzip.compress(make_tar({"a.txt": b"one", "b.txt": NOISE, "c.txt": b"three"}))
    contents, reasons = outcome(tmp_path, "a.tgz", content[:-1000])
    assert (contents, reasons) == ({"a.tgz/a.txt": b"one"}, {"a.tgz/b.txt": "damaged"})


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_member_that_is_damaged_itself_leaves_the_others(make: Callable, tmp_path: Path) -> None:
    name = "a.zip" if make is make_zip else "a.tar"
    contents, reasons = outcome(tmp_path, name, make({"a.txt.gz": gzip.compress(NOISE)[:-9], "b.txt": b"two"}))
    assert (contents, reasons) == ({f"{name}/b.txt": b"two"}, {f"{name}/a.txt.gz": "damaged"})


def test_a_wrong_checksum_in_a_zip_is_damage(tmp_path: Path) -> None:
    content = make_zip({"a.txt": b"the right text", "b.txt": b"two"}, zipfile.ZIP_STORED)
    contents, reasons = outcome(tmp_path, "a.zip", content.replace(b"right", b"wrong"))
    assert (contents, reasons) == ({"a.zip/b.txt": b"two"}, {"a.zip/a.txt": "damaged"})


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_what_is_no_archive_is_damaged(name: str, tmp_path: Path) -> None:
    assert outcome(tmp_path, name, b"no archive at all") == ({}, {name: "damaged"})
    assert outcome(tmp_path, name, NOISE) == ({}, {name: "damaged"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", make_zip({})),
        ("b.zip", make_zip({"folder/": b""})),
        ("c.zip", b""),
        ("d.tar", make_tar({})),
        ("e.tar", b""),
        ("f.tar.gz", gzip.compress(b"")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_archive_of_nothing_says_so(name: str, content: bytes, tmp_path: Path) -> None:
    assert outcome(tmp_path, name, content) == ({}, {name: "empty"})


MEMBERS = {"a.txt": NOISE[:700], "b.txt": b"two" * 50, "c.txt.gz": gzip.compress(b"three")}
WHOLE = {"a.zip": make_zip(MEMBERS)} | {f"a.tar{suffix}": COMPRESS[suffix](make_tar(MEMBERS)) for suffix in COMPRESS}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), max_size=3))
def test_no_damage_raises_anything(name: str, damage: list[tuple[float, bytes]]) -> None:
    content = bytearray(WHOLE[name])
    for share, wrong in damage:
        place = int(share * len(content))
        content[place : place + 2] = wrong
    with tempfile.TemporaryDirectory() as folder:
        contents, reasons = outcome(Path(folder), name, bytes(content))
    assert contents or reasons
    assert damage or list(contents.values()) == [MEMBERS["a.txt"], MEMBERS["b.txt"], b"three"]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Rights do not bind root: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_is_unreadable() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # else it is the folder that may not be read
        file = Path(folder) / "a.txt"
        file.write_text("text")
        file.chmod(0)
        with as_nobody():
            (found,) = open_entries(file, "a.txt")
    assert found.content.reason == "unreadable"
    assert str(found.content) == "expected a file that can be read, got Permission denied"


@pytest.mark.parametrize("name", ["folder", "folder.zip", "missing.txt", "missing.tar.gz", "zero\0.txt"])
def test_what_is_no_file_is_unreadable(name: str, tmp_path: Path) -> None:
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    assert outcome_of(tmp_path / name, name) == ({}, {printable(name): "unreadable"})
