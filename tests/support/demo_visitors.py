"""Those who visit the demo in tests: they talk to a running server as the page does."""

import json
import uuid

import httpx


SECRETS = ("Traceback", 'File "', "site-packages", "root:x:0")  # what no answer may hold


class Visitor:
    """A session that talks to the server as the page does."""

    numbers: dict[str, dict[str, int]] = {}  # of the handlers of each server

    def __init__(self, server, session: str | None = None):
        self.server, self.session = server, session or uuid.uuid4().hex
        self.http = httpx.Client(base_url=f"{server.url}/gradio_api", timeout=300)
        if server.url not in self.numbers:
            config = httpx.get(f"{server.url}/config", timeout=60).json()
            self.numbers[server.url] = {
                dependency["api_name"]: dependency["id"] for dependency in config["dependencies"]
            }

    def send(self, content: bytes, name: str = "clip.mp4") -> httpx.Response:
        return self.http.post("/upload", files={"files": (name, content)})

    def upload(self, content: bytes, name: str = "clip.mp4") -> dict:
        sent = self.send(content, name)
        assert sent.status_code == 200, sent.text
        return self.uploaded(sent, name)

    def uploaded(self, sent: httpx.Response, name: str) -> dict:
        """What the page sends on for a file that the server has taken."""
        (path,) = sent.json()
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def join(self, handler: str, data, event=None) -> httpx.Response:
        """Ask for a call, and do not wait for it."""
        number = self.numbers[self.server.url][handler]
        body = {"data": data, "event_data": event, "fn_index": number, "session_hash": self.session}
        joined = self.http.post(
            "/queue/join", content=json.dumps(body), headers={"Content-Type": "application/json"}
        )  # json.dumps writes NaN, as a stranger may
        assert not any(secret in joined.text for secret in SECRETS)
        return joined

    def news(self, count: int = 1) -> list[dict]:
        """The last messages about so many calls, as they end."""
        ended = []
        with self.http.stream("GET", "/queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                assert not any(secret in line for secret in SECRETS)
                message = json.loads(line.removeprefix("data: ") or "{}")
                if message.get("msg") in ("process_completed", "unexpected_error"):
                    ended.append(message if "output" in message else {"success": False, "output": message})
                if message.get("msg") == "log":
                    self.said = message["log"]
                if len(ended) == count:
                    return ended
        raise AssertionError(f"{len(ended)} of {count} answers came")

    def call(self, handler: str, data, event=None) -> dict:
        """The last message about a call: `success`, and `output` with what the page gets. Or the refusal of the call itself."""
        joined = self.join(handler, data, event)
        if joined.status_code != 200:
            return {"success": False, "output": {"error": joined.text}}
        return self.news()[0]

    def take(self, content: bytes, name: str = "clip.mp4") -> dict:
        """Upload a clip and open it. Or the refusal of the upload."""
        sent = self.send(content, name)
        if sent.status_code != 200:
            return {"success": False, "output": {"error": sent.text}}
        return self.call("upload", [self.uploaded(sent, name)])

    def click(self, index) -> dict:
        return self.call("add_point", [0, ""], {"index": index, "value": None})

    def track(self, direction: str = "forward") -> dict:
        return self.call("track_1", ["fast", direction])


def error_of(answer: dict) -> str:
    assert answer["success"] is False, answer
    return answer["output"].get("error") or ""
