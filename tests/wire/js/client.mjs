// The real socket.io-client, driven by a Python test: commands on stdin, what the client reports on stdout.
//
// Commands, each with "op":
//   connect     {socket, url, options, jar?}   options go to io(); jar names a cookie jar that several sockets share
//   answer      {socket, event, args}          from now on acknowledge `event` with `args`; args null: never
//   emit        {socket, event, args, ack?, timeout?}   with `ack` (a number of the caller's) an acknowledgement is asked
//   disconnect  {socket}                       socket.disconnect()
//   open        {socket}                       socket.connect() again
//   drop        {socket}                       close the engine under the socket, as a lost network would
// Reports, each with "kind" and "socket": connect, connect_error, disconnect, event, ack, upgrade, ping,
// reconnect_attempt, reconnect_error, reconnect_failed, reconnect; and "ready" and "wrong" without a socket.

import { createRequire } from "node:module";
import { io } from "socket.io-client";
import { listen, say } from "./values.mjs";

const { version } = createRequire(import.meta.url)("socket.io-client/package.json");
const sockets = new Map();
const jars = new Map();

// What the client knows of a failed request: XHR puts the status into `description`, ws puts it into a sentence.
function failure(error) {
  const told = error.description;
  const sentence = typeof told?.message === "string" ? told.message : null;
  const status = typeof told === "number" ? told : Number(sentence?.match(/server response: (\d+)/)?.[1] ?? 0) || null;
  const body = typeof error.context?.responseText === "string" ? error.context.responseText : null;
  return { message: error.message, data: error.data ?? null, status, body, detail: sentence };
}

// A jar holds what a browser profile would: every cookie that any of its sockets was given.
function cookieHeader(jar) {
  return [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
}

function keepCookies(jar, engine) {
  for (const [name, cookie] of engine._cookieJar?.cookies ?? []) jar.set(name, cookie.value);
}

function connect({ socket: name, url, options = {}, jar: jarName }) {
  const jar = jarName === undefined ? null : (jars.get(jarName) ?? jars.set(jarName, new Map()).get(jarName));
  if (jar !== null) {
    options.withCredentials = true;
    if (jar.size > 0) options.extraHeaders = { ...options.extraHeaders, cookie: cookieHeader(jar) };
  }
  const socket = io(url, options);
  const answers = new Map();
  sockets.set(name, { socket, answers });
  const report = (kind, more = {}) => say({ kind, socket: name, ...more });

  socket.on("connect", () => {
    const engine = socket.io.engine;
    if (jar !== null) keepCookies(jar, engine);
    report("connect", { id: socket.id, engine: engine.id, transport: engine.transport.name });
  });
  socket.on("connect_error", (error) => report("connect_error", { ...failure(error), active: socket.active }));
  socket.on("disconnect", (reason, details) =>
    report("disconnect", { reason, description: String(details?.description ?? ""), active: socket.active }),
  );
  socket.onAny((event, ...args) => {
    const asked = typeof args.at(-1) === "function" ? args.pop() : null;
    report("event", { event, args, asked: asked !== null });
    const answer = answers.get(event);
    if (asked !== null && Array.isArray(answer)) asked(...answer);
  });
  const manager = socket.io;
  const watchUpgrade = () => manager.engine.on("upgrade", ({ name }) => report("upgrade", { transport: name }));
  manager.on("open", watchUpgrade);
  if (manager.engine?.readyState === "open") watchUpgrade();
  manager.on("ping", () => report("ping"));
  manager.on("reconnect_attempt", (attempt) => report("reconnect_attempt", { attempt }));
  manager.on("reconnect_error", (error) => report("reconnect_error", failure(error)));
  manager.on("reconnect_failed", () => report("reconnect_failed"));
  manager.on("reconnect", (attempt) => report("reconnect", { attempt }));
}

function emit({ socket: name, event, args = [], ack, timeout }) {
  const { socket } = sockets.get(name);
  if (ack === undefined) {
    socket.emit(event, ...args);
  } else if (timeout === undefined) {
    socket.emit(event, ...args, (...answer) => say({ kind: "ack", socket: name, ack, args: answer }));
  } else {
    socket.timeout(timeout).emit(event, ...args, (error, ...answer) => {
      say({ kind: "ack", socket: name, ack, args: answer, error: error?.message ?? null });
    });
  }
}

const operations = {
  connect,
  emit,
  answer: ({ socket, event, args }) => sockets.get(socket).answers.set(event, args),
  disconnect: ({ socket }) => sockets.get(socket).socket.disconnect(),
  open: ({ socket }) => sockets.get(socket).socket.connect(),
  drop: ({ socket }) => sockets.get(socket).socket.io.engine.close(),
};

listen((command) => {
  try {
    operations[command.op](command);
  } catch (error) {
    say({ kind: "wrong", socket: command.socket ?? null, message: String(error?.stack ?? error), command });
  }
});
say({ kind: "ready", version, node: process.versions.node });
