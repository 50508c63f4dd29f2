"""What the figures draw equals the table they return; trees and diffs show the right parts."""

import dataclasses
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
    return pd.DataFrame(
        {"solver": solver, "tokens": rng.integers(10, 900, 80), "correct": rng.random(80) < 0.5}
    )


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
    "rewriting_rounds": tables.yield_table,
    "accuracy_by_iteration": tables.iteration_table,
    "likelihood": tables.likelihood_table,
    "repair_pass_at_k": tables.table3,
    "repair_by_answer": tables.answer_table,
    "node_selection": tables.selection_table,
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


def draw(name, made, profile="laptop"):
    table = DRAWINGS[name](made)
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
    if name in ("data_yield", "likelihood", "node_selection", "trace_lengths"):
        assert not lines  # bars and steps: checked below
    else:
        assert set(lines) == set(groups)
    for key, points in lines.items():
        assert points.astype(float) == pytest.approx(groups[key].to_numpy(dtype=float), nan_ok=True)


def test_bars_have_the_heights_of_the_table(full):
    for name in ("likelihood", "node_selection"):
        fig, drawn = draw(name, full)
        heights = [bar.get_height() for axis in fig.axes for bar in axis.patches]
        assert heights == pytest.approx(drawn["y"].tolist())
    fig, drawn = draw("data_yield", full)
    tops = [bar.get_y() + bar.get_height() for bar in fig.axes[0].patches]
    assert sorted(tops) == pytest.approx(sorted(drawn["y"]))


@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu", "paper"])
def test_every_figure_names_its_profile(name, profile, full):
    fig, _ = draw(name, full, profile)
    words = " ".join(text.get_text() for text in fig.texts)
    assert f"profile {profile}" in words
    assert (profile.upper() in words) == (profile != "paper")
    assert "seed" in words


def test_captions_count_seeds_and_show_their_spread_and_what_was_cut_off(full):
    for name in set(DRAWINGS) - {"learning_curve", "trace_lengths", "ppo_curves"}:
        fig, drawn = draw(name, full)
        words = " ".join(text.get_text() for text in fig.texts)
        assert "seeds: 2" in words
        assert "s.d. of the seeds" in words
        assert drawn["seed_sd"].notna().any()
        if name not in ("likelihood", "node_selection"):  # their rows do not say which traces were cut off
            assert "cut off by the token budget" in words
        fig, drawn = draw(name, with_ppo(made_up(problems=12, samples=2)))
        words = " ".join(text.get_text() for text in fig.texts)
        assert "seeds: 1;" in words
        assert "s.d." not in words
        assert drawn["seed_sd"].isna().all()


def test_actions_are_bars_along_the_tokens():
    lines = pd.DataFrame({"start": [0, 4], "tokens": [4, 9], "text": ["a", "b" * 90], "reward": [0.0, 1.0]})
    fig, drawn = figures.actions(lines, "smoke")
    assert [bar.get_width() for bar in fig.axes[0].patches] == drawn["y"].tolist() == [4, 9]
    assert [bar.get_x() for bar in fig.axes[0].patches] == drawn["x"].tolist() == [0, 4]
    words = [text.get_text() for text in fig.axes[0].texts]
    assert words == ["a", "b" * 67 + "...   reward +1"]


@pytest.mark.parametrize(("name", "places"), [("pass_at_k", 5), ("accuracy_against_budget", 1)])
def test_intervals_stand_side_by_side_where_the_axis_has_places_for_them(full, name, places):
    """A budget is read off the axis: there no line may be moved, or BC seems right without a token."""
    fig, _ = draw(name, full)
    fig.canvas.draw()
    measured = [line for line in fig.axes[0].get_lines() if (line.get_gid() or "").endswith("measured")]
    ends = [line.get_transform().transform(line.get_xydata())[-1, 0] for line in measured]
    assert len(measured) == 5 and len(set(np.round(ends, 1))) == places
    assert all(0 < end <= fig.axes[0].bbox.x1 + 1 for end in ends)


def test_methods_that_a_title_asks_about_and_nobody_ran_are_named(full):
    table = tables.budget_table(full, methods=("sos", "sos_ppo"))
    fig, _ = figures.accuracy_against_budget(table, "smoke", "?", ("sos", "sos_ppo_dense"))
    assert any(text.get_text().endswith("\nnot run: PPO, dense reward") for text in fig.texts)
    fig, _ = figures.accuracy_against_budget(table, "smoke", "?", ("sos",))
    assert not any("not run" in text.get_text() for text in fig.texts)


def test_headline_shows_both_splits_published_and_measured(full):
    fig, drawn = draw("headline", full)
    assert set(zip(drawn["panel"], drawn["kind"], strict=True)) == {
        (split, kind) for split in ("seen", "unseen") for kind in ("published", "measured")
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
    fig, drawn = draw("pass_at_k", full)
    published = [line for axis in fig.axes for line in axis.get_lines() if "published" in str(line.get_gid())]
    assert len(published) == 6
    assert all(line.get_markerfacecolor() == "white" and line.get_linewidth() == 1 for line in published)
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert "ReST (published)" in labels
    paper = drawn[(drawn["kind"] == "published") & (drawn["series"] == "rest") & (drawn["panel"] == "seen")]
    assert paper["y"].tolist() == [62.3, 67.7, 71.3, 73.6, 75.3, 76.6]
    assert len({axis.get_ylim() for axis in fig.axes}) == 1


def test_before_and_after_ppo_have_the_same_ks(full):
    _, drawn = draw("sharpening", full)
    assert set(drawn["series"]) == set(tables.SHARPENED)
    assert drawn.groupby("series")["x"].apply(set).map(sorted).tolist() == [[1, 2, 4]] * 6
    _, drawn = draw("sharpening", made_up(problems=6, samples=2))
    assert drawn.empty  # nothing to compare with


def test_pass_at_tokens_counts_what_the_samples_cost(full):
    _, drawn = draw("pass_at_tokens", full)
    table = tables.table2(full).dropna(subset="measured").sort_values(["split", "method", "k"])
    spent = sorted(table["k"] * table["mean_tokens"])
    assert sorted(drawn["x"]) == pytest.approx(spent) and set(drawn["kind"]) == {"measured"}


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
