"""A W&B server on loopback for tests: what wandb-core sends is kept, and can be refused, delayed or cut off.

It speaks the part of the protocol that runs, files and artifacts need. It is stricter than it must be where the real
server is known to be: history is only appended to, and the id of a deleted run is refused for ever.
"""

import base64
import gzip
import hashlib
import http.server
import json
import re
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KEY = "0123456789abcdef" * 2 + "01234567"
"""An API key of the form that wandb accepts."""
ENTITY = "lab"


@dataclass
class Run:
    """A run as the server knows it."""

    name: str
    project: str
    fields: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    exit_code: int | None = None
    preempting: bool = False
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows, by their place."""
        rows = self.streams["wandb-history.jsonl"]
        return [json.loads(rows[place]) for place in sorted(rows)]

    @property
    def summary(self) -> dict[str, Any]:
        """The newest summary."""
        versions = self.streams["wandb-summary.json"]
        return json.loads(versions[max(versions)]) if versions else {}

    @property
    def config(self) -> dict[str, Any]:
        """The configuration without what wandb says of itself."""
        entries = json.loads(self.fields.get("config") or "{}")
        return {key: entry["value"] for key, entry in entries.items() if key != "_wandb"}


@dataclass
class Artifact:
    """One version of an artifact."""

    id: str
    collection: str
    type: str
    digest: str
    version: int
    run: str
    client_id: str
    metadata: dict[str, Any]
    aliases: set[str]
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)


class WandbServer:
    """Serves on a free port of 127.0.0.1 while entered.

    Attributes:
        runs: Runs by id.
        artifacts: Artifact versions that were not deleted.
        operations: Names of all calls, in order.
        unknown: Calls that nothing here answers.
        refused: Operation or ``file_stream`` to the reason that it is refused with.
        delay: Seconds before every answer.
        deleted: Ids of deleted runs.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self.operations: list[str] = []
        self.unknown: list[str] = []
        self.refused: dict[str, str] = {}
        self.delay = 0.0
        self.deleted: set[str] = set()
        self._manifests: dict[str, dict[str, bytes]] = defaultdict(dict)
        self._num_artifacts = 0
        self._lock = threading.RLock()
        self._port = 0
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        outer = self
        self._stopped = False

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                outer._answer(self)

            do_GET = do_POST = do_PUT = do_HEAD = handle_any  # noqa: N815  as http.server calls them

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128  # wandb-core opens dozens of connections at once; Linux resets what overflows 5

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that is killed hangs up

        self._http = Server(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and hang up on those that are open."""
        self._stopped = True
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> "WandbServer":
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def aliases(self) -> dict[str, str]:
        """The collection and alias of every committed version, to its metadata's checkpoint name."""
        return {
            f"{artifact.collection}:{alias}": ", ".join(artifact.files)
            for artifact in self.artifacts
            if artifact.state == "COMMITTED"
            for alias in artifact.aliases
        }

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        path = urllib.parse.unquote(urllib.parse.urlparse(request.path).path)
        if request.headers.get("content-encoding") == "gzip" and not path.startswith("/storage/"):
            body = gzip.decompress(body)
        time.sleep(self.delay)
        if self._stopped:
            request.close_connection = True
            return
        answer: dict[str, Any] | bytes
        with self._lock:
            if path.endswith("/graphql"):
                status, answer = self._graphql(json.loads(body))
            elif path.endswith("/file_stream"):
                status, answer = self._file_stream(path.split("/")[-2], json.loads(body))
            elif path.startswith("/storage/"):
                status, answer = self._storage(request.command, path.removeprefix("/storage/"), body)
            elif path.startswith("/sdk/otel/"):
                status, answer = 200, {}  # telemetry
            else:
                self.unknown.append(f"{request.command} {path}")
                status, answer = 404, {"error": "no such path"}
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("Content-Type", "application/json")
        request.end_headers()
        request.wfile.write(content)

    def _graphql(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        named = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        operation = request.get("operationName") or (named.group(1) if named else "")
        self.operations.append(operation)
        if operation in self.refused:
            return 403, {"errors": [{"message": self.refused[operation]}], "data": None}
        handler: Callable[[dict[str, Any]], Any] | None = getattr(self, f"_op_{operation.lower()}", None)
        if handler is None:
            self.unknown.append(operation)
            return 200, {"errors": [{"message": f"{operation}: unknown operation"}], "data": None}
        try:
            return 200, {"data": handler(request.get("variables") or {})}
        except RefusalError as refusal:
            return refusal.status, {"errors": [{"message": str(refusal)}], "data": None}
        except Exception as error:  # an HTTP error would be retried without end
            self.unknown.append(f"{operation}: {error!r}")
            return 200, {"errors": [{"message": repr(error)}], "data": None}

    def _file_stream(self, run_id: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.operations.append("file_stream")
        if "file_stream" in self.refused:
            return 400, {"error": self.refused["file_stream"]}
        run = self.runs[run_id]
        for name, part in (message.get("files") or {}).items():
            stream = run.streams[name]
            for place, line in enumerate(part.get("content") or [], part.get("offset") or 0):
                if name == "wandb-history.jsonl" and place < len(stream) and stream[place] != line:
                    self.unknown.append(f"file_stream: row {place} of {run_id} would be overwritten")
                stream[place] = line
        run.preempting |= bool(message.get("preempting"))
        if message.get("complete"):
            run.exit_code = message.get("exitcode")
        return 200, {"exitcode": None, "limits": {}}

    def _storage(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        kind, owner, name = path.split("/", 2)
        self.operations.append(f"{method} {kind}")
        artifact = next((artifact for artifact in self.artifacts if artifact.id == owner), None)
        files = self.runs[owner].files if kind == "runs" else artifact.files if artifact else {}
        if kind == "manifests":
            files = self._manifests[owner]
        if method == "PUT":
            files[name] = body
            return 200, b""
        return (200, files[name]) if name in files else (404, b"")

    # ------------------------------------------------------------------------------------------------ runs
    def _op_viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "u1", "entity": ENTITY, "username": "someone", "email": "someone@localhost", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}}}

    def _op_getdefaultentity(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u1", "entity": ENTITY}}

    def _op_serverfeaturesquery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _op_organizationcoreweaveorganizationid(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _op_runresumestatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        owner = {"id": "e1", "name": ENTITY}
        bucket = self._bucket(run) if run else None
        return {"model": {"id": "p1", "name": variables["project"], "entity": owner, "bucket": bucket}}

    def _op_upsertbucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"] or variables["id"]
        if name in self.deleted:
            raise RefusalError(409, f"run {name} was previously created and deleted; try a new run name")
        new = name not in self.runs
        run = self.runs.setdefault(name, Run(name, variables.get("project") or "uncategorized"))
        run.exit_code = None
        run.fields |= {key: value for key, value in variables.items() if value is not None}
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": new}}

    def _bucket(self, run: Run) -> dict[str, Any]:
        lines = {name: run.streams[name] for name in ("wandb-history.jsonl", "wandb-events.jsonl", "output.log")}
        counts = {name: len(stream) for name, stream in lines.items()}
        tails = {name: json.dumps([stream[max(stream)]] if stream else []) for name, stream in lines.items()}
        return {
            "id": f"run:{run.name}",
            "name": run.name,
            "displayName": run.fields.get("displayName") or run.name,
            "description": None,
            "notes": run.fields.get("notes"),
            "tags": run.fields.get("tags") or [],
            "config": run.fields.get("config") or "{}",
            "sweepName": None,
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": counts["wandb-history.jsonl"],
            "eventsLineCount": counts["wandb-events.jsonl"],
            "logLineCount": counts["output.log"],
            "historyTail": tails["wandb-history.jsonl"],
            "eventsTail": tails["wandb-events.jsonl"],
            "wandbConfig": "{}",
            "project": {"id": "p1", "name": run.project, "entity": {"id": "e1", "name": ENTITY}},
        }

    def _op_createrunfiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        run, quote = variables["run"], urllib.parse.quote
        files = [
            {"name": name, "uploadUrl": f"{self.url}/storage/runs/{run}/{quote(name)}"} for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": f"run:{run}", "uploadHeaders": [], "files": files}}

    def _op_runstoppedstatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"stopped": False}}}

    # ------------------------------------------------------------------------------------------------ artifacts
    def _op_artifacttype(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _op_fetchartifactdigestalgorithm(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifactType": None}}

    def _op_xxhashdigestsenabled(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"xxhashDigestsEnabled": False}}

    def _op_createartifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        asked = variables["input"]
        name = asked.get("artifactCollectionName") or asked["artifactCollectionNames"][0]
        versions = [artifact for artifact in self.artifacts if artifact.collection == name]
        aliases = {entry["alias"] for entry in asked.get("aliases") or []}
        artifact = next((version for version in versions if version.digest == asked["digest"]), None)
        for version in versions:
            version.aliases -= aliases
        if artifact is None:
            number = self._num_artifacts
            self._num_artifacts += 1
            artifact = Artifact(
                id=base64.urlsafe_b64encode(f"artifact-{number}".encode()).decode().rstrip("="),
                collection=name,
                type=asked["artifactTypeName"],
                digest=asked["digest"],
                version=number,
                run=asked.get("runName") or "",
                client_id=asked.get("clientID") or "",
                metadata=json.loads(asked.get("metadata") or "{}"),
                aliases=set(),
            )
            self.artifacts.append(artifact)
        artifact.aliases |= aliases
        latest = {"latestArtifact": {"id": versions[-1].id} if versions else None}
        return {
            "createArtifact": {"artifact": {"id": artifact.id, "state": artifact.state, "artifactSequence": latest}}
        }

    def _manifest(self, artifact_id: str) -> dict[str, Any]:
        url = f"{self.url}/storage/manifests/{artifact_id}/manifest.json"
        return {"id": f"m-{artifact_id}", "file": {"id": f"f-{artifact_id}", "uploadUrl": url, "uploadHeaders": []}}

    def _op_fetchartifactmanifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/storage/manifests/{variables['id']}/manifest.json"
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def _op_createartifactmanifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(variables["artifactID"])}}

    def _op_updateartifactmanifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact_id = variables["artifactManifestID"].removeprefix("m-")
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(artifact_id)}}

    def _op_createartifactfiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for spec in variables["input"]["artifactFiles"]:
            owner = spec["artifactID"]
            url = f"{self.url}/storage/artifacts/{owner}/{urllib.parse.quote(spec['name'])}"
            node = {"storagePath": f"{owner}/{spec['name']}", "uploadUrl": url, "uploadHeaders": []}
            edges.append({"node": node | {"uploadMultipartUrls": None, "artifact": {"id": owner}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _op_commitartifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = self._by_id(variables["artifactID"])
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _op_deleteartifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = self._by_id(variables["input"]["artifactID"])
        if artifact.aliases and not variables["input"].get("deleteAliases"):
            raise RefusalError(400, "artifact has aliases")
        self.artifacts.remove(artifact)
        return {"result": {"artifact": {"id": artifact.id}}}

    def _op_artifactbyid(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"artifact": self._artifact(self._by_id(variables["id"]))}

    def _op_projectartifacts(self, variables: dict[str, Any]) -> dict[str, Any]:
        versions = [a for a in self.artifacts if a.collection == variables["collection"]]
        edges = [{"version": f"v{version.version}", "node": self._artifact(version)} for version in versions]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        found = {"totalCount": len(edges), "pageInfo": page, "edges": edges}
        return {
            "project": {"artifactType": {"artifactCollection": {"__typename": "ArtifactSequence", "artifacts": found}}}
        }

    def _op_artifactmembershipbyname(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = self._named(*variables["name"].split(":"))
        membership = self._membership(artifact) if artifact else None
        return {"project": {"artifactCollectionMembership": membership}}

    def _op_getartifactmembershipfileurls(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = self._named(variables["collection"], variables["alias"])
        url = f"{self.url}/storage/artifacts/{artifact.id}" if artifact else ""
        names = artifact.files if artifact else {}
        edges = [{"node": {"__typename": "File", "name": name, "directUrl": f"{url}/{name}"}} for name in names]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        files = {"artifactMembership": {"files": {"pageInfo": page, "edges": edges}}}
        return {"project": {"artifactCollection": {"__typename": "ArtifactSequence", **files}}}

    def _named(self, collection: str, alias: str) -> Artifact | None:
        versions = [artifact for artifact in self.artifacts if artifact.collection == collection]
        return next((a for a in versions if alias in a.aliases or alias == f"v{a.version}"), None)

    def _membership(self, artifact: Artifact) -> dict[str, Any]:
        whole = self._artifact(artifact)
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": f"membership-{artifact.id}",
            "versionIndex": artifact.version,
            "createdAt": "2026-01-01T00:00:00Z",
            "aliases": whole["aliases"],
            "artifactCollection": whole["artifactSequence"],
            "artifact": whole,
        }

    def _artifact(self, artifact: Artifact) -> dict[str, Any]:
        project = {"id": "p1", "internalId": "p1", "name": self.runs[artifact.run].project, "entity": {"name": ENTITY}}
        collection = {"__typename": "ArtifactSequence", "name": artifact.collection, "project": project}
        aliases = [
            {
                "__typename": "ArtifactAlias",
                "id": f"{artifact.id}-{alias}",
                "alias": alias,
                "artifactCollection": collection,
            }
            for alias in sorted(artifact.aliases)
        ]
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": collection,
            "versionIndex": artifact.version,
            "artifactType": {"name": artifact.type},
            "description": None,
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": -1,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": artifact.state,
            "size": sum(map(len, artifact.files.values())),
            "digest": artifact.digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": "0" * 20,
            "fileCount": len(artifact.files),
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "aliases": aliases,
        }

    def _by_id(self, artifact_id: str) -> Artifact:
        return next(artifact for artifact in self.artifacts if artifact.id == artifact_id)

    def digest_of(self, name: str) -> str:
        """The MD5 of a file that an artifact of this run has, base64."""
        content = next(a.files[name] for a in self.artifacts if name in a.files)
        return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


class RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
