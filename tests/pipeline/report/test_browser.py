"""The pages in a browser: videos play, nothing is missing, nothing is fetched, on a desk, on a phone, in the dark."""

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest

from pipeline.params import load_params
from pipeline.paths import Paths
from pipeline.report.build import build
from pipeline.report.data import as_html
from tests.pipeline.data.test_decode import params
from tests.pipeline.report.browser import Browser, browser
from tests.pipeline.report.runs import comparison as compared
from tests.pipeline.report.runs import reproduction, run
from tests.pipeline.report.test_data import SIZE, some
from tests.stages.fake_project import CLASSES, make_project

pytestmark = pytest.mark.browser
PLAYS = "return [...document.querySelectorAll('video')].filter((v) => v.currentTime > 0 && !v.error).length"
COUNT = "return document.querySelectorAll('video').length"
WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"
LINKS = "return [...document.querySelectorAll('a[href]')].map((a) => a.href)"
IMAGES = "return [...document.querySelectorAll('img')].every((i) => i.complete && i.naturalWidth > 0)"


def report(folder: Path) -> Path:
    """A page with everything that it can show, of made-up numbers and names that want to break out."""
    paths = make_project(folder)
    paths.reports.mkdir()
    common = {"real_split": "val", "real_videos": 4, "generated_videos": 4, "size": 16, "frame_step": 2, "sigma": 1.0}
    common |= {"precision": "float32", "seed": 0}
    numbers = {"random_i3d_frechet_logits": 33.2, "random_i3d_frechet_pooled": 32.3}
    whole = {**numbers, "motion_real": 6.2, "motion_generated": 5.1, "grounding_psnr_level_2": 21.3}
    evaluation = {"metrics": whole, "protocol": {**common, "frames": 8, "resize": "224x224, bilinear, [-1, 1]" * 3}}
    evaluation |= {"windows": numbers, "windows_protocol": {**common, "frames": 4}}
    for name, chosen in (("metrics", False), ("protocol", True)):
        parts = {part: of for part, of in evaluation.items() if part.endswith("protocol") == chosen}
        (paths.reports / f"{name}.json").write_text(json.dumps(parts))
    cycles = np.arange(1, 9)
    means = {f"{side}_{kind}": 1 / cycles for side in ("real", "generated") for kind in ("mean", "deviation")}
    spectra = [pd.DataFrame({"frame": frame, "cycles": cycles, **means}) for frame in (1, 8)]
    pd.concat(spectra).to_csv(paths.reports / "psd.csv", index=False)
    pd.DataFrame({"step": cycles[:7], **{name: values[:7] for name, values in means.items()}}).to_csv(
        paths.reports / "motion.csv", index=False
    )
    by_class = pd.DataFrame({"class": CLASSES, "real": 2, "generated": 2}).assign(**numbers)
    by_class.to_csv(paths.reports / "per_class.csv", index=False)
    counts = pd.DataFrame({"metric": list(numbers) * 2, "n": [2, 2, 4, 4], "mean": 5.0, "low": 4.0, "high": 6.0})
    counts = counts.assign(infinity=3.0, slope=8.0)
    counts.to_csv(paths.reports / "counts.csv", index=False)
    runs = [run("ab" * 16, "evaluate")]
    return build(load_params(paths.params), Paths(paths.root), runs, "http://mlflow.invalid")


def comparison(folder: Path) -> Path:
    left, right = (reproduction(folder / name, name, batch, 40.0) for name, batch in (("aaaa", 8), ("bbbb", 16)))
    return compared(left, right, folder / "compare")


def summary(folder: Path) -> Path:
    folder.mkdir()
    (folder / "data.html").write_text(as_html(some(folder), SIZE, params(), "."))
    return folder / "data.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module", params=[report, comparison, summary], ids=lambda make: make.__name__)
def page(request, tmp_path_factory) -> Path:
    return request.param(tmp_path_factory.mktemp(request.param.__name__) / "made")


def check_loaded(chromium: Browser, page: Path) -> None:
    """Every picture is there, nothing failed, nothing was asked for but the page and files below it, all quiet."""
    chromium.until(IMAGES)
    asked, failed = chromium.requests()
    assert not failed
    assert asked and all(url.startswith(f"{page.parent.resolve().as_uri()}/") for url in asked)
    assert chromium.complaints() == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True), (320, False)])
def test_a_page_loads_whole_and_fits(chromium, page, width, dark):
    chromium.open(page, width=width, dark=dark)
    check_loaded(chromium, page)
    assert chromium.ask(WIDE) <= 0
    light = sum(map(int, chromium.ask(BACKGROUND).removeprefix("rgb(").removesuffix(")").split(","))) > 3 * 128
    assert light is not dark


def test_all_videos_play(chromium, page):
    chromium.open(page)
    videos = chromium.ask(COUNT)
    assert videos == page.read_text().count("<video ")
    for number in range(videos):
        chromium.ask("document.querySelectorAll('video')[arguments[0]].scrollIntoView()", number)
        playing = "const v = document.querySelectorAll('video')[arguments[0]]; return !v.paused && v.currentTime > 0"
        chromium.until(playing, number)
    assert chromium.ask("return [...document.querySelectorAll('video')].every((v) => !v.error && v.videoWidth > 0)")
    check_loaded(chromium, page)


def test_every_link_leads_somewhere(chromium, page):
    chromium.open(page)
    for link in chromium.ask(LINKS):
        url = urlsplit(link)
        if url.hostname == "mlflow.invalid":
            continue
        assert url.scheme == "file", link
        assert Path(unquote(url.path)).is_file(), link
        if url.fragment and url.path == urlsplit(page.resolve().as_uri()).path:
            assert chromium.ask("return document.getElementById(arguments[0]) !== null", unquote(url.fragment)), link


def test_one_button_stops_every_video(chromium, tmp_path):
    page = comparison(tmp_path / "made")
    chromium.open(page)
    chromium.until(PLAYS)
    running = "return [...document.querySelectorAll('video')].filter((v) => !v.paused).length"
    chromium.ask("document.getElementById('playing').focus()")
    chromium.driver.switch_to.active_element.send_keys(" ")  # by keyboard
    chromium.until("return document.getElementById('playing').textContent === 'Play'")
    chromium.until(f"{running} === 0")
    chromium.driver.switch_to.active_element.send_keys(" ")
    chromium.until(running)


def test_nothing_moves_where_less_motion_is_asked_for(chromium, tmp_path):
    chromium.open(comparison(tmp_path / "made"), still=True)
    chromium.until("return [...document.querySelectorAll('video')].every((v) => v.readyState >= 2)")
    assert chromium.ask("return [...document.querySelectorAll('video')].every((v) => v.paused)")
    assert chromium.ask("return document.getElementById('playing').textContent") == "Play"


def test_the_policy_stops_what_gets_in(chromium, tmp_path):
    """Were a name not escaped, it could still run nothing and tell no one."""
    page = tmp_path / "page.html"
    text = summary(tmp_path / "made").read_text()
    evil = "<script>window.ran = 1</script><img src='http://127.0.0.1:9/x.png' onerror='window.ran = 2'>"
    page.write_text(text.replace("</main>", f"{evil}</main>"))
    chromium.open(page)
    chromium.until("return document.readyState === 'complete'")
    chromium.until_complaint("Content Security Policy")
    assert chromium.ask("return window.ran === undefined")
