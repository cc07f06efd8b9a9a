#!/usr/bin/env python3
"""Shows how a router translates the source port of UDP packets.

    udp.py send ADDRESS...   sends packets from one socket to all addresses, until it is ended
    udp.py receive           prints the source port of the first packet, or `-` if none comes
"""

import socket
import sys
import time

PORT = 9009
PATIENCE = 3
INTERVAL = 0.1


def send(addresses):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        for address in addresses:
            sender.sendto(b"packet", (address, PORT))
        time.sleep(INTERVAL)


def receive():
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("0.0.0.0", PORT))
    receiver.settimeout(PATIENCE)
    try:
        _, (_, port) = receiver.recvfrom(100)
        print(port)
    except TimeoutError:
        print("-")


if sys.argv[1] == "send":
    send(sys.argv[2:])
else:
    receive()
