"""Checks that NetworkX and Graphviz load what `map` writes, and that `network` measures the same.

    map.py PROGRAM FOLDER

Starts nodes of PROGRAM on loopback, links them in a known way and compares. One of them is held, so
that it does not answer. Needs networkx and `dot`. FOLDER is emptied first and keeps the maps."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import networkx

NAMES = ["alice", "bob", "carol", 'a<b>&amp;"c"\\N ]]>', "数据 é", "e\x1b\uffff", "frank", "grace"]
# The dials. Frank is linked only to Bob, and Grace, whose process is stopped, only to Frank.
LINKS = [(1, 0), (2, 0), (2, 1), (3, 1), (4, 0), (4, 2), (4, 3), (5, 2), (5, 4), (6, 1), (7, 6)]
HELD = 7
# The node that writes each map. They write at the same time, as each waits for the stopped node.
WRITERS = {"svg": 0, "dot": 1, "graphml": 2, "json": 3}
MEASURER = 4
PATIENCE = 60
SVG = "{http://www.w3.org/2000/svg}"


class Node:
    """A running node."""

    def __init__(self, program, folder, index, dials):
        command = [program, "run", "--json", "--manual", "--listen", "127.0.0.1:0"]
        command += ["--state", folder / f"state-{index}", "--name", NAMES[index], *dials]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        started = json.loads(self.process.stdout.readline())
        self.id, self.address = started["node"], started["listen"][0]

    def ask(self, command):
        """Writes a command and does not wait for it."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def result(self):
        """The next result, which has to be good."""
        for line in self.process.stdout:
            line = json.loads(line)
            if "result" in line:
                assert line["ok"], line
                return line
        raise AssertionError("the node has ended before it was done")

    def run(self, command):
        """Carries out a command; gives its result."""
        self.ask(command)
        return self.result()

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        self.run("exit")
        assert self.process.wait(PATIENCE) == 0


def start(program, folder, nodes):
    """Starts the nodes into a list, which has those that run even if one does not start."""
    for index in range(len(NAMES)):
        dials = [nodes[to].address for frm, to in LINKS if frm == index]
        nodes.append(Node(program, folder, index, dials))
    deadline = time.monotonic() + PATIENCE
    while True:
        found = nodes[0].run("discover")
        if (found["size"], found["links"]) == (len(NAMES), len(LINKS)):
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def hold(process):
    """Stops a process, and waits until all its threads have stopped: on a busy machine that takes a
    moment, in which it would still answer."""
    process.send_signal(signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status


def plain(name):
    """A name as XML can hold it."""
    return name.replace("\x1b", "\\u{1b}").replace("\uffff", "\\u{ffff}")


def check_graphml_and_json(nodes, folder):
    """NetworkX reads both, and finds in them what there is."""
    edges = {(nodes[frm].id, nodes[to].id) for frm, to in LINKS}
    graphml = networkx.read_graphml(folder / "map.graphml")
    data = json.loads((folder / "map.json").read_text(encoding="utf-8"))
    read = networkx.node_link_graph(data, source="from", target="to", edges="edges")
    for form, graph in ("graphml", graphml), ("json", read):
        assert type(graph) is networkx.DiGraph, type(graph)
        assert set(graph.edges) == edges, graph.edges
        assert graph.graph["network"] == "peerkit", graph.graph
        assert set(graph) == {node.id for node in nodes}
        for index, node in enumerate(nodes):
            told = graph.nodes[node.id]
            assert told["is_self"] is (index == WRITERS[form]), told
            assert told["answered"] is (index != HELD), told
            assert told["address"] == node.address, told
    for index, node in enumerate(nodes[:HELD]):
        assert read.nodes[node.id]["name"] == NAMES[index], read.nodes[node.id]
        assert graphml.nodes[node.id]["name"] == plain(NAMES[index]), graphml.nodes[node.id]
    return read


def check_measures(told, graph):
    """`network` has the figures that NetworkX has."""
    graph = networkx.Graph(graph)
    degrees = [degree for _, degree in graph.degree]
    assert told["nodes"] == len(graph) and told["links"] == graph.size(), told
    assert told["components"] == networkx.number_connected_components(graph), told
    assert told["diameter"] == networkx.diameter(graph) and told["diameter_exact"], told
    assert told["cut_nodes"] == sorted(networkx.articulation_points(graph)), told
    histogram = {str(degree): degrees.count(degree) for degree in set(degrees)}
    assert told["degree"]["histogram"] == histogram, told
    assert (told["degree"]["min"], told["degree"]["max"]) == (min(degrees), max(degrees)), told


def check_dot(nodes, folder):
    """Graphviz reads it without a complaint, and finds in it what there is."""
    command = ["dot", "-Tjson", folder / "map.dot"]
    dot = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
    assert not dot.stderr, dot.stderr
    drawn = json.loads(dot.stdout)
    objects = drawn["objects"]
    ids = {node["_gvid"]: node["name"] for node in objects}
    edges = {(ids[edge["tail"]], ids[edge["head"]]) for edge in drawn["edges"]}
    assert edges == {(nodes[frm].id, nodes[to].id) for frm, to in LINKS}, edges
    styles = {node["name"]: node.get("style") for node in objects}
    expected = {node.id: None for node in nodes}
    expected |= {nodes[WRITERS["dot"]].id: "filled", nodes[HELD].id: "dashed"}
    assert styles == expected, styles
    # The letters that are drawn form the name.
    command = ["dot", "-Tsvg", folder / "map.dot"]
    drawn = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True).stdout
    texts = [text.text for text in ElementTree.fromstring(drawn).iter(SVG + "text")]
    for node, name in list(zip(nodes, NAMES))[:HELD]:
        assert f"{plain(name)} ({node.id[:8]})" in texts, (name, texts)


def check_svg(nodes, folder):
    """The picture is XML, and has each node, each link and each name."""
    svg = ElementTree.parse(folder / "map.svg").getroot()
    groups = {group.get("id"): group for group in svg.iter(SVG + "g")}
    assert len(groups["links"].findall(SVG + "path")) == len(LINKS)
    tips = [circle.findtext(SVG + "title") for circle in groups["nodes"].findall(SVG + "circle")]
    assert len(tips) == len(nodes), tips
    for node in nodes:
        assert sum(node.id[:8] in tip for tip in tips) == 1, tips
    marked = [tip for tip in tips if "this node" in tip]
    assert len(marked) == 1 and nodes[WRITERS["svg"]].id[:8] in marked[0], marked
    texts = [text.text for text in groups["names"].iter(SVG + "text")]
    for name in NAMES[:HELD]:
        assert plain(name) in texts, (name, texts)
    assert nodes[HELD].id[:8] in texts, texts


def main():
    program, folder = sys.argv[1], Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    nodes = []
    try:
        start(program, folder, nodes)
        hold(nodes[HELD].process)
        for form, index in WRITERS.items():
            nodes[index].ask(f"map {folder / 'map'}.{form}")
        nodes[MEASURER].ask("network")
        for index in WRITERS.values():
            nodes[index].result()
        told = nodes[MEASURER].result()["network"]
        check_measures(told, check_graphml_and_json(nodes, folder))
        check_dot(nodes, folder)
        check_svg(nodes, folder)
        for node in nodes:
            node.end()
    finally:
        for node in nodes:
            node.process.kill()
    print(f"{len(nodes)} nodes and {len(LINKS)} links: loaded and measured alike")


main()
