"""The page in a real browser without a window: what it shows, plays, sorts and says, by keyboard, light and dark."""

import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from reports import PAIRS, compared, results

from audiorl_cli.evaluate import report
from audiorl_cli.evaluate.exhibits import Exhibit
from audiorl_cli.evaluate.page import Making, page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request

SECONDS = 6.25
MANY = 10_000
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path")
    with playwright.sync_playwright() as started:
        # Root, as containers have it, may not use Chromium's sandbox, and playwright leaves it off for all.
        yield started.chromium.launch(executable_path=found)


def _sound() -> bytes:
    with io.BytesIO() as file:
        soundfile.write(file, np.zeros(round(16_000 * SECONDS)), 16_000, format="FLAC", subtype="PCM_16")
        return file.getvalue()


def _picture() -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (125, 128)).save(file, "PNG")
        return file.getvalue()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of hostile texts, against a baseline that wrote "four" everywhere."""
    before = results([(reference, "four") for reference, _ in PAIRS], "before")
    found = compared(results(), before)
    worst = report.worst(found, 20)
    exhibits = {one.id: Exhibit(_picture(), "a picture of nothing", _sound(), "") for one in worst[:2]}
    exhibits[worst[2].id] = Exhibit(_picture(), "a picture of nothing", b"", "its source is gone")
    making = Making("audiorl eval", "now", {"config.toml": "seed = 1"})
    path = tmp_path_factory.mktemp("small") / "report.html"
    path.write_bytes(page(found, found.comparison, worst, baseline=before, exhibits=exhibits, making=making))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 10,000 utterances."""
    pairs = [(f"one two three word{number}", f"one {'too' * (number % 2)} word{number}") for number in range(MANY)]
    found = results(pairs)
    path = tmp_path_factory.mktemp("large") / "report.html"
    path.write_bytes(page(found, None, []))
    return path


