// A library with NCCL's C interface over the software GPU: libnccl.so.2, or librccl.so.1.
//
// It computes real results from the buffers of all ranks, in stream order. The environment selects
// the behaviour of some real libraries:
//   FAKE_NCCL_VERSION                      the version that it reports
//   FAKE_NCCL_FAIL=call[:rankN]            this call fails
//   FAKE_NCCL_WAY                          the connection between ranks in the log
//   FAKE_NCCL_NO_WINDOWS=1                 no windows; =said: the log says that they are not
//                                          symmetric, and there are some, as in RCCL
//   FAKE_NCCL_CONF_MAX_CTAS=32             as NCCL_MAX_CTAS in its configuration file
//   FAKE_NCCL_CHOOSES=LL                   its protocol, unless NCCL_PROTO is set at its first call
//   FAKE_NCCL_CHOOSES=LL:1000              the same up to so many bytes; then a communicator's, or
//   LL128 FAKE_NCCL_NO_COPY_ENGINES=1            a kernel under the zero-CTA policy, too
//   FAKE_NCCL_DELAYS_US=default:1000,LL:0  the time of a call, by protocol or algorithm
//   FAKE_NCCL_LOST_AFTER=n                 the connection is lost after n calls
//   FAKE_NCCL_STANDS_STILL=default         calls with this protocol end only by abort
// ALL_TO_ALL is the name of its all-to-all, because NCCL since 2.28 and RCCL use different names.
// VERSION is the version that it reports by default. OLD leaves out what NCCL 2.19 lacks:
// all-to-all, windows, the end of a log, and the later part of the configuration.
#ifndef VERSION
#define VERSION 23203
#endif
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "nccl_log.h"

// Functions of the software GPU.
extern "C" int gpu_launchHostFunc(void* stream, void (*function)(void*), void* argument);
extern "C" int gpu_malloc(void** pointer, size_t bytes);
extern "C" int gpu_free(void* pointer);

enum {
  UNHANDLED_CUDA_ERROR = 1,
  SYSTEM_ERROR = 2,
  INVALID_ARGUMENT = 4,
  INVALID_USAGE = 5,
  REMOTE_ERROR = 6
};
static const char* const NAMES[] = {
    "no error",
    "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
    "unhandled system error (run with NCCL_DEBUG=INFO for details)",
    "internal error - please report this issue to the NCCL developers",
    "invalid argument (run with NCCL_DEBUG=WARN for details)",
    "invalid usage (run with NCCL_DEBUG=WARN for details)",
    "remote process exited or there was a network error"};

static bool told_to_fail(const char* call, int rank) {
  const std::string asked = setting("FAKE_NCCL_FAIL");
  return asked == call || asked == std::string(call) + ":rank" + std::to_string(rank);
}

constexpr int MOST_RANKS = 8;
constexpr size_t SLOT_BYTES = 4 << 20;
struct UniqueId {
  char internal[128];
};
struct alignas(128) Place {
  std::atomic<uint64_t> arrived;
  bool failed;
  int window[2];
};
constexpr size_t PART_BYTES = 64 << 10;  // of a message in flight
struct alignas(4096) Mailbox {
  std::atomic<uint64_t> sent, taken;
  char part[PART_BYTES];
};
struct Shared {
  Place places[MOST_RANKS];
  alignas(4096) char slots[2][MOST_RANKS][SLOT_BYTES];
  Mailbox mail[MOST_RANKS][MOST_RANKS];  // from, to
};
struct Comm {
  Shared* shared;
  int ranks, rank, delay_us, channels;
  std::string protocol, algorithm;
  bool connected, zero_cta, copied;
  std::vector<std::pair<const char*, size_t>> windows;
  std::atomic<uint64_t> met, performed;
  std::atomic<int> asynchronous;
  std::atomic<bool> aborted;
};

// Whether all ranks have come, and none of the calls here has been aborted.
static bool meet(Comm& c) {
  const uint64_t turn = ++c.met;
  c.shared->places[c.rank].arrived.store(turn, std::memory_order_release);
  for (int r = 0; r < c.ranks; ++r)
    while (c.shared->places[r].arrived.load(std::memory_order_acquire) < turn) {
      if (c.aborted) return false;
      sched_yield();
    }
  return true;
}

