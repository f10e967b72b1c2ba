/* Engine.IO 4 over HTTP long-polling: each session has one connection for its GETs and one for its POSTs. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { SEPARATOR = 0x1e };

struct session {
  struct connection *poll, *post;
  char sid[64];
  bool posting;        /* a POST has not been answered */
  struct buffer unsaid; /* packets that wait for the next POST */
};

void polling_prepare(struct connection *polls, struct connection *posts, int count) {
  struct session *sessions = calloc((size_t)count, sizeof *sessions);
  for (int i = 0; i < count; i++) {
    struct session *session = &sessions[i];
    session->poll = &polls[i];
    session->post = &posts[i];
    polls[i].session = posts[i].session = session;
    posts[i].counts = &polls[i];
  }
}

static void get(struct session *session) {
  char request[512], query[256];
  quoted_query(session->poll, query, sizeof query);
  int size = snprintf(request, sizeof request, "GET %s?EIO=4&transport=polling%s%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n",
                      options.path, query, *session->sid ? "&sid=" : "", session->sid, options.port);
  send_bytes(session->poll, request, (uint32_t)size);
}

/* POST what is unsaid, unless one is under way: the protocol allows one at a time. */
static void post(struct session *session) {
  if (session->posting || !session->unsaid.length || session->post->state != READY) return;
  char head[512];
  int size = snprintf(head, sizeof head,
                      "POST %s?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                      "Content-Type: text/plain;charset=UTF-8\r\nContent-Length: %u\r\n\r\n",
                      options.path, session->sid, options.port, session->unsaid.length);
  session->posting = true;
  send_bytes(session->post, head, (uint32_t)size);
  send_bytes(session->post, session->unsaid.data, session->unsaid.length);
  session->unsaid.length = 0;
}

void polling_send(struct connection *connection, const char *text, uint32_t size) {
  struct session *session = connection->session;
  struct buffer *unsaid = &session->unsaid;
  uint32_t needed = unsaid->length + size + 1;
  if (needed > unsaid->capacity) {
    unsaid->capacity = needed * 2;
    unsaid->data = realloc(unsaid->data, unsaid->capacity);
  }
  if (unsaid->length) unsaid->data[unsaid->length++] = SEPARATOR;
  memcpy(unsaid->data + unsaid->length, text, size);
  unsaid->length += size;
  post(session);
  flush(session->post);
}

void polling_opened(struct connection *connection) {
  struct session *session = connection->session;
  if (connection == session->poll) {
    connection->state = SHAKING;
    get(session);
  } else {
    connection->state = READY;
    post(session);
    flush(connection);
  }
}

/* The answer to the first GET: keep the session id, and say CONNECT. */
static void handshake_received(struct session *session, const char *body, uint32_t size) {
  const char *sid = memmem(body, size, "\"sid\":\"", 7);
  const char *end = sid ? memchr(sid + 7, '"', size - (uint32_t)(sid + 7 - body)) : NULL;
  if (!end || end - sid - 7 >= (int)sizeof session->sid) {
    fail(session->poll, "no OPEN packet");
    return;
  }
  memcpy(session->sid, sid + 7, (size_t)(end - sid - 7));
  session->poll->state = JOINING;
  open_connection(session->post);
  polling_send(session->poll, "40", 2);
}

static void packet_received(struct session *session, const char *packet, uint32_t size) {
  if (packet[0] == '2')
    polling_send(session->poll, "3", 1);
  else if (packet[0] == '4')
    message_received(session->poll, packet + 1, size - 1);
  else if (packet[0] == '1')
    fail(session->poll, "the server closed the session");
}

static void poll_answered(struct session *session, const char *body, uint32_t size) {
  if (session->poll->state == SHAKING) {
    handshake_received(session, body, size);
  } else {
    for (uint32_t start = 0; start < size && session->poll->state != DEAD;) {
      const char *end = memchr(body + start, SEPARATOR, size - start);
      uint32_t packet = end ? (uint32_t)(end - body) - start : size - start;
      if (packet) packet_received(session, body + start, packet);
      start += packet + 1;
    }
  }
  if (session->poll->state != DEAD) get(session);
}

static void answered(struct connection *connection, const char *body, uint32_t size) {
  struct session *session = connection->session;
  if (connection == session->poll) {
    poll_answered(session, body, size);
  } else {
    session->posting = false;
    post(session);
  }
}

/* The value of Content-Length, or -1: all the servers here send one. */
static long content_length(const char *head, const char *end) {
  static const char name[] = "content-length:";
  for (const char *line = head; line && line < end; line = memmem(line, (size_t)(end - line), "\r\n", 2)) {
    line += line == head ? 0 : 2;
    if (end - line > (long)sizeof name && !strncasecmp(line, name, sizeof name - 1))
      return strtol(line + sizeof name - 1, NULL, 10);
    if (line >= end) break;
  }
  return -1;
}

uint32_t polling_consume(struct connection *connection, uint8_t *data, uint32_t size) {
  uint32_t done = 0;
  while (connection->state != DEAD && done < size) {
    const char *head = (const char *)data + done;
    const char *end = memmem(head, size - done, "\r\n\r\n", 4);
    if (!end) break;
    long length = content_length(head, end);
    if (memcmp(head, "HTTP/1.1 200", 12) || length < 0) {
      fprintf(stderr, "%.*s\n", (int)(end - head), head);
      fail(connection, "an answer that is not 200, or without Content-Length");
      break;
    }
    uint32_t whole = (uint32_t)(end - head) + 4 + (uint32_t)length;
    if (size - done < whole) break;
    done += whole;
    answered(connection, end + 4, (uint32_t)length);
  }
  return done;
}
