/* What the connections do once they are ready: one small table entry for each kind of load.
 *
 * Every event carries the time at which it was sent, or was due, as hexadecimal digits at the head of its payload, so a
 * latency needs no memory of ours, and events that some other program sends can be timed the same way.
 */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIZE = 1 << 19, PROBE_RATE = 100, BACKLOG = 1 << 20 };

static const double SECOND = 1e9;

/* Writing and reading events. */

static void write_stamp(char *into, uint64_t stamp) {
  for (int i = STAMP - 1; i >= 0; i--, stamp >>= 4) into[i] = "0123456789abcdef"[stamp & 15];
}

static uint64_t read_stamp(const char *from, const char *end) {
  uint64_t stamp = 0;
  if (end - from < STAMP) return 0;
  for (int i = 0; i < STAMP; i++) {
    char digit = from[i];
    bool letter = digit >= 'a' && digit <= 'f';
    if (!letter && (digit < '0' || digit > '9')) return 0;
    stamp = stamp << 4 | (uint64_t)(letter ? digit - 'a' + 10 : digit - '0');
  }
  return stamp;
}

static void send_text(struct connection *connection, const char *text, uint32_t size) {
  if (connection->session)
    polling_send(connection, text, size);
  else
    websocket_send(connection, text, size);
}

/* Send `42[<ack>]["<name>","<stamp>xxx..."]` with a payload of options.size bytes. A server that does not take what it
 * is given gets no more of it. */
static void emit(struct connection *connection, const char *name, uint64_t stamp, int64_t ack) {
  static char text[MAX_SIZE + 128];
  if (connection->out.length > BACKLOG) {
    tally->skipped++;
    return;
  }
  int head = ack < 0 ? snprintf(text, 64, "42[\"%s\",\"", name) : snprintf(text, 64, "42%ld[\"%s\",\"", (long)ack, name);
  write_stamp(text + head, stamp);
  memset(text + head + STAMP, 'x', (size_t)(options.size - STAMP));
  memcpy(text + head + options.size, "\"]", 2);
  send_text(connection, text, (uint32_t)(head + options.size + 2));
}

static const char *read_number(const char *text, const char *end, int64_t *number) {
  *number = -1;
  for (; text < end && *text >= '0' && *text <= '9'; text++) *number = (*number < 0 ? 0 : *number * 10) + *text - '0';
  return text;
}

static bool read_event(const char *text, const char *end, struct event *event) {
  text = read_number(text, end, &event->ack);
  if (end - text < 4 || text[0] != '[' || text[1] != '"') return false;
  event->name = text + 2;
  const char *quote = memchr(event->name, '"', (size_t)(end - event->name));
  if (!quote) return false;
  event->name_size = (uint32_t)(quote - event->name);
  event->stamp = end - quote > 3 && quote[1] == ',' && quote[2] == '"' ? read_stamp(quote + 3, end) : 0;
  return true;
}

static bool is_named(const struct event *event, const char *name) {
  return event->name_size == strlen(name) && !memcmp(event->name, name, event->name_size);
}

static const struct mode *running;

/* A Socket.IO packet of the server. */
void message_received(struct connection *connection, const char *text, uint32_t size) {
  struct event event;
  int64_t ack;
  if (!size) return;
  switch (text[0]) {
    case '0':
      became_ready(connection);
      break;
    case '1':
      fail(connection, "the server disconnected us");
      break;
    case '2':
      if (running->event && read_event(text + 1, text + size, &event)) running->event(connection, &event);
      break;
    case '3':
      read_number(text + 1, text + size, &ack);
      if (running->acknowledged && ack >= 0) running->acknowledged(connection, (uint64_t)ack);
      break;
    case '4':
      fail(connection, "the server refused CONNECT");
      break;
    default:
      break;
  }
}

/* echo: each connection keeps `window` events in flight. */

static void echo_begin(struct connection *connection) {
  for (int i = 0; i < options.window; i++) emit(connection, "echo", now_ns(), -1);
}

static void echo_event(struct connection *connection, const struct event *event) {
  uint64_t now = now_ns();
  record(connection->session ? POLL : ECHO, event->stamp, now);
  emit(connection, "echo", now, -1);
}

/* fan: the first connection asks for broadcasts to all, `window` of them under way. */

static uint64_t published;

static void fan_event(struct connection *connection, const struct event *event) {
  (void)connection;
  if (!is_named(event, "fan")) return;
  tally->delivered++;
  record(FAN, event->stamp, now_ns());
}

