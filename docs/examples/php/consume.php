<?php
// Reads one of pushd's queues, and does something for each entry.
//
//   php consume.php uplink [BUCKET]
//
// Any number of these share the work of a GROUP. Each has a NAME, which it keeps when it is started again.

require 'queues.php';

define('GROUP', getenv('GROUP') ?: 'billing');
define('NAME', getenv('NAME') ?: gethostname());
define('IDLE', (int) (getenv('IDLE') ?: 60_000)); // ms after which an entry of somebody who is silent is ours
const COUNT = 100; // entries at once; they must all be done well within IDLE
const BLOCK = 2_000; // ms to wait for new ones; less than READ
const TRIES = 5;

/**
 * The service's own work. An entry may come again: let one transaction do it and remember its identity.
 * If a thing that it needs is away, wait here: an entry that fails TRIES times is put aside.
 */
function handle(array $fields): void
{
    echo json_encode($fields, JSON_UNESCAPED_SLASHES), "\n";
}

/** One consumer of one stream of one bucket. */
final class Consumer
{
    public function __construct(private Redis|RedisCluster $redis, private string $key)
    {
    }

    /** First our own (taken before a crash, or in an answer that was lost), then what is new or left lying. */
    public function run(): never
    {
        $this->makeGroup();
        for ($last = '0'; $entries = $this->read($last); $last = array_key_last($entries)) {
            $this->dealAgain($entries);
        }
        for ($nextClaim = 0;;) {
            if (microtime(true) >= $nextClaim) {
                $this->claim();
                $nextClaim = microtime(true) + IDLE / 1000;
            }
            foreach ($this->read('>') as $id => $fields) {
                $this->deal($id, $fields);
            }
        }
    }

    private function makeGroup(): void
    {
        try { // '0': from the oldest entry there is; '$' would be: from now on
            checked($this->redis, $this->redis->xGroup('CREATE', $this->key, GROUP, '0', true));
        } catch (RedisException $error) {
            if (!str_contains($error->getMessage(), 'BUSYGROUP')) {
                throw $error;
            }
        }
    }

    private function read(string $after): array
    {
        $found = $this->redis->xReadGroup(GROUP, NAME, [$this->key => $after], COUNT, BLOCK);
        return checked($this->redis, $found)[$this->key] ?? [];
    }

    /** Take over what others, or we, have left lying. (XAUTOCLAIM in two steps; the extension has it since 6.0.) */
    private function claim(): void
    {
        $pending = checked($this->redis, $this->redis->xPending($this->key, GROUP, '-', '+', COUNT));
        $left = array_filter($pending, fn ($row) => $row[2] >= IDLE);
        if ($ids = array_column($left, 0)) {
            $claimed = $this->redis->xClaim($this->key, GROUP, NAME, IDLE, $ids, []);
            $this->dealAgain(checked($this->redis, $claimed));
        }
    }

    /** Entries that were tried before; one that never works is put aside, or pushd could never trim the stream. */
    private function dealAgain(array $entries): void
    {
        foreach ($entries as $id => $fields) {
            $pending = checked($this->redis, $this->redis->xPending($this->key, GROUP, $id, $id, 1));
            if (!$fields) { // somebody has deleted it
                $this->redis->xAck($this->key, GROUP, [$id]);
            } elseif (($pending[0][3] ?? 0) > TRIES) {
                $dead = ['stream' => $this->key, 'entry' => $id, 'fields' => json_encode($fields)];
                checked($this->redis, $this->redis->xAdd(GROUP . ':dead', '*', $dead));
                $this->redis->xAck($this->key, GROUP, [$id]);
            } else {
                $this->deal($id, $fields);
            }
        }
    }

    private function deal(string $id, array $fields): void
    {
        try {
            handle($fields);
        } catch (Exception $error) { // it stays pending, and `claim` brings it again
            error_log((string) $error);
            return;
        }
        checked($this->redis, $this->redis->xAck($this->key, GROUP, [$id]));
    }
}

// Whatever goes wrong with Redis: begin again, at what we have and do not know of.
for (;; sleep(1)) {
    try {
        (new Consumer(connect(), key_of($argv[1], (int) ($argv[2] ?? 0))))->run();
    } catch (RedisException | RedisClusterException $error) {
        error_log($error->getMessage());
    }
}
