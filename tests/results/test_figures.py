"""What the figures draw equals the table they return; trees and diffs show the right parts."""

import dataclasses
import itertools
import random

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from synthetic_results import made_up, made_up_reinforced

from grlib.errors import GrlibError
from grlib.results import figures, style, tables, trees
from grlib.results import rows as results
from grlib.tasks.countdown import guidance, traces
from grlib.tasks.countdown import searchers as search
from grlib.tasks.countdown.puzzle import Problem

mpl.use("Agg")

PROBLEM = Problem((84, 2, 14, 15), 26)
SOLUTION = ("14+15=29", "2*29=58", "84-58=26")


def lengths(_):
    rng = np.random.default_rng(0)
    solver = np.repeat(["DFS", "BFS"], 40)
    columns = {"tokens": rng.integers(10, 900, 80), "correct": rng.random(80) < 0.5, "seed": 0}
    return pd.DataFrame({"solver": solver} | columns)


DRAWINGS = {
    "learning_curve": lambda r: r.rows("curve"),
    "accuracy_against_budget": lambda r: tables.budget_table(r, methods=results.IMITATED),
    "pass_at_k": tables.table2,
    "headline": tables.table2,
    "pass_at_tokens": tables.table2,
    "by_difficulty": tables.difficulty_table,
    "ppo_curves": lambda r: r.rows("ppo_curve"),
    "sharpening": lambda r: tables.table2(r, methods=tables.SHARPENED),
    "hints": tables.table1,
    "data_yield": tables.yield_table,
    "accuracy_by_iteration": tables.iteration_table,
    "likelihood": lambda r: tables.training_rows(r, "likelihood"),
    "repair_by_answer": tables.answer_table,
    "repair_by_unread": tables.unread_table,
    "node_selection": lambda r: tables.training_rows(r, "selection"),
    "trace_lengths": lengths,
}


@pytest.fixture(scope="module")
def full():
    return with_ppo(made_up(problems=24, samples=8, seeds=(0, 1)))


def with_ppo(made):
    """The same with samples after PPO, and its curves."""
    others = made_up_reinforced(24, made.seeds)
    after = others.rows("eval").query("method in @results.STARTS and index < 24")
    rows = {"eval": pd.concat([made.rows("eval"), after], ignore_index=True)}
    return dataclasses.replace(made, frames={**made.frames, **rows, "ppo_curve": others.rows("ppo_curve")})


TABLES = {}  # made once for each set of results, which stay as they are


def draw(name, made, profile="laptop"):
    key = (DRAWINGS[name], id(made.frames))
    made, table = TABLES.get(key) or TABLES.setdefault(key, (made, DRAWINGS[name](made)))
    if name in ("learning_curve",) and table.empty:
        table = table.assign(valid_loss=[])
    return getattr(figures, name)(table, profile)


def plotted(fig):
    """Points of every line with an id, by id."""
    lines = [line for axis in fig.axes for line in axis.get_lines() if "|" in str(line.get_gid())]
    return {line.get_gid(): np.column_stack([line.get_xdata(), line.get_ydata()]) for line in lines}


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_returned_table_is_what_is_drawn(name, full):
    fig, drawn = draw(name, full)
    assert list(drawn.columns) == style.COLUMNS
    assert len(drawn) > 0
    lines = plotted(fig)
    groups = {
        "|".join(key): part[["x", "y"]]
        for key, part in drawn.groupby(["panel", "series", "kind"], sort=False)
    }
    if name == "data_yield":
        assert not lines  # bars: checked below
    else:
        assert set(lines) == set(groups)
    for key, points in lines.items():
        assert points.astype(float) == pytest.approx(groups[key].to_numpy(dtype=float), nan_ok=True)


def test_bars_have_the_heights_of_the_table(full):
    fig, drawn = draw("data_yield", full)
    tops = [bar.get_y() + bar.get_height() for bar in fig.axes[0].patches]
    assert sorted(tops) == pytest.approx(sorted(drawn["y"]))


@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu", "paper"])
def test_every_figure_has_one_line_below_it_that_names_its_profile(name, profile, full):
    fig, _ = draw(name, full, profile)
    fig.draw_without_rendering()
    (line,) = [text for text in fig.texts if f"profile {profile}" in text.get_text()]
    assert "\n" not in line.get_text() and line.get_window_extent().x1 <= fig.bbox.x1
    assert "seeds: " in line.get_text()
    words = " ".join(text.get_text() for text in fig.texts)
    assert (profile.upper() in words) == (profile != "paper")
    titles = [axis.title.get_window_extent() for axis in fig.axes]
    assert all(a.x1 <= b.x0 or a.y0 != b.y0 for a, b in itertools.pairwise(titles)), "titles overlap"


