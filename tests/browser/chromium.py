"""A page as a person sees it: opened in headless Chromium with the network cut, and every tab of it looked at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BINARY = shutil.which("chromium") or shutil.which("google-chrome")

TABS = ("overview", "graph", "timeline", "raw", "gantt")


@dataclass
class Seen:
    """What was seen of a page."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    tabs: dict[str, str] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    pwned: Any = None
    elements: set[str] = field(default_factory=set)
    more: Any = None


def look_at(path: Path, *, nodes: int = 40, more: Callable[[Any], Any] | None = None) -> Seen:
    """Open a page, click through its tabs and its first nodes, and then do something more with it."""
    if BINARY is None:
        assert not os.environ.get("CI"), "chromium is not installed: apt-get install chromium"
        pytest.skip("chromium is not installed")
    with ThreadPoolExecutor(1) as pool:  # a thread of its own, since playwright's event loop stays in the thread
        return pool.submit(_look_at, path, nodes, more).result()


def _look_at(path: Path, nodes: int, more: Callable[[Any], Any] | None) -> Seen:
    from playwright.sync_api import sync_playwright

    seen = Seen()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BINARY, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("console", lambda line: seen.errors.append(line.text) if line.type == "error" else None)
        page.goto(path.absolute().as_uri())
        seen.details.append(page.title() + page.inner_text("header"))
        for tab in TABS:
            page.click(f"#mode-{tab}")
            seen.tabs[tab] = page.inner_text("#content")
        page.click("#mode-timeline")
        for item in page.query_selector_all(".timeline-item")[:nodes]:
            item.click()
            seen.details.append(page.inner_text("#det"))
        page.fill("#search", "e")
        page.fill("#search", "")
        seen.requests = [url for url in seen.requests if not url.startswith("file:")]
        seen.pwned = page.evaluate("window.pwned")
        seen.elements = set(page.evaluate("[...document.querySelectorAll('*')].map(e => e.localName)"))
        if more is not None:
            seen.more = more(page)
        browser.close()
    return seen
