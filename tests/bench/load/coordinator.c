/* The generator's command: options, the loaders, the phases, and the one line of JSON. */
#define _GNU_SOURCE
#include "load.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char USAGE[] =
    "usage: load MODE PORT CONNECTIONS [key=value ...]\n"
    "  MODE  idle     connect and hold: connects a second, CPU and memory a connection\n"
    "        echo     each connection keeps `window` [\"echo\",x] in flight\n"
    "        polling  the same over HTTP long-polling\n"
    "        fan      one connection emits [\"fan\",x], the server sends it to all; `window` in flight\n"
    "        mixed    `rate` echoes and `fanrate` broadcasts a second, and a probe on a connection of its own\n"
    "        recv     count events that some other program causes; ack=1 acknowledges them\n"
    "        uplink   each connection keeps `window` [\"report\",x] in flight that ask for an acknowledgement\n"
    "  keys  seconds=3 measured, warmup=1 before, settle=0.3 after connecting, limit=120 for everything;\n"
    "        count=0 messages after which to stop (0: no bound); window=1; size=32 (16 to 524288) bytes of payload;\n"
    "        rate=0 a second (idle: connections), fanrate=0; batch=200 handshakes at once; waves=1 (2: connect, leave,\n"
    "        connect again); processes=1 (1 to 8); pids=PID,PID of the server; path=/socket.io/;\n"
    "        device=PREFIX (deviceId=PREFIX<n> in the query); nap=0 seconds that a loader sleeps before each look.\n"
    "  SIGTERM ends the measurement early.\n";

struct options options = {
    .path = "/socket.io/", .device = "", .window = 1, .size = 32, .batch = 200, .processes = 1, .waves = 1,
    .seconds = 3, .warmup = 1, .settle = 0.3, .limit = 120,
};
struct shared *shared;
struct tally *tally;
int loader_index, loader_count;
static pid_t loaders[MAX_LOADERS];
static uint64_t started;
static volatile sig_atomic_t enough; /* SIGTERM: stop measuring, and report */

static void on_sigterm(int number) {
  (void)number;
  enough = 1;
}

static void usage(const char *why) {
  fprintf(stderr, "load: %s\n%s", why, USAGE);
  exit(2);
}

static void read_pids(char *list) {
  for (char *pid = strtok(list, ","); pid && options.pid_count < MAX_PIDS; pid = strtok(NULL, ","))
    options.pids[options.pid_count++] = atoi(pid);
}

static void read_option(char *option) {
  static const struct { const char *name; int *value; } integers[] = {
      {"window", &options.window}, {"size", &options.size},   {"batch", &options.batch},
      {"waves", &options.waves},   {"ack", &options.ack},     {"processes", &options.processes},
  };
  static const struct { const char *name; double *value; } numbers[] = {
      {"seconds", &options.seconds}, {"warmup", &options.warmup}, {"settle", &options.settle},
      {"limit", &options.limit},     {"rate", &options.rate},     {"fanrate", &options.fanrate},
      {"nap", &options.nap},
  };
  char *value = strchr(option, '=');
  if (!value) usage(option);
  *value++ = 0;
  for (unsigned i = 0; i < sizeof integers / sizeof *integers; i++)
    if (!strcmp(option, integers[i].name)) { *integers[i].value = atoi(value); return; }
  for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++)
    if (!strcmp(option, numbers[i].name)) { *numbers[i].value = atof(value); return; }
  if (!strcmp(option, "count")) options.count = strtoull(value, NULL, 10);
  else if (!strcmp(option, "path")) options.path = value;
  else if (!strcmp(option, "device")) options.device = value;
  else if (!strcmp(option, "pids")) read_pids(value);
  else usage(option);
}

