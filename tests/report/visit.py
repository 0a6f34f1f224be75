"""A page in a real browser, with everything that it says and asks for."""

import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Dialog, Page

from tests.gates import PATIENCE


class Visit:
    """A page that was opened, with everything that it said and asked for."""

    def __init__(self, browser: Browser, path: Path | str, **options: Any) -> None:
        self.page: Page = browser.new_page(**options)
        self.page.set_default_timeout(1000 * PATIENCE)
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = path if isinstance(path, str) else path.as_uri()
        self.page.goto(self.address)
        self.page.wait_for_load_state("load")

    def _dismiss(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def check(self) -> None:
        assert self.troubles == []
        assert all(url.startswith((self.address, "data:")) for url in self.requests)
        width = "[document.documentElement.scrollWidth, innerWidth]"
        content, window = self.page.evaluate(width)
        assert content <= window

    def drawn(self) -> dict[str, int]:
        """Traces drawn in each figure; those outside the window are drawn when it is printed."""
        self.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        script = """() => Object.fromEntries([...document.querySelectorAll(".plot")].map((plot) => [plot.id,
            plot.querySelectorAll("svg .scatterlayer .trace, svg .heatmaplayer .hm, svg .barlayer .trace").length]))"""
        drawn: dict[str, int] = self.page.evaluate(script)
        return drawn

    def wait_for(self, expression: str, value: object, seconds: float = PATIENCE) -> None:
        """Wait until an expression has a value; the page's policy forbids wait_for_function's eval."""
        deadline = time.monotonic() + seconds
        while (found := self.page.evaluate(expression)) != value:
            assert time.monotonic() < deadline, f"{expression} is {found}"
            self.page.wait_for_timeout(50)

    def hover(self, figure: str, trace: int, point: int) -> str:
        """Point at a point of a figure's trace; returns the tooltip."""
        self.page.locator(f"#{figure}").scroll_into_view_if_needed()
        script = """([id, trace, point]) => {
            const plot = document.getElementById(id), { xaxis, yaxis } = plot._fullLayout, data = plot._fullData[trace];
            const at = (axis, values) => axis._offset + axis.c2p(axis.d2c(values[point]));
            const box = plot.getBoundingClientRect();
            return [box.x + at(xaxis, data.x), box.y + at(yaxis, data.y)];
        }"""
        x, y = self.page.evaluate(script, [figure, trace, point])
        self.page.mouse.move(x - 3, y - 3)
        self.page.mouse.move(x, y)
        tooltip = self.page.locator(f"#{figure} .hovertext").first
        tooltip.wait_for(timeout=1000 * PATIENCE)
        return str(tooltip.text_content())
