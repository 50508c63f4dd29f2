"""The player: what its page says of a trace, and in a real browser what its keys do."""

import html
import json
import re
import shutil
import subprocess
from random import Random

import pytest

from grlib.errors import GrlibError
from grlib.results import player
from grlib.tasks.countdown import Problem, depth_first, solve, straight_path
from grlib.tasks.countdown.guidance import rewrite_steps

PROBLEM = Problem((84, 2, 14, 15), 26)
SOLUTION = solve(PROBLEM)
FAILED = depth_first(PROBLEM, "sum", 2)


def data_of(page):
    return json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE)[1])


def test_a_view_knows_where_the_search_is_at_each_line():
    view = player.view("failed", FAILED, SOLUTION)
    assert view["lines"] == FAILED.split("\n")[:-1] and len(view["here"]) == len(view["lines"])
    names = [view["nodes"][index]["name"] for index in view["here"]]
    for line, text in enumerate(view["lines"]):
        if text.startswith("Current State") and line and view["lines"][line - 1].startswith("Moving"):
            assert names[line] == view["lines"][line - 1].removeprefix("Moving to Node #")
    for node in view["nodes"][1:]:
        assert view["nodes"][node["parent"]]["made"] < node["made"]
        assert view["lines"][node["made"]].startswith(f"Exploring Operation: {node['operation']}")
        assert node["visited"] == -1 or view["lines"][node["visited"]].startswith("Current State")


def test_the_tabs_of_a_rewrite():
    made = rewrite_steps(FAILED, PROBLEM, SOLUTION, "random", Random(3))
    traces = {"before": FAILED, "rewritten": made.text, "continued": made.text + "Moving to Node #0\n"}
    shown = player.play(traces, SOLUTION, "84, 2", made.child, made.edits[-1].start)
    before, rewritten, continued = data_of(shown.html)["views"]
    assert [node["role"] for node in before["nodes"]].count("selected") == 1
    assert rewritten["lines"][rewritten["written"][0] :] == made.text[made.edits[-1].start :].rstrip(
        "\n"
    ).split("\n")
    assert continued["lines"][:-1] == rewritten["lines"] and before["start"] == 0 < rewritten["start"]
    notebook = shown._repr_html_()  # a picture first, for viewers that drop the frame
    assert notebook.index("data:image/png;base64,iVBOR") < notebook.index("<iframe")


def test_steps_that_break_the_rules_are_marked():
    wrong = straight_path(PROBLEM, SOLUTION).replace("14+15=29", "14+15=30").replace(", 29]", ", 30]")
    roles = {text: [node["role"] for node in player.view("", text)["nodes"]] for text in (wrong, FAILED)}
    assert roles[wrong][1] == "illegal" and "illegal" not in roles[FAILED]


def test_words_of_the_template_may_stand_in_what_fills_it():
    found = data_of(player.page([player.view("DATA", FAILED, SOLUTION)], "DATA", "PICTURE", b"DATA"))
    assert (found["title"], found["about"], found["views"][0]["name"]) == ("DATA", "PICTURE", "DATA")


def test_a_text_without_a_tree_is_a_clear_error():
    for text in ("", "nonsense\n", "Moving to Node #0\n"):
        with pytest.raises(GrlibError, match="without a root line"):
            player.view("none", text, SOLUTION)


def dom_of(page):
    """The page after its scripts have run, from a real browser."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    title = re.search("<title>.*</title>", page.read_text(encoding="utf-8"))[0]
    assert title in done.stdout, done.stdout[:500] + done.stderr  # an error would take its place
    return done.stdout


HOSTILE = FAILED + "</script><script>document.title='owned'</script>\n<img src=x onerror=alert(1)>\n"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEYS = """
<script>
window.onerror = message => { document.title = "error " + message; };
const press = key => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const count = query => document.querySelectorAll(query).length;
const now = () => [
  by("count").textContent, document.querySelector("#text .now").textContent,
  count("#tree rect[data-current=true]"), count("#tree g[visibility=visible] rect"),
].join(" | ");
const seen = [];
const see = name => seen.push(name + ": " + now());
for (const key of "Home ArrowRight ArrowRight End ArrowLeft 2 1".split(" ")) { press(key); see(key); }
by("overlay").click(); see("overlay");
by("place").value = 3; by("place").oninput({target: by("place")}); see("slider");
document.body.replaceChildren(...seen.map(text => {
  const row = document.createElement("pre");
  row.textContent = text;
  return row;
}));
</script></html>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_keys_and_slider_in_a_browser(tmp_path):
    traces = {"hostile": HOSTILE, "straight": straight_path(PROBLEM, SOLUTION)}
    views = [player.view(name, trace, SOLUTION) for name, trace in traces.items()]
    page = tmp_path / "page.html"
    page.write_text(player.page(views, "<b>84</b>", "about").replace("</html>", KEYS), encoding="utf-8")
    rows = re.findall(r"<pre>(.*?)</pre>", dom_of(page))
    seen = dict(html.unescape(row).split(": ", 1) for row in rows)
    lines = HOSTILE.split("\n")[:-1]
    assert seen["Home"] == f"line 1 of {len(lines)} | {lines[0]} | 1 | 1"
    assert seen["ArrowRight"] == f"line 3 of {len(lines)} | {lines[2]} | 1 | 2"
    assert seen["End"].startswith(f"line {len(lines)} of {len(lines)} | {lines[-1]} | 1")
    assert seen["ArrowLeft"].startswith(f"line {len(lines) - 1} of {len(lines)} | {lines[-2]}")
    assert seen["2"].startswith("line 1 of ") and seen["1"] == seen["Home"]
    assert seen["slider"] == f"line 3 of {len(lines)} | {lines[2]} | 1 | 2"
