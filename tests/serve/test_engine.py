"""The engine without HTTP: who waits is served, who is done leaves, and each text is what it would be alone."""

import queue

import pytest

from llm.model.generate import generate, greedy
from llm.serve.draw import Drawer, Drawing
from llm.serve.engine import ABORTED, Engine, Job, Piece
from llm.serve.slots import make_slots
from llm.serve.text import TextStream

PATIENCE = 30


def _decode(tokens):
    return "".join(chr(token + 256) for token in tokens)


class Told:
    """A job, and what was told of it."""

    def __init__(self, ids, max_tokens, seed=None, stop=(), whole=False, **drawing):
        self.pieces = queue.Queue()
        drawer = Drawer(Drawing(temperature=0 if seed is None else 1, **drawing), (seed or 0, 0))
        self.job = Job(ids, max_tokens, drawer, TextStream(_decode, stop), self.pieces.put, whole)

    def all(self) -> list[Piece]:
        pieces = [self.pieces.get(timeout=PATIENCE)]
        while pieces[-1].finish is None:
            pieces.append(self.pieces.get(timeout=PATIENCE))
        return pieces

    def text(self) -> str:
        return "".join(piece.text for piece in self.all())


@pytest.fixture
def engine_of():
    """A maker of engines that work, and are closed in the end."""
    made = []

    def make(model, n_slots, ends=frozenset()):
        engine = Engine(make_slots(model, n_slots), ends, 320)
        engine.start()
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


def _greedy(model, ids, n):
    return list(generate(model, ids, n, greedy))


@pytest.mark.parametrize("shape", [{}, {"family": "gru"}])
def test_more_texts_than_slots_are_all_what_generate_makes_of_them(engine_of, draw_gpt, shape):
    model = draw_gpt(**shape).eval()
    engine = engine_of(model, 3)
    jobs = [Told([7 + number, 3], 5 + number) for number in range(10)]
    for told in jobs:
        engine.submit(told.job)
    for number, told in enumerate(jobs):
        pieces = told.all()
        assert [token.token for piece in pieces for token in piece.written] == _greedy(
            model, [7 + number, 3], 5 + number
        )
        assert (pieces[-1].finish, pieces[-1].n_tokens) == ("length", 5 + number)
    assert engine.load() == {"slots": 3, "live": 0, "waiting": 0}


def test_a_seed_draws_the_same_text_alone_and_among_others(engine_of, talker):
    alone = engine_of(talker, 1)
    texts = []
    for seed in range(4):
        told = Told([9, 8, 7], 40, seed)
        alone.submit(told.job)
        texts.append(told.text())
    assert len(set(texts)) == 4
    crowded = engine_of(talker, 5)
    others = [Told([20 + number] * (1 + number), 10 + 7 * number, 90 + number) for number in range(8)]
    wanted = [Told([9, 8, 7], 40, seed) for seed in range(4)]
    for told in [*others[:3], wanted[0], *others[3:6], *wanted[1:], *others[6:]]:
        crowded.submit(told.job)
    assert [told.text() for told in wanted] == texts


def test_an_id_that_ends_a_text_is_not_given_out(engine_of, talker):
    ids = _greedy(talker, [9, 8, 7], 12)
    end = next(token for token in ids[2:] if token not in ids[:2])
    told = Told([9, 8, 7], 12)
    engine_of(talker, 1, frozenset({end})).submit(told.job)
    pieces = told.all()
    assert [token.token for piece in pieces for token in piece.written] == ids[: ids.index(end)]
    assert pieces[-1].finish == "stop"


def test_a_stop_string_frees_the_slot_and_what_it_cuts_off_is_never_told(engine_of, talker):
    ids = _greedy(talker, [9, 8, 7], 30)
    stop = _decode(ids[5:8])
    begin = _decode(ids).index(stop)
    for whole in (True, False):
        told = Told([9, 8, 7], 900, stop=(stop,), whole=whole)
        engine_of(talker, 1).submit(told.job)
        pieces = told.all()
        assert "".join(piece.text for piece in pieces) == _decode(ids[:begin])
        assert [token.token for piece in pieces for token in piece.written] == ids[:begin]
        assert (pieces[-1].finish, pieces[-1].n_tokens) == ("stop", begin + 3)
        assert (len(pieces) == 1) == whole


def test_a_text_of_no_tokens_is_read_only(engine_of, talker):
    told = Told([9, 8, 7], 0)
    engine_of(talker, 1).submit(told.job)
    assert told.all() == [Piece("", [], "length")]


def test_who_cancels_frees_the_slot_for_the_next(engine_of, talker):
    engine = engine_of(talker, 1)
    long, waiting, next_ = Told([9], 1000), Told([10], 1000), Told([11], 2)
    for told in (long, waiting, next_):
        engine.submit(told.job)
    long.pieces.get(timeout=PATIENCE)
    waiting.job.cancelled = True
    long.job.cancelled = True
    assert len(next_.all()[-1].text) >= 1
    pieces = long.all()
    assert pieces[-1] == ABORTED
    assert len(pieces) < 1000
    assert waiting.all() == [ABORTED]


def test_closing_ends_everybody(engine_of, talker):
    engine = engine_of(talker, 1)
    jobs = [Told([9], 1000), Told([10], 1000)]
    for told in jobs:
        engine.submit(told.job)
    jobs[0].pieces.get(timeout=PATIENCE)
    engine.close()
    late = Told([11], 2)
    engine.submit(late.job)
    assert [told.all()[-1].finish for told in (*jobs, late)] == ["aborted"] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("failing", ["read", "step"])
def test_a_failure_leaves_nobody_waiting(engine_of, talker, monkeypatch, failing):
    engine = engine_of(talker, 1)
    monkeypatch.setattr(engine.slots, failing, lambda *_: 1 / 0)
    jobs = [Told([9], 10), Told([10], 10)]
    for told in jobs:
        engine.submit(told.job)
    assert [told.all()[-1].finish for told in jobs] == ["aborted"] * 2