static int delay_of(const std::string& protocol, int otherwise = 0) {
  const std::string all = setting("FAKE_NCCL_DELAYS_US"),
                    name = (protocol.empty() ? "default" : protocol) + ":";
  const size_t at = all.find(name);
  return at == std::string::npos ? otherwise : atoi(all.c_str() + at + name.size());
}

struct Bfloat {
  uint16_t bits;
  operator double() const {
    const uint32_t w = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &w, 4);
    return f;
  }
  Bfloat(double v) {
    const float f = (float)v;
    uint32_t w;
    memcpy(&w, &f, 4);
    bits = (uint16_t)((w + 0x7fff + (w >> 16 & 1)) >> 16);
  }
};

template <class Element, class Sum>
static void reduce(Comm& c, char (*slots)[SLOT_BYTES], void* to, size_t bytes, int op) {
  for (size_t i = 0; i < bytes / sizeof(Element); ++i) {
    Sum sum = (Sum)((const Element*)slots[0])[i];
    for (int r = 1; r < c.ranks; ++r) {
      const Sum value = (Sum)((const Element*)slots[r])[i];
      if (op == 0 || op == 4)
        sum = sum + value;
      else if (op == 1)
        sum = sum * value;
      else
        sum = op == 2 ? std::max(sum, value) : std::min(sum, value);
    }
    ((Element*)to)[i] = (Element)(op == 4 ? sum / (Sum)c.ranks : sum);
  }
}

enum What { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, EVERY_TO_EVERY, SEND, RECEIVE };
struct Call {
  What what;
  Comm* comm;
  const char* send;
  char* receive;
  size_t bytes;
  int type, op, peer;
};

static void reduce_as(const Call& call, char (*slots)[SLOT_BYTES], void* to, size_t bytes) {
#define TYPE(number, Element, Sum) \
  if (call.type == number) reduce<Element, Sum>(*call.comm, slots, to, bytes, call.op)
  TYPE(0, int8_t, int64_t);
  TYPE(1, uint8_t, int64_t);
  TYPE(2, int32_t, int64_t);
  TYPE(4, int64_t, int64_t);
  TYPE(6, _Float16, double);
  TYPE(7, float, double);
  TYPE(8, double, double);
  TYPE(9, Bfloat, double);
}

static std::string protocol_of(const Comm& c, size_t bytes = 0) {
  return chosen_protocol(c.protocol, bytes);
}

// Whether the stream may go on.
static bool begin(Comm& c) {
  usleep((unsigned)c.delay_us);
  const std::string protocol = protocol_of(c);
  if (setting("FAKE_NCCL_STANDS_STILL") == (protocol.empty() ? "default" : protocol))
    while (!c.aborted) usleep(1000);
  return !c.aborted;
}

static void end(Comm& c) {
  const std::string lost = setting("FAKE_NCCL_LOST_AFTER");
  if (++c.performed >= (uint64_t)(lost.empty() ? -1 : atol(lost.c_str()))) {
    last_error = "NET/Socket : peer 10.0.0.7<4711> has closed the connection";
    c.asynchronous = REMOTE_ERROR;
  }
}

// For each segment of the send buffer, every rank copies its data into its slot, and the receiver
// reads all slots.
static void collective(void* argument) {
  const Call& call = *(const Call*)argument;
  Comm& c = *call.comm;
  if (!begin(c)) return;
  const bool sends_all = call.what == REDUCE_SCATTER || call.what == EVERY_TO_EVERY;
  for (int segment = 0; segment < (sends_all ? c.ranks : 1); ++segment)
    for (size_t at = 0; at < std::max<size_t>(call.bytes, 1); at += SLOT_BYTES) {
      // All ranks have read this half, because each has joined the previous meeting since.
      const int half = c.met & 1;
      auto slots = c.shared->slots[half];
      const size_t bytes = std::min(SLOT_BYTES, call.bytes - at);
      memcpy(slots[c.rank], call.send + segment * call.bytes + at, bytes);
      int& window = c.shared->places[c.rank].window[half] = 0;
      for (auto [base, size] : c.windows) {
        if (call.send >= base && call.send < base + size) break;
        ++window;
      }
      if (!meet(c) || c.asynchronous) return;
      // A symmetric kernel reads the peers' windows of the same number, even if they hold other
      // buffers.
      for (int r = 0; r < c.ranks; ++r)
        if (c.shared->places[r].window[half] != window) memset(slots[r], 0xee, bytes);
      if (sends_all && segment != c.rank) continue;
      char* to = call.receive + at;
      if (call.what == ALL_GATHER || call.what == EVERY_TO_EVERY)
        for (int r = 0; r < c.ranks; ++r) memcpy(to + r * call.bytes, slots[r], bytes);
      else
        reduce_as(call, slots, to, bytes);
    }
  end(c);
}

