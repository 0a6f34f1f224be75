"""Serve a live report to browsers on this machine only."""

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from convatlas.report.live import LiveReport
from convatlas.report.page import render_page
from convatlas.utils.files import dumps

ADDRESS = "127.0.0.1"
"""The loopback interface: a report must not be visible on the network of a login node."""

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


class ReportServer(ThreadingHTTPServer):
    """Answers ``/``, ``/state``, ``/runs``, ``/section/NAME`` and ``/figure/NAME``; no file is served.

    A request whose Host header is not the address of this server is refused. Otherwise another site could point its
    own name to this address (DNS rebinding) and read the report.

    Args:
        live: The report.
        port: The port; 0 is any free port.
        refresh: Seconds between two requests of a page.

    Raises:
        OSError: The port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, live: LiveReport, port: int, refresh: float) -> None:
        super().__init__((ADDRESS, port), _Handler)
        self.live = live
        self.refresh = refresh
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        return f"http://{ADDRESS}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    server_version = "ConvAtlas"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with a part of the current report."""
        if self.headers.get("Host") not in self.server.hosts:
            self._send(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", f"This server is {self.server.url} alone.\n")
            return
        kind, _, name = unquote(self.path.partition("?")[0]).removeprefix("/").partition("/")
        found = self._content(kind, name)
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "There is nothing here.\n")
        else:
            self._send(HTTPStatus.OK, *found)

    do_HEAD = do_GET  # noqa: N815  the base class's name

    def _content(self, kind: str, name: str) -> tuple[str, str] | None:
        snapshot = self.server.live.snapshot()
        if kind == "" and name == "":
            return "text/html", render_page(snapshot.report, self.server.refresh, snapshot.state)
        if kind == "state" and name == "":
            return "application/json", dumps(snapshot.state)
        if kind == "runs" and name == "":
            return "application/json", snapshot.runs
        if kind == "section" and name in snapshot.report.sections:
            return "text/html", snapshot.report.sections[name]
        if kind == "figure" and name in snapshot.figures:
            return "application/json", snapshot.figures[name]
        return None

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a page sends a request every few seconds."""
