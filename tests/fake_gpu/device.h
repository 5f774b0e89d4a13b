// Shared by the two halves of the software GPU: memory.cpp has addresses and faults, streams.cpp
// runs the launches.
#pragma once
#include <cstddef>
#include <cstdint>

// The status of a call before it runs: a sticky error of the device, a requested fault, or 0. A
// call fails by request if its amount is large enough.
extern "C" int gpu_entering(const char* call, size_t amount);
// Begins a function of the driver's own library; _software.py enters the runtime's functions.
#define ENTER \
  if (const int status = gpu_entering(__func__, 0)) return status
// Makes every later call fail, as after an illegal access or the loss of the device.
void break_device(int status);
int device_status();
bool is_hip();
// Whether a kernel may use an address: device memory, or host memory that the driver knows.
bool reachable(uintptr_t address);
bool on_host(uintptr_t address);  // whether it is registered host memory
// Notes that a kernel, or a copy, reads a peer's memory: a name once, in the file of
// FAKE_GPU_READS.
void note_read(const char* name);
bool of_peer(const void* at);
void note_store(const void* to);
void mark_last_store();
// Device memory of another source; without `opens` no access is ever allowed.
void add_memory(void* at, size_t bytes, bool opens);
void remove_memory(void* at);
// Maps a peer's memory at an address, or anywhere; null if that fails. `kind` is its type's letter,
// 0 for a process's own.
char* map_peer(char* where, int fd, size_t bytes, char kind);
int device_now();
// A descriptor of another process, opened here; below 0 without it.
int open_descriptor(int pid, int fd);
long setting(const char* name, long otherwise);
// Whether device memory can be read and written from this process.
void open_memory(bool open);
// What the caches of a launch do at its ends, and when the host has waited for a stream.
enum Boundary { LAUNCH, NODE, HOST_WAITED };  // NODE: a launch within a graph
void write_caches_back();
void empty_caches(Boundary at);