// Messages that progress together; a message ends when its receiver has taken the last part.
// Without a group each message waits for the one before it, so that ranks which all send first
// deadlock.
typedef std::vector<Call> Group;
static void messages(void* argument) {
  const Group& group = *(const Group*)argument;
  Comm& c = *group[0].comm;
  if (!begin(c)) return;
  std::vector<size_t> done(group.size());
  for (size_t left = group.size(); left; sched_yield()) {
    if (c.aborted) return;
    left = 0;
    for (size_t i = 0; i < group.size(); ++i) {
      const Call& call = group[i];
      const size_t bytes = std::min(PART_BYTES, call.bytes - done[i]);
      const bool sends = call.what == SEND;
      Mailbox& mail = c.shared->mail[sends ? c.rank : call.peer][sends ? call.peer : c.rank];
      const bool holds =
          mail.sent.load(std::memory_order_acquire) > mail.taken.load(std::memory_order_acquire);
      if (sends && bytes && !holds)
        memcpy(mail.part, call.send + done[i], bytes), done[i] += bytes, ++mail.sent;
      if (!sends && bytes && holds)
        memcpy(call.receive + done[i], mail.part, bytes), done[i] += bytes, ++mail.taken;
      left += done[i] < call.bytes || (sends && mail.sent > mail.taken);
    }
  }
  end(c);
}

static std::set<void*> own_memory;

extern "C" {
const char* ncclGetErrorString(int status) { return NAMES[status]; }
const char* ncclGetLastError(Comm*) { return last_error.c_str(); }

int ncclGetVersion(int* version) {
  const std::string asked = setting("FAKE_NCCL_VERSION");
  *version = asked.empty() ? VERSION : atoi(asked.c_str());
  return 0;
}

int ncclGetUniqueId(UniqueId* id) {
  static int number;
  say("INIT", "Bootstrap: Using lo:127.0.0.1<0>");
  if (told_to_fail("ncclGetUniqueId", 0))
    return fail(SYSTEM_ERROR, "Bootstrap : no socket interface found");
  memset(id, 0, sizeof *id);
  snprintf(id->internal, sizeof id->internal, "/fake-nccl-%d-%d-%d", VERSION, getpid(), ++number);
  return 0;
}

// ncclConfig_t of 2.27, or of 2.17. The real library ignores what is behind its own size.
struct Config {
  size_t size;
  unsigned magic, version;
  int blocking, cgaClusterSize, minCTAs, maxCTAs;
  const char* netName;
#ifdef OLD
  int splitShare;
#else
  int splitShare, trafficClass;
  const char* commName;
  int collnetEnable, CTAPolicy, shrinkShare, nvlsCTAs;
#endif
};
// Variables outweigh the configuration, as in envConfigOverride of NCCL's init.cc; the number of
// channels is then found as in ncclTopoPostset.
static int channels_of(const Config& config) {
  const auto limit = [](int configured, int otherwise, const char* name, const char* in_file = "") {
    std::string text = setting(name);
    if (text.empty()) text = setting(in_file);
    if (!text.empty()) say("ENV", "%s set by environment to %s.", name, text.c_str());
    return !text.empty() ? atoi(text.c_str()) : configured > 0 ? configured : otherwise;
  };
  const int most = limit(config.maxCTAs, 64, "NCCL_MAX_CTAS", "FAKE_NCCL_CONF_MAX_CTAS");
  const int least = std::min(most, limit(config.minCTAs, 1, "NCCL_MIN_CTAS"));
  return std::max(least, std::min(most, 2));
}

int ncclCommInitRankConfig(Comm** comm, int ranks, UniqueId id, int rank, const Config* config) {
  if (config->magic != 0xcafebeef || config->size != sizeof(Config))
    return fail(INVALID_USAGE, "ncclConfig_t argument not initialized");
  Comm* c = *comm = new Comm();
  c->ranks = ranks, c->rank = rank, c->protocol = setting("NCCL_PROTO");
  const std::string algorithm = c->algorithm = setting("NCCL_ALGO");
  const std::string chosen = c->protocol.empty() ? algorithm : c->protocol;
  c->delay_us = delay_of(chosen);
#ifndef OLD
  c->zero_cta = config->CTAPolicy == 2;
#endif
  c->channels = channels_of(*config);
  if (config->maxCTAs > 0) c->delay_us += delay_of("CTAs" + std::to_string(c->channels), 400);
  if (!algorithm.empty()) say("ENV", "NCCL_ALGO set by environment to %s", algorithm.c_str());
  if (!c->protocol.empty()) say("ENV", "NCCL_PROTO set by environment to %s", c->protocol.c_str());
  const int file = shm_open(id.internal, O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, sizeof(Shared))) return fail(SYSTEM_ERROR, "no shared memory");
  c->shared = (Shared*)mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  c->shared->places[rank].failed = told_to_fail("ncclCommInitRankConfig", rank);
  meet(*c);
  shm_unlink(id.internal);
  for (int r = 0; r < ranks; ++r)
    if (c->shared->places[r].failed)
      return r == rank ? fail(SYSTEM_ERROR,
                              "Error while creating shared memory segment /dev/shm/nccl-Ab12Cd "
                              "(size 9637888)")
                       : fail(REMOTE_ERROR,
                              "socketProgress: Connection closed by remote peer 10.0.0.7<4711>");
  say("INIT",
      "%d coll channels, 0 collnet channels, 0 nvls channels, %d p2p channels, 2 p2p channels per "
      "peer",
      c->channels, c->channels);
  int release;
  ncclGetVersion(&release);
  if (setting("FAKE_NCCL_NO_WINDOWS") == "said")
    say("INIT", release < 23200 ? "Symmetric memory is not supported. cuMemEnable 0, ginSupport 0"
                                : "symmetricSupport 0, cuMemEnable 0, globalGinSupport 0");
  return 0;
}

