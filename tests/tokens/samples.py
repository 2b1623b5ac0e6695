"""Texts on the edges of split patterns, for the tests of tokenizers."""

from hypothesis import strategies as st

from llm.tokens.special import SPECIAL_TOKENS

CORPUS = [
    "def walk(path):\n    return [name for name in path if name]\n\n\n",
    "The river runs, the rain falls; it's 2024 and they'll say: \"we've seen 1234567 déjà vus\"!!!\r\n",
    "Größe, naïve, Ελλάδα, Москва, 東京都, 한국어, हिन्दी, عربي, 👩‍👩‍👧 👍🏽\t\t\t...\n   \n",
    "\nREIT" * 5,  # a merge over the end of 'RE that only words may use
    "<|endoftext|> <|im_start|>user<|im_end|> <|pad|><|bos|><|eos|> ######## ---------",
] * 3

# Each piece is on an edge of some rule of a split pattern.
EDGES = [
    *("'s", "'RE", "'ll", "'ſ", "'", "it", "IT", "é", "e\u0301", "ß", "東京", "한", "हि", "ع", "ǅ", "ª", "\u0345"),
    *("1", "42", "333", "4444", "٣", "½", "²", "Ⅷ", "一", " ", "  ", "\n", "\r", "\r\n", "\n\n", "\t", "\v", "\f"),
    *("\x1c", "\x85", "\u00a0", "\u2028", "\u3000", "\u200b", "\u200d", "\ufeff", "\ufffd", "\0", "\x7f", "\u00ad"),
    *(
        "\U0010ffff",
        ".",
        "...",
        "!?",
        "_",
        "__init__",
        "(",
        '"',
        "€",
        "👩‍👩‍👧",
        "👍🏽",
        "<|",
        "|>",
        "<|endof",
        "text|>",
    ),
    *(*SPECIAL_TOKENS, "<|unk|>", "<s>", "</s>"),
]
STRADDLING = st.lists(st.sampled_from(EDGES), max_size=12).map("".join)
ANY_TEXT = st.text() | STRADDLING
