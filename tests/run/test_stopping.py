import signal

import pytest

from convatlas.errors import RankLostError
from convatlas.run.stopping import Preempted, StopSignals

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
def test_what_ended_a_run(told: bool, error: BaseException, expected: type[BaseException]) -> None:
    stop = StopSignals()
    stop.received = signal.SIGTERM if told else None
    outcome = stop.outcome(error)
    assert type(outcome) is expected
    assert (outcome is error) == (expected not in (Preempted, RankLostError))
