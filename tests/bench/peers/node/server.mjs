// node's socket.io as a peer, with the same two handlers. `ws` is its default engine; compression is off, as it is by
// default in current versions, and the generator offers none.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { Server } from "socket.io";

const BACKLOG = 4096;

const version = (name) => JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;

const http = createServer();
const io = new Server(http, { perMessageDeflate: false, cors: { origin: "*" } });

io.on("connection", (socket) => {
  socket.on("echo", (payload) => socket.emit("echo", payload));
  socket.on("fan", (payload) => io.emit("fan", payload));
});

http.listen(0, "127.0.0.1", BACKLOG, () => {
  const versions = { node: process.versions.node, "socket.io": version("socket.io"), ws: version("ws") };
  console.log(JSON.stringify({ port: http.address().port, versions }));
});
