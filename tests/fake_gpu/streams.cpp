// Streams, events and graphs of the software GPU.
//
// A stream is a queue with its own thread; its helpers are the other multiprocessors.
#include "device.h"
#include "launch.h"

#include <string.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

// -- streams

typedef std::function<void()> Task;
struct Stream;
extern "C" unsigned long long gpu_clock_ns();
// A point in a branch of a graph that other branches wait for; an event that a capturing stream
// records makes one.
struct Point {
  std::mutex lock;
  std::condition_variable changed;
  bool reached = false;
  void set(bool now) {
    std::lock_guard<std::mutex> held(lock);
    reached = now, changed.notify_all();
  }
  void wait() {
    std::unique_lock<std::mutex> held(lock);
    changed.wait(held, [this] { return reached; });
  }
};
// What one capture has recorded: a branch for each of its streams. Branches run at once, ordered by
// points alone.
struct Branch {
  Stream* stream;
  std::vector<Task> tasks;
  bool joined;  // whether another branch waits for its last task
};
struct Graph {
  std::deque<Branch> branches;  // the first is the stream's that began the capture
  std::vector<std::shared_ptr<Point>> points;
  bool calls_host = false;      // whether it runs a function of the host
  std::atomic<int> pending{0};  // launches that have not ended
};

static std::mutex streams_lock;  // lock before any stream's lock

constexpr size_t MOST_QUEUED = 1000;

struct Stream {
  std::mutex lock;
  std::condition_variable changed;
  std::deque<Task> queue;
  bool busy = false, invalidated = false;
  std::shared_ptr<Graph> capture;
  Branch* branch = nullptr;  // of `capture`
  Launch* launch = nullptr;  // the current launch
  unsigned long launches = 0, working = 0;

  explicit Stream(long multiprocessors) {
    std::thread([this] { work(); }).detach();
    for (long m = 1; m < multiprocessors; ++m) std::thread([this, m] { help(m); }).detach();
  }
  // A full stream makes the host wait, as on a GPU.
  void put(Task task) {
    for (;; usleep(1000)) {
      std::scoped_lock held(streams_lock, lock);
      if (capture) return branch->joined = false, branch->tasks.push_back(std::move(task));
      if (queue.size() >= MOST_QUEUED) continue;
      open_memory(true);
      queue.push_back(std::move(task)), changed.notify_all();
      return;
    }
  }
  void work() {
    for (std::unique_lock<std::mutex> held(lock);;) {
      changed.wait(held, [this] { return !queue.empty(); });
      Task task = std::move(queue.front());
      queue.pop_front(), busy = true;
      held.unlock();
      task();
      held.lock();
      busy = false, changed.notify_all();
    }
  }
  void help(long m) {
    unsigned long seen = 0;
    for (std::unique_lock<std::mutex> held(lock);;) {
      changed.wait(held, [&] { return launches != seen; });
      seen = launches;
      if (!launch || m >= launch->blocks) continue;
      Launch& l = *launch;
      ++working;
      held.unlock();
      run_blocks(l);
      held.lock();
      --working, changed.notify_all();
    }
  }
  void run(Launch& l) {
    if (l.blocks > 1) {
      std::lock_guard<std::mutex> held(lock);
      launch = &l, ++launches;
      changed.notify_all();
    }
    run_blocks(l);
    std::unique_lock<std::mutex> held(lock);
    launch = nullptr;  // a helper that has not begun finds no block left
    changed.wait(held, [this] { return working == 0; });
  }
  bool idle() {
    std::lock_guard<std::mutex> held(lock);
    return queue.empty() && !busy;
  }
  int wait() {
    std::unique_lock<std::mutex> held(lock);
    if (capture) return invalidated = true, 900;
    changed.wait(held, [this] { return queue.empty() && !busy; });
    return 0;
  }
};

static auto& streams = *new std::vector<Stream*>;  // never destroyed: a kernel may outlive main

