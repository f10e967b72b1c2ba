"""Ports that stay ours, whatever other programs on the machine do meanwhile."""

import os
import socket
import weakref

LOCAL = "127.0.0.1"


def hold_port(owner: object) -> int:
    """A TCP port that no other program is given as long as `owner` lives, also while none of ours listens on it.

    A socket is bound to it, and never listens: so the kernel gives the port to nobody who asks for any, and lets those
    bind it who ask for this one with SO_REUSEADDR, as servers do.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOCAL, 0))
        port = int(holder.getsockname()[1])
        weakref.finalize(owner, os.close, holder.detach())
    return port
