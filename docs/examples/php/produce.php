<?php
// Tells pushd what to do.
//
//   php produce.php push device:kitchen-1 '{"light": "on"}' order-17
//   php produce.php reconcile audit-3 kitchen-1 kitchen-2

require 'queues.php';

const PATIENCE = 30; // seconds

/** Put a message on its way. Choose the id first: repeated with the same id, it is still one message. */
function push(string $to, mixed $data, string $id, string $event = 'push'): string
{
    $bucket = str_starts_with($to, 'device:') ? bucket_of(substr($to, strlen('device:'))) : 0;
    $fields = ['to' => $to, 'event' => $event, 'data' => json_encode($data, JSON_THROW_ON_ERROR), 'id' => $id];
    return add(key_of('push', $bucket), $fields);
}

/** Ask which of these devices are not online. The answer comes in `reconciled`, with the same id. */
function reconcile(string $id, array $devices): string
{
    return add(key_of('reconcile'), ['id' => $id, 'devices' => json_encode(array_values($devices))]);
}

/** XADD until it is known to have worked. It may have worked before that: hence the id. */
function add(string $key, array $fields): string
{
    for ($end = time() + PATIENCE;; usleep(500_000)) {
        try {
            $redis ??= connect();
            return checked($redis, $redis->xAdd($key, '*', $fields)); // no MAXLEN: pushd removes what it has done
        } catch (RedisException | RedisClusterException $error) {
            if (time() > $end) {
                throw $error;
            }
            $redis = null;
        }
    }
}

[, $what, $first] = $argv;
$rest = array_slice($argv, 3);
echo match ($what) {
    'push' => push($first, json_decode($rest[0], flags: JSON_THROW_ON_ERROR), $rest[1]),
    'reconcile' => reconcile($first, $rest),
}, "\n";
