"""The report page in a real browser: no error and no request, sorting, keyboard, colours, and no sideways scroll on a
phone.
"""

import html
import json
import re
import shutil
import subprocess

import pytest

from contrastill.cli.main import main
from contrastill.plots.chart import Chart, series_with_std
from contrastill.report.markup import element, join
from contrastill.report.page import Section, page
from contrastill.report.page_parts import copyable, figure, folded, measured, table, warning
from contrastill.report.scatter import Scatter, scatter

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: the page is looked at in no browser"
)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LISTEN = """
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => problems.push("policy: " + event.blockedURI));
for (const kind of ["error", "warn"]) console[kind] = (...said) => problems.push(said.join(" "));
"""
LONG = "luminance_to_chrominance/" + "a_long_name_" * 6


def sample():
    """A page with one of everything, and names that are too long for a phone."""
    series = [
        series_with_std(f"run {number}", [(epoch, 10.0 + number + epoch, 0.5) for epoch in range(1, 31)], number)
        for number in range(9)
    ]
    rows = [
        [LONG, measured(2.5), measured(None), "b" * 60],
        ["b", measured(10.0), measured(1.0), "a"],
        ["c", measured(-3.0), measured(7.0), "c"],
    ]
    body = join(
        element("h3", LONG),
        table("Results", ["run", "top-1, %", "published", "text"], rows, notes=["A note."]),
        element("div", figure(Chart("Top-1", "epoch", "top-1, %", series)), class_="charts"),
        scatter(Scatter("Map", [[float(n), float(n % 7)] for n in range(40)], [n % 15 for n in range(40)], ["a"] * 15)),
        copyable(f"contrastill train {'x' * 300}", "The command"),
        warning(LONG),
        folded(LONG, element("p", "inside")),
    )
    return page(
        f"Report on {LONG}",
        element("p", "intro"),
        [Section("one", "One", body), Section("two", "Two", element("p", "x"))],
        "made",
    )


@pytest.fixture(scope="module")
def look(tmp_path_factory):
    """Runs a script in a page and gives what it returns; with ``width`` in a frame as wide as a phone."""
    folder = tmp_path_factory.mktemp("browser")

    def run(script, *flags, width=1280, text=None):
        shown = (text or sample()).replace("<head>", f"<head><script>{LISTEN}</script>")
        # Chromium has no windows as narrow as a phone, and a frame has its own width for media queries.
        frame = f'<iframe width="{width}" height="900" srcdoc="{html.escape(shown)}"></iframe>'
        driver = f"""addEventListener("load", async () => {{
            const inner = document.querySelector("iframe").contentWindow;
            let found;
            try {{ found = await (async (window, document) => {{ {script} }})(inner, inner.document);
                }} catch (error) {{ found = {{ error: String(error) }}; }}
            const out = document.createElement("pre");
            out.id = "answer";
            out.textContent = JSON.stringify({{ found, problems: inner.problems }});
            document.body.replaceChildren(out);
        }});"""
        file = folder / "driver.html"
        file.write_text(f"<!doctype html><meta charset=utf-8><body>{frame}<script>{driver}</script>", encoding="utf-8")
        profile = folder / "profile"
        command = [
            CHROMIUM,
            *FLAGS,
            *flags,
            f"--user-data-dir={profile}",
            "--virtual-time-budget=4000",
            "--dump-dom",
            file.as_uri(),
        ]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        shutil.rmtree(profile, ignore_errors=True)
        match = re.search(r'<pre id="answer">(.*?)</pre>', answer.stdout, re.DOTALL)
        assert match, answer.stderr[-2000:]
        result = json.loads(html.unescape(match[1]))
        assert result["problems"] == []
        assert not isinstance(result["found"], dict) or "error" not in result["found"], result["found"]
        return result["found"]

    return run


def test_tables_sort_and_say_so(look):
    state = look("""
        const table = document.querySelector("table.sortable"), heads = [...table.tHead.rows[0].cells], said = [];
        const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent[0]).join("");
        for (const place of [1, 1, 2, 2, 3, 0]) {
            heads[place].querySelector("button").click();
            said.push([order(), heads.map((head) => head.getAttribute("aria-sort"))]);
        }
        return said;
    """)
    assert [order for order, _ in state] == ["clb", "blc", "bcl", "cbl", "blc", "bcl"]  # what has no value stays last
    assert (
        state[0][1] == [None, "ascending", None, None]
        and state[1][1] == [None, "descending", None, None]
        and state[5][1][0] == "ascending"
    )


