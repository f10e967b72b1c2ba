/* One loader: its connections, its epoll loop, and how it follows the phases. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 18, EVENTS = 512, PER_ADDRESS = 20000, COMPLAINTS = 5, OUT_LIMIT = 1 << 20 };

struct connection *connections;
int connection_count;
static const struct mode *mode;
static int epoll, current_phase, opened;
static double cpu_before;

bool measuring(void) { return current_phase == MEASURING || mode->passive; }

static void watch(struct connection *connection, int operation, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = connection};
  epoll_ctl(epoll, operation, connection->fd, &event);
}

/* Connections come from several loopback addresses, for one has fewer ports than we may want. */
void open_connection(struct connection *connection) {
  connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (connection->fd < 0) {
    perror("socket");
    exit(1);
  }
  int on = 1;
  setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  struct sockaddr_in source = {.sin_family = AF_INET}, server = {.sin_family = AF_INET};
  source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(connection->number / PER_ADDRESS));
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  server.sin_port = htons((uint16_t)options.port);
  bind(connection->fd, (struct sockaddr *)&source, sizeof source);
  connect(connection->fd, (struct sockaddr *)&server, sizeof server);
  connection->state = OPENING;
  watch(connection, EPOLL_CTL_ADD, EPOLLOUT);
}

static void drop(struct connection *connection, enum state state) {
  if (connection->state == READY && connection->counts == connection) tally->ready--;
  if (connection->state != CLOSED && connection->state != DEAD) close(connection->fd);
  connection->state = state;
  connection->in.length = connection->out.length = 0;
}

/* A connection is lost: count it, and say why for the first few. */
void fail(struct connection *connection, const char *why) {
  static int complaints;
  struct connection *counts = connection->counts;
  if (counts->state == DEAD) return;
  if (complaints++ < COMPLAINTS) fprintf(stderr, "connection %d: %s\n", connection->number, why);
  drop(connection, DEAD);
  drop(counts, DEAD);
  tally->dead++;
}

void became_ready(struct connection *connection) {
  if (connection->state == READY) return;
  connection->state = READY;
  tally->ready++;
}

/* The part of the request's query that differs between devices, and what the user wants in it. */
int quoted_query(const struct connection *connection, char *into, int room) {
  into[0] = 0;
  return *options.device ? snprintf(into, (size_t)room, "&deviceId=%s%d", options.device, connection->number) : 0;
}

/* Queue bytes; `flush` writes them. What a server does not take is bounded: then the bytes are skipped by the modes. */
void send_bytes(struct connection *connection, const void *data, uint32_t size) {
  struct buffer *out = &connection->out;
  if (out->length + size > out->capacity) {
    out->capacity = (out->length + size) * 2;
    out->data = realloc(out->data, out->capacity);
  }
  memcpy(out->data + out->length, data, size);
  out->length += size;
}

void flush(struct connection *connection) {
  struct buffer *out = &connection->out;
  if (connection->state == DEAD || connection->state == CLOSED || !out->length) return;
  ssize_t sent = send(connection->fd, out->data, out->length, MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN) {
    fail(connection, strerror(errno));
    return;
  }
  if (sent > 0) {
    out->length -= (uint32_t)sent;
    memmove(out->data, out->data + sent, out->length);
  }
  if (out->length) watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static uint32_t consume(struct connection *connection, uint8_t *data, uint32_t size) {
  return mode->polling ? polling_consume(connection, data, size) : websocket_consume(connection, data, size);
}

/* Consume what came, keeping an unfinished rest: only then is anything copied, and an idle connection has no buffer. */
static void received(struct connection *connection, uint8_t *data, uint32_t size) {
  struct buffer *in = &connection->in;
  if (in->length) {
    if (in->length + size > in->capacity) {
      in->capacity = (in->length + size) * 2;
      in->data = realloc(in->data, in->capacity);
    }
    memcpy(in->data + in->length, data, size);
    data = in->data;
    size += in->length;
  }
  uint32_t done = consume(connection, data, size);
  if (connection->state == DEAD) return;
  uint32_t rest = size - done;
  if (rest > in->capacity) {
    in->capacity = rest * 2;
    in->data = realloc(in->data, in->capacity);
  }
  if (rest) memmove(in->data, data + done, rest);
  in->length = rest;
}

static void readable(struct connection *connection) {
  static uint8_t room[ROOM];
  ssize_t size = recv(connection->fd, room, sizeof room, 0);
  if (size < 0 && errno == EAGAIN) return;
  if (size <= 0) {
    fail(connection, size ? strerror(errno) : "the server closed the connection");
    return;
  }
  if (measuring()) tally->bytes += (uint64_t)size;
  received(connection, room, (uint32_t)size);
  flush(connection);
}

static void writable(struct connection *connection) {
  watch(connection, EPOLL_CTL_MOD, EPOLLIN);
  if (connection->state == OPENING) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
      fail(connection, strerror(error));
      return;
    }
    (mode->polling ? polling_opened : websocket_opened)(connection);
  }
  flush(connection);
}

