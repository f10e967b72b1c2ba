// node's socket.io with its Redis adapter as a peer. Two programs in one:
//   node redis.mjs serve URL CONNECTIONS     each device in a room of its own; says when so many are connected
//   node redis.mjs emit URL DEVICES COUNT    a service that emits to the rooms in turn, as fast as Redis takes it
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { Emitter } from "@socket.io/redis-emitter";
import { createClient } from "redis";
import { Server } from "socket.io";

const BACKLOG = 4096;
const BATCH = 100; // events between two looks at what Redis has taken
const PACKAGES = ["socket.io", "@socket.io/redis-adapter", "redis"];

const [role, url, ...numbers] = process.argv.slice(2);

const roomOf = (device) => `device:${device}`;
const say = (told) => console.log(JSON.stringify(told));
const version = (name) => JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;

async function connect() {
  const client = createClient({ url });
  await client.connect();
  return client;
}

async function serve(expected) {
  const http = createServer();
  const adapter = createAdapter(await connect(), await connect());
  const io = new Server(http, { perMessageDeflate: false, adapter });
  io.on("connection", (socket) => {
    socket.join(roomOf(socket.handshake.query.deviceId));
    if (io.engine.clientsCount === expected) say({ connected: expected });
  });
  http.listen(0, "127.0.0.1", BACKLOG, () => {
    const versions = Object.fromEntries(PACKAGES.map((name) => [name, version(name)]));
    say({ port: http.address().port, versions: { node: process.versions.node, ...versions } });
  });
}

async function emit(devices, count) {
  const client = await connect();
  const io = new Emitter(client);
  for (let first = 0; first < count; first += BATCH) {
    for (let number = first; number < Math.min(first + BATCH, count); number++) {
      const stamp = process.hrtime.bigint().toString(16).padStart(16, "0");
      io.to(roomOf(`bench-${number % devices}`)).emit("push", stamp + "x".repeat(16));
    }
    await client.ping();
  }
  await client.quit();
}

await (role === "serve" ? serve : emit)(...numbers.map(Number));
