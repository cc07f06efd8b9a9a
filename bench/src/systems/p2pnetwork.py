"""One end of a link between two p2pnetwork nodes.

Arguments: listen WORKLOAD, or dial WORKLOAD PORT SIZE SECONDS. The listener prints its port. Both ends
print a report at the end, and run until their input ends.
"""
import contextlib
import io
import json
import os
import sys
import threading
import time

from p2pnetwork.node import Node

LAST = "last"
WARM_UP = 20


class End(Node):
    def __init__(self, on_message):
        # The package prints messages, but standard output is for reports.
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__("127.0.0.1", 0)
        self.on_message = on_message
        self.start()

    def node_message(self, peer, message):
        self.on_message(self, peer, message)


def report(line):
    sys.__stdout__.write(json.dumps(line) + "\n")
    sys.__stdout__.flush()


def numbered(index, size):
    """Returns a message with a number. It begins with a `#`, because digits alone would arrive as a number."""
    return ("#%08x" % index).ljust(size, ".")


class ReceiveCounter:
    def __init__(self):
        self.messages = self.disordered = 0
        self.first = self.elapsed = None
        self.done = threading.Event()

    def take(self, _node, _peer, message):
        now = time.monotonic()
        self.first = self.first or now
        if message == LAST:
            self.elapsed = now - self.first
            self.done.set()
            return
        self.disordered += int(message[1:9], 16) != self.messages
        self.messages += 1


def listen(workload):
    counter = ReceiveCounter()
    echo = lambda node, peer, message: node.send_to_node(peer, message)
    node = End(echo if workload == "latency" else counter.take)
    report(node.sock.getsockname()[1])
    if workload == "throughput":
        counter.done.wait()
        nanoseconds = int(counter.elapsed * 1e9)
        elapsed = {"secs": nanoseconds // 10**9, "nanos": nanoseconds % 10**9}
        counts = {"messages": counter.messages, "disordered": counter.disordered}
        report({**counts, "elapsed": elapsed})


def dial(workload, port, size, seconds):
    returned = threading.Event()
    node = End(lambda _node, _peer, _message: returned.set())
    if not node.connect_with_node("127.0.0.1", port):
        sys.exit("no connection")
    peer = node.nodes_outbound[0]
    # The other end registers the connection a moment later, and can't reply before that.
    time.sleep(0.2)
    if workload == "throughput":
        sent, started = 0, time.monotonic()
        while time.monotonic() - started < seconds:
            node.send_to_node(peer, numbered(sent, size))
            sent += 1
        node.send_to_node(peer, LAST)
        if peer.terminate_flag.is_set():
            sys.exit("the connection was lost")
        report(sent)
        return
    times, start = [], None
    while start is None or time.monotonic() - start < seconds:
        returned.clear()
        sent = time.perf_counter()
        node.send_to_node(peer, numbered(0, size))
        if not returned.wait(10):
            sys.exit("a message did not come back")
        times.append(time.perf_counter() - sent)
        if len(times) == WARM_UP:
            start = time.monotonic()
    report([int(t * 1e9) for t in times[WARM_UP:]])


def main():
    role, workload, *numbers = sys.argv[1:]
    if role == "listen":
        listen(workload)
    else:
        dial(workload, int(numbers[0]), int(numbers[1]), float(numbers[2]))
    sys.stdin.read()
    # Exits without cleaning up, because the threads of the package would take seconds to stop.
    os._exit(0)


main()
