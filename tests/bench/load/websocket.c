/* Engine.IO 4 over WebSocket, the client's side: handshake, masked frames out, whole frames in. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <string.h>

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10, HEADER = 14 };

void websocket_opened(struct connection *connection) {
  char request[1024], query[256];
  quoted_query(connection, query, sizeof query);
  int size = snprintf(request, sizeof request,
                      "GET %s?EIO=4&transport=websocket%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                      "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                      "Sec-WebSocket-Version: 13\r\n\r\n",
                      options.path, query, options.port);
  connection->state = SHAKING;
  send_bytes(connection, request, (uint32_t)size);
}

static int write_header(uint8_t *header, int opcode, uint32_t size) {
  header[0] = (uint8_t)(0x80 | opcode);
  if (size < 126) {
    header[1] = (uint8_t)(0x80 | size);
    return 2;
  }
  if (size < 65536) {
    header[1] = 0x80 | 126;
    header[2] = (uint8_t)(size >> 8);
    header[3] = (uint8_t)size;
    return 4;
  }
  header[1] = 0x80 | 127;
  for (int i = 0; i < 8; i++) header[2 + i] = (uint8_t)((uint64_t)size >> (8 * (7 - i)));
  return 10;
}

/* RFC 6455 wants a fresh mask for each frame; what it is does not matter to a server. */
static uint32_t next_mask(void) {
  static uint32_t mask = 0x9d3c51a7;
  return mask = mask * 1664525u + 1013904223u;
}

static void send_frame(struct connection *connection, int opcode, const void *payload, uint32_t size) {
  static uint8_t frame[(1 << 20) + HEADER];
  if (size > sizeof frame - HEADER) {
    fail(connection, "a payload of more than 1 MiB");
    return;
  }
  int start = write_header(frame, opcode, size);
  uint32_t mask = next_mask();
  uint64_t twice = (uint64_t)mask << 32 | mask;
  memcpy(frame + start, &mask, 4);
  uint8_t *body = frame + start + 4;
  memcpy(body, payload, size);
  uint32_t done = 0;
  for (; done + 8 <= size; done += 8) {
    uint64_t word;
    memcpy(&word, body + done, 8);
    word ^= twice;
    memcpy(body + done, &word, 8);
  }
  for (; done < size; done++) body[done] ^= ((const uint8_t *)&mask)[done & 3];
  send_bytes(connection, frame, (uint32_t)start + 4 + size);
}

void websocket_send(struct connection *connection, const char *text, uint32_t size) {
  send_frame(connection, TEXT, text, size);
}

/* One Engine.IO packet of the server. */
static void packet_received(struct connection *connection, const char *packet, uint32_t size) {
  if (!size) return;
  switch (packet[0]) {
    case '0':
      connection->state = JOINING;
      websocket_send(connection, "40", 2);
      break;
    case '1':
      fail(connection, "the server closed the session");
      break;
    case '2':
      websocket_send(connection, "3", 1);
      break;
    case '4':
      message_received(connection, packet + 1, size - 1);
      break;
    default:
      break;
  }
}

static uint32_t consume_answer(struct connection *connection, uint8_t *data, uint32_t size) {
  uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
  if (!end) return 0;
  if (memcmp(data, "HTTP/1.1 101", 12)) {
    fprintf(stderr, "%.*s\n", (int)(size < 300 ? size : 300), (const char *)data);
    fail(connection, "the handshake was refused");
    return 0;
  }
  connection->state = JOINING;
  return (uint32_t)(end - data) + 4;
}

/* The size of the frame's header, and of its payload; 0 when the header is not all there. */
static uint32_t read_header(const uint8_t *data, uint32_t size, uint64_t *payload) {
  if (size < 2) return 0;
  uint32_t header = 2, length = data[1] & 127;
  if (length >= 126) header = length == 126 ? 4 : 10;
  if (size < header) return 0;
  *payload = header == 2 ? length : 0;
  for (uint32_t i = 2; i < header; i++) *payload = *payload << 8 | data[i];
  return header;
}

uint32_t websocket_consume(struct connection *connection, uint8_t *data, uint32_t size) {
  uint32_t done = 0;
  if (connection->state == SHAKING) {
    done = consume_answer(connection, data, size);
    if (!done) return 0;
  }
  while (connection->state != DEAD) {
    uint64_t payload;
    uint32_t header = read_header(data + done, size - done, &payload);
    if (!header || size - done < header + payload) break;
    const uint8_t *body = data + done + header;
    int opcode = data[done] & 15;
    if (opcode == TEXT)
      packet_received(connection, (const char *)body, (uint32_t)payload);
    else if (opcode == PING)
      send_frame(connection, PONG, body, (uint32_t)payload);
    else if (opcode == CLOSE)
      fail(connection, "the server closed the WebSocket");
    done += header + (uint32_t)payload;
  }
  return done;
}
