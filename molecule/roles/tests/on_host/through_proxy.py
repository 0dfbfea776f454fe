"""Requests /headers as a proxy with the PROXY protocol; prints the answer's body, or `closed`.

through_proxy.py SOURCE ADDRESS PORT NAME CLIENT     CLIENT: the address in the PROXY header; empty for no header
"""

from __future__ import annotations

import http.client
import socket
import ssl
import sys

source, address, port, name, client = sys.argv[1:]
context = ssl.create_default_context(cafile="/etc/baton-test/ca.pem")
connection = http.client.HTTPConnection(name)
plain = socket.create_connection((address, int(port)), 600, source_address=(source, 0))
try:
    if client:
        plain.sendall(f"PROXY TCP4 {client} {address} 40000 {port}\r\n".encode())
    connection.sock = context.wrap_socket(plain, server_hostname=name)
    connection.request("GET", "/headers", headers={"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6"})
    print(connection.getresponse().read().decode())
except (OSError, http.client.HTTPException):
    print("closed")
