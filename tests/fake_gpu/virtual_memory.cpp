// Virtual memory management of the software GPU, CUDA's and HIP's. FAKE_GPU_VMM: the types of
// memory that the driver knows, p (pinned) and u (uncached, HIP alone), or - for none of the calls.
//
// Memory is a memfd, whose name has the device and the type. A descriptor is a copy of the memfd's.
#include "virtual_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "device.h"

constexpr size_t MOST_BYTES = 4L << 30;
constexpr int MOST_WAIT_MS = 30000, HIP_TAKES_VALUE = 70100000, UNCACHED = 0x40000000;
// As in cuda.h and hip_runtime_api.h.
struct MemoryProperties {
  int type, handle_types, location, device;
  void* security;
  unsigned long long flags;
};
struct Access {
  int location, device, flags;
};
static_assert(sizeof(MemoryProperties) == 32 && sizeof(Access) == 12, "as in cuda.h");

std::recursive_mutex things_lock;
static auto& things = *new std::map<unsigned long long, Thing>;
static auto& windows = *new std::map<char*, Window>;
static unsigned long long last_thing = 0x1000;

Thing& thing_of(unsigned long long handle) { return things.at(handle); }
Window* window_at(const char* address, char** base) {
  const auto above = windows.upper_bound((char*)address);
  if (above == windows.begin()) return nullptr;
  const auto window = std::prev(above);
  *base = window->first;
  return address < *base + window->second.bytes ? &window->second : nullptr;
}
int add_thing(unsigned long long* handle, const Thing& thing) {
  return things[*handle = ++last_thing] = thing, 0;
}
int add_object(unsigned long long* handle, int fd) {
  void* at = mmap(nullptr, sizeof(Record), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return close(fd), 1;
  Record* record = (Record*)at;
  return add_thing(handle, {fd, record->bytes, record, 0, 0});
}
bool all_joined(const Record* record) {
  for (int ms = 0; (unsigned)record->joined < record->devices; ++ms) {
    if (ms > MOST_WAIT_MS) return false;
    usleep(1000);
  }
  return true;
}

// The letter of a type that this driver knows; 0 otherwise.
static char letter(const MemoryProperties* p) {
  const char* known = getenv("FAKE_GPU_VMM");
  const char type = p->type == 1 ? 'p' : p->type == UNCACHED && is_hip() ? 'u' : 0;
  const bool is_right = type && p->handle_types == 1 && p->location == 1;
  return is_right && (!known || strchr(known, type)) ? type : 0;
}
static int granularity(size_t* bytes, const MemoryProperties* p, int) {
  return letter(p) ? (*bytes = UNIT_BYTES, 0) : 1;
}
static int create(unsigned long long* handle, size_t bytes, const MemoryProperties* p,
                  unsigned long long) {
  if (bytes % UNIT_BYTES || !letter(p)) return 1;
  if (bytes > MOST_BYTES) return 2;
  const std::string name = "vmm:" + std::to_string(device_now()) + letter(p);
  const int fd = memfd_create(name.c_str(), MFD_CLOEXEC);
  if (ftruncate(fd, (off_t)bytes)) return 2;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return 2;
  memset(at, 0xcd, bytes), munmap(at, bytes);  // arbitrary contents, as with a driver
  return add_thing(handle, {fd, bytes, nullptr, letter(p), device_now()});
}
static int export_thing(int* descriptor, unsigned long long handle, int type, unsigned long long) {
  if (type != 1 || !things.count(handle)) return 1;
  *descriptor = fcntl(things[handle].fd, F_DUPFD_CLOEXEC, 0);
  return *descriptor < 0;
}
static int import_thing(unsigned long long* handle, void* shared, int type) {
  const bool by_value = !is_hip() || setting("FAKE_GPU_RUNTIME", 0) >= HIP_TAKES_VALUE;
  const int fd = fcntl(by_value ? (int)(intptr_t)shared : *(int*)shared, F_DUPFD_CLOEXEC, 0);
  char name[64] = {}, kind = 0;
  int device = 0;
  struct stat facts;
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  if (type != 1 || fd < 0 || fstat(fd, &facts) || readlink(path.c_str(), name, sizeof name - 1) < 0)
    return 1;
  if (sscanf(name, "/memfd:vmm:%d%c", &device, &kind) < 2) return add_object(handle, fd);
  return add_thing(handle, {fd, (size_t)facts.st_size, nullptr, kind, device});
}
static int reserve(char** address, size_t bytes, size_t, char*, unsigned long long) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  *address = (char*)mmap(nullptr, bytes, PROT_NONE, flags, -1, 0);
  return bytes % UNIT_BYTES ? 1 : *address == MAP_FAILED ? 2 : 0;
}
static int free_address(char* address, size_t bytes) { return munmap(address, bytes); }
static int map(char* address, size_t bytes, size_t offset, unsigned long long handle,
               unsigned long long) {
  const Thing& thing = things.at(handle);
  if (offset || bytes != thing.bytes) return 1;
  if (thing.record && !all_joined(thing.record)) return 719;
  windows[address].bytes = bytes, windows[address].thing = thing;
  return 0;
}
static int set_access(char* address, size_t bytes, const Access* access, size_t count) {
  if (!windows.count(address) || count != 1 || access->location != 1 || access->flags != 3)
    return 1;
  const Thing& thing = windows[address].thing;
  const bool is_own = thing.device == device_now();
  if (!thing.record && !is_own && setting("FAKE_GPU_PEER", 1) == 0) return 217;
  if (!thing.record && !map_peer(address, thing.fd, bytes, is_own ? 0 : thing.type)) return 2;
  return add_memory(address, bytes, !thing.record), 0;
}
static int unmap(char* address, size_t bytes) {
  remove_memory(address);
  for (auto& part : windows[address].parts)
    if (part) remove_memory(part), munmap(part, bytes);
  windows.erase(address);
  return mmap(address, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
              -1, 0) == MAP_FAILED;
}
static int release(unsigned long long handle) {
  const Thing thing = things.at(handle);
  close(thing.fd);  // what is mapped stays
  if (thing.record) munmap(thing.record, sizeof(Record));
  return things.erase(handle), 0;
}