int ncclCommInitRank(Comm** comm, int ranks, UniqueId id, int rank) {
  Config config{sizeof(Config), 0xcafebeef};
  return ncclCommInitRankConfig(comm, ranks, id, rank, &config);
}

int ncclCommGetAsyncError(Comm* c, int* status) { return *status = c->asynchronous, 0; }

// Checks a call before it enters a stream, and logs the connections at the first call.
static int look_at(const char* name, Comm* c) {
  protocol_of(*c);
  if (told_to_fail(name, c->rank))
    return fail(UNHANDLED_CUDA_ERROR, "Cuda failure 'unspecified launch failure'");
  if (!c->connected) {
    std::string way = setting("FAKE_NCCL_WAY");
    int version;
    ncclGetVersion(&version);
    if (way == "SHM/direct/direct" && version < 23007 &&
        setting("NCCL_SHM_USE_CUDA_MEMCPY") == "1") {
      say("ENV", "NCCL_SHM_USE_CUDA_MEMCPY set by environment to 1.");
      way = "SHM/CE/direct";
    }
    const int next = (c->rank + 1) % c->ranks;
    say("INIT", "Channel 00/0 : %d[%d] -> %d[%d] via %s", c->rank, c->rank, next, next,
        way.empty() ? "P2P/CUMEM" : way.c_str());
    c->connected = true;
  }
  // As NCCL 2.28 and later under its zero-CTA policy.
  const bool moves = !strcmp(name, "ncclAllGather") || !strcmp(name, "ncclAlltoAll");
  if (moves && c->zero_cta && !c->windows.empty() && !c->copied &&
      setting("FAKE_NCCL_NO_COPY_ENGINES") != "1") {
    say("INIT", "Init CE, rank %d baseUCSymReadyPtr (nil), seq num 0", c->rank);
    c->copied = true;
  }
  return 0;
}

static const std::vector<size_t> SIZES = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

static std::string upper(std::string text) {
  for (char& letter : text) letter = (char)toupper(letter);
  return text;
}

// Logs what a call runs as NCCL 2.30 does.
static void say_choice(const char* function, const Call& call) {
  const Comm& c = *call.comm;
  const std::string protocol = protocol_of(c, call.bytes);
  if (c.rank) return;
  if (c.copied)
    say("TUNING", "%s [Copy Engine]: %zu Bytes -> cudaMemcpy", function, call.bytes);
  else if (!c.windows.empty())
    say("TUNING", "%s [Symmetric]: %zu Bytes -> Kernel %s_LD nchannels 4 nthreads 512 nWorks 1",
        function, call.bytes, function);
  else if (call.what != EVERY_TO_EVERY)
    say("TUNING", "%s: %zu Bytes -> Algo %s proto %s channel{Lo..Hi}={0..%d}", function, call.bytes,
        c.algorithm.empty() ? "RING" : upper(c.algorithm).c_str(),
        protocol.empty() ? "SIMPLE" : upper(protocol).c_str(), c.channels - 1);
}

