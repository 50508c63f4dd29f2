"""The trace language: rendering, the strict verdict, the tolerant parser, the audit."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grlib.tasks.countdown.fast import all_solutions, solve
from grlib.tasks.countdown.puzzle import Problem, apply_operation, holds, moves
from grlib.tasks.countdown.searchers import breadth_first, depth_first, straight_path
from grlib.tasks.countdown.traces import (
    AUDITED,
    LINE,
    REASONS,
    audit,
    exploring_line,
    generated_line,
    goal_line,
    grade,
    miss_line,
    moving_line,
    parse,
    scan,
    state_line,
)

PROBLEM = Problem((2, 3, 10), 16)  # 2*3=6, 10+6=16

# One wrong turn, then the solution: worked by hand.
TRACE = """\
Current State: 16:[2, 3, 10], Operations: []
Exploring Operation: 2+3=5, Resulting Numbers: [10, 5]
Generated Node #0,0: 16:[10, 5] Operation: 2+3=5
Moving to Node #0,0
Current State: 16:[10, 5], Operations: ['2+3=5']
Exploring Operation: 10+5=15, Resulting Numbers: [15]
15,16 unequal: No Solution
Moving to Node #0,0
Current State: 16:[10, 5], Operations: ['2+3=5']
Exploring Operation: 10-5=5, Resulting Numbers: [5]
5,16 unequal: No Solution
Moving to Node #0
Current State: 16:[2, 3, 10], Operations: []
Exploring Operation: 2*3=6, Resulting Numbers: [10, 6]
Generated Node #0,1: 16:[10, 6] Operation: 2*3=6
Moving to Node #0,1
Current State: 16:[10, 6], Operations: ['2*3=6']
Exploring Operation: 10+6=16, Resulting Numbers: [16]
16,16 equal: Goal Reached
"""
LAST_STATE = "Current State: 16:[10, 6], Operations: ['2*3=6']\n"
LAST_STEP = "Exploring Operation: 10+6=16, Resulting Numbers: [16]\n"
GOAL = "16,16 equal: Goal Reached\n"

problems = st.builds(
    Problem, st.lists(st.integers(1, 20), min_size=2, max_size=4).map(tuple), st.integers(1, 60)
)
hostile = st.one_of(
    st.text(max_size=300),
    st.lists(
        st.sampled_from([*TRACE.splitlines(keepends=True), "\r\n", "\0", "٣", "'", "]", "9" * 50, ""])
    ).map("".join),
)


def searched(problem: Problem, seed: int) -> str:
    """A trace by a solver drawn from the seed."""
    rng = random.Random(seed)
    heuristic = rng.choice(["sum", "mult"])
    beam = rng.randint(0, 5)
    return breadth_first(problem, beam, heuristic, rng) if beam else depth_first(problem, heuristic)


# --- rendering


def test_each_line_is_spelled_as_in_the_paper():
    assert state_line(26, (84, 29), ("14+15=29",)) == "Current State: 26:[84, 29], Operations: ['14+15=29']\n"
    assert state_line(26, [84], []) == "Current State: 26:[84], Operations: []\n"
    assert (
        exploring_line("2*29=58", (84, 58)) == "Exploring Operation: 2*29=58, Resulting Numbers: [84, 58]\n"
    )
    assert (
        generated_line("0,3", 26, (84, 58), "2*29=58")
        == "Generated Node #0,3: 26:[84, 58] Operation: 2*29=58\n"
    )
    assert moving_line("0,3,1") == "Moving to Node #0,3,1\n"
    assert goal_line(26, 26) == "26,26 equal: Goal Reached\n"
    assert miss_line(5, 26) == "5,26 unequal: No Solution\n"


@given(problems, st.integers(0, 99))
def test_every_line_a_solver_prints_is_in_the_language(problem, seed):
    trace = searched(problem, seed)
    lines = list(scan(trace))
    assert all(match for _, _, match in lines)
    assert "".join(line + "\n" for _, line, _ in lines).removesuffix("\n") == trace.removesuffix("\n")


# --- grading


def test_the_worked_trace_is_correct():
    verdict = grade(TRACE, PROBLEM)
    assert verdict.correct and verdict and verdict.reason == "correct"


@pytest.mark.parametrize(
    "old, new",
    [
        (GOAL, GOAL.rstrip("\n")),  # the end of the text ends the line
        (GOAL, GOAL + "Moving to Node #0\n99,16 equal: Goal Reached"),  # later text is ignored
        (LAST_STATE, LAST_STATE.replace("10, 6", "6, 10")),  # a state is a multiset
        ("10+6=16,", "6+10=16,"),  # operands of + in either order
        ("2+3=5, Res", "2+3=4, Res"),  # an abandoned branch may be wrong
        (
            LAST_STEP,
            "Exploring Operation: 10-6=4, Resulting Numbers: [4]\n4,16 unequal: No Solution\n" + LAST_STEP,
        ),
    ],
)
def test_correct_variants(old, new):
    assert old in TRACE
    assert grade(TRACE.replace(old, new), PROBLEM).reason == "correct"


@pytest.mark.parametrize(
    "old, new, reason",
    [
        (GOAL, "", "no goal line"),
        (GOAL, "16,16 equal: Goal Reached \n", "malformed goal line"),
        (GOAL, "16,16 equal: Goal Reached\r\n", "malformed goal line"),
        (GOAL, "x16,16 equal: Goal Reached\n" + GOAL, "malformed goal line"),
        (GOAL, "016,16 equal: Goal Reached\n", "malformed goal line"),
        (GOAL, "１６,16 equal: Goal Reached\n", "malformed goal line"),
        (GOAL, "15,16 equal: Goal Reached\n" + GOAL, "wrong goal line"),
        (GOAL, "10,10 equal: Goal Reached\n" + GOAL, "wrong goal line"),
        ("Current State", "State", "no state line"),
        (LAST_STATE, LAST_STATE.replace("'", '"'), "malformed state line"),
        (LAST_STATE, " " + LAST_STATE, "malformed state line"),
        (LAST_STATE, LAST_STATE.replace("10, 6", "10,6"), "malformed state line"),
        (LAST_STATE, LAST_STATE.replace("'2*3=6'", "'2*3=6 '"), "malformed state line"),
        (LAST_STATE, LAST_STATE.replace("16:", "16:\0"), "malformed state line"),
        (LAST_STATE, LAST_STATE.replace("\n", "\r\n"), "malformed state line"),
        (LAST_STEP, "", "no final operation"),
        (LAST_STEP, LAST_STEP.replace("10+6", "10 + 6"), "malformed final operation"),
        (LAST_STEP, LAST_STEP.replace("10+6", "10+06"), "malformed final operation"),
        (LAST_STEP, LAST_STEP.replace("=16,", "=16+0,"), "malformed final operation"),
        (LAST_STATE, LAST_STATE.replace("16:", "17:"), "wrong target"),
        (LAST_STATE, LAST_STATE.replace("2*3=6", "2*5=10"), "number not available"),
        (LAST_STATE, LAST_STATE.replace("2*3=6", "2*2=4"), "number not available"),
        (LAST_STATE, LAST_STATE.replace("2*3=6", "2*3=7"), "wrong arithmetic"),
        (LAST_STATE, LAST_STATE.replace("2*3=6", "3/2=1"), "wrong arithmetic"),
        (LAST_STATE, LAST_STATE.replace("10, 6", "10, 7"), "wrong numbers in state line"),
        (LAST_STATE, LAST_STATE.replace("10, 6", "10, 6, 6"), "wrong numbers in state line"),
        (LAST_STATE, "Current State: 16:[2, 3, 10], Operations: []\n", "number not available"),
        (LAST_STEP, LAST_STEP.replace("10+6", "11+5"), "number not available"),
        (LAST_STEP, LAST_STEP.replace("10+6=16", "10*6=16"), "wrong arithmetic"),
        (LAST_STEP, LAST_STEP.replace("[16]", "[15]"), "wrong resulting numbers"),
        (LAST_STEP, LAST_STEP.replace("[16]", "[16, 0]"), "wrong resulting numbers"),
        (LAST_STEP, "Exploring Operation: 10-6=4, Resulting Numbers: [16]\n", "target missed"),
        ("Operations: ['2*3=6']", "Operations: []", "wrong numbers in state line"),
    ],
)
def test_wrong_variants(old, new, reason):
    assert old in TRACE and reason in REASONS
    verdict = grade(TRACE.replace(old, new), PROBLEM)
    assert (verdict.correct, bool(verdict), verdict.reason) == (False, False, reason)


def test_every_number_must_be_used():
    trace = state_line(5, (2, 3, 4), ()) + exploring_line("2+3=5", (5,)) + goal_line(5, 5)
    assert grade(trace, Problem((2, 3, 4), 5)).reason == "numbers left over"


def test_a_number_given_twice_serves_twice_and_no_more():
    def trace(last):
        return state_line(25, (5, 20), ("5+15=20",)) + exploring_line(last, (25,)) + goal_line(25, 25)

    assert grade(trace("5+20=25"), Problem((5, 5, 15), 25)).reason == "correct"
    assert grade(trace("5+20=25"), Problem((5, 6, 15), 25)).reason == "wrong numbers in state line"


def test_the_problem_is_the_data_sets_not_the_traces():
    assert grade(TRACE, Problem((2, 3, 11), 16)).reason == "wrong numbers in state line"
    assert grade(TRACE, Problem((2, 3, 10), 15)).reason == "wrong goal line"


def test_zero_is_a_number_but_no_divisor():
    assert holds(5, "-", 5, 0) and holds(0, "*", 7, 0)
    for wrong in [(3, "/", 0, 0), (0, "/", 0, 0), (0, "/", 5, 0), (0, "/", 5, 5)]:
        assert not holds(*wrong)


def test_arithmetic_agrees_with_the_moves_of_the_game():
    for a in range(13):
        for b in range(13):
            operations = {operation for nums in ((a, b), (b, a)) for operation, _ in moves(nums)}
            for sign in "+-*/":
                for c in range(150):
                    legal = f"{a}{sign}{b}={c}" in operations
                    assert holds(a, sign, b, c) == legal


def test_large_numbers_are_exact_and_longer_ones_are_not_of_the_language():
    def trace(a, b, c):
        line = f"Exploring Operation: {a}+{b}={c}, Resulting Numbers: [{c}]\n"
        return f"Current State: {c}:[{a}, {b}], Operations: []\n{line}{c},{c} equal: Goal Reached"

    big = 10**18 - 8
    assert grade(trace(big, 7, big + 7), Problem((big, 7), big + 7)).correct
    wrong = trace(big, 7, big + 7).replace(f"+7={big + 7}", f"+7={big + 6}")
    assert grade(wrong, Problem((big, 7), big + 7)).reason == "wrong arithmetic"
    for text in (
        trace(big, 8, big + 8),
        trace("9" * 19, 7, 24),
        trace(17, 7, 24).replace("17+7", "0" * 19 + "17+7"),
    ):
        lines = [match for _, _, match in scan(text)]
        assert not all(lines) and not grade(text, PROBLEM).correct
    float_trap = 2**53 + 1
    line = exploring_line(f"{float_trap}/1={float_trap - 1}", (float_trap - 1,))
    text = state_line(float_trap - 1, (float_trap, 1), ()) + line + goal_line(float_trap - 1, float_trap - 1)
    assert grade(text, Problem((float_trap, 1), float_trap - 1)).reason == "wrong arithmetic"


@given(problems, st.integers(0, 99))
def test_a_search_is_correct_exactly_when_it_reached_the_goal(problem, seed):
    trace = searched(problem, seed)
    assert grade(trace, problem).correct == trace.endswith("equal: Goal Reached\n")


@given(problems)
def test_every_straight_path_is_correct(problem):
    for _, solution in zip(range(5), all_solutions(problem), strict=False):
        trace = straight_path(problem, solution)
        if len(solution):
            assert grade(trace, problem).correct


@settings(max_examples=200)
@given(problems, st.integers(0, 99), st.data())
def test_no_trace_with_a_mutated_winning_path_is_correct(problem, seed, data):
    """Change one number or sign on the winning path: goal line, last state line or last Exploring line."""
    solution = solve(problem)
    if not solution:
        return
    trace = straight_path(problem, solution) if seed % 2 else searched(problem, seed)
    if not grade(trace, problem).correct:
        return
    start = trace.rfind("Current State")
    places = [i for i in range(start, len(trace)) if trace[i].isdigit() or trace[i] in "+-*/="]
    place = data.draw(st.sampled_from(places))
    new = data.draw(st.sampled_from([c for c in "0123456789+-*/=" if c != trace[place]]))
    mutated = trace[:place] + new + trace[place + 1 :]
    if grade(mutated, problem).correct:  # only a truly different winning path may pass, such as 2*2 for 2+2
        step = LINE.fullmatch(mutated[mutated.rfind("Exploring") :].split("\n")[0])
        operations = mutated[start:].split("Operations: [")[1].split("]")[0]
        nums = problem.nums
        for operation in [*filter(None, operations.strip("'").split("', '")), step["operation"]]:
            nums = apply_operation(nums, operation)
        assert nums == (problem.target,)


# --- parsing


def test_the_worked_trace_as_a_tree():
    tree = parse(TRACE)
    assert tree.target == 16
    seen = [(n.name, n.operation, n.nums, n.parent, n.leaf, n.outcome) for n in tree.nodes]
    assert seen == [
        ("0", "", (2, 3, 10), None, False, None),
        ("0,0", "2+3=5", (10, 5), 0, False, None),
        ("0,0,0", "10+5=15", (15,), 1, True, "miss"),
        ("0,0,1", "10-5=5", (5,), 1, True, "miss"),
        ("0,1", "2*3=6", (10, 6), 0, False, None),
        ("0,1,0", "10+6=16", (16,), 4, True, "goal"),
    ]
    assert tree.goal == 5 and tree.path(5) == [0, 4, 5]
    assert tree.nodes[0].children == [1, 4]
    assert tree.nodes[1].generated_at == TRACE.index("Exploring")
    assert tree.nodes[1].visited_at == TRACE.index("Current State: 16:[10, 5]")
    assert tree.nodes[5].visited_at is None


@given(problems, st.integers(0, 999))
def test_the_tree_is_the_search(problem, seed):
    trace = searched(problem, seed)
    tree = parse(trace)
    assert len(tree.nodes) == 1 + trace.count("Exploring Operation: ")
    assert sum(not n.leaf for n in tree.nodes) == 1 + trace.count("Generated Node")
    assert (tree.goal is not None) == ("Goal Reached" in trace)
    for node in tree.nodes[1:]:
        parent = tree.nodes[node.parent]
        assert node.index in parent.children and parent.index < node.index
        assert sorted(apply_operation(parent.nums, node.operation)) == sorted(node.nums)
        assert trace.startswith(exploring_line(node.operation, node.nums), node.generated_at)
        if not node.leaf:
            assert node.name.rpartition(",")[0] == parent.name
    for node in tree.nodes:
        if node.visited_at is not None:
            operations = [tree.nodes[k].operation for k in tree.path(node.index)[1:]]
            assert trace.startswith(state_line(problem.target, node.nums, operations), node.visited_at)


@given(problems, st.integers(0, 99))
def test_a_depth_first_trace_can_be_rendered_again_from_its_tree(problem, seed):
    trace = depth_first(problem, "mult" if seed % 2 else "sum")
    tree = parse(trace)
    lines = []

    def render(index, operations):
        node = tree.nodes[index]
        here = state_line(tree.target, node.nums, operations)
        lines.append(here)
        for k, child in enumerate(tree.nodes[c] for c in node.children):
            if k:
                lines.append(moving_line(node.name) + here)
            lines.append(exploring_line(child.operation, child.nums))
            if child.outcome:
                lines.append(
                    {"goal": goal_line, "miss": miss_line}[child.outcome](child.nums[0], tree.target)
                )
            else:
                lines.append(generated_line(child.name, tree.target, child.nums, child.operation))
                lines.append(moving_line(child.name))
                render(child.index, [*operations, child.operation])

    render(0, [])
    assert "".join(lines) == trace


@given(problems, st.integers(0, 99), st.data())
def test_a_cut_trace_parses_up_to_the_cut(problem, seed, data):
    trace = searched(problem, seed)
    cut = data.draw(st.integers(0, len(trace)))
    whole, part = parse(trace), parse(trace[:cut])
    assert len(part.nodes) <= len(whole.nodes)
    for a, b in zip(part.nodes, whole.nodes, strict=False):
        assert (a.operation, a.nums, a.parent, a.generated_at) == (
            b.operation,
            b.nums,
            b.parent,
            b.generated_at,
        )


def test_a_state_that_was_never_generated_becomes_a_node():
    trace = (
        state_line(16, (2, 3, 10), ()) + moving_line("0,7") + state_line(16, (10, 6), ("2*3=6",)) + LAST_STEP
    )
    tree = parse(trace)
    assert [(n.name, n.parent) for n in tree.nodes] == [("0", None), ("0,7", 0), ("0,7,0", 1)]


def test_no_state_line_no_nodes():
    for text in ("", "\n", "hello", LAST_STEP, GOAL, "No solution found."):
        assert parse(text).nodes == [] and parse(text).target is None


# --- any text


@settings(max_examples=100)
@given(hostile)
def test_hostile_text_never_raises(text):
    verdict = grade(text, PROBLEM)
    assert verdict.reason in REASONS and verdict.correct == (verdict.reason == "correct")
    tree = parse(text)
    assert all(n.parent is None or n.parent < n.index for n in tree.nodes)
    counts = audit(text, PROBLEM)
    assert set(counts) == set(AUDITED) and all(count >= 0 for count in counts.values())


ROOT = state_line(16, (2, 3, 10), ())
MEGABYTE = {
    "digits": ROOT + "9" * 1_000_000,
    "digits before the goal": ROOT + LAST_STEP + "9" * 1_000_000 + ",16 equal: Goal Reached",
    "newlines": ROOT + "\n" * 1_000_000,
    "nuls": ROOT + "\0" * 1_000_000 + GOAL,
    "unicode digits": ROOT + "٣" * 1_000_000 + GOAL,
    "open brackets": ROOT + "Current State: 16:[" * 50_000,
    "long operations": "Current State: 16:[10, 6], Operations: ["
    + "'2*3=6', " * 100_000
    + "'2*3=6']\n"
    + LAST_STEP
    + GOAL,
    "long numbers": ROOT
    + "Exploring Operation: 2*"
    + "9" * 500_000
    + "="
    + "9" * 500_000
    + ", Resulting Numbers: [16]\n"
    + GOAL,
    "states": ROOT * 20_000 + LAST_STEP + GOAL,
    "goals": ROOT + "16,16 equal: Goal Reached" * 40_000,
    "deep names": ROOT + "Moving to Node #0" + ",0" * 500_000 + "\n" + LAST_STATE + LAST_STEP * 200,
    "leaves": ROOT + LAST_STEP * 18_000,
    "states that no line generated": ROOT + (LAST_STATE + LAST_STATE.replace("10", "11")) * 10_000,
}


@pytest.mark.parametrize("kind", MEGABYTE)
def test_a_megabyte_takes_linear_time(kind):
    """Anything quadratic would not come back from these within the hour."""
    text = MEGABYTE[kind]
    assert not grade(text, PROBLEM).correct
    assert sum(len(node.name) for node in parse(text).nodes) < 600 * (len(text) // 40)
    audit(text, PROBLEM)


def test_model_text_is_never_evaluated():
    trace = TRACE.replace("['2*3=6']", "[__import__('os').abort()]")
    assert grade(trace, PROBLEM).reason == "malformed state line"
    assert grade(TRACE.replace("10+6=16,", "9**9**9**9=16,"), PROBLEM).reason == "malformed final operation"


# --- audit


def test_the_audit_counts_each_kind_of_mistake():
    assert {k: v for k, v in audit(TRACE, PROBLEM).items() if v} == {
        "lines": 19,
        "operations": 5,
        "states": 5,
        "outcomes": 3,
    }
    trace = (
        state_line(16, (2, 3, 10), ())
        + exploring_line("2+3=6", (10, 6))  # wrong arithmetic
        + exploring_line("2+4=6", (10, 6))  # no 4 here
        + exploring_line("2+2=4", (10, 4))  # only one 2
        + exploring_line("2+3=5", (5,))  # the 10 is lost
        + "Thinking ...\n"
        + state_line(16, (10, 7), ("2+3=5",))  # says 7 for 5
        + state_line(17, (10, 5), ("2+3=5",))  # another target
        + miss_line(16, 16)
        + goal_line(16, 16)
        + "never looked at\n"
    )
    assert audit(trace, PROBLEM) == {
        "lines": 10,
        "malformed_lines": 1,
        "operations": 4,
        "wrong_arithmetic": 1,
        "unavailable_numbers": 2,
        "wrong_resulting_numbers": 1,
        "states": 3,
        "wrong_states": 2,
        "outcomes": 2,
        "wrong_outcomes": 1,
    }


@given(problems, st.integers(0, 99))
def test_the_audit_finds_nothing_wrong_with_a_solver(problem, seed):
    counts = audit(searched(problem, seed), problem)
    assert not any(counts[k] for k in AUDITED if "wrong" in k or "malformed" in k or "unavailable" in k)