@pytest.fixture
def opened(browser: "Browser") -> Iterator[Open]:
    """Opens a page; ends with an error where it said anything on its console or asked for anything but itself."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def opened(path: Path, **context: Any) -> "Page":
        contexts.append(browser.new_context(**context))
        shown = contexts[-1].new_page()
        shown.set_default_timeout(20_000)
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))

        def note(request: "Request") -> None:
            if request.url != path.as_uri() and not request.url.startswith("data:"):
                asked.append(request.url)

        shown.on("request", note)
        shown.goto(path.as_uri())
        return shown

    yield opened
    for context in contexts:
        context.close()
    assert (said, asked) == ([], [])


def _ids(shown: "Page") -> list[str]:
    return list(shown.locator("#rows th").all_inner_texts())


def _column(shown: "Page", title: str) -> list[str]:
    titles = shown.locator("#heads button").all_inner_texts()
    return list(shown.locator(f"#rows .facts-of > :nth-child({titles.index(title) + 1})").all_inner_texts())


def _focus(shown: "Page", target: "Locator", most: int = 80) -> None:
    """Go on by the Tab key until `target` has the focus."""
    for _ in range(most):
        if target.evaluate("one => one === document.activeElement"):
            return
        shown.keyboard.press("Tab")
    raise AssertionError(f"no Tab leads to {target}")


def test_harm_does_none(opened: Open, small: Path) -> None:
    shown = opened(small)
    assert shown.evaluate("window.harm") is None
    assert shown.title().endswith("WER: runs/<b>bold</b> & co")
    assert sorted(_ids(shown)) == [f"<i>{number}</i>" for number in range(len(PAIRS))]
    assert shown.locator("#rows script, #rows img, #rows i, main b").count() == 0


def test_the_policy_lets_nothing_out(opened: Open, small: Path, browser: "Browser") -> None:
    context = browser.new_context()
    shown = context.new_page()
    shown.goto(small.as_uri())
    blocked = shown.evaluate(
        """async () => {
          const seen = [];
          document.addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
          await fetch("https://example.invalid/").catch(() => {});
          const image = new Image();
          image.src = "https://example.invalid/a.png";
          await new Promise((done) => (image.onerror = done));
          const script = document.createElement("script");
          script.textContent = "window.harm = 3";
          document.body.append(script);
          await new Promise((done) => setTimeout(done, 50));
          return [...seen, window.harm ?? null];
        }"""
    )
    context.close()
    assert blocked == ["connect-src", "img-src", "script-src-elem", None]


def test_every_column_sorts_by_the_keyboard(opened: Open, small: Path) -> None:
    shown = opened(small)
    heads = shown.locator("#heads th")
    assert heads.count() == 11
    for number in range(heads.count()):
        head = heads.nth(number)
        button = head.locator("button")
        title = button.inner_text()
        _focus(shown, button)
        shown.keyboard.press("Enter")
        first, values = head.get_attribute("aria-sort"), _column(shown, title)
        assert shown.locator("#heads [aria-sort]").count() == 1
        shown.keyboard.press("Space")
        other = {"ascending": "descending", "descending": "ascending"}[str(first)]
        assert head.get_attribute("aria-sort") == other
        for way, found in ((first, values), (other, _column(shown, title))):
            keys: list[Any] = [_number(one) for one in found] if title not in ("Utterance", "Speaker") else found
            assert keys == sorted(keys, reverse=way == "descending"), title


def _number(text: str) -> float:
    return float(text.replace("−", "-").removesuffix("%").strip())


def test_search_and_filters_find_what_is_there(opened: Open, small: Path) -> None:
    shown = opened(small)
    count, search, which, part = (shown.locator(f"#{one}") for one in ("count", "search", "which", "slice"))
    assert count.inner_text() == "10 of 10 utterances, 1 to 10 shown"
    assert (count.get_attribute("role"), count.get_attribute("aria-live")) == ("status", "polite")
    _focus(shown, search)
    shown.keyboard.type("TWO TOO")
    assert count.inner_text() == "None of 10 utterances"  # nobody said that, and nothing wrote it
    for text, ids in (
        ("ONE two three", ["5"]),
        ("one too three", ["5"]),
        ("<img", ["1"]),
        ("<i>7", ["7"]),
        ("مرحبا", ["3"]),
        ('b"ob', list("13579")),
    ):
        search.fill(text)
        assert sorted(_ids(shown)) == [f"<i>{one}</i>" for one in ids], text
    search.fill("")
    labels = which.locator("option").all_inner_texts()
    counts = {}
    for place, label in enumerate(labels):
        which.select_option(index=place)
        name, told = re.fullmatch(r"(.*) \((\d+)\)", label).groups()  # type: ignore[union-attr]
        assert len(_ids(shown)) == int(told), label
        counts[name] = int(told)
    assert counts["with errors"] + counts["without errors"] == counts["all"] == 10
    assert (counts["hallucinated"], counts["cut at the token limit"]) == (2, 1)
    assert counts["better than the baseline"] > 0
    which.select_option(index=0)
    _focus(shown, part)
    shown.keyboard.press("ArrowDown")
    assert part.evaluate("one => one.selectedOptions[0].parentElement.label") == "speaker"
    assert {*_column(shown, "Speaker")} == {part.evaluate("one => one.selectedOptions[0].text")}
    assert len(_ids(shown)) == 5


def test_an_alignment_is_told_to_eye_and_ear(opened: Open, small: Path) -> None:
    shown = opened(small)
    shown.locator("#search").fill("<i>5")
    words, before = shown.locator("#rows .words").all()
    assert words.evaluate("one => one.textContent") == "one for two it wrote too; three"
    assert before.evaluate("one => one.textContent") == "Baseline: for one it wrote four; left out: two three;"
    style = "one => getComputedStyle(one).textDecorationLine"
    assert [words.locator(one).evaluate(style) for one in ("del", "ins")] == ["line-through", "underline"]
    shown.locator("#search").fill("<i>3")
    ways = [one.evaluate("one => getComputedStyle(one).direction") for one in shown.locator("#rows .words").all()]
    assert ways == ["rtl", "rtl"]  # also where the first letter to be heard is that of "for"
    shown.locator("#search").fill("<i>9")  # right as it is
    assert shown.locator("#rows .words").first.evaluate("one => getComputedStyle(one).direction") == "ltr"
    assert shown.locator("#rows .words").first.evaluate("one => one.textContent") == "right as it is"


def test_a_recording_plays_and_its_place_is_shown(opened: Open, small: Path) -> None:
    shown = opened(small)
    sounds = shown.locator("audio")
    assert sounds.count() == 2
    assert "No sound: its source is gone." in shown.locator("#main").inner_text()
    sound = sounds.first
    assert sound.evaluate("one => one.readyState || new Promise((done) => (one.onloadedmetadata = () => done(true)))")
    assert sound.evaluate("one => one.duration") == pytest.approx(SECONDS, abs=0.01)
    head = shown.locator(".head").first
    assert head.is_hidden()
    _focus(shown, sound)
    shown.keyboard.press("Space")
    head.wait_for(state="visible")
    assert 0 < sound.evaluate("one => one.currentTime") < SECONDS
    assert sound.evaluate("one => one.error") is None
    for image in shown.locator("img").all():
        assert image.evaluate("one => one.complete && one.naturalWidth > 0")


def test_the_skip_link_is_first_and_every_stop_is_seen(opened: Open, small: Path) -> None:
    shown = opened(small)
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.className") == "skip"
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.id") == "main"
    stops = 0
    for _ in range(60):
        shown.keyboard.press("Tab")
        if shown.evaluate("document.activeElement === document.body"):
            break
        stops += 1
        style = "(one => [one.tagName, getComputedStyle(one).outlineStyle, getComputedStyle(one).outlineWidth])"
        tag, outline, width = shown.evaluate(f"{style}(document.activeElement)")
        assert tag in ("AUDIO", "MAIN") or (outline != "none" and width != "0px"), tag
    assert stops > 20


def test_everything_has_a_name_and_a_role(opened: Open, small: Path) -> None:
    shown = opened(small)
    session = shown.context.new_cdp_session(shown)
    nodes = [one for one in session.send("Accessibility.getFullAXTree")["nodes"] if not one["ignored"]]
    roles: dict[str, list[str]] = {}
    for one in nodes:
        roles.setdefault(one["role"]["value"], []).append(one.get("name", {}).get("value", ""))
    named = ("button", "link", "searchbox", "combobox", "image", "region", "heading", "navigation", "Audio", "search")
    for role in (*named, "columnheader", "rowheader"):
        assert roles[role], role
        assert all(one.strip() for one in roles[role]), (role, roles[role])
    assert len(roles["region"]) == shown.locator("section, [role=region]").count()  # without a name it is none
    for role in ("banner", "main", "contentinfo", "status", "table"):
        assert roles[role], role


_CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map((one) => {
      const share = one / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !one.checkVisibility() || one.closest("script, .said, .skip")) continue;
    let under = one;
    while (under && (parse(getComputedStyle(under).backgroundColor)[3] ?? 1) === 0) under = under.parentElement;
    const [on, ink] = [getComputedStyle(under).backgroundColor, getComputedStyle(one).color];
    const [high, low] = [light(parse(on)), light(parse(ink))].sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), one.tagName, ink, on]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(opened: Open, small: Path, scheme: str) -> None:
    shown = opened(small, color_scheme=scheme)
    ground = shown.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) > 600) == (scheme == "light")
    found = shown.evaluate(_CONTRAST)
    assert len(found) > 200
    assert {"DEL", "INS", "BUTTON", "DT", "A", "CODE"} <= {tag for _, tag, _, _ in found}
    assert [one for one in found if one[0] < 4.5] == []


@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_is_wider_than_the_window(opened: Open, small: Path, width: int) -> None:
    shown = opened(small, viewport={"width": width, "height": 800})
    assert shown.evaluate("document.documentElement.scrollWidth") == width


def test_ten_thousand_utterances_are_drawn_a_page_at_a_time(opened: Open, large: Path) -> None:
    shown = opened(large)
    rows = shown.locator("#rows .facts-of")
    elements = shown.evaluate("document.querySelectorAll('*').length")
    assert rows.count() == 50
    assert elements < 2_500
    count, next_page = shown.locator("#count"), shown.locator("#next")
    assert count.inner_text() == "10,000 of 10,000 utterances, 1 to 50 shown"
    shown.locator("#search").fill("word999")
    assert count.inner_text() == "11 of 10,000 utterances, 1 to 11 shown"  # 999 and 9990 to 9999
    assert next_page.is_disabled()
    shown.locator("#search").fill("")
    shown.get_by_role("button", name="Row").press("Enter")
    _focus(shown, next_page)
    shown.keyboard.press("Enter")
    assert _column(shown, "Row")[::49] == ["51", "100"]
    assert shown.locator("#where").inner_text() == "Page 2 of 200"
    shown.get_by_role("button", name="Row").press("Enter")
    assert _column(shown, "Row")[0] == "10,000"  # and back on the first page
    assert shown.evaluate("document.querySelectorAll('*').length") < elements + 500


def test_without_its_script_the_page_says_what_it_says(opened: Open, small: Path) -> None:
    shown = opened(small, java_script_enabled=False)
    text = shown.locator("body").inner_text()
    for part in ("Better than the baseline", "Worst utterances", "By speaker", "utterances.jsonl", "seed"):
        assert part in text
    assert shown.locator("audio").count() == 2
    assert shown.locator("#explorer").is_hidden()


def test_on_paper_there_are_no_controls(opened: Open, small: Path) -> None:
    shown = opened(small)
    shown.emulate_media(media="print")
    for one in ("nav", ".filters", "audio"):
        assert shown.locator(one).first.is_hidden(), one
    assert shown.locator("#totals").is_visible()