static void read_options(int count, char **words) {
  if (count < 4) usage("MODE, PORT and CONNECTIONS are needed");
  options.mode = words[1];
  options.port = atoi(words[2]);
  options.connections = atoi(words[3]);
  for (int i = 4; i < count; i++) read_option(words[i]);
  if (!find_mode(options.mode)) usage("no such mode");
  if (options.connections < 1) usage("CONNECTIONS must be at least 1");
  if (options.size < STAMP || options.size > 1 << 19) usage("size must be from 16 to 524288");
  if (options.window < 1 || options.window > MAX_WINDOW) usage("window must be from 1 to 64");
  if (options.processes < 1 || options.processes > 8) usage("processes must be from 1 to 8");
  if (options.processes > options.connections) usage("processes must not be more than CONNECTIONS");
}

static void allow_files(void) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  int wanted = options.connections / options.processes * (find_mode(options.mode)->polling ? 2 : 1) + 64;
  if ((rlim_t)wanted > files.rlim_cur) usage("more connections than open files are allowed: give more processes");
}

static void start_loader(int index, const char *mode, int first, int count) {
  pid_t parent = getpid();
  loaders[index] = fork();
  if (loaders[index]) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  loader_index = index;
  tally = &shared->loaders[index];
  run_loader(find_mode(mode), first, count);
  _exit(0);
}

static void start_loaders(void) {
  bool probing = !strcmp(options.mode, "mixed");
  loader_count = options.processes + probing;
  for (int i = 0, first = 0; i < options.processes; i++) {
    int count = (options.connections - first) / (options.processes - i);
    start_loader(i, options.mode, first, count);
    first += count;
  }
  if (probing) start_loader(options.processes, "probe", options.connections, 1);
}

static void stop_loaders(void) {
  atomic_store(&shared->phase, STOPPED);
  for (int i = 0; i < loader_count; i++) waitpid(loaders[i], NULL, 0);
}

static uint64_t sum(size_t offset) {
  uint64_t total = 0;
  for (int i = 0; i < loader_count; i++)
    total += atomic_load((_Atomic uint64_t *)((char *)&shared->loaders[i] + offset));
  return total;
}

#define SUM(field) sum(offsetof(struct tally, field))

static double seconds_since(uint64_t time) { return (double)(now_ns() - time) / 1e9; }

/* Sleep a little; end everything when the whole run takes too long, or a loader is gone. */
static void pause_a_little(void) {
  nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
  bool gone = waitpid(-1, NULL, WNOHANG) > 0;
  if (!gone && seconds_since(started) < options.limit) return;
  fprintf(stderr, "load: %s: %lu ready, %lu dead of %d\n", gone ? "a loader is gone" : "out of time",
          (unsigned long)SUM(ready), (unsigned long)SUM(dead), options.connections);
  for (int i = 0; i < loader_count; i++) kill(loaders[i], SIGKILL);
  _exit(1); /* without the half of a line that is in stdout's buffer */
}

static void pause_for(double seconds) {
  for (uint64_t begin = now_ns(); seconds_since(begin) < seconds;) pause_a_little();
}

struct sample {
  uint64_t time;
  double cpu, pss;
};

static struct sample take_sample(void) { return (struct sample){now_ns(), cpu_seconds(), pss_kb()}; }

/* Wait until all are connected; the keys of this wave. */
static void connect_all(int wave) {
  struct sample before = take_sample();
  uint64_t all = (uint64_t)options.connections + (uint64_t)(loader_count - options.processes);
  atomic_store(&shared->phase, CONNECTING);
  while (SUM(ready) + SUM(dead) < all) pause_a_little();
  double seconds = seconds_since(before.time), cpu = cpu_seconds() - before.cpu, ready = (double)SUM(ready);
  const char *suffix = wave ? "_again" : "";
  printf(", \"connects_per_s%s\": %.0f", suffix, ready / seconds);
  if (options.pid_count) printf(", \"connect_cpu_us%s\": %.1f", suffix, cpu / ready * 1e6);
  pause_for(options.settle);
  if (options.pid_count && !wave) {
    double pss = pss_kb();
    printf(", \"memory_kb\": %.2f, \"server_mb\": %.1f", (pss - before.pss) / ready, pss / 1024);
  }
}

