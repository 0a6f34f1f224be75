"""Queries to the W&B server with a time limit of seconds; wandb itself would wait and retry."""

import base64
import configparser
import json
import netrc
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_URL = "https://api.wandb.ai"
VIEWER = "query Viewer { viewer { entity username } }"
RUN = """
query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) { historyLineCount historyTail summaryMetrics }
  }
}
"""
"""The query of wandb-core when it resumes a run."""


class WandbError(Exception):
    """The server cannot be reached or refuses a request; the message is one line with the reason."""


@dataclass(frozen=True)
class HeldRun:
    """The state of a run on the server.

    Args:
        num_rows: Length of its history.
        last: The last row.
        summary: Its summary.
    """

    num_rows: int
    last: dict[str, Any]
    summary: dict[str, Any]


class WandbServer:
    """A connection to a W&B server.

    Args:
        url: Address of the server.
        key: The API key.
        timeout: Longest time for an answer, in seconds.

    Raises:
        WandbError: The server does not answer in time, or does not know the key.
    """

    def __init__(self, url: str, key: str, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        self._authorization = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
        viewer = self._ask(VIEWER, {})["viewer"]
        if viewer is None:
            raise WandbError(f"{url} does not know the API key")
        self.entity: str = os.environ.get("WANDB_ENTITY") or viewer["entity"]

    @classmethod
    def connect(cls, timeout: float) -> "WandbServer":
        """Connect to the user's server with the user's key."""
        return cls(*credentials(), timeout)

    def run(self, entity: str, project: str, run_id: str) -> HeldRun | None:
        """Query the state of a run; None if there is no such run."""
        model = self._ask(RUN, {"project": project, "entity": entity, "name": run_id})["model"]
        bucket = model and model["bucket"]
        if not bucket:
            return None
        summary = json.loads(bucket["summaryMetrics"] or "{}")
        tail = json.loads(bucket["historyTail"] or "[]")
        last = json.loads(tail[-1]) if tail else summary  # the summary has the newest value of each metric
        return HeldRun(bucket["historyLineCount"] or 0, last, summary)

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  the URL is the user's own
            f"{self.url}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json", "Authorization": self._authorization},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:  # noqa: S310
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise WandbError(f"{self.url} answers {error.code}: {_reason(error.read()) or error.reason}") from error
        except TimeoutError as error:
            raise WandbError(f"{self.url} does not answer within {self.timeout:g} s") from error
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, TimeoutError):
                reason = f"no answer within {self.timeout:g} s"
            raise WandbError(f"{self.url} cannot be reached ({reason})") from error
        if answer.get("errors"):
            raise WandbError(f"{self.url} refuses: {answer['errors'][0]['message']}")
        data: dict[str, Any] = answer["data"]
        return data


def credentials() -> tuple[str, str]:
    """Find server and API key in WANDB_BASE_URL and WANDB_API_KEY, otherwise in the files of ``wandb login``.

    Raises:
        WandbError: There is no key.
    """
    url = (os.environ.get("WANDB_BASE_URL") or _logged_in_url() or DEFAULT_URL).rstrip("/")
    key = os.environ.get("WANDB_API_KEY") or _logged_in_key(url)
    if not key:
        raise WandbError(f"no API key for {url}, set WANDB_API_KEY or run `wandb login`")
    return url, key


def _reason(body: bytes) -> str:
    """The message of a GraphQL error; empty for any other content."""
    try:
        return str(json.loads(body)["errors"][0]["message"])
    except (ValueError, LookupError, TypeError):
        return ""


def _logged_in_key(url: str) -> str | None:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        login = netrc.netrc(path).authenticators(urllib.parse.urlparse(url).netloc)
    except (OSError, netrc.NetrcParseError):
        return None
    return login[2] if login else None


def _logged_in_url() -> str | None:
    settings = configparser.ConfigParser()
    settings.read(Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser() / "settings")
    return settings.get("default", "base_url", fallback=None)
