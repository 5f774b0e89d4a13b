// Multicast objects of the software GPU, with the driver's functions for them. FAKE_GPU_MULTICAST:
// 0 none.
//
// An object is a record in a memfd that all its processes map. A multicast address can only be
// resolved to its parts, as `multimem` does; any other access ends in SIGSEGV.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"
#include "virtual_memory.h"

// As in cuda.h.
struct ObjectProperties {
  unsigned devices;
  size_t bytes;
  unsigned long long handle_types, flags;
};
static_assert(sizeof(ObjectProperties) == 32, "as in cuda.h");

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
int cuMulticastAddDevice(unsigned long long handle, int device) {
  ENTER;
  Record* record = thing_of(handle).record;
  Part& part = record->parts[record->next++];
  return part.device = device, part.pid = getpid(), ++record->joined, 0;
}
int cuMulticastBindMem(unsigned long long object, size_t at, unsigned long long memory, size_t from,
                       size_t bytes, unsigned long long) {
  ENTER;
  Record* record = thing_of(object).record;
  if (!all_joined(record)) return 719;
  Part* part = own_part(record);
  if (at || from || bytes != record->bytes || bytes != thing_of(memory).bytes || !part) return 1;
  part->fd = fcntl(thing_of(memory).fd, F_DUPFD_CLOEXEC, 0);
  return part->is_bound = 1, 0;
}
int cuMulticastUnbind(unsigned long long object, int, size_t, size_t) {
  ENTER;
  Part* part = own_part(thing_of(object).record);
  return part->is_bound = 0, close(part->fd);
}

// For kernels: the place in a part behind a multicast address. Maps the part at first use.
char* gpu_multimem_part(const void* address, int number) {
  char* base = nullptr;
  Window* window = window_at((const char*)address, &base);
  if (!window || !window->thing.record) return break_device(700), (char*)address;  // and a fault
  std::atomic<char*>& part = window->parts[number];
  if (!part) {
    std::lock_guard<std::recursive_mutex> held(things_lock);
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
