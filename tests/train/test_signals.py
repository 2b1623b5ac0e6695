import signal

import pytest
from llm.train.signals import defer_signals

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers_are_given_back():
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


def _hold(*numbers, error=None):
    """Raise signals inside and then maybe an error; gives what was noted."""
    noted = []

    def run():
        with defer_signals() as came:
            for number in numbers:
                signal.raise_signal(number)
                noted.append(list(came))
            if error:
                raise error

    return run, noted


def test_sigterm_inside_exits_with_143_after_it():
    run, noted = _hold(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 143
    assert noted == [[signal.SIGTERM]]


def test_ctrl_c_inside_interrupts_after_it():
    run, noted = _hold(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert noted == [[signal.SIGINT]]


def test_a_second_ctrl_c_does_not_wait():
    run, noted = _hold(signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(noted) == 1


def test_a_mistake_inside_counts_more_than_a_signal():
    run, _ = _hold(signal.SIGTERM, error=ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        run()


def test_without_a_signal_nothing_ends():
    run, noted = _hold()
    run()
    assert noted == []