static Stream* new_stream() {
  std::lock_guard<std::mutex> held(streams_lock);
  streams.push_back(new Stream(setting("FAKE_GPU_SMS", 2)));
  return streams.back();
}
// The default stream is number 0.
static Stream& stream_of(void* stream) {
  static Stream* legacy = new_stream();
  return stream ? *(Stream*)stream : *legacy;
}

static void close_if_idle() {
  std::lock_guard<std::mutex> held(streams_lock);
  for (Stream* s : streams)
    if (!s->idle()) return;
  open_memory(false);
}
static int wait_for(Stream& s) {
  const int status = s.wait();
  if (status == 0) empty_caches(HOST_WAITED), close_if_idle();
  return status ? status : device_status();
}

struct Event {
  std::mutex lock;
  std::condition_variable changed;
  enum { NEW, PENDING, DONE, CAPTURED } state = NEW;
  unsigned long records = 0, finished = 0;
  long long ns = 0;
  std::shared_ptr<Graph> capture;  // the last record's, if its stream was capturing
  std::shared_ptr<Point> point;
  Branch* branch;
};

// Whether a parameter holds an unknown address. A GPU's kernel would fault on it; this one would
// read host memory, or end the process. A word is an address if most mappings lie around it.
static bool wild_pointer(const Launch& l) {
  for (size_t i = 0; i + 8 <= l.size; i += 8) {
    uintptr_t word;
    memcpy(&word, l.parameters.bytes + i, 8);
    const uintptr_t high = word >> 40;
    if (high >= 0x55 && high <= 0x7f && !reachable(word)) return true;
  }
  return false;
}

static std::atomic<long> launches_begun{0};

