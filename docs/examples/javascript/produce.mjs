// Tells pushd what to do.
//
//   node produce.mjs push device:kitchen-1 '{"light": "on"}' order-17
//   node produce.mjs reconcile audit-3 kitchen-1 kitchen-2

import { setTimeout as sleep } from "node:timers/promises";
import { bucketOf, connect, key } from "./queues.mjs";

const PATIENCE = 30_000; // ms

/** Put a message on its way. Choose the id first: repeated with the same id, it is still one message. */
export function push(redis, to, data, id, event = "push") {
  const bucket = to.startsWith("device:") ? bucketOf(to.slice("device:".length)) : 0;
  return add(redis, key("push", bucket), { to, event, data: JSON.stringify(data), id });
}

/** Ask which of these devices are not online. The answer comes in `reconciled`, with the same id. */
export function reconcile(redis, id, devices) {
  return add(redis, key("reconcile"), { id, devices: JSON.stringify(devices) });
}

/** XADD until it is known to have worked. It may have worked before that: hence the id. */
async function add(redis, stream, fields) {
  for (const end = Date.now() + PATIENCE; ; await sleep(500)) {
    try {
      return await redis.xAdd(stream, "*", fields); // no MAXLEN: pushd removes what it has done
    } catch (error) {
      if (Date.now() > end) throw error;
    }
  }
}

const [what, first, ...rest] = process.argv.slice(2);
const redis = await connect();
if (what === "push") console.log(await push(redis, first, JSON.parse(rest[0]), rest[1]));
if (what === "reconcile") console.log(await reconcile(redis, first, rest));
await redis.close();