static int enqueue(const char* name, void* stream, Call call) {
  if (int status = look_at(name, call.comm)) return status;
  call.bytes *= SIZES.at(call.type);
  say_choice(name + strlen("nccl"), call);
  // Never freed: a captured graph may run it again.
  return gpu_launchHostFunc(stream, collective, new Call(call));
}

static int depth, group_status;
static Group group;
static void* group_stream;

int ncclGroupStart() { return ++depth, 0; }
int ncclGroupEnd() {
  if (--depth) return 0;
  Group* whole = new Group(std::move(group));
  group.clear();
  const int status = std::exchange(group_status, 0);
  if (status || whole->empty()) return status;
  return gpu_launchHostFunc(group_stream, messages, whole);
}

static int message(const char* name, void* stream, Call call) {
  ncclGroupStart();
  const int status = look_at(name, call.comm);
  call.bytes *= SIZES.at(call.type), group.push_back(call), group_stream = stream;
  if (status) group_status = status;
  const int ended = ncclGroupEnd();
  return status ? status : ended;
}

int ncclAllReduce(const void* send, void* receive, size_t count, int type, int op, Comm* c,
                  void* stream) {
  return enqueue("ncclAllReduce", stream,
                 {ALL_REDUCE, c, (const char*)send, (char*)receive, count, type, op, 0});
}
int ncclReduceScatter(const void* send, void* receive, size_t count, int type, int op, Comm* c,
                      void* stream) {
  return enqueue("ncclReduceScatter", stream,
                 {REDUCE_SCATTER, c, (const char*)send, (char*)receive, count, type, op, 0});
}
int ncclAllGather(const void* send, void* receive, size_t count, int type, Comm* c, void* stream) {
  return enqueue("ncclAllGather", stream,
                 {ALL_GATHER, c, (const char*)send, (char*)receive, count, type, 0, 0});
}
#define NAMED(x) NAMED_(x)
#define NAMED_(x) #x
#ifndef OLD
int ALL_TO_ALL(const void* send, void* receive, size_t count, int type, Comm* c, void* stream) {
  return enqueue(NAMED(ALL_TO_ALL), stream,
                 {EVERY_TO_EVERY, c, (const char*)send, (char*)receive, count, type, 0, 0});
}
#endif
int ncclSend(const void* send, size_t count, int type, int peer, Comm* c, void* stream) {
  return message("ncclSend", stream, {SEND, c, (const char*)send, nullptr, count, type, 0, peer});
}
int ncclRecv(void* receive, size_t count, int type, int peer, Comm* c, void* stream) {
  return message("ncclRecv", stream, {RECEIVE, c, nullptr, (char*)receive, count, type, 0, peer});
}

#ifndef OLD
void ncclResetDebugInit() { unread = true; }
#endif

int rcclGetAlgoInfo(Comm* c, int, uint64_t, int, int, int, int, int* algorithm, int* protocol,
                    int* channels) {
  if (told_to_fail("rcclGetAlgoInfo", c->rank)) return INVALID_USAGE;
  *algorithm = 1, *protocol = protocol_of(*c) == "LL" ? 0 : 2, *channels = 56;
  return 0;
}

int ncclCommAbort(Comm* c) { return c->aborted = true, 0; }

int ncclMemAlloc(void** pointer, size_t bytes) {
  if (gpu_malloc(pointer, bytes)) return fail(UNHANDLED_CUDA_ERROR, "out of memory");
  own_memory.insert(*pointer);
  return 0;
}
int ncclMemFree(void* pointer) { return own_memory.erase(pointer), gpu_free(pointer); }

#ifndef OLD
int ncclCommWindowRegister(Comm* c, void* buffer, size_t bytes, void** window, int flags) {
  *window = nullptr;
  if (flags != 1 || !own_memory.count(buffer)) return fail(INVALID_ARGUMENT, "no symmetric memory");
  meet(*c);
  if (setting("FAKE_NCCL_NO_WINDOWS") != "1")
    *window = buffer, c->windows.emplace_back((char*)buffer, bytes);
  return 0;
}
#endif
// For tests only.
int fake_nccl_windows(Comm* c) { return (int)c->windows.size(); }
}