static void disconnect_all(void) {
  atomic_store(&shared->phase, DISCONNECTING);
  while (SUM(ready)) pause_a_little();
  pause_for(1.0); /* the server has to see them leave */
}

static void print_latencies(void) {
  static const char *const NAMES[KINDS] = {"echo", "fan", "push", "uplink", "poll", "probe"};
  const char *separator = "";
  printf(", \"latency_us\": {");
  for (int kind = 0; kind < KINDS; kind++) {
    struct histogram all = {0};
    for (int i = 0; i < loader_count; i++) histogram_add(&all, &shared->loaders[i].latency[kind]);
    if (!all.count) continue;
    printf("%s\"%s\": {\"count\": %lu, \"mean\": %lu, \"p50\": %lu, \"p99\": %lu, \"max\": %lu}", separator, NAMES[kind],
           (unsigned long)all.count, (unsigned long)(all.sum / all.count), (unsigned long)histogram_quantile(&all, 0.5),
           (unsigned long)histogram_quantile(&all, 0.99), (unsigned long)all.max);
    separator = ", ";
  }
  printf("}");
}

static void print_load(struct sample before, struct sample after) {
  double seconds = (double)(after.time - before.time) / 1e9, messages = (double)SUM(messages), own = 0;
  uint64_t bytes = 0, skipped = 0, first = 0, last = 0;
  for (int i = 0; i < loader_count; i++) {
    const struct tally *one = &shared->loaders[i];
    bytes += one->bytes, skipped += one->skipped, own += one->cpu;
    if (one->first && (!first || one->first < first)) first = one->first;
    if (one->last > last) last = one->last;
  }
  printf(", \"seconds\": %.3f, \"messages\": %.0f, \"messages_per_s\": %.0f", seconds, messages,
         messages / seconds);
  printf(", \"first_ns\": %lu, \"last_ns\": %lu", (unsigned long)first, (unsigned long)last);
  printf(", \"mb_per_s\": %.2f, \"skipped\": %lu, \"load_cpu\": %.3f", (double)bytes / seconds / 1e6,
         (unsigned long)skipped, own / seconds);
  if (options.pid_count) printf(", \"server_cpu\": %.3f", (after.cpu - before.cpu) / seconds);
  if (options.pid_count && messages > 0) printf(", \"cpu_us_per_message\": %.2f", (after.cpu - before.cpu) / messages * 1e6);
  print_latencies();
}

static void load_and_measure(void) {
  atomic_store(&shared->phase, LOADING);
  pause_for(options.warmup);
  struct sample before = take_sample();
  atomic_store(&shared->phase, MEASURING);
  while (!enough && seconds_since(before.time) < options.seconds &&
         (!options.count || SUM(messages) < options.count))
    pause_a_little();
  struct sample after = take_sample();
  stop_loaders();
  print_load(before, after);
}

int main(int count, char **words) {
  started = now_ns();
  read_options(count, words);
  allow_files();
  signal(SIGPIPE, SIG_IGN);
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) {
    perror("mmap");
    return 1;
  }
  atomic_store(&shared->phase, DISCONNECTING);
  start_loaders();
  signal(SIGTERM, on_sigterm); /* after the loaders: theirs ends them */
  printf("{\"mode\": \"%s\", \"connections\": %d", options.mode, options.connections);
  for (int wave = 0; wave < options.waves; wave++) {
    if (wave) disconnect_all();
    connect_all(wave);
  }
  if (strcmp(options.mode, "idle"))
    load_and_measure();
  else
    stop_loaders();
  printf(", \"ready\": %lu, \"dead\": %lu}\n", (unsigned long)SUM(ready), (unsigned long)SUM(dead));
  return 0;
}
