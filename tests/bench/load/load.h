/* The load generator: what its parts share.
 *
 * One process (coordinator.c) measures and tells the phase; the loaders, forked from it, hold the connections. They
 * meet in shared memory, where each loader has a tally that it alone writes. A measurement with a probe has one loader
 * more, with a single connection, so that what the probe sees of the server does not depend on how busy we are.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { MAX_LOADERS = 9, MAX_PIDS = 64, BUCKETS = 1024, STAMP = 16, MAX_WINDOW = 64 };

/* Latencies, each in microseconds. Up to 32 exact, above that 32 buckets for each power of two: 3 % apart. */
struct histogram {
  uint64_t count, sum, max, buckets[BUCKETS];
};

enum kind { ECHO, FAN, PUSH, UPLINK, POLL, PROBE, KINDS };

enum phase { CONNECTING, DISCONNECTING, LOADING, MEASURING, STOPPED };

struct tally {
  _Atomic uint64_t ready, dead; /* connections now */
  _Atomic uint64_t delivered;   /* events of a broadcast, from the beginning */
  _Atomic uint64_t messages;    /* events, acknowledgements or round trips while measuring */
  uint64_t bytes, skipped, first, last; /* while measuring; `first` and `last` are times of messages */
  double cpu;                           /* seconds of this loader's own, while measuring */
  struct histogram latency[KINDS];
};

struct shared {
  _Atomic int phase;
  struct tally loaders[MAX_LOADERS];
};

struct options {
  const char *mode, *path, *device;
  int port, connections, window, size, batch, processes, waves, ack, pid_count, pids[MAX_PIDS];
  uint64_t count;
  double seconds, warmup, settle, limit, rate, fanrate, nap;
};

extern struct options options;
extern struct shared *shared;
extern struct tally *tally; /* this loader's */
extern int loader_index, loader_count;

struct buffer {
  uint8_t *data;
  uint32_t length, capacity;
};

enum state { CLOSED, OPENING, SHAKING, JOINING, READY, DEAD };

struct session; /* of polling.c */

struct connection {
  int fd, number; /* `number` is unique over all loaders */
  enum state state;
  struct buffer in, out;
  uint64_t next_ack, *sent; /* times of the events whose acknowledgement is awaited, by id modulo MAX_WINDOW */
  struct session *session;  /* polling only */
  struct connection *counts; /* the one that counts for both of a polling session; itself for a WebSocket */
};

/* An event of the server as it came: what matters of `42<ack>["<name>","<stamp>...`. */
struct event {
  const char *name;
  uint32_t name_size;
  uint64_t stamp; /* 0: it has none */
  int64_t ack;    /* -1: none is asked for */
};

/* What a kind of load does. `begin` runs for each connection that is ready when the load begins, `event` for each
 * event, `acknowledged` for each acknowledgement, `tick` in every turn of the loop while there is load. */
struct mode {
  const char *name;
  bool polling, passive; /* passive: others cause the events, so each counts, whenever it comes */
  int patience;          /* milliseconds between two ticks, at most */
  void (*begin)(struct connection *);
  void (*event)(struct connection *, const struct event *);
  void (*acknowledged)(struct connection *, uint64_t id);
  void (*tick)(uint64_t now);
};

/* measure.c */
uint64_t now_ns(void);
void record(enum kind kind, uint64_t since, uint64_t now);
void histogram_add(struct histogram *into, const struct histogram *from);
uint64_t histogram_quantile(const struct histogram *of, double part);
double pss_kb(void);
double cpu_seconds(void);
double own_cpu_seconds(void);

/* modes.c */
const struct mode *find_mode(const char *name);
void message_received(struct connection *connection, const char *text, uint32_t size);

/* loader.c */
extern struct connection *connections;
extern int connection_count; /* of this loader */
void run_loader(const struct mode *mode, int first, int count);
void open_connection(struct connection *connection);
void send_bytes(struct connection *connection, const void *data, uint32_t size);
void flush(struct connection *connection);
void fail(struct connection *connection, const char *why);
void became_ready(struct connection *connection);
bool measuring(void);
int quoted_query(const struct connection *connection, char *into, int room);

/* websocket.c */
void websocket_opened(struct connection *connection);
uint32_t websocket_consume(struct connection *connection, uint8_t *data, uint32_t size);
void websocket_send(struct connection *connection, const char *text, uint32_t size);

/* polling.c */
void polling_prepare(struct connection *polls, struct connection *posts, int count);
void polling_opened(struct connection *connection);
uint32_t polling_consume(struct connection *connection, uint8_t *data, uint32_t size);
void polling_send(struct connection *connection, const char *text, uint32_t size);

#endif
