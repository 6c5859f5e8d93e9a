"""As much of the Hub as an upload needs: repositories, branches and commits; the only accepted token is `good`."""

import base64
import json
from http.server import BaseHTTPRequestHandler


REPO = "user/tiny"
OLD, NEW = "a" * 40, "b" * 40  # commits


class HubHandler(BaseHTTPRequestHandler):
    """Collects uploads in `server.commits` as (path, message, files by name), and the paths of other requests in `server.other`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _, _, kind, *rest = self.path.split("/")
        if self.headers["Authorization"] != "Bearer good":
            return self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        if "preupload" in rest:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if "commit" in rest:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines[1:]}
            self.server.commits.append((self.path, lines[0]["value"]["summary"], files))
            return self.answer({"commitUrl": f"{self.server.url}/{REPO}/commit/{NEW}", "commitOid": NEW})
        if kind == "repos":
            return self.answer({"url": f"{self.server.url}/{REPO}"})
        self.server.other.append(self.path)
        self.answer({})

    def answer(self, content, status=200, headers=()):
        data = json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))} | dict(headers)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self):
        """Repositories are empty."""
        self.answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def log_message(self, *_):
        """Silent."""
