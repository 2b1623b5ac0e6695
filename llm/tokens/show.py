"""Windows as a person reads them: what the model sees, and what it has to say next.

    [290] ----------> 4920
    [290, 4920] ----------> 2241
    ' and' ----------> ' established'
    ' and established' ----------> ' himself'

A window of T tokens holds T such rows, learnt from at once. Which question this answers: why sliding windows?
They make pairs of input and target out of plain text, which nobody has to label.
"""

from llm.tokens.tokenizer import Tokenizer
from llm.tokens.windows import Windows

ARROW = " ----------> "


def window_rows(windows: Windows, number: int, n_rows: int, tokenizer: Tokenizer) -> list[str]:
    """The first rows of a window, by its number: as ids, then as text."""
    start = int(windows.starts[number])
    n_rows = min(n_rows, int(windows.lengths[number]))
    ids = [int(id_) for id_ in windows.stream[start : start + n_rows + 1]]
    as_ids = [f"{ids[:n]}{ARROW}{ids[n]}" for n in range(1, n_rows + 1)]
    as_text = [f"{tokenizer.decode(ids[:n])!r}{ARROW}{tokenizer.decode([ids[n]])!r}" for n in range(1, n_rows + 1)]
    return as_ids + as_text
