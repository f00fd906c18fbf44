"""Visits to the web page in the system's Chromium."""

from __future__ import annotations

import shutil
from typing import Any

from playwright.sync_api import Browser, Page, expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT_MS = 10_000


class Visit:
    """A page, and what it asked for and complained of meanwhile."""

    def __init__(self, browser: Browser, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | context)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))

    def open(self, url: str) -> Page:
        """Open the page and wait for its picture."""
        self.page.goto(url)
        expect(self.page.locator("#chart path.expected")).to_be_attached()
        return self.page
