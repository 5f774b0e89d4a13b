// Multicast objects of the software GPU, with the driver's functions for them. FAKE_GPU_MULTICAST:
// 0 none.
//
// An object is a record in a memfd that all its processes map. A multicast address can only be
// resolved to its parts, as `multimem` does; any other access ends in SIGSEGV.
#include "device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

constexpr size_t UNIT_BYTES = 2 << 20;
constexpr int MOST_PARTS = 8, MOST_WAIT_MS = 30000;
// As in cuda.h.
struct ObjectProperties {
  unsigned devices;
  size_t bytes;
  unsigned long long handle_types, flags;
};
struct MemoryProperties {
  int type, handle_types, location, device;
  void* security;
  unsigned long long flags;
};
struct Access {
  int location, device, flags;
};
static_assert(sizeof(ObjectProperties) == 32 && sizeof(MemoryProperties) == 32 &&
                  sizeof(Access) == 12,
              "as in cuda.h");

struct Part {
  int device, pid, fd;
  std::atomic<int> is_bound;
};
struct Record {
  unsigned devices;
  size_t bytes;
  std::atomic<int> next, joined;
  Part parts[MOST_PARTS];
};
struct Thing {
  int fd;
  size_t bytes;
  Record* record;
};  // memory, or an object with its record
struct Window {
  size_t bytes;
  Thing thing;
  std::atomic<char*> parts[MOST_PARTS];
};

static std::recursive_mutex lock;
static auto& things = *new std::map<unsigned long long, Thing>;
static auto& windows = *new std::map<char*, Window>;
static unsigned long long last_thing = 0x1000;

