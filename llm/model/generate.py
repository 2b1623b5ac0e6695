"""A text goes on: token after token, each drawn from the model's prediction after all before it.

Autoregressive means just this: what the model wrote becomes what it reads. Keys and values of what was read are
kept, so that a new token costs one position and not the whole text again. A text is read in one batch; then come
single tokens, which `llm.model.decode` computes where it can.

    ids → generate → new ids → stream_text → pieces of text, as soon as they are certain

Logits pass through filters before one id is drawn: repetition penalty, temperature, top-k, top-p, min-p.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from llm.model.decode import Decoder, can_decode
from llm.model.gpt import GPT, Past


@torch.inference_mode()
def generate(
    model: GPT,
    ids: list[int],
    max_new_tokens: int,
    choose: Callable[[Tensor], int],
    stop: frozenset[int] = frozenset(),
    repetition_penalty: float = 1.0,
) -> Iterator[int]:
    """Yield up to `max_new_tokens` ids that continue `ids`; a `stop` id ends the text and is not given out.

    `choose` picks an id from the logits (V,) of the next token: `greedy`, or a `sampler`. When the context is
    full, the older half of it is forgotten. A model that sees the future reads everything anew for each token: what
    its positions saw changes with every one, so nothing can be kept. It writes badly; it has learned to look, not
    to predict.
    """
    assert ids, "a text to continue has at least one token"
    device = model.embedding.weight.device
    length = model.config.context_length
    decoder = Decoder(model) if can_decode(model) else None
    read = list(ids)[-length:]
    unread = read
    past: Past | None = None
    for _ in range(max_new_tokens):
        if len(read) > length:
            read = read[-max(length // 2, 1) :]
            unread, past = read, None
        if decoder and past:
            logits = torch.from_numpy(decoder.step(read[-1]))
        else:
            hidden, kept = model.run_blocks(model.embedding(torch.tensor([unread], device=device)), past)
            logits = model.head(hidden[0, -1]).float()
            if decoder:
                decoder.read(kept)
        if repetition_penalty != 1:
            logits = penalise_repetition(logits, read, repetition_penalty)
        token = choose(logits)
        if token in stop:
            return
        yield token
        read.append(token)
        unread, past = (read, None) if model.sees_the_future else ([token], kept)


def greedy(logits: Tensor) -> int:
    """The likeliest id."""
    return int(logits.argmax())


def sampler(
    temperature: float,
    top_k: int | None,
    generator: torch.Generator,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Callable[[Tensor], int]:
    """A chooser that draws in proportion to the likelihood; a low temperature prefers the likely.

    Temperature comes first, then each filter that is given looks at what the one before it left.
    """
    assert temperature > 0

    def choose(logits: Tensor) -> int:
        logits = logits.cpu() / temperature
        if top_k is not None:
            logits = keep_top_k(logits, top_k)
        if top_p is not None:
            logits = keep_top_p(logits, top_p)
        if min_p is not None:
            logits = keep_min_p(logits, min_p)
        return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))

    return choose


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits (V,) with -∞ for all but the `k` likeliest (Fan et al. 2018, arXiv:1805.04833); equals of the last stay.

    >>> keep_top_k(torch.tensor([1.0, 3.0, 2.0]), 2)
    tensor([-inf, 3., 2.])
    """
    if k >= len(logits):
        return logits
    return logits.masked_fill(logits < logits.topk(k).values[-1], float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest ids whose probabilities sum to `p` or more: nucleus sampling (Holtzman et al. 2020, 1904.09751).

    >>> keep_top_p(torch.tensor([0.2, 0.5, 0.3]).log(), 0.6).exp()
    tensor([0.0000, 0.5000, 0.3000])
    """
    ranked, order = logits.sort(descending=True, stable=True)
    likeliest = ranked.softmax(dim=-1)
    # An id goes when those before it are enough; the first has none before it and stays.
    enough = likeliest.cumsum(dim=-1) - likeliest >= p
    enough[0] = False
    return logits.masked_fill(torch.empty_like(enough).scatter_(0, order, enough), float("-inf"))


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the ids that are at least `p` times as likely as the likeliest (Nguyen et al. 2024, arXiv:2407.01082).

    >>> keep_min_p(torch.tensor([0.2, 0.5, 0.3]).log(), 0.5).exp()
    tensor([0.0000, 0.5000, 0.3000])
    """
    shares = logits.softmax(dim=-1)
    return logits.masked_fill(shares < p * shares.max(), float("-inf"))


def penalise_repetition(logits: Tensor, seen: list[int], penalty: float) -> Tensor:
    """Make the ids that were `seen` less likely: a positive logit is divided by `penalty`, a negative one multiplied.

    Once, however often they were seen (Keskar et al. 2019, CTRL, arXiv:1909.05858).

    >>> penalise_repetition(torch.tensor([2.0, -2.0, 2.0]), [0, 1, 1], 2.0)
    tensor([ 1., -4.,  2.])
    """
    places = torch.tensor(seen, dtype=torch.long, device=logits.device)
    chosen = logits[places]
    return logits.index_put((places,), torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def stream_text(tokens: Iterable[int], decode: Callable[[list[int]], str], stop: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the text of tokens in pieces, each as soon as it is certain; it ends before the first `stop` string.

    Held back are bytes that are no whole character yet, and an end that may be the beginning of a stop string. The
    first stop string is the one that is complete first.

    >>> words = ["one", "two", "six"]
    >>> list(stream_text([0, 1, 2], lambda ids: "".join(words[token] for token in ids), stop=("os",)))
    ['one', 'tw']
    """
    written: list[int] = []
    shown = 0
    for token in tokens:
        written.append(token)
        whole = decode(written).rstrip("\ufffd")
        found = [(whole.index(word) + len(word), whole.index(word)) for word in stop if word in whole]
        if found:
            _, begin = min(found)
            if begin > shown:
                yield whole[shown:begin]
            return
        begun = max((n for word in stop for n in range(1, len(word)) if whole.endswith(word[:n])), default=0)
        if len(whole) - begun > shown:
            yield whole[shown : len(whole) - begun]
            shown = len(whole) - begun
    if rest := decode(written)[shown:]:
        yield rest
