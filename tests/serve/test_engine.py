"""The engine without HTTP: each text is the same as alone, and every request gets a last delta."""

import queue

import pytest

from llm.model.generate import generate, greedy
from llm.model.text_stream import TextStream
from llm.serve.engine import ABORTED, Delta, Engine, Request
from llm.serve.sampler import RequestSampling, Sampler

PATIENCE = 30


def _decode(tokens):
    return "".join(chr(token + 256) for token in tokens)


class Recorded:
    """A request, and its deltas."""

    def __init__(self, ids, max_tokens, stop=(), stream=True):
        self.deltas = queue.Queue()
        sampler, text = Sampler(RequestSampling(temperature=0), (0, 0)), TextStream(_decode, stop)
        self.request = Request(ids, max_tokens, sampler, text, self.deltas.put, stream)

    def all(self) -> list[Delta]:
        deltas = [self.deltas.get(timeout=PATIENCE)]
        while deltas[-1].finish is None:
            deltas.append(self.deltas.get(timeout=PATIENCE))
        return deltas

    def tokens(self) -> tuple[list[int], str | None]:
        """All tokens, and the finish reason."""
        deltas = self.all()
        return [token.token for delta in deltas for token in delta.tokens], deltas[-1].finish


@pytest.fixture
def engine_of():
    """A maker of engines that work, and are closed in the end."""
    made = []

    def make(model, n_slots, ends=frozenset()):
        engine = Engine(model, n_slots, ends, 320)
        engine.start()
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


def _greedy(model, ids, n):
    return list(generate(model, ids, n, greedy))


@pytest.mark.parametrize("shape", [{}, {"family": "gru"}])
def test_more_texts_than_slots_equal_generate(engine_of, draw_gpt, shape):
    model = draw_gpt(**shape).eval()
    engine = engine_of(model, 3)
    requests = [Recorded([7 + number, 3], 5 + number) for number in range(10)]
    for recorded in requests:
        engine.submit(recorded.request)
    for number, recorded in enumerate(requests):
        assert recorded.tokens() == (_greedy(model, [7 + number, 3], 5 + number), "length")
    assert engine.load() == {"slots": 3, "live": 0, "waiting": 0}


def test_an_end_of_text_is_not_returned(engine_of, talker):
    ids = _greedy(talker, [9, 8, 7], 12)
    end = next(token for token in ids[2:] if token not in ids[:2])
    recorded = Recorded([9, 8, 7], 12)
    engine_of(talker, 1, frozenset({end})).submit(recorded.request)
    assert recorded.tokens() == (ids[: ids.index(end)], "stop")


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_cuts_off_its_tokens(engine_of, talker, stream):
    ids = _greedy(talker, [9, 8, 7], 30)
    stop = _decode(ids[5:8])
    begin = _decode(ids).index(stop)
    recorded = Recorded([9, 8, 7], 900, stop=(stop,), stream=stream)
    engine_of(talker, 1).submit(recorded.request)
    deltas = recorded.all()
    assert [token.token for delta in deltas for token in delta.tokens] == ids[:begin]
    assert (deltas[-1].finish, deltas[-1].n_tokens, len(deltas) == 1) == ("stop", begin + 3, not stream)


def test_a_cancelled_request_frees_its_slot(engine_of, talker):
    engine = engine_of(talker, 1)
    long, waiting, next_ = Recorded([9], 1000), Recorded([10], 1000), Recorded([11], 2)
    for recorded in (long, waiting, next_):
        engine.submit(recorded.request)
    long.deltas.get(timeout=PATIENCE)
    waiting.request.cancelled = True
    long.request.cancelled = True
    assert len(next_.all()[-1].text) >= 1
    deltas = long.all()
    assert deltas[-1] == ABORTED
    assert len(deltas) < 1000
    assert waiting.all() == [ABORTED]


def test_closing_aborts_all_requests(engine_of, talker):
    engine = engine_of(talker, 1)
    requests = [Recorded([9], 1000), Recorded([10], 1000)]
    for recorded in requests:
        engine.submit(recorded.request)
    requests[0].deltas.get(timeout=PATIENCE)
    engine.close()
    late = Recorded([11], 2)
    engine.submit(late.request)
    assert [recorded.all()[-1].finish for recorded in (*requests, late)] == ["aborted"] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("failing", ["prefill", "step"])
def test_a_failure_aborts_all_requests(engine_of, talker, monkeypatch, failing):
    engine = engine_of(talker, 1)
    monkeypatch.setattr(engine.decoder, failing, lambda *_: 1 / 0)
    requests = [Recorded([9], 10), Recorded([10], 10)]
    for recorded in requests:
        engine.submit(recorded.request)
    assert [recorded.all()[-1].finish for recorded in requests] == ["aborted"] * 2
