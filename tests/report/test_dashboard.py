"""The dashboard's server: what it answers, to whom, and how little it reads."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convatlas.config.composition import check_config, compose
from convatlas.errors import UserError
from convatlas.record.reader import RunRecord
from convatlas.report import live
from convatlas.report.figures.panels import Dashboard
from convatlas.report.live import LiveReport
from convatlas.report.page import Report, build_report
from convatlas.report.server import ReportServer
from pipelines.dashboard import TYPES
from pipelines.dashboard import dashboard as run_dashboard
from tests.gates import PATIENCE


@pytest.fixture
def server(make_run: Any, tmp_path: Path, serve: Callable[[], ReportServer]) -> ReportServer:
    make_run(seed=0)
    make_run(seed=1, evaluation=False)
    (tmp_path / "runs" / "secret.txt").write_text("not for browsers", encoding="utf-8")
    return serve()


def ask(server: ReportServer, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def test_it_listens_on_the_loopback_interface_alone(server: ReportServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost", "127.0.0.1:1", "[::1]:{port}"]
)
@pytest.mark.parametrize("path", ["/", "/state", "/runs", "/figure/curve-loss", "/absent"])
def test_another_host_is_refused_everything(server: ReportServer, host: str, path: str) -> None:
    status, text, _ = ask(server, path, host.format(port=server.server_port))
    assert status == 421
    assert "resnet" not in text


def test_localhost_is_its_own_name_too(server: ReportServer) -> None:
    assert ask(server, "/state", f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/secret.txt", "/runs/", "/../runs/secret.txt", "/section/../report.js", "/section/", "/figure/%2e%2e"],
)
def test_there_is_no_way_to_a_file(server: ReportServer, path: str) -> None:
    status, text, _ = ask(server, path)
    assert "secret" not in text
    if path != "/runs/":
        assert status == 404


def test_nothing_can_be_sent_to_it(server: ReportServer) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert ask(server, "/", method=method)[0] == 501


def test_every_part_that_the_state_names_is_there(server: ReportServer) -> None:
    status, text, headers = ask(server, "/state")
    state = json.loads(text)
    assert (status, state["title"]) == (200, "2 runs")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    for name in state["sections"]:
        assert ask(server, f"/section/{name}")[0] == 200
    for name in state["figures"]:
        assert json.loads(ask(server, f"/figure/{name}")[1])["data"]
    assert [run["group"] for run in json.loads(ask(server, "/runs")[1])] == [0, 0]
    page = ask(server, "/")[1]
    assert "connect-src 'self'" in page
    assert ask(server, "/", method="HEAD")[1] == ""


def test_only_what_changed_has_another_digest(server: ReportServer, tmp_path: Path) -> None:
    before = json.loads(ask(server, "/state")[1])
    assert json.loads(ask(server, "/state")[1]) == before
    with (tmp_path / "runs" / "run-0f3a9c21-1" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 481, "epoch": 12, "time": 1.7e9 + 97, "val/top1": 0.99}) + "\n")
    after = json.loads(ask(server, "/state")[1])
    assert [name for name, digest in after["figures"].items() if digest != before["figures"][name]] == ["curve-top1"]
    assert after["sections"] == before["sections"]


def test_a_report_is_made_anew_only_when_a_run_changed(
    make_run: Any, tmp_path: Path, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def count(records: list[RunRecord], panels: Dashboard, damages: list[str]) -> Report:
        made.append(len(records))
        return build_report(records, panels, damages)

    monkeypatch.setattr(live, "build_report", count)
    runs = tmp_path / "runs"
    runs.mkdir()
    report = LiveReport(runs, "seed:0", dashboard)
    assert "No run here yet" in report.snapshot().report.sections["header"]
    first = make_run(seed=0, evaluation=False)
    make_run(seed=1, evaluation=False)  # the filter leaves it out
    for _ in range(3):
        report.snapshot()
    (first / "summary.json").write_text(json.dumps({"state": "failed"}), encoding="utf-8")
    assert "failed" in report.snapshot().report.sections["header"]
    assert made == [0, 1, 1]


def test_a_damaged_run_is_named_and_the_others_are_shown(make_run: Any, tmp_path: Path, dashboard: Dashboard) -> None:
    make_run(seed=0, evaluation=False)
    (make_run(seed=1, evaluation=False) / "summary.json").write_text("{", encoding="utf-8")
    report = LiveReport(tmp_path / "runs", None, dashboard).snapshot().report
    assert len(report.runs) == 1
    assert "summary.json: damaged, expected a JSON object; the run is left out" in report.sections["header"]


def test_mistakes_name_their_key(server: ReportServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^root=absent: no such directory"):
        run_dashboard(compose("dashboard", ["root=absent"]))
    with pytest.raises(UserError, match=rf"^port={server.server_port}: cannot be used"):
        run_dashboard(compose("dashboard", [f"root={tmp_path}", f"port={server.server_port}"]))
    with pytest.raises(UserError, match=r"^port=70000: expected int from 0 to 65535"):
        check_config(compose("dashboard", ["port=70000"]), TYPES)
