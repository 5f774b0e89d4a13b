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

#include <cstdio>
#include <cstdlib>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

struct Error {
  int status;
  const char *cuda, *driver, *hip, *text, *hip_text;
};
// Error names of the runtime and the driver, and messages of the runtime, for the errors that tests
// can meet.
static const Error ERRORS[] = {
    {0, "cudaSuccess", "CUDA_SUCCESS", "hipSuccess", "no error", nullptr},
    {1, "cudaErrorInvalidValue", "CUDA_ERROR_INVALID_VALUE", "hipErrorInvalidValue",
     "invalid argument", nullptr},
    {2, "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "hipErrorOutOfMemory",
     "out of memory", nullptr},
    {17, "cudaErrorInvalidDevicePointer", nullptr, "hipErrorInvalidDevicePointer",
     "invalid device pointer", nullptr},
    {35, "cudaErrorInsufficientDriver", nullptr, "hipErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version",
     "driver version is insufficient for runtime version"},
    {46, "cudaErrorDevicesUnavailable", "CUDA_ERROR_DEVICE_UNAVAILABLE", nullptr,
     "CUDA-capable device(s) is/are busy or unavailable", nullptr},
    {100, "cudaErrorNoDevice", "CUDA_ERROR_NO_DEVICE", "hipErrorNoDevice",
     "no CUDA-capable device is detected", "no ROCm-capable device is detected"},
    {101, "cudaErrorInvalidDevice", "CUDA_ERROR_INVALID_DEVICE", "hipErrorInvalidDevice",
     "invalid device ordinal", nullptr},
    {205, "cudaErrorMapBufferObjectFailed", "CUDA_ERROR_MAP_FAILED", "hipErrorMapFailed",
     "mapping of buffer object failed", nullptr},
    {217, "cudaErrorPeerAccessUnsupported", "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED",
     "hipErrorPeerAccessUnsupported", "peer access is not supported between these two devices",
     nullptr},
    {400, "cudaErrorInvalidResourceHandle", "CUDA_ERROR_INVALID_HANDLE", "hipErrorInvalidHandle",
     "invalid resource handle", nullptr},
    {700, "cudaErrorIllegalAddress", "CUDA_ERROR_ILLEGAL_ADDRESS", "hipErrorIllegalAddress",
     "an illegal memory access was encountered", nullptr},
    {801, "cudaErrorNotSupported", "CUDA_ERROR_NOT_SUPPORTED", "hipErrorNotSupported",
     "operation not supported", nullptr},
    {900, "cudaErrorStreamCaptureUnsupported", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "hipErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing",
     nullptr},
    {719, "cudaErrorLaunchFailure", "CUDA_ERROR_LAUNCH_FAILED", "hipErrorLaunchFailure",
     "unspecified launch failure", nullptr},
    {901, "cudaErrorStreamCaptureInvalidated", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "hipErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture",
     nullptr},
    {904, "cudaErrorStreamCaptureUnjoined", "CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
     "hipErrorStreamCaptureUnjoined", "capturing stream has unjoined work", nullptr},
    {905, "cudaErrorStreamCaptureIsolation", "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "hipErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream",
     nullptr},
    {907, "cudaErrorCapturedEvent", "CUDA_ERROR_CAPTURED_EVENT", "hipErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream", nullptr},
    {999, "cudaErrorUnknown", "CUDA_ERROR_UNKNOWN", "hipErrorUnknown", "unknown error", nullptr},
};

static const Error& error_of(int status) {
  for (const Error& e : ERRORS)
    if (e.status == status && (!is_hip() || e.hip)) return e;
  return ERRORS[sizeof ERRORS / sizeof *ERRORS - 1];
}

extern "C" const char* gpu_error_name(int status) {
  return is_hip() ? error_of(status).hip : error_of(status).cuda;
}
extern "C" const char* gpu_driver_error_name(int status) {
  return is_hip() ? error_of(status).hip : error_of(status).driver;
}
extern "C" const char* gpu_error_string(int status) {
  const Error& e = error_of(status);
  return is_hip() && e.hip_text ? e.hip_text : e.text;
}
extern "C" const char* hipGetErrorString(int status) { return gpu_error_string(status); }

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
static int device_now() { return device_in_use < 0 ? first_device : device_in_use; }