def test_several_seeds_are_thin_lines_and_accuracies_have_intervals(full):
    alone = with_ppo(made_up(problems=12, samples=2))
    for name in set(DRAWINGS) - {"learning_curve", "trace_lengths", "likelihood"}:
        fig, drawn = draw(name, full)
        words = " ".join(text.get_text() for text in fig.texts)
        assert "seeds: 2" in words and "cut off" not in words
        assert ("thin lines" in words) == (name != "data_yield")
        assert set(drawn["kind"]) >= ({"seed 0", "seed 1"} if name != "data_yield" else {"measured"})
        assert name == "ppo_curves" or drawn["high"].notna().any()
        fig, drawn = draw(name, alone)
        assert any("seeds: 1" in text.get_text() for text in fig.texts)
        assert set(drawn["kind"]) <= {"measured", "published"}


def test_a_thin_line_is_the_mean_of_its_seed(full):
    _, drawn = draw("pass_at_k", full)
    ours = drawn.query("kind == 'seed 1' and panel == 'seen targets' and series == 'rest' and x == 4")
    one = results.Results("laptop", (1,), {"eval": full.rows("eval").query("seed == 1")})
    table = tables.table2(one).set_index(["method", "split", "k"])
    assert ours["y"].tolist() == pytest.approx([table.loc[("rest", "seen", 4), "measured"]])


def test_a_base_that_all_seeds_share_is_one_curve():
    rows = {"method": "sos", "step": [1, 2], "tokens_seen": [10, 20], "loss": [2.0, 1.0]}
    curve = pd.concat([pd.DataFrame(rows).assign(seed=seed) for seed in range(3)])
    fig, _ = figures.learning_curve(curve, "laptop")
    assert any("seeds: 1" in text.get_text() for text in fig.texts)


def test_surprise_is_shown_trace_by_trace_with_the_mean_over_tokens():
    """Three likely traces and a very unlikely one: the mean lies far above most traces."""
    rows = {"kind": "guided", "index": range(4), "seed": 0, "nll": [1.0, 2, 3, 94], "nll_tokens": [10] * 4}
    fig, drawn = figures.likelihood(pd.DataFrame(rows), "laptop")
    steps, mean = drawn[drawn["panel"] == "surprise"], drawn[drawn["panel"] == "mean"]
    assert steps[["x", "y"]].to_numpy().tolist() == [
        [0.1, 25],
        [0.2, 50],
        [pytest.approx(0.3), 75],
        [9.4, 100],
    ]
    assert mean[["x", "y"]].to_numpy().tolist() == [[2.5, 75]]
    assert fig.legends[0].get_texts()[0].get_text() == "guided: mean 2.500, median 0.250 (n = 4)"


def test_node_choices_are_compared_round_by_round():
    rows = {
        "choose": "last",
        "index": range(4),
        "seed": 0,
        "round": [0, 0, 1, 2],
        "nll": 1.0,
        "nll_tokens": 4,
    }
    _, drawn = figures.node_selection(pd.DataFrame(rows).assign(correct=[True, False, True, True]), "laptop")
    success = drawn[drawn["panel"] == "success"]
    assert success[["x", "y"]].to_numpy().tolist() == [[0, 25], [1, 50], [2, 75]]


def test_actions_are_bars_along_the_tokens():
    lines = pd.DataFrame({"start": [0, 4], "tokens": [4, 9], "text": ["a", "b" * 90], "reward": [0.0, 1.0]})
    fig, drawn = figures.actions(lines, "smoke")
    assert [bar.get_width() for bar in fig.axes[0].patches] == drawn["y"].tolist() == [4, 9]
    assert [bar.get_x() for bar in fig.axes[0].patches] == drawn["x"].tolist() == [0, 4]
    assert [text.get_text() for text in fig.axes[0].texts] == ["", "reward +1"]
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ["a", "b" * 67 + "..."]


@pytest.mark.parametrize("name", ["pass_at_k", "accuracy_against_budget"])
def test_intervals_stand_side_by_side_and_lines_where_their_numbers_are(full, name):
    fig, _ = draw(name, full)
    fig.canvas.draw()
    axis = fig.axes[0]
    lines = [line for line in axis.get_lines() if str(line.get_gid()).endswith("measured")]
    ends = {line.get_transform().transform(line.get_xydata())[-1, 0].round(1) for line in lines}
    bars = {
        bars.get_transform().transform(bars.get_segments()[-1])[0, 0].round(1) for bars in axis.collections
    }
    assert len(lines) == len(bars) == 5 and len(ends) == 1
    assert max(bars) <= axis.bbox.x1 + 1


