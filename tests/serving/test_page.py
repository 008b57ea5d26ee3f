"""The demo page in a real browser, without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright import sync_api

from tests.serving.rubbish import png
from tests.serving.test_endpoint import MANY, running
from tests.tasks.test_exported import mean_colours
from visionssm.prediction import load_exported
from visionssm.serving import Service

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium: that of VISIONSSM_TEST_BROWSER, of the system, or playwright's own."""
    found = os.environ.get("VISIONSSM_TEST_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The page of a model of colours, and what went wrong on it in `page.wrong`."""
    service = Service(load_exported(mean_colours(tmp_path / "colours.onnx")), "<b>colours</b>.onnx", limits=MANY)
    with running(service, page=True, examples=[("green.png", png())], hosts=("127.0.0.1",)) as port:
        opened = browser.new_page()
        opened.wrong, opened.asked = [], []
        opened.on("console", lambda said: opened.wrong.append(said.text) if said.type == "error" else None)
        opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
        opened.on("dialog", lambda dialog: opened.wrong.append("a dialog"))
        opened.on("request", lambda request: opened.asked.append(request.url))
        opened.goto(f"http://127.0.0.1:{port}/")
        opened.here = f"http://127.0.0.1:{port}/"
        yield opened
        opened.close()


def test_an_example_shows_its_classes_its_picture_and_the_time(page: Any) -> None:
    page.get_by_role("button", name="green.png").click()
    page.locator("#table tbody tr").first.wait_for()
    assert "green" in page.locator("#table tbody tr").first.inner_text()
    assert page.locator("#pictures img").evaluate("image => image.decode().then(() => image.naturalWidth)") >= 30
    assert "model" in page.locator("#time").inner_text()
    assert page.locator("#name").inner_text() == "<b>colours</b>.onnx"
    assert "green" in page.locator("#card").inner_text()
    assert not page.locator("#explain").is_visible(), "an exported classifier cannot be explained"
    outside = [url for url in page.asked if not url.startswith((page.here, "data:", "blob:"))]
    assert outside == []
    assert page.wrong == []


def test_a_file_of_ones_own_is_shown_under_its_name_which_is_no_html(page: Any) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": png()})
    page.locator("#table tbody tr").first.wait_for()
    assert name in page.locator("#state").inner_text()
    assert page.locator("#given").is_visible()
    assert page.wrong == []


def test_a_file_that_is_no_image_is_told_and_the_next_one_works(page: Any) -> None:
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.locator("#state.error").wait_for()
    assert "not an image" in page.locator("#state").inner_text()
    assert not page.locator("#table").is_visible()
    page.get_by_role("button", name="green.png").click()
    page.locator("#table tbody tr").first.wait_for()
    assert page.locator("#state.error").count() == 0


def test_a_dropped_file_is_answered(page: Any) -> None:
    page.evaluate(
        """async () => {
            const content = await (await fetch("examples/0")).blob();
            const data = new DataTransfer();
            data.items.add(new File([content], "dropped.png"));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }"""
    )
    page.locator("#table tbody tr").first.wait_for()
    assert "dropped.png" in page.locator("#state").inner_text()
    assert page.wrong == []