/* Writing to a loader that waits costs the writer its waking. One that naps is not woken, and finds more at once. */
static void nap(void) {
  static const double second = 1e9;
  struct timespec pause = {.tv_nsec = (long)(options.nap * second)};
  if (current_phase == LOADING || current_phase == MEASURING) nanosleep(&pause, NULL);
}

static void wait_for_events(int patience) {
  struct epoll_event events[EVENTS];
  if (options.nap > 0) nap();
  int count = epoll_wait(epoll, events, EVENTS, patience);
  for (int i = 0; i < count; i++) {
    struct connection *connection = events[i].data.ptr;
    if (connection->state != DEAD && events[i].events & EPOLLOUT) writable(connection);
    if (connection->state != DEAD && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(connection);
  }
}

/* Keep `batch` handshakes under way, or `rate` a second. */
static void open_some(uint64_t since) {
  static const double second = 1e9;
  int budget = options.batch / options.processes - (opened - (int)(tally->ready + tally->dead));
  if (options.rate > 0 && !strcmp(options.mode, "idle")) {
    int due = (int)((double)(now_ns() - since) / second * options.rate / options.processes) + 1 - opened;
    if (due < budget) budget = due;
  }
  for (; budget > 0 && opened < connection_count; budget--) open_connection(&connections[opened++]);
}

static void close_all(void) {
  for (int i = 0; i < connection_count; i++) drop(&connections[i], CLOSED);
  opened = 0;
}

static void begin_load(void) {
  for (int i = 0; i < connection_count && mode->begin; i++) {
    if (connections[i].state != READY) continue;
    mode->begin(&connections[i]);
    flush(&connections[i]);
  }
}

/* A loader may be late, and not see LOADING between CONNECTING and MEASURING. */
static void enter(int phase) {
  bool loaded = current_phase == LOADING;
  current_phase = phase;
  if (phase == DISCONNECTING) close_all();
  if (phase == LOADING || (phase == MEASURING && !loaded)) begin_load();
  if (phase == MEASURING) cpu_before = own_cpu_seconds();
}

static void prepare(int first, int count) {
  int files = mode->polling ? 2 * count : count;
  connections = calloc((size_t)files, sizeof *connections);
  connection_count = count;
  for (int i = 0; i < files; i++) {
    connections[i].number = first + i;
    connections[i].counts = &connections[i];
  }
  if (mode->polling) polling_prepare(connections, connections + count, count);
  epoll = epoll_create1(EPOLL_CLOEXEC);
}

/* Follow the phases until STOPPED. The mode's `tick` runs in every turn while there is load. */
void run_loader(const struct mode *of, int first, int count) {
  mode = of;
  prepare(first, count);
  uint64_t since = now_ns();
  for (;;) {
    int phase = atomic_load(&shared->phase);
    if (phase != current_phase) {
      enter(phase);
      since = now_ns();
    }
    if (phase == STOPPED) break;
    if (phase == CONNECTING) open_some(since);
    if (mode->tick && (phase == LOADING || phase == MEASURING)) mode->tick(now_ns());
    wait_for_events(mode->patience);
  }
  tally->cpu = own_cpu_seconds() - cpu_before;
}
