// Memory, handles, faults and errors of the software GPU, and the driver's own functions for them.
//
// Device memory is a memfd. A handle holds the process, the descriptor and the size, so that
// another process can map the same pages through /proc/PID/fd/N. A handle gives access to nothing
// else.
#include "device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

// -- requested faults

long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

static std::mutex lock;
static int broken = 0;
static bool hip = false;
static thread_local int device_in_use = -1;
static int first_device = 0;

bool is_hip() { return hip; }
void break_device(int status) {
  std::lock_guard<std::mutex> held(lock);
  if (!broken) broken = status;
}
int device_status() {
  std::lock_guard<std::mutex> held(lock);
  return broken;
}

extern "C" void gpu_open(int vendor_is_hip, int first) {
  hip = vendor_is_hip, first_device = first;
}
extern "C" void gpu_set_device(int physical) { device_in_use = physical; }
int device_now() { return device_in_use < 0 ? first_device : device_in_use; }

// By call: the status, and the least amount at which the call fails.
static auto& faults = *new std::map<std::string, std::pair<int, size_t>>;
extern "C" void gpu_fail(const char* call, int status, size_t least) {
  faults[call] = {status, least};
}
extern "C" int gpu_entering(const char* call, size_t amount) {
  if (const int status = device_status()) return status;
  const auto fault = faults.find(call);
  return fault != faults.end() && amount >= fault->second.second ? fault->second.first : 0;
}

// -- allocations

enum Kind { DEVICE_MEMORY, PINNED, REGISTERED, PEER };
static long serials = 0;
static std::atomic<unsigned> mapped_anew{1};  // mappings that came or went
struct Allocation {
  size_t bytes;
  Kind kind;
  int fd = -1;
  unsigned flags = 0;
  int device = device_now(), pid = getpid();
  long serial = ++serials;
  int opened = 1;
};
static auto& allocations =
    *new std::map<uintptr_t, Allocation>;  // never destroyed: a kernel may outlive main

struct Handle {
  char magic[8];
  int pid, fd, device;
  size_t bytes;
  long serial;
  unsigned flags;
  char rest[20];
};
static_assert(sizeof(Handle) == 64, "as CUDA's and HIP's");

// The allocation that holds an address; call with the lock held.
static std::map<uintptr_t, Allocation>::iterator holding(uintptr_t address) {
  auto it = allocations.upper_bound(address);
  if (it == allocations.begin()) return allocations.end();
  --it;
  return address <= it->first + it->second.bytes ? it : allocations.end();
}

bool reachable(uintptr_t address) {
  std::lock_guard<std::mutex> held(lock);
  return holding(address) != allocations.end();
}

bool on_host(uintptr_t address) {
  std::lock_guard<std::mutex> held(lock);
  const auto it = holding(address);
  return it != allocations.end() && (it->second.kind == PINNED || it->second.kind == REGISTERED);
}