def test_accuracy_within_a_budget_is_steps_with_an_interval_at_the_end(full):
    fig, drawn = draw("accuracy_against_budget", full)
    assert {line.get_drawstyle() for line in fig.axes[0].get_lines()} == {"steps-post"}
    assert set(drawn.loc[drawn["high"].notna(), "x"]) == {drawn["x"].max()}


def test_methods_that_a_title_asks_about_and_nobody_ran_are_named(full):
    table = tables.budget_table(full, methods=("sos", "sos_ppo"))
    for asked, story in (("sos_ppo_dense", "published; not run: PPO, dense reward"), ("sos", "published")):
        fig, _ = figures.accuracy_against_budget(table, "smoke", "?", ("sos", asked), "published")
        assert story in [text.get_text() for text in fig.texts]


def test_headline_shows_both_splits_published_and_measured(full):
    fig, drawn = draw("headline", full)
    kinds = ("published", "measured", "seed 0", "seed 1")
    assert set(zip(drawn["panel"], drawn["kind"], strict=True)) == {
        (split, kind) for split in ("seen", "unseen") for kind in kinds
    }
    assert len({axis.get_ylim() for axis in fig.axes}) == 1
    words = [text.get_text() for axis in fig.axes for text in axis.texts]
    assert words.count("Guided-ReST") == words.count("SoS") == 4
    assert "Guided-ReST minus ReST: +0.4 at k = 1, +20.2 at k = 32" in words


def test_small_zero_and_missing_results_still_draw():
    nothing = results.Results("smoke")
    zero = made_up(problems=2, samples=1, profile="smoke")
    for kind, frame in zero.frames.items():
        for column, value in (("correct", False), ("round_solved", -1)):
            if column in frame:
                zero.frames[kind][column] = value
    for made in (nothing, zero):
        for name in DRAWINGS:
            fig, _ = draw(name, made, "smoke")
            fig.draw_without_rendering()


def test_published_marks_are_hollow_and_named(full):
    fig, drawn = figures.pass_at_k(tables.table3(results.Results("gpu")), "gpu")
    lines = fig.axes[0].get_lines()
    assert all(line.get_markerfacecolor() == "white" and line.get_linewidth() == 1 for line in lines)
    assert "ReST (published)" in [text.get_text() for text in fig.legends[0].get_texts()]
    assert set(drawn["panel"]) == {"codecontests problems", "codeforces problems"}
    _, drawn = draw("headline", full)
    paper = drawn[(drawn["kind"] == "published") & (drawn["series"] == "rest") & (drawn["panel"] == "seen")]
    assert paper["y"].tolist() == [62.3, 67.7, 71.3, 73.6, 75.3, 76.6]


@pytest.mark.parametrize("name", sorted({*DRAWINGS} - {"hints", "node_selection", "ppo_curves"}))
def test_panels_share_one_scale_and_say_how_many_problems_where_they_differ(name, full):
    fig, _ = draw(name, full)
    assert len({axis.get_ylim() for axis in fig.axes}) == 1
    fig, _ = figures.pass_at_k(tables.table3(full), "laptop")
    assert [axis.get_title(loc="left") for axis in fig.axes] == ["near problems", "far problems"]
    frame = full.rows("repair").query("split == 'near' or index < 5")
    fig, _ = figures.pass_at_k(tables.table3(results.Results("laptop", (0,), {"repair": frame})), "laptop")
    assert fig.axes[1].get_title(loc="left") == "far problems, n = 5"


def test_before_and_after_ppo_have_the_same_ks(full):
    _, drawn = draw("sharpening", full)
    assert set(drawn["series"]) == {"sos", "rest", "guided_rest"}
    assert set(drawn["panel"]) == {
        f"{split} targets, pass@{k}" for split in tables.TEST_SPLITS for k in (1, 4)
    }
    table = tables.table2(full, methods=tables.SHARPENED).set_index(["method", "split", "k"])["measured"]
    ours = drawn.query("panel == 'seen targets, pass@4' and series == 'rest' and kind == 'measured'")
    assert ours["x"].tolist() == [0, 1]
    assert ours["y"].tolist() == [table["rest", "seen", 4], table["rest_ppo", "seen", 4]]
    _, drawn = draw("sharpening", made_up(problems=6, samples=2))
    assert drawn.empty  # nothing to compare with


