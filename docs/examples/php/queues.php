<?php
// Where pushd's queues are: the connection, and the names of the streams. Needs the extension redis.

const CONNECT = 5.0; // seconds
const READ = 10.0; // seconds; more than a consumer waits for new entries

/** A client. For Redis Cluster the address has several hosts: REDIS_CLUSTER=host:port,host:port */
function connect(): Redis|RedisCluster
{
    if ($seeds = getenv('REDIS_CLUSTER')) {
        return new RedisCluster(null, explode(',', $seeds), CONNECT, READ);
    }
    $url = parse_url(getenv('REDIS_URL') ?: 'redis://127.0.0.1:6379');
    $redis = new Redis();
    $redis->connect($url['host'], $url['port'] ?? 6379, CONNECT, null, 0, READ);
    if (isset($url['pass'])) {
        $redis->auth(array_filter([$url['user'] ?? '', $url['pass']]));
    }
    return $redis;
}

/** What a command has answered. The extension answers false where Redis has answered with an error. */
function checked(Redis|RedisCluster $redis, mixed $answer): mixed
{
    if ($error = $redis->getLastError()) {
        $redis->clearLastError();
        throw new RedisException($error);
    }
    return $answer;
}

function key_of(string $stream, int $bucket = 0): string
{
    $prefix = getenv('PUSHD_STORE__PREFIX') ?: 'pushd'; // the same as pushd's
    return "$prefix:{{$bucket}}:$stream";
}

function bucket_of(string $device): int
{
    $partitions = (int) (getenv('PUSHD_STORE__PARTITIONS') ?: 1); // the same as pushd's
    return crc32($device) % $partitions;
}
