"""Start and control the process that publishes a run."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from convatlas.tracking.wandb.publisher import Job
from convatlas.tracking.wandb.server import WandbError

START_SECONDS = 15.0
"""Seconds that Python, wandb and the W&B run may take to start, in addition to the answers of the server."""


class PublisherProcess:
    """Publishes a run in a process that can be ended at any time, even while wandb waits.

    Args:
        job: The run and how to publish it.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._process = subprocess.Popen(
            [sys.executable, "-m", "convatlas.tracking.wandb.publisher"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the terminal is meant for the run
        )
        self._send(json.dumps(asdict(job)).encode() + b"\n")

    def opened(self) -> str:
        """Wait until the W&B run is open.

        Returns:
            The URL of its page.

        Raises:
            WandbError: It cannot be opened in time.
        """
        answer = self._answer(3 * self.job.answer_seconds + START_SECONDS)
        return str(answer["url"])

    def finish(self) -> dict[str, Any]:
        """Wait until everything is sent, within the time limit of the job.

        Returns:
            The result of ``Publication.finish``.

        Raises:
            WandbError: Not everything was sent.
        """
        if self._process.stdin:
            self._process.stdin.close()
        return self._answer(self.job.finish_seconds + START_SECONDS)

    def end(self) -> None:
        """Kill the process and its child processes."""
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _send(self, text: bytes) -> None:
        if self._process.stdin:
            self._process.stdin.write(text)
            self._process.stdin.flush()

    def _answer(self, seconds: float) -> dict[str, Any]:
        output = self._process.stdout
        if output is None:
            raise ValueError("the process has no output")
        ready, _, _ = select.select([output], [], [], seconds)
        line = output.readline() if ready else b""
        if not line:
            self.end()
            raise WandbError(f"W&B was not done within {seconds:g} s" if not ready else "the publisher ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.end()
            raise WandbError(answer["error"])
        return answer


def make_job(
    directory: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    *,
    live: bool,
    answer_seconds: float,
    finish_seconds: float,
) -> Job:
    """Describe a run for its publisher.

    Args:
        directory: The run's directory, whose name is the run's id.
        settings: Its resolved configuration.
        options: ``project``, ``entity``, ``group``, ``job_type``, ``tags``, ``notes`` and ``checkpoints``.
        live: Whether the run is training.
        answer_seconds: Longest time that the server may take for an answer.
        finish_seconds: Longest time for the uploads that remain at the end.
    """
    run_id = directory.rstrip("/").rpartition("/")[2]
    group = options["group"] or re.sub(r"-s\d+(-a\d+)?$", "", run_id)
    tags = options["tags"] or []
    chosen = options | {
        "group": group,
        "tags": tags,
        "answer_seconds": answer_seconds,
        "finish_seconds": finish_seconds,
    }
    return Job(directory=directory, run_id=run_id, config=settings, live=live, **chosen)
