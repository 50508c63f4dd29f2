"""A model or a record goes to the hub as it lies in its folder: a stand-in for the hub answers."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from grlib.runs.notebooks import REPOSITORY

RECORD = REPOSITORY / "paper_results" / "measured" / "laptop" / "seed0"


class Hub(BaseHTTPRequestHandler):
    """What the hub answers to its own client; `asked` keeps what was sent, `made` the files of commits."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        place = self.path.partition("?")[0]
        self.server.asked.append((place, body))
        if "me/refused" in self.path:
            return self.reply(403, {"error": "no write access"})
        if place.endswith("/create"):
            return self.reply(200, {"url": f"http://{self.headers['Host']}/datasets/me/mine"})
        if "/preupload/" in place:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.reply(200, {"files": files})
        for line in map(json.loads, body.splitlines() if "/commit/" in place else []):
            if line["key"] == "file":
                self.server.made[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.reply(
            200,
            {
                "commitUrl": f"http://{self.headers['Host']}/datasets/me/mine/commit/{'1' * 40}",
                "commitOid": "1" * 40,
                "errors": [],
                "warnings": [],
            },
        )

    def do_GET(self):
        self.reply(200, {"id": "me/mine", "private": False, "sha": "0" * 40, "siblings": []})

    def reply(self, code, content):
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.made = [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def publish(hub, home, *arguments, token="hf_token"):
    address = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home), "HF_TOKEN": token}
    # neither "offline" nor a proxy of this machine must come between the client and the stand-in
    taken = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE",)}
    taken |= address | {"PYTHONPATH": str(REPOSITORY), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-m", "grlib", "publish", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=home, env=taken)


def test_a_record_is_listed_and_uploaded_whole_as_a_data_set(hub, tmp_path):
    wanted = {path.relative_to(RECORD).as_posix(): path for path in RECORD.rglob("*") if path.is_file()}
    done = publish(hub, tmp_path, "me/mine", RECORD, "--dry-run")
    assert done.returncode == 0 and all(name in done.stdout for name in wanted) and hub.asked == []
    done = publish(hub, tmp_path, "me/mine", RECORD)
    assert done.returncode == 0, done.stderr
    assert "uploaded: http" in done.stdout
    assert hub.made == {name: path.read_bytes() for name, path in wanted.items()}
    assert json.loads(hub.asked[0][1])["type"] == "dataset"
    assert all("/api/datasets/me/mine/" in place for place, _ in hub.asked if "/commit/" in place)


def test_what_cannot_be_published_is_said_in_one_line(hub, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    difference = REPOSITORY / "paper_results" / "base_gpu" / "guided_rest_ppo"
    for arguments, said in (
        (("me/mine", tmp_path / "nowhere"), "missing; name the folder"),
        (("me/mine", RECORD / "README.md"), "no card"),
        (("me/mine", tmp_path / "bare"), "no card (README.md)"),
        (("me/mine", difference), "save_model(*load_both(FOLDER), OTHER)"),
        (("me/refused", RECORD), "me/refused: not uploaded (HfHubHTTPError: "),
        (("me//mine", RECORD), "me//mine: not uploaded (HFValidationError"),
        (("me/mine", RECORD, "--private"), "it exists already, and is public"),
    ):
        done = publish(hub, tmp_path, *arguments)
        assert done.returncode == 2 and said in done.stderr, done
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    done = publish(hub, tmp_path, "me/mine", RECORD, token="")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "hf auth login" in done.stderr
    assert hub.made == {}
