"""Encodings: what a file declares counts, what is guessed is right or refused with candidates, and never silent."""

from pathlib import Path

import pytest

from llm.corpus.document import DoubtfulEncoding, RawDocument, Unreadable
from llm.corpus.params import FilesSource
from llm.corpus.readers.containers import ContentError
from llm.corpus.readers.encodings import Encoding, find_encoding
from llm.corpus.readers.formats import read_file

TEXTS = {
    "turkish": "Yaşlı adam her sabah güneş doğmadan kalkar, çayını içer ve deniz kıyısında yürürdü. Çocuklar okula "
    "giderken ona gülümserlerdi; o da ışıl ışıl gözlerle el sallardı. Iğdır yolunda yağmur başladı.",
    "polish": "Stary człowiek wstawał każdego ranka przed świtem, pił herbatę i szedł wzdłuż brzegu morza. Dzieci "
    "uśmiechały się do niego w drodze do szkoły, a on żegnał je ręką.",
    "czech": "Starý muž vstával každé ráno před úsvitem, pil čaj a procházel se podél řeky. Děti se na něj cestou do "
    "školy usmívaly a on jim mával, dokud nezmizely za rohem.",
    "hungarian": "Az öregember minden reggel hajnal előtt kelt, teát ivott és a folyó mentén sétált. A gyerekek "
    "rámosolyogtak az iskolába menet, ő pedig integetett nekik, amíg el nem tűntek.",
    "lithuanian": "Senas žmogus kiekvieną rytą keldavosi prieš aušrą, gerdavo arbatą ir eidavo palei upę. Vaikai jam "
    "šypsodavosi eidami į mokyklą, o jis jiems mojuodavo, kol jie dingdavo už kampo.",
    "latvian": "Vecais vīrs katru rītu cēlās pirms saullēkta, dzēra tēju un gāja gar upi. Bērni viņam smaidīja, ejot "
    "uz skolu, un viņš tiem māja ar roku, līdz tie pazuda aiz stūra.",
    "french": "Le vieil homme se levait chaque matin avant l'aube, buvait son thé et marchait le long du fleuve. Où "
    "êtes-vous allés ? Nous étions à la fête, dit-elle. La forêt était pleine d'arbres âgés, là-bas.",
    "german": "Der alte Mann stand jeden Morgen vor der Dämmerung auf, trank seinen Tee und ging am Fluss entlang. "
    "Über die Straße liefen größere Kinder, die ihm fröhlich zulächelten. Schön wär's, müßte er nicht früh heim.",
    "spanish": "El viejo se levantaba cada mañana antes del alba, bebía su té y caminaba por la orilla del río. "
    "¿Dónde está el niño? Difícil saberlo: los jóvenes corrían según podían.",
    "russian": "Старик вставал каждое утро до рассвета, пил чай и шёл вдоль реки. Дети улыбались ему "
    "по дороге в школу.",
    "bulgarian": "Старецът ставаше всяка сутрин преди зазоряване, пиеше чай и вървеше край реката. Децата му "
    "се усмихваха.",
    "greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Ο γέρος ξυπνούσε "
    "κάθε πρωί πριν την αυγή.",
    "hebrew": "הזקן קם בכל בוקר לפני הזריחה, שתה תה והלך לאורך הנהר. הילדים חייכו אליו בדרך לבית הספר.",
    "arabic": "كان الرجل العجوز يستيقظ كل صباح قبل الفجر ويشرب الشاي ثم يمشي على ضفة النهر.",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม",
    "japanese": "老人は毎朝、夜明け前に起きてお茶を飲み、川沿いを歩いた。子供たちは学校へ行く途中で彼に微笑んだ。",
    "chinese": "老人每天早晨天亮之前起床，喝茶，然后沿着河边散步。孩子们上学的时候对他微笑。",
    "korean": "노인은 매일 아침 동트기 전에 일어나 차를 마시고 강가를 걸었다. "
    "아이들은 학교 가는 길에 그에게 미소를 지었다.",
    "english": "Emily Brontë had £20,000 a year, and the façade of the café was grey. She had read the dénouement.",
}
READ = {
    "turkish": ["cp1254", "iso8859-9"],
    "polish": ["cp1250", "cp852"],
    "czech": ["cp1250", "iso8859-2", "cp852"],
    "hungarian": ["cp1250", "iso8859-2"],
    "lithuanian": ["cp1257", "iso8859-13"],
    "latvian": ["cp1257", "iso8859-13"],
    "french": ["cp1252", "latin-1"],
    "german": ["cp1252", "latin-1"],
    "spanish": ["cp1252", "latin-1"],
    "russian": ["cp1251", "koi8-r", "cp866", "iso8859-5"],
    "bulgarian": ["cp1251"],
    "hebrew": ["cp1255"],
    "arabic": ["cp1256"],
    "thai": ["cp874"],
    "japanese": ["shift-jis", "euc-jp", "iso2022-jp"],
    "chinese": ["gbk"],
    "korean": ["euc-kr"],
}
DOUBTFUL = {
    "polish": ["iso8859-2"],
    "turkish": ["cp857", "mac-turkish"],
    "french": ["mac-roman", "cp850", "cp437"],
    "german": ["mac-roman", "cp850", "cp437"],
    "spanish": ["mac-roman", "cp850"],
    "hungarian": ["cp852"],
    "greek": ["cp1253", "cp737"],
    "hebrew": ["cp862"],
    "english": ["cp1252", "mac-roman", "cp437"],
}
PAIRS = [(language, encoding) for language, encodings in READ.items() for encoding in encodings]
DOUBTFUL_PAIRS = [(language, encoding) for language, encodings in DOUBTFUL.items() for encoding in encodings]