// A function by both names. Without the calls each has CUDA's and HIP's status "not supported".
#define NAMED(CU, HIP, WORK, PARAMETERS, ARGUMENTS)         \
  static int begin_##CU(const char* name) {                 \
    const char* known = getenv("FAKE_GPU_VMM");             \
    if (known && *known == '-') return 801;                 \
    return gpu_entering(name, 0);                           \
  }                                                         \
  extern "C" int CU PARAMETERS {                            \
    if (const int status = begin_##CU(#CU)) return status;  \
    return WORK ARGUMENTS;                                  \
  }                                                         \
  extern "C" int HIP PARAMETERS {                           \
    if (const int status = begin_##CU(#HIP)) return status; \
    return WORK ARGUMENTS;                                  \
  }
NAMED(cuMemGetAllocationGranularity, hipMemGetAllocationGranularity, granularity,
      (size_t* bytes, const MemoryProperties* p, int option), (bytes, p, option))
NAMED(cuMemCreate, hipMemCreate, create,
      (unsigned long long* handle, size_t bytes, const MemoryProperties* p,
       unsigned long long flags),
      (handle, bytes, p, flags))
NAMED(cuMemExportToShareableHandle, hipMemExportToShareableHandle, export_thing,
      (int* descriptor, unsigned long long handle, int type, unsigned long long flags),
      (descriptor, handle, type, flags))
NAMED(cuMemImportFromShareableHandle, hipMemImportFromShareableHandle, import_thing,
      (unsigned long long* handle, void* shared, int type), (handle, shared, type))
NAMED(cuMemAddressReserve, hipMemAddressReserve, reserve,
      (char** address, size_t bytes, size_t alignment, char* hint, unsigned long long flags),
      (address, bytes, alignment, hint, flags))
NAMED(cuMemAddressFree, hipMemAddressFree, free_address, (char* address, size_t bytes),
      (address, bytes))
NAMED(cuMemMap, hipMemMap, map,
      (char* address, size_t bytes, size_t offset, unsigned long long handle,
       unsigned long long flags),
      (address, bytes, offset, handle, flags))
NAMED(cuMemSetAccess, hipMemSetAccess, set_access,
      (char* address, size_t bytes, const Access* access, size_t count),
      (address, bytes, access, count))
NAMED(cuMemUnmap, hipMemUnmap, unmap, (char* address, size_t bytes), (address, bytes))
NAMED(cuMemRelease, hipMemRelease, release, (unsigned long long handle), (handle))