// FAKE_GPU_FAIL: call[:rankN][:error name][:>amount], ...
static int fault(const char* call, size_t amount) {
  const char* all = getenv("FAKE_GPU_FAIL");
  for (std::string rest = all ? all : ""; !rest.empty();) {
    std::string one = rest.substr(0, rest.find(','));
    rest.erase(0, one.size() + 1);
    int status = 999;
    bool meant = true;
    for (bool first = true; !one.empty(); first = false) {
      const std::string part = one.substr(0, one.find(':'));
      one.erase(0, part.size() + 1);
      if (first)
        meant = part == call;
      else if (part.rfind("rank", 0) == 0)
        meant = meant && setting("PMI_RANK", 0) == atol(part.c_str() + 4);
      else if (part[0] == '>')
        meant = meant && amount > strtoul(part.c_str() + 1, nullptr, 10);
      else
        for (const Error& e : ERRORS)
          if (part == e.cuda || (e.hip && part == e.hip)) status = e.status;
    }
    if (meant) return status;
  }
  return 0;
}

int entering(const char* call, size_t amount) {
  const int status = device_status();
  return status ? status : fault(call, amount);
}
extern "C" int gpu_entering(const char* call, size_t amount) { return entering(call, amount); }

// -- allocations

enum Kind { DEVICE_MEMORY, PINNED, REGISTERED, PEER };
struct Allocation {
  size_t bytes;
  int fd;
  Kind kind;
  int device, pid;
  long serial;
  int opened;
  unsigned flags = 0;
};
static auto& allocations =
    *new std::map<uintptr_t, Allocation>;  // never destroyed: a kernel may outlive main
static long serials = 0;

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

