"""A ClearML API server in one process, which takes only what the `clearml` package itself says of its API.

Every request and every answer is checked against the JSON schema of the package's own request and response classes;
a field that no schema knows is a fault as well. As the real server does, an event of the same task, metric, variant
and iteration replaces the first, and events that are not taken are counted in the answer. `GET /told` shows what it
was told. Started by tests/suites/clearml.rs as `server.py PORT`.
"""

import base64
import copy
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any, Dict, List, Tuple

from clearml.backend_api.services.v2_23 import auth, events, projects, tasks
from jsonschema import Draft7Validator

SERVICES = {"auth": auth, "events": events, "projects": projects, "tasks": tasks}
KEY, SECRET, TOKEN = "KEY", "s3cret", "a-token"


class Fault(Exception):
    """A request that ClearML would refuse."""


def strict(schema: Any) -> Any:
    """The same schema, in which objects have no other fields than those that it knows."""
    if isinstance(schema, dict):
        schema = {key: strict(value) for key, value in schema.items()}
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    elif isinstance(schema, list):
        schema = [strict(value) for value in schema]
    return schema


def schema_of(path: str, kind: str) -> Dict[str, Any]:
    """Of the class that the package has for a call: `tasks.edit_hyper_params` is `EditHyperParamsRequest`."""
    service, action = path.split(".")
    name = "".join(word.capitalize() for word in action.split("_")) + kind
    found = getattr(SERVICES.get(service), name, None)
    if found is None:
        raise Fault(f"{path}: the package knows no such call")
    if (found._service, found._action) != (service, action):
        raise Fault(f"{path}: {name} is another call")
    return strict(copy.deepcopy(found._schema))


def check(what: str, schema: Dict[str, Any], value: Any) -> None:
    """Raises what is wrong."""
    problems = [f"{error.json_path}: {error.message}" for error in Draft7Validator(schema).iter_errors(value)]
    if problems:
        raise Fault(f"{what}: {'; '.join(problems)[:500]}")


class Told:
    """What it was told."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.calls: List[str] = []
        self.faults: List[str] = []
        self.projects: List[str] = []
        self.tasks: Dict[str, Dict[str, Any]] = {}

    def task(self, body: Dict[str, Any]) -> Dict[str, Any]:
        try:
            return self.tasks[body["task"]]
        except KeyError:
            raise Fault("Invalid task id") from None

    def carry_out(self, path: str, body: Dict[str, Any]) -> Dict[str, Any]:
        """The call's effect, and the data of its answer."""
        if path == "projects.get_all":
            # The name is a regular expression, as in the real server.
            found = [(f"p{n}", name) for n, name in enumerate(self.projects, 1) if re.search(body["name"], name)]
            return {"projects": [{"id": key, "name": name} for key, name in found]}
        if path == "projects.create":
            self.projects.append(body["name"])
            return {"id": f"p{len(self.projects)}"}
        if path == "tasks.get_all":
            wanted = set(body.get("tags", []))
            found = [{"id": key} for key, task in self.tasks.items() if wanted <= set(task["tags"])]
            return {"tasks": found}
        if path == "tasks.create":
            key = f"t{len(self.tasks) + 1}"
            self.tasks[key] = {**body, "status": "created", "params": {}, "artifacts": {}, "events": {}}
            return {"id": key}
        task = self.task(body)
        if path == "tasks.edit_hyper_params":
            for item in body["hyperparams"]:
                if "." in item["name"]:
                    raise Fault(f"{item['name']}: a path in the database")
                task["params"][f"{item['section']}/{item['name']}"] = item["value"]
            return {"updated": 1}
        if path == "tasks.add_or_update_artifacts":
            task["artifacts"].update({artifact["key"]: artifact["uri"] for artifact in body["artifacts"]})
            return {"updated": 1}
        task["status"] = path.split(".")[1]
        task["status_message"] = body.get("status_message", "")
        return {"updated": 1}

    def add_batch(self, lines: str) -> Dict[str, Any]:
        """Events line by line: some may be taken and others not."""
        added, errors = 0, 0
        for line in lines.splitlines():
            event = json.loads(line)
            check("event", strict(copy.deepcopy(events.MetricsScalarEvent._schema)), event)
            check("event", events.AddRequest._schema, event)
            if event["variant"] == "refused":
                errors += 1
                continue
            key = f"{event['metric']}/{event['variant']}"
            self.task(event)["events"].setdefault(key, {})[event["iter"]] = event["value"]
            added += 1
        info = {"Invalid event type": errors} if errors else {}
        if not added:
            raise Fault(f"Events not added: {info}")
        return {"added": added, "errors": errors, "errors_info": info}


TOLD = Told()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:  # noqa: N802
        with TOLD.lock:
            state = {"calls": TOLD.calls, "faults": TOLD.faults, "projects": TOLD.projects, "tasks": TOLD.tasks}
            self.say(200, state)

    def do_POST(self) -> None:  # noqa: N802
        path = self.path.lstrip("/")
        text = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        with TOLD.lock:
            code, message, data = self.answer(path, text)
        meta = {
            "id": "c0ffee", "trx": "c0ffee", "endpoint": {"name": path, "requested_version": "2.23"},
            "result_code": code, "result_subcode": 0, "result_msg": message, "error_stack": "", "error_data": {},
        }
        self.say(code, {"meta": meta, "data": data})

    def answer(self, path: str, text: str) -> Tuple[int, str, Dict[str, Any]]:
        """Code, message and data."""
        authorisation = self.headers.get("authorization", "")
        TOLD.calls.append(path)
        try:
            if path == "auth.login":
                right = base64.b64encode(f"{KEY}:{SECRET}".encode()).decode()
                if authorisation != f"Basic {right}":
                    return 401, "Unauthorized (invalid credentials)", {}
                check(path, schema_of(path, "Request"), json.loads(text))
                return 200, "OK", {"token": TOKEN}
            if authorisation != f"Bearer {TOKEN}":
                return 401, "Unauthorized (invalid token)", {}
            if path == "events.add_batch":
                if self.headers.get("content-type") != "application/json-lines":
                    raise Fault("events.add_batch: not json-lines")
                data = TOLD.add_batch(text)
            else:
                body = json.loads(text)
                check(path, schema_of(path, "Request"), body)
                data = TOLD.carry_out(path, body)
            check(f"{path}: the answer", schema_of(path, "Response"), data)
            return 200, "OK", data
        except Fault as fault:
            TOLD.faults.append(str(fault))
            return 400, f"Validation error ({fault})", {}

    def say(self, code: int, value: Any) -> None:
        """Answers with JSON."""
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
