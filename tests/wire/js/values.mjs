// What travels between a Python test and a node process: one JSON value a line, binary as {"$bytes": base64}.

import { createInterface } from "node:readline";

export function pack(value) {
  if (ArrayBuffer.isView(value)) {
    return { $bytes: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64") };
  }
  if (value instanceof ArrayBuffer) return { $bytes: Buffer.from(value).toString("base64") };
  if (Array.isArray(value)) return value.map(pack);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, pack(item)]));
  }
  return value;
}

export function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (value !== null && typeof value === "object") {
    if (typeof value.$bytes === "string") return Buffer.from(value.$bytes, "base64");
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, unpack(item)]));
  }
  return value;
}

export function say(message) {
  process.stdout.write(JSON.stringify(pack(message)) + "\n");
}

// The parent's end of stdin is the leash: when it closes, this process ends, so no test can leave one behind.
export function listen(obey) {
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => obey(unpack(JSON.parse(line))));
  lines.on("close", () => process.exit(0));
}
