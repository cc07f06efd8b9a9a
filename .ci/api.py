"""Checks the local API of running nodes with schemathesis and with a generated client.

    api.py PROGRAM FOLDER

Starts nodes of PROGRAM on loopback, with their state in FOLDER. Needs schemathesis and
openapi-python-client beside the Python that runs this."""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 60
BIN = Path(sys.executable).parent
# All that make sense without a second user: the API has no objects that belong to one.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
]
# Requests for each operation, beside those that cover the schema.
EXAMPLES = 40
# Operations that stop the node, or cut it off from the other one.
EXCLUDED = ["exit", "ban"]


class Node:
    """A running node."""

    def __init__(self, program, folder, name, *arguments):
        self.state = folder / name
        self.downloads = folder / f"downloads of {name}"
        command = [program, "run", "--json", "--headless", "--listen", "127.0.0.1:0", "--name", name]
        command += ["--state", self.state, "--downloads", self.downloads, *arguments]
        with open(folder / f"{name}.log", "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
        started = json.loads(self.process.stdout.readline())
        self.id, self.address = started["node"], started["listen"][0]
        # Events are read and forgotten, so that the node does not wait for a reader.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        api = json.loads((self.state / "api.json").read_text(encoding="utf-8"))
        self.url, self.token = api["url"], api["token"]

    def request(self, method, path, body=None):
        """Sends one request; gives the fields of the answer."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def end(self):
        """Waits until the node has stopped cleanly."""
        assert self.process.wait(PATIENCE) == 0
        assert not (self.state / "api.json").exists()


def wait_until(what, check):
    """Waits until a check gives something, and gives that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := check()):
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)
    return found


def write(path, size):
    """Writes a file whose bytes are the same on every run."""
    path.write_bytes(hashlib.shake_256(path.name.encode()).digest(size))
    return path


def make_events(node, done):
    """Makes a node have an event every few milliseconds, so that each stream of events has one to read."""
    while not done.wait(0.02):
        try:
            # Nothing listens there, so the event is a failed dial.
            node.request("POST", "/api/v1/peers", {"address": "127.0.0.1:1"})
        except urllib.error.HTTPError:
            pass


def fuzz(folder, alice, bob):
    """schemathesis finds no answer that the document does not have."""
    song = write(folder / "song", 100_000)
    bob.request("POST", "/api/v1/shares", {"path": str(song)})
    alice.request("POST", "/api/v1/membership", {"addresses": [bob.address]})
    own = alice.request("POST", "/api/v1/shares", {"path": str(write(folder / "own", 1000))})
    hash_ = bob.request("GET", "/api/v1/shares")["files"][0]["hash"]
    alice.request("POST", "/api/v1/downloads", {"what": hash_})
    known = {
        "address": bob.address,
        "addresses": [bob.address],
        "download": hash_,
        "file": str(folder / "peers.json"),
        "member": "bob",
        "hash": own["files"][0]["hash"],
        "name": "up",
        "path": str(folder / "own"),
        "peer": "bob",
        "share": "own",
        "to": ["bob"],
        "value": "1M",
        "what": hash_,
    }
    environment = os.environ | {
        "PEERKIT_FOLDER": str(folder),
        "PEERKIT_KNOWN": json.dumps(known),
        "PYTHONPATH": str(Path(__file__).resolve().parent),
        "SCHEMATHESIS_HOOKS": "api_hooks",
    }
    settings = Path(__file__).resolve().parent / "schemathesis.toml"
    command = [BIN / "schemathesis", "--config-file", settings]
    command += ["run", alice.url + "/api/v1/openapi.json", "--no-color"]
    command += ["--header", f"Authorization: Bearer {alice.token}", "--checks", ",".join(CHECKS)]
    command += ["--max-examples", str(EXAMPLES), "--generation-deterministic", "--warnings", "off"]
    for operation in EXCLUDED:
        command += ["--exclude-operation-id", operation]
    done = threading.Event()
    events = threading.Thread(target=make_events, args=(alice, done), daemon=True)
    events.start()
    # In the folder, as it may write files where it runs.
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=2 * PATIENCE)
    done.set()
    events.join()
    assert alice.request("GET", "/api/v1/status")["status"]["id"] == alice.id