// Protects the first MiB of device memory between the end of a wait and the next launch or copy: a
// host access ends in SIGSEGV, as with a GPU. The system marks each page, so only a test that sets
// FAKE_GPU_CLOSED has it, and no memory as a whole.
static bool closes() { return setting("FAKE_GPU_CLOSED", 0); }
static bool opened = false;
static void protect(void* at, size_t bytes, int access) {
  mprotect(at, std::min(bytes, size_t{1} << 20), access);
}
void open_memory(bool open) {
  std::lock_guard<std::mutex> held(lock);
  if (!closes() || opened == open) return;
  opened = open;
  for (const auto& a : allocations)
    if (a.second.kind == DEVICE_MEMORY || a.second.kind == PEER)
      protect((void*)a.first, a.second.bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void add_memory(void* at, size_t bytes, bool opens) {
  std::lock_guard<std::mutex> held(lock);
  allocations[(uintptr_t)at] = {bytes, opens ? PEER : PINNED}, ++mapped_anew;
  if (opens && closes() && !opened) protect(at, bytes, PROT_NONE);
}
static void remove_cache(char* at);
void remove_memory(void* at) {
  std::lock_guard<std::mutex> held(lock);
  remove_cache((char*)at);
  allocations.erase((uintptr_t)at), ++mapped_anew;
}

// -- reads of peers' memory

// Such reads are to stay out where they are not routed. FAKE_GPU_READS has the file that gets the
// names of those that make them.
bool of_peer(const void* at) {
  struct Page {
    uintptr_t number;
    unsigned as_of;
    bool of_peer;
  };
  static thread_local Page pages[256];
  const uintptr_t number = (uintptr_t)at >> 12;
  Page& page = pages[number % 256];
  const unsigned now = mapped_anew;
  if (page.number != number || page.as_of != now) {
    std::lock_guard<std::mutex> held(lock);
    const auto it = holding((uintptr_t)at);
    page = {number, now, it != allocations.end() && it->second.kind == PEER};
  }
  return page.of_peer;
}
void note_read(const char* name) {
  static auto& noted = *new std::set<std::string>;
  static std::mutex noting;
  std::lock_guard<std::mutex> held(noting);
  const char* path = getenv("FAKE_GPU_READS");
  if (!path || !*path || !noted.insert(name).second) return;
  const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0 || dprintf(fd, "%s\n", name) < 0) abort();
  close(fd);
}

// -- caches

// FAKE_GPU_CACHED lists flags of hipExtMallocWithFlags, 0 for ordinary memory, and types of virtual
// memory management (p and u): this process reaches parts of a peer's large allocation of such a
// kind through a cache. FAKE_GPU_COHERENT says when the cache writes back and forgets: at the ends
// of a `launch` only, also at every `fence` of the system's scope, or, for stores, when the kernel
// writes the `hdp` register. `pushes`: a fence writes back, and nothing makes the cache forget.
// `synchronisation`, `graph`: as an AMD GPU's L2, of which a packet that dispatches a kernel
// invalidates nothing; it forgets only when the host has waited, or also at launches outside of
// graphs and at a graph's start.
constexpr size_t CACHE_BYTES = 384 << 10, LINE_BYTES = 64,
                 CACHED_FROM_BYTES = 64 << 20;  // slabs: flags are in less
// As in peer_buffer.py, for chunks of 8 MiB: each half of a slab starts in the cache.
constexpr size_t HALF_BYTES = (32 << 20) + (64 << 10);
struct Cache {
  char *at, *memory, *seen;  // the GPU's copy, the memory, and the contents when both were equal
  char* stored;              // of each line, whether a kernel has stored into it since
};
static auto& caches = *new std::vector<Cache>;
static std::mutex caches_lock;
static std::atomic<bool> caching{false};
// An L2 that has forgotten fills a line when a kernel reads it; this one fills all at the next
// acquire. Kernels of two ranks read later than their first acquire.
static bool must_forget = false;
static unsigned *hdp_register = nullptr, no_register = 0;

int open_descriptor(int pid, int fd) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  return open(path.c_str(), O_RDWR | O_CLOEXEC);
}

