"""Encodings: declared ones are taken, guessed ones are right or refused with candidates, and no guess is silent."""

import io
import re

import pytest

from llm.corpus.readers.encodings import ENCODING_ADVICE, Encoding, find_encoding, open_text
from llm.corpus.readers.streams import ContentError

TEXTS = {
    "turkish": "Yaşlı adam her sabah güneş doğmadan kalkar, çayını içer ve deniz kıyısında yürürdü. Çocuklar okula "
    "giderken ona gülümserlerdi; o da ışıl ışıl gözlerle el sallardı. Iğdır yolunda yağmur başladı.",
    "polish": "Stary człowiek wstawał każdego ranka przed świtem, pił herbatę i szedł wzdłuż brzegu morza. Dzieci "
    "uśmiechały się do niego w drodze do szkoły, a on żegnał je ręką.",
    "french": "Le vieil homme se levait chaque matin avant l'aube, buvait son thé et marchait le long du fleuve. Où "
    "êtes-vous allés ? Nous étions à la fête, dit-elle. La forêt était pleine d'arbres âgés, là-bas.",
    "russian": "Старик вставал каждое утро до рассвета, пил чай и шёл вдоль реки. Дети улыбались ему "
    "по дороге в школу.",
    "greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Ο γέρος ξυπνούσε "
    "κάθε πρωί πριν την αυγή.",
    "arabic": "كان الرجل العجوز يستيقظ كل صباح قبل الفجر ويشرب الشاي ثم يمشي على ضفة النهر.",
    "japanese": "老人は毎朝、夜明け前に起きてお茶を飲み、川沿いを歩いた。子供たちは学校へ行く途中で彼に微笑んだ。",
    "chinese": "老人每天早晨天亮之前起床，喝茶，然后沿着河边散步。孩子们上学的时候对他微笑。",
    "korean": "노인은 매일 아침 동트기 전에 일어나 차를 마시고 강가를 걸었다. "
    "아이들은 학교 가는 길에 그에게 미소를 지었다.",
    "english": "Emily Brontë had £20,000 a year, and the façade of the café was grey. She had read the dénouement.",
}
READ = {
    "turkish": ["cp1254"],
    "polish": ["cp1250", "cp852"],
    "french": ["cp1252"],
    "russian": ["cp1251", "koi8-r", "cp866"],
    "arabic": ["cp1256"],
    "japanese": ["shift-jis", "euc-jp", "iso2022-jp"],
    "chinese": ["gbk"],
    "korean": ["euc-kr"],
}
PAIRS = [(language, encoding) for language, encodings in READ.items() for encoding in encodings]
DOUBTFUL = [("polish", "iso8859-2"), ("turkish", "cp857"), ("french", "mac-roman"), ("french", "cp437")]
DOUBTFUL += [("greek", "cp1253"), ("english", "cp1252")]


def read(content: bytes, suffix: str = ".txt", named: str | None = None) -> tuple[str, Encoding]:
    stream, encoding = open_text(io.BufferedReader(io.BytesIO(content), 1 << 18), suffix, named)
    return stream.read().decode(), encoding


@pytest.mark.parametrize(("language", "encoding"), PAIRS)
def test_a_text_is_read_in_its_encoding_with_a_note(language: str, encoding: str) -> None:
    text, found = read(TEXTS[language].encode(encoding))
    assert (text, found.origin, found.doubt.split()[0]) == (TEXTS[language], "guessed", "confidence")


@pytest.mark.parametrize(("language", "encoding"), DOUBTFUL)
def test_a_text_is_read_correctly_or_refused(language: str, encoding: str) -> None:
    content = TEXTS[language].encode(encoding)
    try:
        found = read(content)[0]
    except ContentError as error:
        found = f"{error.reason}: {error}"
    refused = rf"unclear_encoding: expected an encoding that can be recognised, got .*; {re.escape(ENCODING_ADVICE)}"
    assert found == TEXTS[language] or re.fullmatch(refused, found)
    assert read(content, named=encoding) == (TEXTS[language], Encoding(encoding, "named"))


@pytest.mark.parametrize("content", [b"na\xefve\n", b"At 10\xb0 below zero", b"\xa9"])
def test_one_character_may_be_too_little_to_go_by(content: bytes) -> None:
    with pytest.raises(ContentError, match=r"^expected an encoding .* got .* or .*; name"):
        find_encoding(content)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(TEXTS["chinese"] * 300, "gbk"), ("word " * 3000 + TEXTS["polish"] * 20, "cp1250")],
    ids=["chinese", "polish"],
)
def test_a_long_line_is_sampled_beyond_ascii(text: str, encoding: str) -> None:
    assert text.encode(encoding).decode(find_encoding(text.encode(encoding)).name) == text


