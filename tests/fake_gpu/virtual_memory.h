// What virtual_memory.cpp has for multicast.cpp.
#pragma once
#include <atomic>
#include <cstddef>
#include <mutex>

constexpr size_t UNIT_BYTES = 2 << 20;
constexpr int MOST_PARTS = 8;

struct Part {
  int device, pid, fd;
  std::atomic<int> is_bound;
};
// Of a multicast object, in a memfd that all its processes map.
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
  char type;
  int device;
};  // memory of a device, or a multicast object with its record
struct Window {
  size_t bytes;
  Thing thing;
  std::atomic<char*> parts[MOST_PARTS];
};

extern std::recursive_mutex things_lock;
Thing& thing_of(unsigned long long handle);
// The window that holds an address, with its first address; null without one.
Window* window_at(const char* address, char** base);
int add_thing(unsigned long long* handle, const Thing& thing);
int add_object(unsigned long long* handle, int fd);
bool all_joined(const Record* record);