def generate(folder, document):
    """Generates the client, and gives its package."""
    (folder / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    # Without steps that make the code pretty. The generator knows only the text types that begin with text/.
    overrides = "content_type_overrides: {application/openmetrics-text: text/plain}"
    (folder / "generator.yml").write_text(f"post_hooks: []\n{overrides}\n", encoding="utf-8")
    command = [BIN / "openapi-python-client", "generate", "--path", folder / "openapi.json"]
    command += ["--config", folder / "generator.yml", "--meta", "none", "--fail-on-warning"]
    command += ["--output-path", folder / "peerkit_client"]
    subprocess.run(command, cwd=folder, check=True, timeout=PATIENCE)
    sys.path.insert(0, str(folder))
    return importlib.import_module("peerkit_client")


class Client:
    """The generated client of one node. Its methods are the commands."""

    called = set()

    def __init__(self, package, node):
        self.package = package.__name__
        self.client = package.AuthenticatedClient(
            base_url=node.url, token=node.token, raise_on_unexpected_status=True, timeout=PATIENCE
        )

    def answer(self, command, *path, **arguments):
        """Has the node carry out a command; gives the answer, which may be a problem. Arguments that
        are not in the path or the query are the body, if the command takes one."""
        self.called.add(command)
        name = command + "_" if command in ("exit", "map", "set") else command
        module = importlib.import_module(f"{self.package}.api.default.{name}")
        try:
            body = importlib.import_module(f"{self.package}.models.{command}_body")
        except ModuleNotFoundError:
            return module.sync(*path, client=self.client, **arguments)
        body = getattr(body, f"{command.title()}Body")
        return module.sync(*path, client=self.client, body=body.from_dict(arguments))

    def __getattr__(self, command):
        def run(*path, **arguments):
            answer = self.answer(command, *path, **arguments)
            assert type(answer).__name__ != "Problem", (command, answer)
            return answer

        return run

    def follow(self, method, path, body=None):
        """Sends a request whose answer is a stream of events; gives their names and data."""
        http, headers = self.client.get_httpx_client(), {"Accept": "text/event-stream"}
        with http.stream(method, path, json=body, headers=headers) as answer:
            name = None
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))

    def fails(self, status, command, *path, **arguments):
        """Checks that a command is refused with a problem of this status."""
        answer = self.answer(command, *path, **arguments)
        assert type(answer).__name__ == "Problem" and answer.status == status, (command, answer)
        return answer.detail


def names(entries):
    return sorted(entry.name for entry in entries)


def setting(client, name):
    return next(setting for setting in client.config().config if setting.name == name)


def links_and_messages(alice, bob, node, other):
    """connect, disconnect, join, peers, send, msg, broadcast, ping, events, ban, bans, unban"""
    assert alice.connect(address=other.address).peer.name == "bob"
    assert [ban.id for ban in alice.ban(peer="bob", **{"for": "1h"}).bans] == [other.id]
    wait_until("bob has no link", lambda: not bob.peers().peers)
    assert alice.bans().bans[0].until > time.time() * 1000
    assert [ban.id for ban in alice.unban(other.id).bans] == [other.id]
    assert alice.bans().bans == []
    assert alice.fails(404, "unban", other.id)
    assert alice.fails(400, "ban", peer="bob", **{"for": "soon"})
    assert alice.connect(address=other.address).peer.name == "bob"
    assert names(alice.peers().peers) == ["bob"]
    assert alice.disconnect("bob").peer.id == other.id
    wait_until("bob has no link", lambda: not bob.peers().peers)
    assert names(alice.join(addresses=[other.address]).peers) == ["bob"]
    peers = wait_until("bob has a link", lambda: bob.peers(limit=1, offset=0)).peers
    assert [peer.id for peer in peers] == [node.id], peers
    assert alice.send("bob", text="to one").peer.id == other.id
    assert alice.msg(text="to all").sent_to == 1
    broadcast = alice.broadcast(text="to the network", title="news")
    assert broadcast.links == 1

    def arrived():
        data = [event.to_dict().get("data") for event in bob.events().events]
        titles = [entry["id"] for entry in data if isinstance(entry, dict) and "title" in entry]
        return {"to one", "to all"} <= {text for text in data if isinstance(text, str)} and (
            broadcast.id in titles
        )

    wait_until("the messages have arrived", arrived)
    assert len(bob.events(limit=1).events) == 1
    read = []

    # The generated function would wait for the end of the stream.
    Client.called.add("event_stream")

    def read_stream():
        stream = bob.follow("GET", "/api/v1/events")
        read.append(next(data for name, data in stream if name == "node_message"))

    reader = threading.Thread(target=read_stream, daemon=True)
    reader.start()
    deadline = time.monotonic() + PATIENCE
    while reader.is_alive():
        assert time.monotonic() < deadline, "the stream has no message"
        alice.msg(text="again")
        reader.join(0.1)
    assert read[0]["data"] == "again", read
    assert bob.ping(peer="alice").pings[0].rtt_ms > 0
    assert len(bob.ping().pings) == 1
    assert alice.fails(404, "send", "nobody", text="hi")
    assert alice.fails(400, "msg", text="") == "`text` is empty"


