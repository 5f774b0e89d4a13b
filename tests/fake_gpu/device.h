// What the two halves of the software GPU share: memory.cpp knows addresses and faults, streams.cpp runs things.
#pragma once
#include <cstddef>
#include <cstdint>

// The status of a call that is about to be made: an error that sticks to the device, a fault that was asked for, or 0.
int entering(const char* call, size_t amount = 0);
// Makes every later call fail, as after an illegal access or when the device has gone.
void break_device(int status);
int device_status();
bool is_hip();
// Whether an address is one that a kernel may use: device memory, or host memory that the driver knows.
bool reachable(uintptr_t address);
long setting(const char* name, long otherwise);
// Whether device memory can be read and written from this process.
void open_memory(bool open);
