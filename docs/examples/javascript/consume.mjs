// Reads one of pushd's queues, and does something for each entry.
//
//   node consume.mjs uplink [BUCKET]
//
// Any number of these share the work of a GROUP. Each has a NAME, which it keeps when it is started again.

import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, key } from "./queues.mjs";

const { GROUP = "billing", NAME = hostname() } = process.env;
const IDLE = Number(process.env.IDLE ?? 60_000); // ms after which an entry of somebody who is silent is ours
const COUNT = 100; // entries at once; they must all be done well within IDLE
const BLOCK = 2_000; // ms to wait for new ones; less than the client's socketTimeout
const TRIES = 5;

/**
 * The service's own work. An entry may come again: let one transaction do it and remember its identity.
 * If a thing that it needs is away, wait here: an entry that fails TRIES times is put aside.
 */
function handle(fields) {
  return new Promise((done) => process.stdout.write(JSON.stringify(fields) + "\n", done));
}

const [stream, bucket = "0"] = process.argv.slice(2);
const source = key(stream, bucket);
const redis = await connect();

/** First our own (taken before a crash, or in an answer that was lost), then what is new or left lying. */
async function consume() {
  await makeGroup();
  await takeUpOwn();
  for (let nextClaim = 0; ; ) {
    if (Date.now() >= nextClaim) {
      await claim();
      nextClaim = Date.now() + IDLE;
    }
    for (const entry of await read()) await deal(entry);
  }
}

async function makeGroup() {
  try {
    // "0": from the oldest entry there is; "$" would be: from now on
    await redis.xGroupCreate(source, GROUP, "0", { MKSTREAM: true });
  } catch (error) {
    if (!String(error).includes("BUSYGROUP")) throw error;
  }
}

async function read() {
  const found = await redis.xReadGroup(GROUP, NAME, { key: source, id: ">" }, { COUNT, BLOCK });
  return found?.[0].messages ?? [];
}

/** (Not by XREADGROUP from "0", whose answer the client cannot read when an entry was deleted.) */
async function takeUpOwn() {
  for (let start = "-"; ; ) {
    const pending = await redis.xPendingRange(source, GROUP, start, "+", COUNT, { consumer: NAME });
    if (!pending.length) return;
    const ids = pending.map((each) => each.id);
    await dealAgain(await redis.xClaim(source, GROUP, NAME, 0, ids));
    start = "(" + ids.at(-1);
  }
}

/** Take over what others, or we, have left lying. */
async function claim() {
  let start = "0-0";
  do {
    const answer = await redis.xAutoClaim(source, GROUP, NAME, IDLE, start, { COUNT });
    await dealAgain(answer.messages);
    start = answer.nextId;
  } while (start !== "0-0");
}

/** Entries that were tried before; one that never works is put aside, or pushd could never trim the stream. */
async function dealAgain(entries) {
  for (const { id, message } of entries) {
    const [pending] = await redis.xPendingRange(source, GROUP, id, id, 1);
    if (pending?.deliveriesCounter > TRIES) {
      await redis.xAdd(`${GROUP}:dead`, "*", { stream: source, entry: id, fields: JSON.stringify(message) });
      await redis.xAck(source, GROUP, id);
    } else {
      await deal({ id, message });
    }
  }
}

async function deal({ id, message }) {
  try {
    await handle(message);
  } catch (error) {
    console.error(error); // it stays pending, and `claim` brings it again
    return;
  }
  await redis.xAck(source, GROUP, id);
}

// Whatever goes wrong with Redis: begin again, at what we have and do not know of.
for (;;) {
  await consume().catch((error) => console.error(String(error)));
  await sleep(1_000);
}