def files(alice, bob, folder):
    """add, files, search, get with its progress, downloads, pause, resume, cancel, refresh, remove"""
    size = 4_000_000
    song = write(folder / "a song", size)
    added = bob.add(path=str(song)).files[0]
    assert (added.name, added.size) == ("a song", size)
    assert [share.hash_ for share in bob.files().files] == [added.hash_]
    assert bob.files(limit=1, offset=1).files == []
    found = alice.search(text="song").files
    assert [file.hash_ for file in found] == [added.hash_]

    bob.set(name="up", value="400k")
    alice.get(what=added.hash_)

    def download():
        downloads = [one for one in alice.downloads().downloads if one.hash_ == added.hash_]
        return downloads[0] if downloads else None

    wait_until("a part is there", lambda: download().done > 0)
    assert download().state == "fetching", download()
    assert alice.pause(added.hash_).download.state == "paused"
    part = download().done
    assert part < size
    assert alice.resume(added.hash_).download.state != "paused"
    wait_until("more is there", lambda: download().done > part)
    alice.cancel(added.hash_)
    bob.set(name="up", value="0")
    body = {"what": added.hash_, "path": str(folder / "fetched song")}
    *reports, (last, result) = alice.follow("POST", "/api/v1/downloads", body)
    assert last == "result" and result["fields"]["bytes"] == size, (last, result)
    assert reports and {name for name, _ in reports} == {"progress"}, reports
    assert download().state == "done", download()
    assert (folder / "fetched song").read_bytes() == song.read_bytes()
    assert alice.fails(400, "get", what=added.hash_, path="relative")

    bob.refresh()
    assert names(bob.remove(added.hash_).files) == ["a song"]
    assert bob.files().files == []


def network(alice, bob, node, other):
    """discover, size, network, map, status, doctor"""
    found = wait_until(
        "both are found", lambda: (seen := alice.discover()).size == 2 and seen.links == 1 and seen
    )
    assert names(found.nodes) == ["alice", "bob"]
    assert len(alice.discover(limit=1, offset=1).nodes) == 1
    assert names(alice.discover(depth=1).nodes) == ["alice", "bob"]
    assert alice.size().size == 2
    assert alice.network().network.nodes == 2
    drawn = alice.map().map_
    assert {vertex.id for vertex in drawn.nodes} == {node.id, other.id}
    formats = importlib.import_module(f"{alice.package}.models.map_format").MapFormat
    assert alice.map(format_=formats.SVG).document.startswith("<svg")
    assert bob.status().status.name == "bob"
    way = alice.doctor(address="bob")
    assert all(check.ok for check in way.checks), way
    assert bob.doctor().verdict


def observation(alice, node):
    """the OpenAPI document, the metrics and the health checks"""
    assert alice.openapi().to_dict() == node.request("GET", "/api/v1/openapi.json")
    assert alice.metrics().endswith("# EOF\n")
    assert alice.healthz() == "ok\n"
    assert alice.readyz() == "ok\n"


def settings(alice, folder):
    """save, load, config, set, debug"""
    path = str(folder / "peers.json")
    assert names(alice.save(file=path).peers) == ["bob"]
    assert names(alice.load(file=path).peers) == ["bob"]
    alice.set(name="max-inbound", value="5")
    assert (setting(alice, "max-inbound").value, setting(alice, "max-inbound").origin) == (5, "set")
    alice.set(name="log", value="error")
    assert setting(alice, "log").value == "error"
    alice.set(name="downloads", value=str(folder / "other"))
    assert alice.debug(switch="on").debug
    assert not alice.debug(switch="off").debug
    assert alice.fails(400, "set", name="colour", value="blue")


def everything(folder, alice_node, bob_node):
    """The generated client does all that the prompt can."""
    document = alice_node.request("GET", "/api/v1/openapi.json")
    package = generate(folder, document)
    alice, bob = Client(package, alice_node), Client(package, bob_node)
    links_and_messages(alice, bob, alice_node, bob_node)
    files(alice, bob, folder)
    network(alice, bob, alice_node, bob_node)
    observation(alice, alice_node)
    settings(alice, folder)
    assert alice.fails(422, "shutdown")
    # The network takes everyone.
    assert alice.fails(422, "members")
    assert alice.fails(422, "invite", uses=2)
    assert alice.fails(422, "revoke", alice_node.id)
    assert names(alice.leave().peers) == ["bob"]
    alice.exit()
    bob.exit()
    alice_node.end()
    bob_node.end()
    operations = {
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
    }
    assert Client.called == operations, Client.called ^ operations
    return len(operations)


def main():
    program, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    nodes = []

    def start(place, name, *arguments):
        (folder / place).mkdir(exist_ok=True)
        nodes.append(Node(program, folder / place, name, *arguments))
        return nodes[-1]

    try:
        fuzz(folder / "fuzz", start("fuzz", "alice"), start("fuzz", "bob"))
        count = everything(folder / "client", start("client", "alice"), start("client", "bob"))
    except BaseException:
        for log in folder.glob("*/*.log"):
            print(f"- {log}", log.read_text(errors="replace")[-4000:], sep="\n", file=sys.stderr)
        raise
    finally:
        for node in nodes:
            node.process.kill()
            node.process.wait()
    print(f"schemathesis found nothing, and a generated client used {count} operations")


main()
