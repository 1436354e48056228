"""TCP ports on the loopback address: free ones, and who answers on one."""

import fcntl
import http.client
import os
import random
import socket
import tempfile
from pathlib import Path

_claims: dict[int, int] = {}  # port to the open file whose lock holds it


def listen(port: int = 0, backlog: int = 1024) -> socket.socket:
    """A listening socket on 127.0.0.1; for port 0 the system chooses one. OSError when the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def is_free(port: int) -> bool:
    try:
        listen(port).close()
    except OSError:
        return False
    return True


def accepts(port: int) -> bool:
    """Whether something listens on this port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def get(port: int, path: str, timeout_s: float = 5) -> tuple[int, str]:
    """Status and body of an HTTP GET; status 0 and the reason when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()


def claim(port: int) -> bool:
    """Keep a port from every other stack of this user until this process ends; False when another has it.

    Seconds lie between choosing a port and listening on it; a stack beside us must not choose it meanwhile.
    """
    if port in _claims:
        return True
    directory = Path(tempfile.gettempdir()) / f"rapport-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    file = os.open(directory / str(port), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    _claims[port] = file
    return True


def free() -> int:
    """A port nobody listens on and no other stack has claimed; it is claimed for this process.

    Below the ranges from which systems draw the client side of connections: a part that restarts finds
    its port free again.
    """
    while True:
        port = random.randrange(20_000, 30_000)
        if port not in _claims and is_free(port) and claim(port):
            return port