def test_pass_at_tokens_counts_what_the_samples_cost(full):
    _, drawn = draw("pass_at_tokens", full)
    table = tables.table2(full).dropna(subset="measured").sort_values(["split", "method", "k"])
    spent = sorted(table["k"] * table["mean_tokens"])
    assert sorted(drawn.loc[drawn["kind"] == "measured", "x"]) == pytest.approx(spent)


@pytest.mark.parametrize("name", ["accuracy_against_budget", "pass_at_k", "headline", "data_yield", "hints"])
def test_accuracy_axes_start_at_zero(name, full):
    fig, _ = draw(name, full)
    assert all(axis.get_ylim()[0] == 0 for axis in fig.axes)


def test_styles_differ_and_cover_every_method():
    methods = [style.STYLES[key] for key in results.METHODS if key != "base"]
    assert len({look.colour for look in methods}) == len({look.marker for look in methods}) == len(methods)


def tree_of(seed=1, beam=3):
    return traces.parse(search.breadth_first(PROBLEM, beam, "mult", random.Random(seed)))


def test_a_tree_draws_its_solution_and_folds_the_rest():
    trace = search.straight_path(PROBLEM, SOLUTION)
    fig, boxes = trees.draw_tree(traces.parse(trace), SOLUTION, title="t", profile="smoke")
    by_node = boxes.set_index("node")
    assert by_node["role"].to_dict() == {0: "root", 1: "correct", 2: "correct", 3: "goal"}
    assert by_node["operation"].tolist()[-1] == "" or set(by_node["operation"]) == {"", *SOLUTION}
    assert sorted(by_node["order"]) == [0, 1, 2, 3]
    shown = [text.get_text() for text in fig.axes[0].texts]
    assert "84, 2, 29" in shown
    assert "14+15=29" in shown
    tree = tree_of()
    _, boxes = trees.draw_tree(tree, SOLUTION, max_nodes=12)
    kept = boxes[boxes["node"] >= 0]
    folded = boxes[boxes["role"] == "more"]["text"].str.extract(r"\+(\d+) more")[0].astype(int).sum()
    assert len(kept) <= 12
    assert len(kept) + folded == len(tree.nodes)
    assert not boxes.duplicated(["x", "y"]).any()


def test_correct_nodes_accept_swapped_operands():
    trace = search.straight_path(PROBLEM, SOLUTION)
    tree = traces.parse(trace)
    assert trees.correct_nodes(tree) == {0, 1, 2, 3}
    assert trees.correct_nodes(tree, ("15+14=29", "29*2=58", "84-58=26")) == {0, 1, 2, 3}
    assert trees.correct_nodes(tree, ("15+14=29", "84-58=26")) == {0, 1}


def test_a_rewrite_marks_selected_dropped_and_rewritten():
    before = tree_of()
    child = next(node for node in before.nodes if node.parent == 0 and node.visited_at is not None)
    after = traces.parse(search.straight_path(PROBLEM, SOLUTION))
    _, drawn = trees.draw_rewrite(before, after, child.name, SOLUTION, child.visited_at)
    first = drawn[drawn["panel"] == "before"]
    assert first.set_index("node").loc[child.index, "role"] == "selected"
    late = [node.index for node in before.nodes if node.generated_at > child.visited_at]
    assert (first[first["node"].isin(late)]["role"] == "dropped").all()
    trace = search.breadth_first(PROBLEM, 3, "mult", random.Random(1))
    steps = guidance.rewrite_steps(trace, PROBLEM, SOLUTION, "first")
    _, drawn = trees.draw_rewrite(
        before, traces.parse(steps.text), steps.child, SOLUTION, steps.edits[-1].start
    )
    roles = drawn.set_index(["panel", "name"])["role"]
    assert steps.case == "e"
    assert roles[("before", steps.child)] == "selected"
    assert roles[("after", steps.child)] == "rewritten"
    assert "dropped" in roles["before"].tolist()
    _, drawn = trees.draw_rewrite(before, after, None, SOLUTION)
    assert "selected" not in set(drawn["role"])


def test_trees_refuse_nonsense():
    with pytest.raises(GrlibError):
        trees.draw_tree(traces.Tree())


def test_diff_marks_kept_cut_written_and_continued_lines():
    diff = trees.trace_diff("a\nb\nc\nd\n", "a\nB\n", "e\n<script>\n")
    assert diff.split("\n") == ["  a", "- b", "- c", "- d", "+ B", "> e", "> <script>"]
    shown = diff._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<del" in shown
    assert "<ins" in shown
    assert trees.trace_diff("", "") == ""
    long = "\n".join(map(str, range(50)))
    assert "  ... 44 lines kept ..." in trees.trace_diff(long, long + "\nx").split("\n")