static bool all_joined(const Record* record) {
  for (int ms = 0; (unsigned)record->joined < record->devices; ++ms) {
    if (ms > MOST_WAIT_MS) return false;
    usleep(1000);
  }
  return true;
}
static int add_object(unsigned long long* handle, int fd) {
  void* at = mmap(nullptr, sizeof(Record), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return close(fd), 1;
  Record* record = (Record*)at;
  things[*handle = ++last_thing] = {fd, record->bytes, record};
  return 0;
}
static Part* own_part(Record* record) {
  for (int i = 0; i < record->joined; ++i)
    if (record->parts[i].pid == getpid()) return &record->parts[i];
  return nullptr;
}

extern "C" {
int cuDeviceGetAttribute(int* value, int attribute, int) {
  ENTER;
  if (attribute == 98) return *value = setting("FAKE_GPU_FLUSHES", 0) != 0, 0;
  return attribute == 132 ? (*value = setting("FAKE_GPU_MULTICAST", 0) != 0, 0) : 1;
}
int cuMulticastGetGranularity(size_t* bytes, const ObjectProperties*, int) {
  ENTER;
  return *bytes = UNIT_BYTES, 0;
}
int cuMulticastCreate(unsigned long long* handle, const ObjectProperties* p) {
  ENTER;
  if (p->bytes % UNIT_BYTES || p->handle_types != 1 || p->flags || p->devices > MOST_PARTS)
    return 1;
  const int fd = memfd_create("multicast", MFD_CLOEXEC);
  const Record record = {p->devices, p->bytes, {}, {}, {}};
  if (ftruncate(fd, sizeof record) || pwrite(fd, &record, sizeof record, 0) != sizeof record)
    return 2;
  return add_object(handle, fd);
}
int cuMemExportToShareableHandle(int* descriptor, unsigned long long handle, int type,
                                 unsigned long long) {
  ENTER;
  return type != 1 || !things.count(handle) ? 1 : (*descriptor = dup(things[handle].fd), 0);
}
int cuMemImportFromShareableHandle(unsigned long long* handle, void* descriptor, int type) {
  ENTER;
  return type != 1 ? 1 : add_object(handle, dup((int)(intptr_t)descriptor));
}
int cuMulticastAddDevice(unsigned long long handle, int device) {
  ENTER;
  Record* record = things.at(handle).record;
  Part& part = record->parts[record->next++];
  return part.device = device, part.pid = getpid(), ++record->joined, 0;
}
int cuMemCreate(unsigned long long* handle, size_t bytes, const MemoryProperties* p,
                unsigned long long) {
  ENTER;
  if (bytes % UNIT_BYTES || p->type != 1 || p->handle_types != 1 || p->location != 1) return 1;
  const int fd = memfd_create("multicast memory", MFD_CLOEXEC);
  if (ftruncate(fd, (off_t)bytes)) return 2;
  return things[*handle = ++last_thing] = {fd, bytes, nullptr}, 0;
}
int cuMulticastBindMem(unsigned long long object, size_t at, unsigned long long memory, size_t from,
                       size_t bytes, unsigned long long) {
  ENTER;
  Record* record = things.at(object).record;
  if (!all_joined(record)) return 719;
  Part* part = own_part(record);
  if (at || from || bytes != record->bytes || bytes != things.at(memory).bytes || !part) return 1;
  return part->fd = things.at(memory).fd, part->is_bound = 1, 0;
}
int cuMulticastUnbind(unsigned long long object, int, size_t, size_t) {
  ENTER;
  return own_part(things.at(object).record)->is_bound = 0, 0;
}
int cuMemAddressReserve(char** address, size_t bytes, size_t, char*, unsigned long long) {
  ENTER;
  *address =
      (char*)mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return *address == MAP_FAILED ? 2 : 0;
}
int cuMemAddressFree(char* address, size_t bytes) { return munmap(address, bytes); }
int cuMemMap(char* address, size_t bytes, size_t offset, unsigned long long handle,
             unsigned long long) {
  ENTER;
  const Thing& thing = things.at(handle);
  if (offset || bytes != thing.bytes) return 1;
  if (thing.record && !all_joined(thing.record)) return 719;
  windows[address].bytes = bytes, windows[address].thing = thing;
  return 0;
}
int cuMemSetAccess(char* address, size_t bytes, const Access* access, size_t count) {
  ENTER;
  if (!windows.count(address) || count != 1 || access->location != 1 || access->flags != 3)
    return 1;
  const Thing& thing = windows[address].thing;
  if (!thing.record)
    mmap(address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, thing.fd, 0),
        memset(address, 0xff, bytes);
  return add_memory(address, bytes, !thing.record), 0;
}
int cuMemUnmap(char* address, size_t bytes) {
  ENTER;
  remove_memory(address);
  for (auto& part : windows[address].parts)
    if (part) remove_memory(part), munmap(part, bytes);
  windows.erase(address);
  return mmap(address, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
              -1, 0) == MAP_FAILED;
}
int cuMemRelease(unsigned long long handle) {
  ENTER;
  const Thing thing = things.at(handle);
  if (thing.record)
    close(thing.fd), munmap(thing.record, sizeof(Record));  // memory stays for its peers
  return things.erase(handle), 0;
}

// For kernels: the place in a part behind a multicast address. Maps the part at first use.
char* gpu_multimem_part(const void* address, int number) {
  auto above = windows.upper_bound((char*)address);
  Window* window = above == windows.begin() ? nullptr : &std::prev(above)->second;
  char* base = window ? std::prev(above)->first : nullptr;
  if (!window || !window->thing.record || (char*)address >= base + window->bytes)
    return break_device(700), (char*)address;  // and a fault
  std::atomic<char*>& part = window->parts[number];
  if (!part) {
    std::lock_guard<std::recursive_mutex> held(lock);
    const Part& bound = window->thing.record->parts[number];
    const int fd = bound.is_bound ? open_descriptor(bound.pid, bound.fd) : -1;
    char* at = (char*)mmap(nullptr, window->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return break_device(700), (char*)address;
    close(fd);
    if (!part) add_memory(at, window->bytes, true), part = at;
  }
  return part + ((char*)address - base);
}
}