def read(
    folder: Path, content: bytes, name: str = "a.txt", encoding: str | None = None
) -> list[RawDocument | Unreadable | DoubtfulEncoding]:
    (folder / name).write_bytes(content)
    source = FilesSource(name="mine", kind="files", globs=["data/raw/*"], encoding=encoding)
    return list(read_file(folder / name, name, source, 1_000_000))


@pytest.mark.parametrize(("language", "encoding"), PAIRS)
def test_a_text_is_read_in_the_encoding_that_it_has_and_the_guess_is_told(
    language: str, encoding: str, tmp_path: Path
) -> None:
    text = TEXTS[language] + "\n"
    guess, document = read(tmp_path, text.encode(encoding))
    assert isinstance(guess, DoubtfulEncoding)
    assert (guess.path, guess.origin, guess.doubt.split()[0]) == ("a.txt", "guessed", "confidence")
    assert document == RawDocument("mine", "a.txt", text)


@pytest.mark.parametrize(("language", "encoding"), DOUBTFUL_PAIRS)
def test_a_text_is_read_rightly_or_refused_with_candidates(language: str, encoding: str, tmp_path: Path) -> None:
    text = TEXTS[language] + "\n"
    *_, found = read(tmp_path, text.encode(encoding))
    if isinstance(found, Unreadable):
        assert found.reason == "unclear_encoding"
        assert found.problem.startswith("expected an encoding that can be recognised, got ")
        assert found.problem.endswith("; name the file's encoding in the source (encoding:)")
    else:
        assert found == RawDocument("mine", "a.txt", text)
    assert read(tmp_path, text.encode(encoding), encoding=encoding) == [RawDocument("mine", "a.txt", text)]


@pytest.mark.parametrize("content", [b"na\xefve\n", b"At 10\xb0 below zero", b"\xa9"])
def test_one_character_may_be_too_little_to_go_by(content: bytes) -> None:
    with pytest.raises(ContentError, match=r"^unclear_encoding: expected an encoding .* got .* or .*; name"):
        find_encoding(content)


def test_a_long_line_is_sampled_where_it_leaves_ascii() -> None:
    chinese = TEXTS["chinese"] * 300
    for text, encoding in ((chinese, "gbk"), ("word " * 3000 + TEXTS["polish"] * 20, "cp1250")):
        found = find_encoding(text.encode(encoding))
        assert text.encode(encoding).decode(found.name) == text


def test_a_guess_holds_for_what_the_sample_has_not(tmp_path: Path) -> None:
    text = (TEXTS["french"] + "\n") * 20 + "“Cœur” – 5 €\n"
    *_, document = read(tmp_path, text.encode("cp1252"))
    assert document == RawDocument("mine", "a.txt", text)


RUSSIAN = TEXTS["russian"]
DECLARED = {
    "meta": ("a.html", "<html><head><meta charset='{}'></head><body><p>{}</p>"),
    "meta without quotes": ("a.htm", "<!doctype html>\n<META CHARSET={}>\n<p>{}"),
    "http-equiv": ("a.html", '<meta http-equiv="Content-Type" content="text/html; charset={}"><p>{}</p>'),
    "xml": ("a.xml", '<?xml version="1.0" encoding="{}"?>\n<p>{}</p>'),
    "xhtml": ("a.xhtml", "<?xml version='1.0' encoding='{}'?><html><body><p>{}</p></body></html>"),
    "css": ("a.css", '@charset "{}";\np::before {{ content: "{}" }}'),
    "python": ("a.py", "#!/usr/bin/env python\n# -*- coding: {} -*-\nx = '{}'\n"),
    "vim": ("a.py", "# vim: set fileencoding={} :\nx = '{}'\n"),
    "ruby": ("a.rb", "# encoding: {}\nx = '{}'\n"),
}


@pytest.mark.parametrize("encoding", ["windows-1251", "koi8-r", "cp866", "utf-8"])
@pytest.mark.parametrize("kind", DECLARED)
def test_what_a_file_declares_counts(kind: str, encoding: str, tmp_path: Path) -> None:
    name, page = DECLARED[kind]
    (document,) = read(tmp_path, page.format(encoding, RUSSIAN).encode(encoding), name)
    assert isinstance(document, RawDocument)
    assert RUSSIAN in document.text
    # What is UTF-8 is read so, whatever it declares: that does not come about by chance.
    (document,) = read(tmp_path, page.format("windows-1254", RUSSIAN).encode(), name)
    assert isinstance(document, RawDocument)
    assert RUSSIAN in document.text


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
    ],
)
def test_a_declared_name_is_what_the_web_or_python_takes_it_for(head: bytes, name: str) -> None:
    assert find_encoding(head).name == name


def test_a_declaration_that_the_bytes_break_is_refused(tmp_path: Path) -> None:
    (found,) = read(tmp_path, b"<meta charset=shift_jis><p>" + b"caf\xff" * 9, "a.html")
    assert isinstance(found, Unreadable)
    assert found.reason == "not_text"
    assert found.problem.startswith("expected text in shift_jis (declared), got other bytes")


def test_utf8_under_another_name_is_told(tmp_path: Path) -> None:
    doubt, document = read(tmp_path, "déjà vu".encode(), encoding="cp1252")
    assert doubt == DoubtfulEncoding("mine", "a.txt", "cp1252", "named", "the file is valid UTF-8")
    assert document == RawDocument("mine", "a.txt", "dÃ©jÃ\xa0 vu")
    assert read(tmp_path, b"plain", encoding="cp1252") == [RawDocument("mine", "a.txt", "plain")]


def test_escapes_of_a_terminal_are_not_an_encoding() -> None:
    assert find_encoding(b"\x1b[31mred\x1b[0m costs \x1b$5\n") == Encoding("utf-8", "recognised")
