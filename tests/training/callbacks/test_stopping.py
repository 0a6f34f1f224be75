import signal

import pytest

from convatlas.errors import RankLostError
from convatlas.training.callbacks.stopping import StopSignals
from convatlas.utils import signals
from convatlas.utils.signals import Preempted, StopFlag

LOST = RuntimeError("[gloo/transport/tcp/pair.cc:545] Connection closed by peer")


@pytest.mark.parametrize(
    ("told", "error", "expected"),
    [
        (True, SystemExit(1), Preempted),  # Lightning's own end
        (True, LOST, Preempted),  # another rank was quicker
        (True, ValueError("a mistake"), ValueError),
        (False, LOST, RankLostError),
        (False, SystemExit(1), SystemExit),
        (False, RuntimeError("out of memory"), RuntimeError),
    ],
)
def test_the_outcome_of_a_run_follows_from_signal_and_exception(
    told: bool, error: BaseException, expected: type[BaseException]
) -> None:
    stop = StopSignals()
    stop.flag.received += [signal.SIGTERM] if told else []
    outcome = stop.outcome(error)
    assert type(outcome) is expected
    assert (outcome is error) == (expected not in (Preempted, RankLostError))


@pytest.mark.parametrize("command", [True, False])
def test_after_the_run_a_command_ignores_the_signals_and_a_caller_gets_its_handlers_back(
    command: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_ends_after_work", command)
    before = {number: signal.signal(number, print) for number in signals.STOP_SIGNALS}
    try:
        stop = StopFlag(signals.STOP_SIGNALS)
        stop.listen()
        signal.raise_signal(signal.SIGUSR1)
        assert stop.received == [signal.SIGUSR1]
        stop.release()
        expected = signal.SIG_IGN if command else print
        assert [signal.getsignal(number) for number in signals.STOP_SIGNALS] == [expected, expected]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
