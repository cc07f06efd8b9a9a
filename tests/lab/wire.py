#!/usr/bin/env python3
"""A switch that delays and loses packets, for kernels without netem.

    wire.py DELAY_MS LOSS_PERCENT INTERFACE...

Joins interfaces of its network namespace, as a bridge does. Each packet arrives DELAY_MS later, or with a
chance of LOSS_PERCENT not at all. Prints `ready` and runs until it is ended. The offloads of the interfaces
and of those at their other ends have to be off: `ethtool -K INTERFACE tx off tso off gso off gro off`.
"""

import heapq
import random
import select
import socket
import sys
import time

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
RECEIVE_BUFFER = 8 << 20
# Packets that are read from one interface before the next one gets its turn.
BATCH = 64
LONGEST_PACKET = 65535


def open_interface(name):
    """Opens a socket that reads and writes the raw packets of an interface."""
    interface = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    interface.bind((name, 0))
    interface.setblocking(False)
    # Without this, the socket would read the packets that it has written.
    interface.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    interface.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return interface


class Switch:
    def __init__(self, delay, loss, interfaces):
        self.delay = delay
        self.loss = loss
        self.interfaces = interfaces
        # The interface behind which each hardware address was seen.
        self.places = {}
        # A heap of (due time, serial number, packet, interfaces to write it to). The serial number keeps the
        # order of packets with the same due time.
        self.waiting = []
        self.serial = 0

    def run(self):
        while True:
            self.write_due()
            patience = None
            if self.waiting:
                patience = max(0, self.waiting[0][0] - time.monotonic())
            readable, _, _ = select.select(self.interfaces, [], [], patience)
            for interface in readable:
                self.read(interface)

    def write_due(self):
        """Writes the packets whose time has come."""
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            _, _, packet, targets = heapq.heappop(self.waiting)
            for target in targets:
                try:
                    target.send(packet)
                except OSError:
                    # The interface is down or its queue is full, so the packet is lost, as on a real wire.
                    pass

    def read(self, source):
        """Reads packets from an interface, and queues those that are not lost."""
        for _ in range(BATCH):
            try:
                packet = source.recv(LONGEST_PACKET)
            except OSError:
                return
            destination, sender = packet[:6], packet[6:12]
            self.places[sender] = source
            target = self.places.get(destination)
            if target is source or random.random() < self.loss:
                continue
            # Packets to groups and to unknown addresses go everywhere. An address of a group is never a sender.
            targets = [target] if target else [other for other in self.interfaces if other is not source]
            self.serial += 1
            heapq.heappush(self.waiting, (time.monotonic() + self.delay, self.serial, packet, targets))


def main():
    delay, loss, names = float(sys.argv[1]) / 1000, float(sys.argv[2]) / 100, sys.argv[3:]
    switch = Switch(delay, loss, [open_interface(name) for name in names])
    print("ready", flush=True)
    switch.run()


main()