extern "C" {
int gpu_streamIsCapturing(void* stream);
int gpu_streamCreateWithPriority(void** stream) { return *stream = new_stream(), 0; }
int gpu_launchKernel(void* stream, void* function, unsigned blocks, unsigned threads,
                     const void* parameters, size_t size) {
  const unsigned most = (unsigned)setting("FAKE_GPU_THREADS", 4);
  if (threads > most || size > MOST_PARAMETERS) return 1;
  std::vector<char> copied((const char*)parameters, (const char*)parameters + size);
  Stream& s = stream_of(stream);
  const Boundary start = gpu_streamIsCapturing(stream) ? NODE : LAUNCH;
  s.put([=, &s] {
    if (device_status()) return;
    const long after = setting("FAKE_GPU_VANISH_AFTER", 0);
    if (after && ++launches_begun >= after) return break_device(46);
    Launch l;
    l.function = function, l.blocks = blocks, l.threads = threads, l.size = size;
    l.resident = 2 * most / threads;
    memcpy(l.parameters.bytes, copied.data(), size);
    if (wild_pointer(l)) return break_device(700);
    empty_caches(start);
    s.run(l);
    write_caches_back();
  });
  return 0;
}
int gpu_launchHostFunc(void* stream, void (*function)(void*), void* argument) {
  Stream& s = stream_of(stream);
  {
    std::lock_guard<std::mutex> held(s.lock);
    if (s.capture) s.capture->calls_host = true;
  }
  s.put([=] {
    if (!device_status()) function(argument);
  });
  return 0;
}
// Copies and fills go through the default stream, which non-blocking streams do not wait for.
// Operations that CUDA may finish after the call returns are late here on purpose.
int gpu_memset(void* to, int value, size_t bytes) {
  if (!reachable((uintptr_t)to)) return 1;
  stream_of(nullptr).put([=] { usleep(300), memset(to, value, bytes); });
  return 0;
}
constexpr int WITHOUT_KERNEL = 1024;  // hipMemcpyDeviceToDeviceNoCU
// A copy from pageable memory returns when it has read the source, perhaps before it has written
// device memory.
static int copy(void* to, const void* from, size_t bytes, int kind, Stream& stream) {
  if (kind > 4 && !(is_hip() && kind == WITHOUT_KERNEL)) return 21;
  const bool between = kind >= 3;  // addresses that the device reaches
  const bool to_device = kind == 1 || between, from_device = kind == 2 || between;
  if ((to_device && !reachable((uintptr_t)to)) || (from_device && !reachable((uintptr_t)from)))
    return 1;
  if (kind == 1) {
    const std::vector<char> staged((const char*)from, (const char*)from + bytes);
    stream.put([=] { usleep(300), memcpy(to, staged.data(), bytes); });
    return 0;
  }
  stream.put([=] {
    if (between) usleep(300);
    if (of_peer(from)) note_read("copy");
    memcpy(to, from, bytes);
  });
  // Between two places of host memory the host waits, as CUDA's manual says.
  const bool waits = !between || (on_host((uintptr_t)to) && on_host((uintptr_t)from));
  return waits ? wait_for(stream) : 0;
}
int gpu_memcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
  return copy(to, from, bytes, kind, stream_of(stream));
}
// CUDA's stream memory operations: in the order of their stream, or of their branch of a graph.
int cuStreamWriteValue32_v2(void* stream, uint32_t* at, uint32_t value, unsigned flags) {
  ENTER;
  if (is_hip() || flags || !reachable((uintptr_t)at)) return 1;
  stream_of(stream).put([=] { __atomic_store_n(at, value, __ATOMIC_SEQ_CST); });
  return 0;
}
constexpr unsigned EQUAL = 1, FLUSH = 1u << 30;
// FAKE_GPU_FLUSHES=1: the device has the flush of a peer's stores, and a wait must ask for it.
int cuStreamWaitValue32_v2(void* stream, const uint32_t* at, uint32_t value, unsigned flags) {
  ENTER;
  const unsigned wanted = EQUAL | (setting("FAKE_GPU_FLUSHES", 0) ? FLUSH : 0);
  if (is_hip() || flags != wanted || !reachable((uintptr_t)at)) return 1;
  stream_of(stream).put([=] {
    while (!device_status() && __atomic_load_n(at, __ATOMIC_SEQ_CST) != value) usleep(20);
  });
  return 0;
}
int gpu_streamQuery(void* stream) { return stream_of(stream).idle() ? 0 : 600; }
int gpu_streamSynchronize(void* stream) { return wait_for(stream_of(stream)); }
int gpu_deviceSynchronize() {
  std::unique_lock<std::mutex> held(streams_lock);
  const std::vector<Stream*> all = streams;
  held.unlock();
  for (Stream* s : all)
    if (const int status = wait_for(*s)) return status;
  return device_status();
}
int gpu_streamBeginCapture(void* stream) {
  Stream& s = stream_of(stream);
  std::lock_guard<std::mutex> held(s.lock);
  s.capture = std::make_shared<Graph>(), s.invalidated = false;
  s.capture->branches.push_back({&s, {}, true});
  s.branch = &s.capture->branches.back();
  return 0;
}
int gpu_streamEndCapture(void** graph, void* stream) {
  Stream& s = stream_of(stream);
  std::unique_lock<std::mutex> held(s.lock);
  if (!s.capture) return 1;
  const std::shared_ptr<Graph> captured = s.capture;
  const bool invalidated = s.invalidated;
  held.unlock();
  bool joined = true;
  for (Branch& b : captured->branches) {
    std::lock_guard<std::mutex> its(b.stream->lock);
    b.stream->capture.reset(), b.stream->branch = nullptr;
    joined &= b.joined || b.stream == &s;
  }
  if (invalidated) return 901;
  if (!joined) return 904;
  // A new graph may need memory, and waits for the device: behind a closed gate, for ever.
  if (const int status = wait_for(s)) return status;
  return *graph = new std::shared_ptr<Graph>(captured), 0;
}
int gpu_streamIsCapturing(void* stream) {
  Stream& s = stream_of(stream);
  std::lock_guard<std::mutex> held(s.lock);
  return s.capture != nullptr;
}
int gpu_graphLaunch(void* graph, void* stream) {
  // A graph's launches are one after another, also where streams launch it at once.
  static auto& one_at_a_time = *new std::mutex;
  const std::shared_ptr<Graph> launched_graph = *(std::shared_ptr<Graph>*)graph;
  // FAKE_GPU_GRAPH_WAITS=1: the host waits for the last launch of a graph that calls the host.
  const bool waits = launched_graph->calls_host && setting("FAKE_GPU_GRAPH_WAITS", 0);
  while (waits && launched_graph->pending) usleep(100);
  ++launched_graph->pending;
  stream_of(stream).put([=] {
    std::lock_guard<std::mutex> held(one_at_a_time);
    for (const auto& point : launched_graph->points) point->set(false);
    empty_caches(LAUNCH);
    std::vector<std::thread> beside;
    for (size_t b = 1; b < launched_graph->branches.size(); ++b)
      beside.emplace_back([=] {
        for (const Task& task : launched_graph->branches[b].tasks) task();
      });
    for (const Task& task : launched_graph->branches[0].tasks) task();
    for (std::thread& t : beside) t.join();
    --launched_graph->pending;
  });
  return 0;
}
int gpu_eventCreateWithFlags(void** event) { return *event = new Event, 0; }
int gpu_eventRecord(Event* event, void* stream) {
  Stream& s = stream_of(stream);
  std::unique_lock<std::mutex> of_stream(s.lock);
  const std::shared_ptr<Graph> capture = s.capture;
  Branch* const branch = s.branch;
  of_stream.unlock();
  std::unique_lock<std::mutex> held(event->lock);
  event->state = capture ? Event::CAPTURED : Event::PENDING;
  event->capture = capture, event->branch = branch;
  const unsigned long record = ++event->records;
  if (capture) {
    const auto point = event->point = std::make_shared<Point>();
    capture->points.push_back(point);
    branch->tasks.push_back([=] { point->set(true); });
    return 0;
  }
  held.unlock();
  s.put([=] {
    std::lock_guard<std::mutex> inside(event->lock);
    event->finished = record;
    if (event->records == record) event->state = Event::DONE, event->ns = (long long)gpu_clock_ns();
    event->changed.notify_all();
  });
  return 0;
}
// Waits for the last record before this call; later records do not matter.
int gpu_streamWaitEvent(void* stream, Event* event) {
  std::unique_lock<std::mutex> held(event->lock);
  const unsigned long record = event->records;
  Stream& s = stream_of(stream);
  if (event->state ==
      Event::CAPTURED) {  // the stream joins the capture, or its branch waits for the other
    std::lock_guard<std::mutex> of_stream(s.lock);
    const std::shared_ptr<Graph> capture = event->capture;
    if (!s.capture) {
      s.capture = capture;
      Branch* known = nullptr;
      for (Branch& b : capture->branches)
        if (b.stream == &s) known = &b;
      if (!known) capture->branches.push_back({&s, {}, true}), known = &capture->branches.back();
      s.branch = known;
    }
    const auto point = event->point;
    event->branch->joined = true, s.branch->joined = s.branch == event->branch;
    s.branch->tasks.push_back([=] { point->wait(); });
    return 0;
  }
  held.unlock();
  s.put([=] {
    std::unique_lock<std::mutex> inside(event->lock);
    event->changed.wait(inside, [=] { return event->finished >= record; });
  });
  return 0;
}
int gpu_eventElapsedTime(float* ms, Event* start, Event* end) {
  for (Event* e : {start, end}) {
    std::lock_guard<std::mutex> held(e->lock);
    if (e->state == Event::NEW || e->state == Event::CAPTURED) return 400;
    if (e->state == Event::PENDING) return 600;
  }
  return *ms = (float)((double)(end->ns - start->ns) / 1e6), 0;
}
}