static void fan_tick(uint64_t now) {
  if (loader_index || connections[0].state != READY) return;
  uint64_t delivered = 0, ready = 0;
  for (int i = 0; i < loader_count; i++) {
    delivered += shared->loaders[i].delivered;
    ready += shared->loaders[i].ready;
  }
  for (; ready && published < delivered / ready + (uint64_t)options.window; published++)
    emit(&connections[0], "fan", now, -1);
  flush(&connections[0]);
}

/* mixed: echoes and broadcasts at fixed rates. Their latency counts from when they were due, so that a server (or a
 * generator) that is late cannot hide it. */

static uint64_t echo_due, fan_due;

/* The next event that is due by `now`, and when it was; 0 if none is. */
static uint64_t take_due(uint64_t *due, double rate, uint64_t now) {
  if (rate <= 0) return 0;
  if (!*due) *due = now;
  if (*due > now) return 0;
  uint64_t this = *due;
  *due += (uint64_t)(SECOND / rate);
  return this;
}

static void mixed_event(struct connection *connection, const struct event *event) {
  if (is_named(event, "echo"))
    record(ECHO, event->stamp, now_ns());
  else
    fan_event(connection, event);
}

static void mixed_tick(uint64_t now) {
  static int turn;
  uint64_t due;
  while ((due = take_due(&echo_due, options.rate / options.processes, now))) {
    struct connection *connection = &connections[turn++ % connection_count];
    if (connection->state != READY) continue;
    emit(connection, "echo", due, -1);
    flush(connection);
  }
  while (!loader_index && (due = take_due(&fan_due, options.fanrate, now))) {
    emit(&connections[0], "fan", due, -1);
    flush(&connections[0]);
  }
}

/* probe: one echo at a time on a quiet connection: how long the server's event loop lets it wait. */

static void probe_event(struct connection *connection, const struct event *event) {
  (void)connection;
  if (is_named(event, "echo")) record(PROBE, event->stamp, now_ns());
}

static void probe_tick(uint64_t now) {
  uint64_t due;
  while ((due = take_due(&echo_due, PROBE_RATE, now))) emit(&connections[0], "echo", due, -1);
  flush(&connections[0]);
}

/* recv: count, time, and with ack=1 acknowledge what some other program makes the server push. */

static void recv_event(struct connection *connection, const struct event *event) {
  record(PUSH, event->stamp, now_ns());
  if (options.ack && event->ack >= 0) {
    char answer[32];
    int size = snprintf(answer, sizeof answer, "43%ld[]", (long)event->ack);
    send_text(connection, answer, (uint32_t)size);
  }
}

/* uplink: each connection keeps `window` events in flight that ask for an acknowledgement. */

static void uplink_emit(struct connection *connection) {
  uint64_t now = now_ns(), id = connection->next_ack++;
  connection->sent[id % MAX_WINDOW] = now;
  emit(connection, "report", now, (int64_t)id);
}

static void uplink_begin(struct connection *connection) {
  connection->sent = calloc(MAX_WINDOW, sizeof *connection->sent);
  for (int i = 0; i < options.window; i++) uplink_emit(connection);
}

static void uplink_acknowledged(struct connection *connection, uint64_t id) {
  record(UPLINK, connection->sent[id % MAX_WINDOW], now_ns());
  uplink_emit(connection);
}

/* Wait at most so many milliseconds where something may be due, or where other loaders' progress matters. */
static const struct mode MODES[] = {
    {.name = "idle", .patience = 5},
    {.name = "echo", .patience = 10, .begin = echo_begin, .event = echo_event},
    {.name = "polling", .patience = 10, .polling = true, .begin = echo_begin, .event = echo_event},
    {.name = "fan", .patience = 1, .event = fan_event, .tick = fan_tick},
    {.name = "mixed", .patience = 1, .event = mixed_event, .tick = mixed_tick},
    {.name = "probe", .patience = 1, .event = probe_event, .tick = probe_tick},
    {.name = "recv", .passive = true, .patience = 10, .event = recv_event},
    {.name = "uplink", .patience = 10, .begin = uplink_begin, .acknowledged = uplink_acknowledged},
};

const struct mode *find_mode(const char *name) {
  for (unsigned i = 0; i < sizeof MODES / sizeof *MODES; i++)
    if (!strcmp(MODES[i].name, name)) return running = &MODES[i];
  return NULL;
}
