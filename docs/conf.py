"""The site: notebooks as they are stored, the pages of this folder, the docstrings. `make site` builds it.

Sphinx's source folder is the repository itself, so a link that works in the repository works on the site.
Nothing is executed and nothing is fetched, neither by the build nor by a page.
"""

import posixpath
import shutil
import sys
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
shutil.rmtree(REPOSITORY / "build" / "api", ignore_errors=True)  # it may hold modules that are gone

project = "grlib"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"]
include_patterns = ["index.md", "docs/*.md", "build/api/*.rst", "notebooks/*.ipynb", "exercises/*.ipynb"]
include_patterns += ["environments/*/README.md", "paper_results/RESULTS.md"]
include_patterns += ["paper_results/base*/*/README.md"]
templates_path = ["templates"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # docstrings write `name`
autosummary_generate = True
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_mock_imports = ["ray", "triton", "vllm"]  # not in requirements.lock
autodoc_typehints = "none"  # the docstrings give shapes and units
viewcode_follow_imported_members = False  # the page of a package does not hold what it renames
add_module_names = False

html_theme = "furo"
html_title = "grlib"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False


def formula(display):
    """How a formula is written: as MathML, which browsers show without a script."""

    def visit(self, node):
        text = convert(node.astext(), display=display)
        self.body.append(f'<div class="math">{text}</div>' if display == "block" else text)
        raise SkipNode

    return visit, None


def without_empty_list(app, docname, source):
    """Exercises may be left out."""
    if docname == "index" and not any(name.startswith("exercises/") for name in app.env.found_docs):
        source[0] = source[0].replace("exercises/*", "")


def links_of_the_repository(app, doctree):
    """A link to a folder leads to its first page, one to the README to the page that shows it."""
    here = posixpath.dirname(app.env.docname)
    for link in doctree.findall(pending_xref):
        target = posixpath.normpath(posixpath.join(here, link["reftarget"]))
        within = sorted(name for name in app.env.found_docs if name.startswith(f"{target}/"))
        if link["reftype"] == "myst" and link.get("refdomain") == "doc":
            link["reftarget"] = "index" if link["reftarget"] == "README" else link["reftarget"]
        elif link["reftype"] == "myst" and within:
            link.attributes.update(refdomain="doc", reftarget=within[0], reftargetid=None)


def without_fields(app, what, name, found, skip, options):
    """The fields of a named tuple are in its signature already."""
    return True if type(found).__name__ == "_tuplegetter" else None


def pages_to_play_with(app, error):
    """The pages that docs/player.md shows: the puzzle of notebook 00, and pass@k of the recorded runs."""
    if error:
        return
    from grlib.results import player, rows, tables
    from grlib.tasks.countdown import Problem, depth_first, solve
    from grlib.tasks.countdown.guidance import rewrite_steps

    problem = Problem((84, 2, 14, 15), 26)
    failed, solution = depth_first(problem, "sum", 2), solve(problem)
    made = rewrite_steps(failed, problem, solution, choose="last")
    traces = {"failed": failed, "rewritten": made.text}
    shown = player.play(traces, solution, "84, 2, 14, 15 → 26", made.child, made.edits[-1].start)
    (app.outdir / "player.html").write_text(shown.html, encoding="utf-8")

    for record in ("laptop", "gpu"):
        measured = REPOSITORY / "paper_results" / "measured" / record
        folders = {int(path.name.removeprefix("seed")): path for path in measured.glob("seed*")}
        samples = tables.last_iteration(rows.load(folders, record).rows("eval"))
        samples = samples[~samples["method"].isin(list(rows.STARTS))]  # with PPO there are fewer samples
        page = player.curves(samples, f"pass@k against tokens ({record})", "sampled; last iterations")
        (app.outdir / f"curves-{record}.html").write_text(page, encoding="utf-8")


def setup(app):
    app.add_html_math_renderer("mathml", formula("inline"), formula("block"))
    app.connect("source-read", without_empty_list)
    app.connect("doctree-read", links_of_the_repository)
    app.connect("autodoc-skip-member", without_fields)
    app.connect("build-finished", pages_to_play_with)
