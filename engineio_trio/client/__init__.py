"""A Trio client for Socket.IO 5 over Engine.IO 4, on the same protocol floor and the same connection as the server."""

from engineio_trio.client.connecting import connect as connect
from engineio_trio.client.socket import ClientSocket as ClientSocket
from engineio_trio.client.socket import Event as Event
