// Where pushd's queues are: the connection, and the names of the streams.

import { createClient, createCluster } from "redis";

const { REDIS_URL = "redis://127.0.0.1:6379", REDIS_CLUSTER } = process.env;
const prefix = process.env.PUSHD_STORE__PREFIX ?? "pushd"; // the same as pushd's
const partitions = Number(process.env.PUSHD_STORE__PARTITIONS ?? 1); // the same as pushd's

/** A client that comes back by itself. A command that was on its way when the connection broke is rejected. */
export async function connect() {
  const defaults = { socket: { socketTimeout: 10_000 }, pingInterval: 4_000 };
  const client =
    REDIS_CLUSTER === "1"
      ? createCluster({ rootNodes: [{ url: REDIS_URL }], defaults })
      : createClient({ url: REDIS_URL, ...defaults });
  client.on("error", (error) => console.error(String(error)));
  return client.connect();
}

export const key = (stream, bucket = 0) => `${prefix}:{${bucket}}:${stream}`;

export const bucketOf = (device) => crc32(device) % partitions;

/** As zlib.crc32 of Node 22. */
function crc32(text) {
  let crc = ~0;
  for (const byte of Buffer.from(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