static bool is_cached(size_t bytes, char kind) {
  const char* all = getenv("FAKE_GPU_CACHED");
  return all && kind && bytes >= CACHED_FROM_BYTES && strchr(all, kind);
}
static char coherent() {
  static const char* when = getenv("FAKE_GPU_COHERENT");
  return when ? *when : 'l';
}
static void add_cache(char* at, int fd, size_t offset) {
  std::lock_guard<std::mutex> held(caches_lock);
  char* memory =
      (char*)mmap(nullptr, CACHE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
  at += offset;
  char* seen = (char*)malloc(CACHE_BYTES);
  mmap(at, CACHE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  memcpy(seen, memory, CACHE_BYTES), memcpy(at, seen, CACHE_BYTES);
  caches.push_back({at, memory, seen, (char*)calloc(CACHE_BYTES / LINE_BYTES, 1)}), caching = true;
}
static void mark(const void* to) {
  std::lock_guard<std::mutex> held(caches_lock);
  for (const Cache& c : caches)
    if ((const char*)to >= c.at && (const char*)to < c.at + CACHE_BYTES)
      c.stored[((const char*)to - c.at) / (long)LINE_BYTES] = 1;
}
// A kernel calls note_store before it stores, and another thread's fence may write the line back in
// between: so each thread marks its last line once more before whatever it does next.
static thread_local const void* last_stored = nullptr;
void mark_last_store() {
  if (const void* to = last_stored) last_stored = nullptr, mark(to);
}
// A store of what the cache has already changes nothing there, and must reach the memory all the
// same: the owner may have stored something else meanwhile. Builds without the call go by changes.
void note_store(const void* to) {
  if (!caching || !of_peer(to)) return;
  mark_last_store(), mark(to), last_stored = to;
}
static void remove_cache(char* at) {
  std::lock_guard<std::mutex> held(caches_lock);
  for (size_t i = 0; i < caches.size(); ++i)
    if (caches[i].at == at || caches[i].at == at + HALF_BYTES) {
      munmap(caches[i].memory, CACHE_BYTES), free(caches[i].seen), free(caches[i].stored);
      caches.erase(caches.begin() + (long)i--);
    }
}
// Writes changed lines back, or takes the memory's changes over; with `only`, for the line of this
// address. Call it with the lock held.
static void exchange_locked(bool write_back, const char* only) {
  for (const Cache& c : caches) {
    if (only && (only < c.at || only >= c.at + CACHE_BYTES)) continue;
    const size_t first = only ? (size_t)(only - c.at) / LINE_BYTES * LINE_BYTES : 0;
    for (size_t i = first; i < (only ? first + LINE_BYTES : CACHE_BYTES); i += LINE_BYTES) {
      uint64_t line[LINE_BYTES / 8];  // read once, by atomics: others write meanwhile
      for (size_t k = 0; k < LINE_BYTES / 8; ++k)
        line[k] = __atomic_load_n((const uint64_t*)((write_back ? c.at : c.memory) + i) + k,
                                  __ATOMIC_RELAXED);
      char& stored = c.stored[i / LINE_BYTES];
      if (!memcmp(line, c.seen + i, LINE_BYTES) && !(write_back && stored)) continue;
      if (write_back) stored = 0;
      memcpy((write_back ? c.memory : c.at) + i, line, LINE_BYTES);
      memcpy(c.seen + i, line, LINE_BYTES);
    }
  }
}
static void exchange_lines(bool write_back, const char* only = nullptr) {
  std::lock_guard<std::mutex> held(caches_lock);
  exchange_locked(write_back, only);
}
static bool is_l2() { return coherent() == 's' || coherent() == 'g'; }
static void acquire() {
  if (coherent() == 'l' || coherent() == 'p') return;
  std::lock_guard<std::mutex> held(caches_lock);
  if (is_l2() && !must_forget) return;
  exchange_locked(false, nullptr), must_forget = false;
}
void write_caches_back() {
  if (caching) exchange_lines(true);
}
void empty_caches(Boundary at) {
  if (!caching || coherent() == 'p') return;
  if (!is_l2()) return at == HOST_WAITED ? void() : exchange_lines(false);
  std::lock_guard<std::mutex> held(caches_lock);
  must_forget |= at == HOST_WAITED || (coherent() == 'g' && at == LAUNCH);
}
extern "C" void gpu_fence(int order, const char* scope) {
  mark_last_store();
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (!caching || *scope || coherent() == 'l') return;
  if (order == __ATOMIC_ACQUIRE) return acquire();
  if (coherent() == 'h' &&
      !__atomic_exchange_n(hdp_register ? hdp_register : &no_register, 0u, __ATOMIC_SEQ_CST))
    return;
  exchange_lines(true);
}
// An atomic access of the system's scope bypasses the caches; an acquire empties them.
extern "C" void gpu_loaded(const void* at, int order) {
  if (!caching || coherent() == 'l' || coherent() == 'p') return;
  order == __ATOMIC_ACQUIRE ? acquire() : exchange_lines(false, (const char*)at);
}
extern "C" void gpu_stored(const void* at) {
  mark_last_store();
  if (caching && coherent() != 'l') exchange_lines(true, (const char*)at);
}

constexpr size_t TOTAL_BYTES = 4L << 30;
static size_t in_use() {
  size_t bytes = 0;
  for (const auto& a : allocations) bytes += a.second.kind == DEVICE_MEMORY ? a.second.bytes : 0;
  return bytes;
}

static int allocate(void** pointer, size_t bytes, unsigned flags = 0) {
  std::lock_guard<std::mutex> held(lock);
  if (bytes == 0) return *pointer = nullptr, 0;
  if (bytes > TOTAL_BYTES || in_use() > TOTAL_BYTES - bytes) return 2;
  const int fd = memfd_create("software gpu", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, (off_t)bytes)) return 2;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return close(fd), 2;
  memset(at, 0xcd, bytes);  // as with a driver, new memory has arbitrary contents
  allocations[(uintptr_t)at] = {bytes, DEVICE_MEMORY, fd, flags};
  if (closes() && !opened) protect(at, bytes, PROT_NONE);
  return *pointer = at, 0;
}

static int release(void* pointer, Kind kind, int otherwise) {
  std::lock_guard<std::mutex> held(lock);
  auto it = allocations.find((uintptr_t)pointer);
  if (it == allocations.end() || it->second.kind != kind) return otherwise;
  if (--it->second.opened > 0) return 0;
  if (kind == PEER) remove_cache((char*)pointer);
  if (kind != REGISTERED) munmap(pointer, it->second.bytes);
  if (it->second.fd >= 0) close(it->second.fd);
  allocations.erase(it), ++mapped_anew;
  return 0;
}

extern "C" {
int gpu_malloc(void** pointer, size_t bytes) { return allocate(pointer, bytes); }
int gpu_free(void* pointer) { return pointer ? release(pointer, DEVICE_MEMORY, 1) : 0; }
int gpu_hostAlloc(void** pointer, size_t bytes, unsigned) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return 2;
  std::lock_guard<std::mutex> held(lock);
  allocations[(uintptr_t)at] = {bytes, PINNED};
  return *pointer = at, 0;
}
// As without AMD's own driver module: ROCm's older IPC fails, and the newer one needs a common
// network namespace.
static bool shares_network_with(pid_t pid) {
  struct stat own, other;
  const std::string path = "/proc/" + std::to_string(pid) + "/ns/net";
  return !stat("/proc/self/ns/net", &own) && !stat(path.c_str(), &other) &&
         own.st_ino == other.st_ino;
}
int gpu_ipcGetMemHandle(void* pointer, Handle* handle) {
  if (is_hip() && setting("HSA_ENABLE_IPC_MODE_LEGACY", 0)) return 1;
  std::lock_guard<std::mutex> held(lock);
  auto it = holding((uintptr_t)pointer);
  if (it == allocations.end() || it->second.kind != DEVICE_MEMORY) return 1;
  const Allocation& a = it->second;
  *handle = {"sw-gpu", a.pid, a.fd, a.device, a.bytes, a.serial, a.flags, {}};
  return 0;
}
}
// Maps a peer's memory of a kind at an address, or anywhere. FAKE_GPU_CORRUPT_IPC: from this offset
// on, rounded down to a page, the mapping is a copy without later writes.
char* map_peer(char* where, int fd, size_t bytes, char kind) {
  const int fixed = where ? MAP_FIXED : 0;
  char* at = (char*)mmap(where, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | fixed, fd, 0);
  if (at == MAP_FAILED) return nullptr;
  if (is_cached(bytes, kind)) add_cache(at, fd, 0), add_cache(at, fd, HALF_BYTES);
  const long corrupt = setting("FAKE_GPU_CORRUPT_IPC", -1) & -4096L;
  if (corrupt >= 0 && (size_t)corrupt < bytes) {
    const size_t rest = bytes - (size_t)corrupt;
    const std::string copy(at + corrupt, rest);
    mmap(at + corrupt, rest, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
         0);
    memcpy(at + corrupt, copy.data(), rest);
  }
  return at;
}
extern "C" {
int gpu_ipcOpenMemHandle(void** pointer, const Handle* handle, unsigned flags) {
  if (flags != 1 || memcmp(handle->magic, "sw-gpu", 7)) return 1;
  if (handle->pid == getpid()) return 201;
  if (is_hip() && !shares_network_with(handle->pid)) return 17;
  if (handle->device != device_now() && setting("FAKE_GPU_PEER", 1) == 0) return 217;
  std::lock_guard<std::mutex> held(lock);
  for (auto& a : allocations)
    if (a.second.kind == PEER && a.second.pid == handle->pid && a.second.serial == handle->serial)
      return ++a.second.opened, *pointer = (void*)a.first, 0;
  const int fd = open_descriptor(handle->pid, handle->fd);
  if (fd < 0) return 205;
  char* at = map_peer(nullptr, fd, handle->bytes, (char)('0' + handle->flags));
  close(fd);
  if (!at) return 205;
  allocations[(uintptr_t)at] = {handle->bytes, PEER,          -1, 0, handle->device,
                                handle->pid,   handle->serial};
  ++mapped_anew;
  if (closes() && !opened) protect(at, handle->bytes, PROT_NONE);
  return *pointer = at, 0;
}
int gpu_ipcCloseMemHandle(void* pointer) { return release(pointer, PEER, 1); }

// -- functions that CuPy lacks

int hipExtMallocWithFlags(void** pointer, size_t bytes, unsigned flags) {
  ENTER;
  return flags <= 3 ? allocate(pointer, bytes, flags) : 1;
}
// FAKE_GPU_HDP: the driver gives the address of the register, as 64 bits. 0: it maps none; 2: it
// writes 32 bits.
int hipDeviceGetAttribute(void** value, int attribute, int) {
  ENTER;
  if (attribute != 10005) return 1;
  if (setting("FAKE_GPU_HDP", 0) == 2) return *(int*)value = 0x1000, 0;
  if (!setting("FAKE_GPU_HDP", 0)) return *value = nullptr, 0;
  if (!hdp_register && gpu_hostAlloc((void**)&hdp_register, 4096, 0)) return 2;
  return *value = hdp_register, 0;
}
int hipExtGetLinkTypeAndHopCount(int, int, unsigned* type, unsigned* hops) {
  ENTER;
  return *type = setting("FAKE_GPU_XGMI", 0) ? 4 : 2, *hops = 1, 0;  // otherwise PCIe
}

// A host's memory for a kernel: CUDA's functions, and HIP's, which CuPy has only as stubs.
#define REGISTER_HOST_MEMORY(REGISTER, POINTER, UNREGISTER)          \
  int REGISTER(void* pointer, size_t bytes, unsigned) {              \
    ENTER;                                                           \
    std::lock_guard<std::mutex> held(lock);                          \
    allocations[(uintptr_t)pointer] = {bytes, REGISTERED};           \
    return 0;                                                        \
  }                                                                  \
  int POINTER(void** device, void* host, unsigned) {                 \
    ENTER;                                                           \
    return *device = reachable((uintptr_t)host) ? host : nullptr, 0; \
  }                                                                  \
  int UNREGISTER(void* pointer) { return release(pointer, REGISTERED, 713); }
REGISTER_HOST_MEMORY(cuMemHostRegister_v2, cuMemHostGetDevicePointer_v2, cuMemHostUnregister)
REGISTER_HOST_MEMORY(hipHostRegister, hipHostGetDevicePointer, hipHostUnregister)
}