def test_charts_are_read_by_pointer_and_keys(look):
    state = look("""
        const box = document.querySelector(".chart-box"), plot = box.querySelector(".plot"),
            readout = box.querySelector(".readout");
        const before = readout.textContent,
            key = (name) => plot.dispatchEvent(new window.KeyboardEvent("keydown", { key: name, bubbles: true }));
        plot.focus();
        key("Home"); const first = readout.textContent;
        key("ArrowRight"); const second = readout.textContent;
        const entry = box.querySelector(".legend button");
        entry.click(); key("End");
        const last = readout.textContent, hidden = box.querySelector(".series").hasAttribute("hidden"),
            pressed = entry.getAttribute("aria-pressed");
        plot.blur();
        const svg = box.querySelector("svg.chart"), rect = svg.getBoundingClientRect();
        svg.dispatchEvent(new window.PointerEvent("pointermove", { clientX: rect.right - 12, clientY: rect.top + 40 }));
        return { before, first, second, last, hidden, pressed, pointed: readout.textContent,
            texts: svg.querySelectorAll("text").length };
    """)
    assert state["first"].startswith("epoch 1 · run 0: 11 · run 1: 12") and state["second"].startswith(
        "epoch 2 · run 0: 12"
    )
    assert state["last"].startswith("epoch 30 · run 1: 41") and state["hidden"] and state["pressed"] == "false"
    assert state["pointed"].startswith("epoch 30") and "arrow keys" in state["before"] and state["texts"] > 8


WIDE = """
        for (const one of document.querySelectorAll("details")) one.open = true;
        const wide = [...document.querySelectorAll("body *")].filter((one) => !one.closest(".scroll, .skip, svg") &&
            one.getBoundingClientRect().right > window.innerWidth + 1);
        return { page: document.documentElement.scrollWidth, window: window.innerWidth,
            wide: wide.map((one) => one.tagName + "." + one.className),
                 table: document.querySelector(".scroll").scrollWidth > document.querySelector(".scroll").clientWidth };
"""


@pytest.mark.parametrize("width", [390, 320, 1280])
def test_no_page_scrolls_sideways(look, width):
    state = look(WIDE, width=width)
    assert state["page"] <= state["window"] == width and state["wide"] == []
    assert state["table"] == (width < 1000)


def test_the_page_of_a_real_run(look, short_training, tmp_path):
    assert (
        main([*short_training, f"out={tmp_path}/run"]) == 0
        and main(["report", f"{tmp_path}/run", "--embeddings", "-q"]) == 0
    )
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    state = look(WIDE, width=390, text=text)
    assert state["page"] <= state["window"] == 390 and state["wide"] == []
    there = look(
        "return ['.flow', 'svg.map', 'svg.chart', 'table.sortable', '.command'].map((name) => "
        "document.querySelectorAll(name).length)",
        text=text,
    )
    assert there[:2] == [1, 1] and there[2] >= 3 and there[3] >= 8 and there[4] == 1


COLOURS = """
    const luminance = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => { v /= 255;
        return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const contrast = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05); };
    const look = () => { const paper = window.getComputedStyle(document.body).backgroundColor, of = (name,
        key = "color") => contrast(paper, window.getComputedStyle(document.querySelector(name))[key]);
        return { paper, ink: of("main p"), soft: of(".small"), link: of("nav a"),
            lines: [...document.querySelectorAll(".series polyline")].map((one) =>
                contrast(paper, window.getComputedStyle(one).stroke)) }; };
    const button = document.getElementById("theme"), first = look(), named = button.getAttribute("aria-label");
    button.click();
    return { first, named, second: look(), theme: document.documentElement.dataset.theme,
        pressed: button.getAttribute("aria-pressed") };
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_both_colour_schemes_have_contrast_and_a_switch(look, dark):
    state = look(COLOURS, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    paper = {False: "rgb(255, 255, 255)", True: "rgb(20, 23, 26)"}
    assert state["first"]["paper"] == paper[dark] and state["second"]["paper"] == paper[not dark]
    assert (state["theme"], state["pressed"]) == (("light", "false") if dark else ("dark", "true")) and (
        "light" if dark else "dark"
    ) in state["named"]
    for scheme in (state["first"], state["second"]):
        assert min(scheme["ink"], scheme["soft"], scheme["link"]) >= 4.5 and min(scheme["lines"]) >= 3


def test_landmarks_names_and_focus(look):
    state = look("""
        const named = [...document.querySelectorAll("button, svg[role=img], [role=region], [role=group], nav, section")]
            .filter((one) =>
            !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.textContent.trim()));
        const skip = document.querySelector(".skip");
        skip.focus();
        const shown = skip.getBoundingClientRect().left >= 0;
        const levels = [...document.querySelectorAll("h1, h2, h3")].map((one) => Number(one.tagName[1]));
        return { unnamed: named.length, shown, levels,
            marks: ["header", "nav", "main", "footer"].map((one) => document.querySelectorAll("body > " + one).length),
                 lang: document.documentElement.lang,
                     captions: [...document.querySelectorAll("table")].every((one) => one.caption.textContent.trim()),
                 ids: new Set([...document.querySelectorAll("[id]")].map((one) => one.id)).size ===
                     document.querySelectorAll("[id]").length };
    """)
    assert state == {
        "unnamed": 0,
        "shown": True,
        "levels": [1, 2, 2, 3, 2],
        "marks": [1, 1, 1, 1],
        "lang": "en",
        "captions": True,
        "ids": True,
    }
