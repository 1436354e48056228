"""Free TCP ports on the loopback address."""

import socket


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


def free() -> int:
    """A port nobody listens on now. Another process may take it before its user does."""
    with listen() as listener:
        port: int = listener.getsockname()[1]
    return port
