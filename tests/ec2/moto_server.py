# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves moto's EC2 on a free loopback port, prints the address, and ends when standard input does."""

import sys

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(f"http://{host}:{port}", flush=True)
sys.stdin.read()
server.stop()