// Protects device memory between the end of a wait and the next launch or copy: a host access ends
// in SIGSEGV, as with a GPU. This takes half of a test's time, so only a test that sets
// FAKE_GPU_CLOSED has it.
static bool closes() { return setting("FAKE_GPU_CLOSED", 0); }
static bool opened = false;
void open_memory(bool open) {
  std::lock_guard<std::mutex> held(lock);
  if (!closes() || opened == open) return;
  opened = open;
  for (const auto& a : allocations)
    if (a.second.kind == DEVICE_MEMORY || a.second.kind == PEER)
      mprotect((void*)a.first, a.second.bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void add_memory(void* at, size_t bytes, bool opens) {
  std::lock_guard<std::mutex> held(lock);
  allocations[(uintptr_t)at] = {bytes,     -1, opens ? PEER : PINNED, device_now(), getpid(),
                                ++serials, 1};
  if (opens && closes() && !opened) mprotect(at, bytes, PROT_NONE);
}
void remove_memory(void* at) {
  std::lock_guard<std::mutex> held(lock);
  allocations.erase((uintptr_t)at);
}

// -- caches

// FAKE_GPU_CACHED lists flags of hipExtMallocWithFlags: this process reaches parts of a peer's
// large allocation of such a kind through a cache. FAKE_GPU_COHERENT says when the cache writes
// back and forgets: at the ends of a `launch` only, also at every `fence` of the system's scope,
// or, for stores, when the kernel writes the `hdp` register.
constexpr size_t CACHE_BYTES = 384 << 10, LINE_BYTES = 64,
                 CACHED_FROM_BYTES = 8 << 20;  // flags are in less
constexpr size_t HALF_BYTES =
    4 << 20;  // as in peer_buffer.py: each half of a slab starts in the cache
struct Cache {
  char *at, *memory, *seen;
};  // the GPU's copy, the memory, and the contents when both were equal
static auto& caches = *new std::vector<Cache>;
static std::mutex caches_lock;
static std::atomic<bool> caching{false};
static unsigned *hdp_register = nullptr, no_register = 0;

static bool is_cached(const Handle& handle) {
  const char* all = getenv("FAKE_GPU_CACHED");
  return all && handle.bytes >= CACHED_FROM_BYTES && strchr(all, (char)('0' + handle.flags));
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
  caches.push_back({at, memory, seen}), caching = true;
}
static void remove_cache(char* at) {
  std::lock_guard<std::mutex> held(caches_lock);
  for (size_t i = 0; i < caches.size(); ++i)
    if (caches[i].at == at || caches[i].at == at + HALF_BYTES) {
      munmap(caches[i].memory, CACHE_BYTES), free(caches[i].seen);
      caches.erase(caches.begin() + (long)i--);
    }
}
// Writes changed lines back, or takes the memory's changes over; with `only`, for the line of this
// address.
static void exchange_lines(bool write_back, const char* only = nullptr) {
  std::lock_guard<std::mutex> held(caches_lock);
  for (const Cache& c : caches) {
    if (only && (only < c.at || only >= c.at + CACHE_BYTES)) continue;
    const size_t first = only ? (size_t)(only - c.at) / LINE_BYTES * LINE_BYTES : 0;
    for (size_t i = first; i < (only ? first + LINE_BYTES : CACHE_BYTES); i += LINE_BYTES) {
      uint64_t line[LINE_BYTES / 8];  // read once, by atomics: others write meanwhile
      for (size_t k = 0; k < LINE_BYTES / 8; ++k)
        line[k] = __atomic_load_n((const uint64_t*)((write_back ? c.at : c.memory) + i) + k,
                                  __ATOMIC_RELAXED);
      if (!memcmp(line, c.seen + i, LINE_BYTES)) continue;
      memcpy((write_back ? c.memory : c.at) + i, line, LINE_BYTES);
      memcpy(c.seen + i, line, LINE_BYTES);
    }
  }
}
void write_caches_back() {
  if (caching) exchange_lines(true);
}
void empty_caches() {
  if (caching) exchange_lines(false);
}
extern "C" void gpu_fence(int order, const char* scope) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (!caching || *scope || coherent() == 'l') return;
  if (order == __ATOMIC_ACQUIRE) return exchange_lines(false);
  if (coherent() == 'h' &&
      !__atomic_exchange_n(hdp_register ? hdp_register : &no_register, 0u, __ATOMIC_SEQ_CST))
    return;
  exchange_lines(true);
}
// An atomic access of the system's scope bypasses the caches; an acquire empties them.
extern "C" void gpu_loaded(const void* at, int order) {
  if (caching && coherent() != 'l')
    exchange_lines(false, order == __ATOMIC_ACQUIRE ? nullptr : (const char*)at);
}
extern "C" void gpu_stored(const void* at) {
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
  allocations[(uintptr_t)at] = {bytes,     fd, DEVICE_MEMORY, device_now(), getpid(),
                                ++serials, 1,  flags};
  if (closes() && !opened) mprotect(at, bytes, PROT_NONE);
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
  allocations.erase(it);
  return 0;
}

static int bounds(void** base, size_t* bytes, void* address) {
  std::lock_guard<std::mutex> held(lock);
  auto it = holding((uintptr_t)address);
  if (it == allocations.end()) return 500;
  if (base) *base = (void*)it->first;
  if (bytes) *bytes = it->second.bytes;
  return 0;
}

static int register_host(void* pointer, size_t bytes) {
  std::lock_guard<std::mutex> held(lock);
  if (!pointer || !bytes) return 1;
  auto last = holding((uintptr_t)pointer + bytes - 1);
  if (last != allocations.end() && last->first + last->second.bytes > (uintptr_t)pointer)
    return 712;
  allocations[(uintptr_t)pointer] = {bytes, -1, REGISTERED, device_now(), getpid(), 0, 1};
  return 0;
}

extern "C" {
int gpu_malloc(void** pointer, size_t bytes) {
  const int status = entering("malloc", bytes);
  return status ? status : allocate(pointer, bytes);
}
int gpu_free(void* pointer) {
  const int status = entering("free");
  return status || !pointer ? status : release(pointer, DEVICE_MEMORY, 1);
}
int gpu_host_alloc(void** pointer, size_t bytes, unsigned) {
  if (const int status = entering("hostAlloc", bytes)) return status;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return 2;
  std::lock_guard<std::mutex> held(lock);
  allocations[(uintptr_t)at] = {bytes, -1, PINNED, device_now(), getpid(), 0, 1};
  return *pointer = at, 0;
}
int gpu_host_register(void* pointer, size_t bytes, unsigned) {
  const int status = entering("hostRegister", bytes);
  return status ? status : register_host(pointer, bytes);
}
int gpu_host_unregister(void* pointer) {
  const int status = entering("hostUnregister");
  return status ? status : release(pointer, REGISTERED, 713);
}
int gpu_memory_info(size_t* free_bytes, size_t* total) {
  if (const int status = entering("memGetInfo")) return status;
  std::lock_guard<std::mutex> held(lock);
  *total = TOTAL_BYTES;
  return *free_bytes = *total - in_use(), 0;
}
// CUDA's memory types: 0 unregistered, 1 host, 2 device.
int gpu_pointer_attributes(void* pointer, int* type, int* device) {
  if (const int status = entering("pointerGetAttributes")) return status;
  std::lock_guard<std::mutex> held(lock);
  auto it = holding((uintptr_t)pointer);
  const bool known = it != allocations.end();
  *device = known ? it->second.device : -2;
  *type = !known ? 0 : it->second.kind == PINNED || it->second.kind == REGISTERED ? 1 : 2;
  return !known && hip ? 1 : 0;
}

// As without AMD's own driver module: ROCm's older IPC fails, and the newer one needs a common
// network namespace.
static bool shares_network_with(pid_t pid) {
  struct stat own, other;
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
  return !stat("/proc/self/ns/net", &own) && !stat(path, &other) && own.st_ino == other.st_ino;
}
int gpu_export(void* pointer, Handle* handle) {
  if (const int status = entering("ipcGetMemHandle")) return status;
  if (is_hip() && setting("HSA_ENABLE_IPC_MODE_LEGACY", 0)) return 1;
  std::lock_guard<std::mutex> held(lock);
  auto it = holding((uintptr_t)pointer);
  if (it == allocations.end() || it->second.kind != DEVICE_MEMORY) return 1;
  *handle = {"sw-gpu",         getpid(),          it->second.fd,    it->second.device,
             it->second.bytes, it->second.serial, it->second.flags, {}};
  return 0;
}
// FAKE_GPU_CORRUPT_IPC: from this offset on, rounded down to a page, the mapping is a copy without
// later writes.
int gpu_import(void** pointer, const Handle* handle, unsigned flags) {
  if (const int status = entering("ipcOpenMemHandle", handle->bytes)) return status;
  if (flags != 1 || memcmp(handle->magic, "sw-gpu", 7)) return 1;
  if (handle->pid == getpid()) return 201;
  if (is_hip() && !shares_network_with(handle->pid)) return 17;
  if (handle->device != device_now() && setting("FAKE_GPU_PEER", 1) == 0) return 217;
  std::lock_guard<std::mutex> held(lock);
  for (auto& a : allocations)
    if (a.second.kind == PEER && a.second.pid == handle->pid && a.second.serial == handle->serial)
      return ++a.second.opened, *pointer = (void*)a.first, 0;
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", handle->pid, handle->fd);
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return 205;
  char* at = (char*)mmap(nullptr, handle->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED && is_cached(*handle)) add_cache(at, fd, 0), add_cache(at, fd, HALF_BYTES);
  close(fd);
  if (at == MAP_FAILED) return 205;
  const long corrupt = setting("FAKE_GPU_CORRUPT_IPC", -1) & -4096L;
  if (corrupt >= 0 && (size_t)corrupt < handle->bytes) {
    const size_t rest = handle->bytes - (size_t)corrupt;
    const std::string copy(at + corrupt, rest);
    mmap(at + corrupt, rest, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
         0);
    memcpy(at + corrupt, copy.data(), rest);
  }
  allocations[(uintptr_t)at] = {handle->bytes,  -1, PEER, handle->device, handle->pid,
                                handle->serial, 1};
  if (closes() && !opened) mprotect(at, handle->bytes, PROT_NONE);
  return *pointer = at, 0;
}
int gpu_close_import(void* pointer) {
  if (const int status = entering("ipcCloseMemHandle")) return status;
  return release(pointer, PEER, 1);
}

// -- functions that CuPy lacks

int cuMemGetAddressRange_v2(void** base, size_t* bytes, void* address) {
  const int status = entering("cuMemGetAddressRange_v2");
  return status ? status : bounds(base, bytes, address);
}
int hipMemGetAddressRange(void** base, size_t* bytes, void* address) {
  const int status = entering("hipMemGetAddressRange");
  return status ? status : bounds(base, bytes, address);
}
int hipExtMallocWithFlags(void** pointer, size_t bytes, unsigned flags) {
  const int status = entering("hipExtMallocWithFlags", bytes);
  const bool known =
      flags < 3 || (flags == 3 && setting("FAKE_GPU_UNCACHED", 1));  // 3 needs ROCm 5.5
  return status ? status : known ? allocate(pointer, bytes, flags) : 1;
}
// FAKE_GPU_HDP: the driver gives the address of the register, as 64 bits. FAKE_GPU_LINK: 4 stands
// for xGMI.
int hipDeviceGetAttribute(void** value, int attribute, int) {
  const int status = entering("hipDeviceGetAttribute");
  if (status || attribute != 10005 || !setting("FAKE_GPU_HDP", 0)) return status ? status : 1;
  if (!hdp_register && gpu_host_alloc((void**)&hdp_register, 4096, 0)) return 2;
  return *value = hdp_register, 0;
}
int hipExtGetLinkTypeAndHopCount(int, int, unsigned* type, unsigned* hops) {
  const int status = entering("hipExtGetLinkTypeAndHopCount");
  return status ? status : (*type = (unsigned)setting("FAKE_GPU_LINK", 2), *hops = 1, 0);
}
int hipFree(void* pointer) { return gpu_free(pointer); }
int hipHostRegister(void* pointer, size_t bytes, unsigned) {
  const int status = entering("hipHostRegister", bytes);
  return status ? status : register_host(pointer, bytes);
}
int hipHostUnregister(void* pointer) {
  const int status = entering("hipHostUnregister");
  return status ? status : release(pointer, REGISTERED, 713);
}
int hipHostGetDevicePointer(void** device, void* host, unsigned) {
  if (const int status = entering("hipHostGetDevicePointer")) return status;
  return reachable((uintptr_t)host) ? (*device = host, 0) : 1;
}
}