def test_a_guess_holds_for_characters_beyond_the_sample() -> None:
    text = (TEXTS["french"] + "\n") * 20 + "“Cœur” – 5 €\n"
    assert read(text.encode("cp1252"))[0] == text


FRENCH = "Le café était fermé à cause de la fête ; où êtes-vous allés ?\n"
WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("text", [TEXTS["russian"], "hi", '{"text": "a"}\n', FRENCH * 9000])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", *WIDE])
def test_unicode_is_recognised_with_and_without_a_mark(encoding: str, text: str) -> None:
    assert read(text.encode(encoding))[0] == text


@pytest.mark.parametrize("length", range(262_142, 262_145))
def test_a_character_may_cross_the_end_of_the_buffer(length: int) -> None:
    text = "x" * length + "雨 falls"
    assert read(text.encode()) == (text, Encoding("utf-8", "recognised"))


@pytest.mark.parametrize("content", [b"a\0b text", b"x = 1\n\0", "é\0à text".encode(), b"name\0value\0" * 9])
def test_zeros_alone_do_not_make_utf16(content: bytes) -> None:
    assert read(content)[0] == content.decode()


RUSSIAN = TEXTS["russian"]
DECLARED = {
    "meta": (".html", "<html><head><meta charset='{}'></head><body><p>{}</p>"),
    "http-equiv": (".html", '<meta http-equiv="Content-Type" content="text/html; charset={}"><p>{}</p>'),
    "xml": (".xml", '<?xml version="1.0" encoding="{}"?>\n<p>{}</p>'),
    "css": (".css", '@charset "{}";\np::before {{ content: "{}" }}'),
    "python": (".py", "#!/usr/bin/env python\n# -*- coding: {} -*-\nx = '{}'\n"),
}


@pytest.mark.parametrize("encoding", ["windows-1251", "cp866"])
@pytest.mark.parametrize("kind", DECLARED)
def test_a_declared_encoding_is_taken(kind: str, encoding: str) -> None:
    suffix, page = DECLARED[kind]
    assert read(page.format(encoding, RUSSIAN).encode(encoding), suffix)[0] == page.format(encoding, RUSSIAN)
    # Valid UTF-8 does not come about by chance, whatever is declared.
    assert RUSSIAN in read(page.format("windows-1254", RUSSIAN).encode(), suffix)[0]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"<meta charset=iso-8859-1>\xe9", "cp1252"),
        (b"<meta charset='gb2312'>\xc0\xcf", "gbk"),
        (b"<?xml version='1.0' encoding='iso-8859-2'?>\xb1", "iso8859-2"),
        (b"# coding: latin-1\n\xe9", "iso8859-1"),
        (b"<meta charset=utf-16>\xd0\xa1\n", "utf-8"),
        ("\ufeff<meta charset=utf-8>".encode("utf-16-le"), "utf-16-le"),
        (b"<meta charset=iso-2022-jp>" + TEXTS["japanese"].encode("iso2022-jp"), "iso2022_jp"),
        (b"<meta charset=windows-1251> ASCII up to here", "cp1251"),
        (b"\x1b[31mred\x1b[0m costs \x1b$5\n", "utf-8"),  # a terminal's escapes are not an encoding
    ],
)
def test_names_are_the_webs_or_pythons(head: bytes, name: str) -> None:
    assert find_encoding(head).name == name


CHARSET = "<meta charset=shift_jis><p>"


@pytest.mark.parametrize(
    ("content", "named", "reason", "problem"),
    [
        (CHARSET.encode() + b"caf\xff" * 9, None, "not_text", "expected text in shift_jis (declared), got other bytes"),
        (b"caf\xe9", "ascii", "not_text", "expected text in ascii (named), got other bytes"),
        (b"caf\xe9 \0 here and there", None, "not_text", "expected text, got binary data"),
        (b"# coding: rot13\nx = '\xd0\x81\x8d\x8f'\n", None, "unclear_encoding", "expected an encoding that can be"),
        (b"# coding: idna\nx = '\xd0\x81\x8d\x8f'\n", None, "not_text", "expected text in idna (declared), got other"),
    ],
)
def test_bytes_of_another_encoding_are_refused(content: bytes, named: str | None, reason: str, problem: str) -> None:
    with pytest.raises(ContentError) as caught:
        read(content, ".html", named)
    assert caught.value.reason == reason and str(caught.value).startswith(problem)


def test_utf8_under_another_name_is_doubtful() -> None:
    doubtful = Encoding("cp1252", "named", "the file is valid UTF-8")
    assert read("déjà vu".encode(), named="cp1252") == ("dÃ©jÃ\xa0 vu", doubtful)
    assert read(b"plain", named="cp1252") == ("plain", Encoding("cp1252", "named"))
    assert read("\ufeffé".encode("utf-16-le"), named="utf-16-le")[0] == "é"
    assert read("\ufeffé".encode(), named="utf-8")[0] == "é"
