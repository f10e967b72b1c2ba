// Node's own Socket.IO server, as the reference that our server is compared with. `tests/wire/twin.py` is the same
// program on our library: change both together.
//
// Its one argument is a JSON object of options for `new Server()`; it listens on a free port of 127.0.0.1 and says which.

import { createRequire } from "node:module";
import { createServer } from "node:http";
import { Server } from "socket.io";
import { listen, say } from "./values.mjs";

const { version } = createRequire(import.meta.url)("socket.io/package.json");
const http = createServer();
const io = new Server(http, { cors: { origin: "*" }, serveClient: false, ...JSON.parse(process.argv[2] ?? "{}") });

function serve(namespace) {
  namespace.on("connection", (socket) => {
    socket.emit("auth", socket.handshake.auth);
    socket.on("echo", (...args) => socket.emit("echo", ...args));
    socket.on("binary", (...args) => socket.emit("binary", ...args));
    socket.on("add", (a, b, ack) => ack(a + b));
    socket.on("swap", (a, b, ack) => ack(b, a));
    socket.on("ask", (...question) => {
      socket.timeout(5000).emit("question", ...question, (error, ...answer) => {
        if (error) socket.emit("unanswered");
        else socket.emit("answered", ...answer);
      });
    });
    socket.on("join", (room, ack) => ack(socket.join(room) ?? room));
    socket.on("leave", (room, ack) => ack(socket.leave(room) ?? room));
    socket.on("room", (room, ...args) => namespace.to(room).emit("room", room, ...args));
    socket.on("bye", () => socket.disconnect());
    // the two events of the protocol's own test suite
    socket.on("message", (...args) => socket.emit("message-back", ...args));
    socket.on("message-with-ack", (...args) => args.pop()(...args));
  });
}

serve(io.of("/"));
serve(io.of("/custom"));
io.of("/refuse").use((_socket, next) => next(Object.assign(new Error("not here"), { data: { code: 401 } })));

listen(() => {});
http.listen(0, "127.0.0.1", () => say({ port: http.address().port, version, node: process.versions.node }));
