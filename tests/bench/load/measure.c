/* Clocks, latencies, and what /proc says about the server's processes. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int bucket_of(uint64_t microseconds) {
  if (microseconds < 32) return (int)microseconds;
  int shift = 63 - __builtin_clzll(microseconds) - 5;
  int bucket = shift * 32 + (int)(microseconds >> shift);
  return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* The middle of a bucket. */
static uint64_t microseconds_of(int bucket) {
  if (bucket < 64) return (uint64_t)bucket;
  int shift = bucket / 32 - 1;
  return ((uint64_t)(bucket - shift * 32) << shift) + ((1u << shift) >> 1);
}

/* Count one message of the measured time that was sent, or was due, at `since` (0: unknown). */
void record(enum kind kind, uint64_t since, uint64_t now) {
  if (!measuring()) return;
  atomic_fetch_add_explicit(&tally->messages, 1, memory_order_relaxed);
  if (!tally->first) tally->first = now;
  tally->last = now;
  struct histogram *latency = &tally->latency[kind];
  latency->count++;
  uint64_t microseconds = since && now > since ? (now - since) / 1000 : 0;
  latency->sum += microseconds;
  latency->buckets[bucket_of(microseconds)]++;
  if (microseconds > latency->max) latency->max = microseconds;
}

void histogram_add(struct histogram *into, const struct histogram *from) {
  into->count += from->count;
  into->sum += from->sum;
  if (from->max > into->max) into->max = from->max;
  for (int bucket = 0; bucket < BUCKETS; bucket++) into->buckets[bucket] += from->buckets[bucket];
}

uint64_t histogram_quantile(const struct histogram *of, double part) {
  uint64_t seen = 0;
  for (int bucket = 0; bucket < BUCKETS; bucket++) {
    seen += of->buckets[bucket];
    if (!seen || (double)seen < part * (double)of->count) continue;
    uint64_t middle = microseconds_of(bucket);
    return middle < of->max ? middle : of->max;
  }
  return of->max;
}

/* The server's memory: proportional set sizes, so that what its processes share counts once. */
double pss_kb(void) {
  double total = 0;
  for (int i = 0; i < options.pid_count; i++) {
    char line[256];
    snprintf(line, sizeof line, "/proc/%d/smaps_rollup", options.pids[i]);
    FILE *file = fopen(line, "r");
    if (!file) continue;
    double kb;
    while (fgets(line, sizeof line, file))
      if (sscanf(line, "Pss: %lf", &kb) == 1) total += kb;
    fclose(file);
  }
  return total;
}

/* The CPU time that the server's processes have used. */
double cpu_seconds(void) {
  double ticks = 0;
  for (int i = 0; i < options.pid_count; i++) {
    char text[1024];
    snprintf(text, sizeof text, "/proc/%d/stat", options.pids[i]);
    FILE *file = fopen(text, "r");
    if (!file) continue;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    unsigned long user, system;
    const char *after_name = strrchr(text, ')'); /* the name may contain anything */
    if (after_name && sscanf(after_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) == 2)
      ticks += (double)(user + system);
  }
  return ticks / (double)sysconf(_SC_CLK_TCK);
}

double own_cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}
