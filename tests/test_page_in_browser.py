"""The page of two runs in Chromium: it asks for nothing, and its videos, curves and tables do what they say."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from conftest import read_csv
from engine.saving.logs import save_videos
from figures.page import write_page
from test_plotting import write_run

playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install -r requirements/page-test.txt")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FRAMES = 21  # of the videos: the given one, and those in write_run's psnr_per_frame.csv
GREY_STEP = 10  # from a frame to the next


def grey_videos(shift):
    """Videos whose frame t is of the grey 10 t; the prediction is brighter by `shift`, and the label is red."""
    truth = (GREY_STEP * torch.arange(FRAMES, dtype=torch.uint8))[:, None, None, None].expand(-1, 3, 8, 16)
    red = torch.tensor([1, 0, 0], dtype=torch.uint8)[:, None, None]
    return {"label": truth * red, "prediction": truth + shift, "truth": truth}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    runs = [write_run(folder / name, f"--tfr {tfr} --frame_H 8 --frame_W 16", val_psnr=psnr, epochs=12)
            for name, tfr, psnr in (("first", 1, 9), ("second", 0, 30), ("third", 0.5, 20))]
    for shift, run in enumerate(runs[:2], start=1):
        save_videos(Path(run, "best.npz"), grey_videos(shift))
    return write_page(folder / "page.html", runs)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        paths = [driver.chromium.executable_path, *map(shutil.which, BROWSERS)]
        found = [path for path in paths if path and Path(path).exists()]
        if not found:
            pytest.skip("needs Chromium: apt-get install chromium, or playwright install chromium")
        browser = driver.chromium.launch(executable_path=found[0], chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, page_file):
    """open_page(width) is a page in a new window; no error and no request may follow until the test ends."""
    windows, wrong, asked = [], [], []

    def open_window(width=1280, scheme="light", file=page_file):
        asked.append(file.as_uri())
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        windows.append(page)
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith("data:") or wrong.append(request.url))
        page.goto(file.as_uri())
        playwright.expect(page.locator("#counter")).not_to_be_empty()  # once the videos are unpacked
        return page

    yield open_window
    for page in windows:
        page.close()
    assert wrong == asked


def colours(page):
    """The red, green and blue of the middle of each video, by its caption."""
    return page.evaluate("""Object.fromEntries([...document.querySelectorAll(".video")].map(video => [
        video.querySelector("figcaption span").textContent,
        [...video.querySelector("canvas").getContext("2d").getImageData(8, 4, 1, 1).data].slice(0, 3)]))""")


def assert_at(page, frame):
    grey = GREY_STEP * frame
    assert colours(page) == {"label": [grey, 0, 0], "first": [grey + 1] * 3, "second": [grey + 2] * 3,
                             "truth": [grey] * 3}
    assert page.locator("#frame").input_value() == str(frame)
    assert page.locator("#counter").inner_text() == f"{frame} of {FRAMES - 1}"
    chart = page.locator("[data-chart=validation] .plot")
    assert chart.get_attribute("aria-valuenow") == str(frame)
    left, right = 52, chart.bounding_box()["width"] - 14
    line = float(chart.locator(".cursor").get_attribute("x1"))
    assert line == pytest.approx(left + (right - left) * frame / (FRAMES - 1), abs=0.5)
    psnr = "given" if frame == 0 else f"{20 + frame % 2:.2f} dB"
    assert page.locator(".video output").all_inner_texts() == [psnr, psnr]


def test_slider_moves_all_videos_and_the_marker_together(open_page):
    page = open_page()
    assert_at(page, 0)
    page.focus("#frame")
    for key, frame in (("ArrowRight", 1), ("ArrowRight", 2), ("End", FRAMES - 1), ("ArrowLeft", FRAMES - 2),
                       ("Home", 0)):
        page.keyboard.press(key)
        assert_at(page, frame)
    page.locator("#frame").fill("7")
    assert_at(page, 7)


def test_curve_and_picked_frames_move_the_videos_too(open_page):
    page = open_page()
    page.focus("[data-chart=validation] .plot")
    for key, frame in (("ArrowRight", 1), ("ArrowLeft", 0), ("PageUp", 10)):
        page.keyboard.press(key)
        assert_at(page, frame)
    box = page.locator("[data-chart=validation] .plot").bounding_box()
    page.mouse.click(box["x"] + 52 + (box["width"] - 66) / 4, box["y"] + 50)
    assert_at(page, 5)
    button = page.locator(".picked").last
    button.focus()
    page.keyboard.press("Enter")
    assert_at(page, int(button.get_attribute("data-frame")))


def test_play_moves_on_until_paused(open_page):
    page = open_page()
    page.focus("#play")
    page.keyboard.press("Space")
    assert page.locator("#play").inner_text() == "Pause"
    playwright.expect(page.locator("#counter")).not_to_have_text(re.compile("^[0-3] of"))
    page.keyboard.press("Space")
    assert page.locator("#play").inner_text() == "Play"
    frame = int(page.locator("#frame").input_value())
    page.wait_for_timeout(100)
    assert_at(page, frame)


def test_a_click_into_a_curve_ends_playing(open_page):
    page = open_page()
    page.click("#play")
    plot = page.locator("[data-chart=validation] .plot")
    plot.click(position={"x": plot.bounding_box()["width"] - 10, "y": 50})
    assert page.locator("#play").inner_text() == "Play"
    page.wait_for_timeout(100)
    assert_at(page, FRAMES - 1)


def test_a_curve_longer_than_the_video_is_seen_to_its_end(open_page, tmp_path):
    run = write_run(tmp_path / "run", "--frame_H 8 --frame_W 16")
    save_videos(Path(run, "best.npz"), {name: video[:6] for name, video in grey_videos(1).items()})
    page = open_page(file=write_page(tmp_path / "page.html", [run]))
    page.locator("[data-chart=validation] .plot").press("End")
    assert page.locator("#counter").inner_text() == f"{FRAMES - 1} of {FRAMES - 1}"
    assert page.locator("#frame").input_value() == str(FRAMES - 1)
    assert colours(page)["truth"] == [5 * GREY_STEP] * 3


def test_a_logarithmic_axis_has_ticks_whatever_its_range(open_page):
    generator = torch.Generator().manual_seed(0)
    middles, decades = (40 * torch.rand(2, 2000, generator=generator, dtype=torch.float64) - 20).tolist()
    ranges = [(middle - 2 ** (size / 3) / 2, middle + 2 ** (size / 3) / 2) for middle, size in zip(middles, decades)]
    found = open_page().evaluate("""pairs => pairs.map(pair => logTicks(...pair)).map(
        ticks => [ticks, ticks.map(tick => shown(tick, digitsOf(ticks)))])""", ranges)
    for (low, high), (ticks, labels) in zip(ranges, found):
        assert len({*labels}) == len(labels) and [float(label) for label in labels] == pytest.approx(ticks, rel=1e-6)
        assert 2 <= len(ticks) <= 12 and ticks == sorted(set(ticks)), (low, high, ticks)
        assert 10 ** low * (1 - 1e-6) <= ticks[0] and ticks[-1] <= 10 ** high * (1 + 1e-6), (low, high, ticks)


def test_curves_say_the_values_under_the_pointer(open_page, page_file):
    page = open_page()
    rows = read_csv(page_file.parent / "first/metrics.csv")
    chart = page.locator("[data-chart=mse]")
    chart.scroll_into_view_if_needed()
    box = chart.locator(".plot").bounding_box()
    for epoch in (0, 4, 11):
        page.mouse.move(box["x"] + 52 + (box["width"] - 66) * epoch / 11, box["y"] + 60)
        said = chart.locator(".readout").inner_text()
        assert f"epoch {epoch}" in said and f"first {float(rows[epoch]['mse']):.4g}" in said and "third" in said
    chart.locator(".plot").focus()
    page.keyboard.press("ArrowLeft")
    assert "epoch 10" in chart.locator(".plot").get_attribute("aria-valuetext")


def test_tables_are_sorted_by_the_keyboard(open_page):
    page = open_page()
    table = page.locator("table").first

    def order():
        return table.locator("tbody th").all_inner_texts()

    assert order() == ["first", "second", "third"]
    heading = table.locator("thead th", has_text="val PSNR")
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert order() == ["first", "third", "second"] and heading.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert order() == ["second", "third", "first"] and heading.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Shift+Tab")  # to the heading of the flag that differs
    page.keyboard.press("Enter")
    assert order() == ["second", "third", "first"]
    assert table.locator("[aria-sort]").inner_text().startswith("tfr")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_is_no_wider_than_the_window_and_takes_its_colours(open_page, width, scheme):
    page = open_page(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_control_is_reached_by_tab_and_shows_its_focus(open_page):
    page = open_page()
    count = page.locator("a, button, input, summary, [tabindex='0']").count()
    seen = set()
    for _ in range(count):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert len(seen) == count
