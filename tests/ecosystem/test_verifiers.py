"""`environments/countdown_equations` in the real `verifiers`: loaded, played by a stub model, scored."""

import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pandas
import pytest

from grlib.tasks.countdown import Problem, equation_prompt

vf = pytest.importorskip("verifiers.v1", reason="needs verifiers (tests/ecosystem/requirements.txt)")

FOLDER = Path(__file__).resolve().parents[2] / "environments" / "countdown_equations"
PROBLEMS = [Problem((3, 5, 4), 2), Problem((2, 3), 8), Problem((7, 2), 3)]
ANSWERS = [("3-5+4", "correct"), ("2**3", "malformed expression"), ("7-2", "target missed")]


class OneTurn(vf.Harness[vf.HarnessConfig]):
    """Asks the model once, from this process (the harnesses of the package fetch programs from the net)."""

    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data, **others):
        from openai import AsyncOpenAI

        messages = [{"role": "user", "content": data.prompt}]
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, max_retries=0) as client:
            await client.chat.completions.create(model=ctx.model, messages=messages)
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


@pytest.fixture
def endpoint():
    """An OpenAI-compatible server that answers as ANSWERS says."""
    answers = {
        equation_prompt(problem): answer for problem, (answer, _) in zip(PROBLEMS, ANSWERS, strict=True)
    }

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = f"<think>well</think><answer>{answers[asked['messages'][-1]['content']]}</answer>"
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            kind = {"id": "1", "object": "chat.completion", "created": 0, "model": "stub"}
            body = json.dumps(kind | {"choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *parts):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def environment(monkeypatch, **taskset):
    monkeypatch.syspath_prepend(str(FOLDER))
    one_turn = ModuleType("one_turn")
    one_turn.OneTurn, one_turn.__all__ = OneTurn, ["OneTurn"]
    monkeypatch.setitem(sys.modules, "one_turn", one_turn)
    agent = {"harness": {"id": "one_turn"}, "runtime": {"type": "subprocess"}}
    config = {"taskset": {"id": "countdown-equations"} | taskset, "agent": agent}
    return vf.load_environment(vf.resolve_env_config(config))


def test_drawn_problems_are_tasks(monkeypatch):
    tasks = list(environment(monkeypatch, num_tasks=3, num_count=3).taskset)
    assert [task.data.idx for task in tasks] == [0, 1, 2]
    for task in tasks:
        problem = Problem(task.data.nums, task.data.target)
        assert len(problem.nums) == 3 and task.data.prompt == equation_prompt(problem)


def test_a_model_plays_problems_of_a_data_set_and_is_scored(monkeypatch, tmp_path, endpoint):
    rows = [{"nums": list(problem.nums), "target": problem.target} for problem in PROBLEMS]
    pandas.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    env = environment(monkeypatch, dataset=str(tmp_path))
    client = vf.EvalClientConfig(base_url=endpoint, api_key_var="STUB_KEY")

    async def play():
        async with env.serving():
            context = vf.ModelContext(model="stub", client=client)
            return [await env.run_slot(slot, context) for task in env.taskset for slot in env.slots(task)]

    episodes = asyncio.run(play())
    assert [episode.errors for episode in episodes] == [[], [], []]
    traces = [episode.traces[0] for episode in episodes]
    assert [trace.errors for trace in traces] == [[], [], []]
    assert [trace.info["reason"] for trace in traces] == [reason for _, reason in ANSWERS]
    assert [trace.reward for trace in traces] == [1.0, 0.0, 0.0]
