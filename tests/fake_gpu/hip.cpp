// HIP's and hipRTC's functions in C, as AMD's bindings call them. cupy/_hip.py describes the
// devices and compiles.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "device.h"

extern "C" {
int gpu_malloc(void**, size_t);
int gpu_free(void*);
int gpu_hostAlloc(void**, size_t, unsigned);
int gpu_memset(void*, int, size_t);
int gpu_memcpyAsync(void*, const void*, size_t, int, void*);
int gpu_ipcGetMemHandle(void*, void*);
int gpu_ipcOpenMemHandle(void**, const void*, unsigned);
int gpu_ipcCloseMemHandle(void*);
int gpu_deviceSynchronize();
int gpu_streamCreateWithPriority(void**);
int gpu_streamQuery(void*);
int gpu_streamSynchronize(void*);
int gpu_streamWaitEvent(void*, void*);
int gpu_streamBeginCapture(void*);
int gpu_streamEndCapture(void**, void*);
int gpu_graphLaunch(void*, void*);
int gpu_eventCreateWithFlags(void**);
int gpu_eventRecord(void*, void*);
int gpu_eventElapsedTime(float*, void*, void*);
int gpu_launchKernel(void*, void*, unsigned, unsigned, const void*, size_t);
void gpu_set_device(int);
}

namespace {
// hipDeviceProp_tR0600 of ROCm 6 to 10, by the offsets of what is filled.
struct Properties {
  char name[256];
  char before_memory[32];
  size_t memory_bytes;
  char before_threads[24];
  int threads;
  char before_major[36];
  int major, minor;
  char before_multiprocessors[20];
  int multiprocessors, before_integrated, integrated;
  char before_l2[216];
  int l2_bytes;
  char before_arch[540];
  char arch[256];
  char rest[56];
};
static_assert(sizeof(Properties) == 1472 && offsetof(Properties, memory_bytes) == 288 &&
                  offsetof(Properties, threads) == 320 && offsetof(Properties, major) == 360 &&
                  offsetof(Properties, multiprocessors) == 388 &&
                  offsetof(Properties, integrated) == 396 &&
                  offsetof(Properties, l2_bytes) == 616 && offsetof(Properties, arch) == 1160,
              "as AMD's header has it");
struct Device {
  int number;
  std::string bus_id;
  Properties properties;
};
struct Compiler {
  long (*create)(const char* source, const char* name);
  int (*compile)(long program, int count, const char* const* options);
  size_t (*size)(long program, int is_log);
  void (*get)(long program, int is_log, char* into);
  void (*destroy)(long program);
};
struct Handle {
  char bytes[64];
};
auto& devices = *new std::vector<Device>;
auto& texts = *new std::map<int, std::string>;
int versions[2];  // the driver's and the runtime's
Compiler compiler;
thread_local size_t parameter_bytes;

int asking(int device) { return device >= 0 && (size_t)device < devices.size() ? 0 : 101; }
}  // namespace

#define CALL(NAME, ...)                      \
  const int status = gpu_entering(#NAME, 0); \
  return status ? status : gpu_##NAME(__VA_ARGS__)

extern "C" {
// -- from cupy/_hip.py
void gpu_describe(int number, const char* bus_id, const char* name, const char* arch,
                  int integrated, int multiprocessors, int threads, size_t memory_bytes,
                  int l2_bytes) {
  Properties p{};
  snprintf(p.name, sizeof p.name, "%s", name), snprintf(p.arch, sizeof p.arch, "%s", arch);
  p.integrated = integrated, p.multiprocessors = multiprocessors, p.threads = threads;
  p.memory_bytes = memory_bytes, p.l2_bytes = l2_bytes, p.major = 12;
  devices.push_back({number, bus_id, p});
}
void gpu_name_error(int status, const char* text) { texts[status] = text; }
void gpu_of_hip(int driver, int runtime, const Compiler* used) {
  versions[0] = driver, versions[1] = runtime, compiler = *used, devices.clear();
}

void gpu_parameters(size_t bytes) { parameter_bytes = bytes; }

// -- HIP
const char* hipGetErrorString(int status) { return texts[status].c_str(); }
int hipGetLastError() { return 0; }
int hipDriverGetVersion(int* version) { return *version = versions[0], 0; }
int hipRuntimeGetVersion(int* version) { return *version = versions[1], 0; }
int hipGetDeviceCount(int* count) { return *count = (int)devices.size(), 0; }
int hipSetDevice(int device) {
  const int status = gpu_entering("setDevice", 0);
  if (status || asking(device)) return status ? status : 101;
  return gpu_set_device(devices[(size_t)device].number), 0;
}
int hipGetDevicePropertiesR0600(Properties* properties, int device) {
  if (asking(device)) return 101;
  return *properties = devices[(size_t)device].properties, 0;
}
int hipDeviceGetPCIBusId(char* bus_id, int size, int device) {
  if (asking(device)) return 101;
  return snprintf(bus_id, (size_t)size, "%s", devices[(size_t)device].bus_id.c_str()), 0;
}
int hipDeviceCanAccessPeer(int* can, int device, int peer) {
  return *can = device != peer && setting("FAKE_GPU_PEER", 1), 0;
}
int hipDeviceSynchronize() { CALL(deviceSynchronize); }
int hipMalloc(void** pointer, size_t bytes) {
  const int status = gpu_entering("malloc", bytes);
  return status ? status : gpu_malloc(pointer, bytes);
}
int hipFree(void* pointer) { CALL(free, pointer); }
int hipHostMalloc(void** pointer, size_t bytes, unsigned flags) {
  CALL(hostAlloc, pointer, bytes, flags);
}
int hipMemset(void* to, int value, size_t bytes) { CALL(memset, to, value, bytes); }
int hipMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
  CALL(memcpyAsync, to, from, bytes, kind, stream);
}
int hipIpcGetMemHandle(Handle* handle, void* pointer) { CALL(ipcGetMemHandle, pointer, handle); }
int hipIpcOpenMemHandle(void** pointer, Handle handle, unsigned flags) {
  CALL(ipcOpenMemHandle, pointer, &handle, flags);
}
int hipIpcCloseMemHandle(void* pointer) { CALL(ipcCloseMemHandle, pointer); }
int hipStreamCreateWithPriority(void** stream, unsigned flags, int) {
  if (flags != 1) return 1;  // the kernels' streams wait for no default stream
  CALL(streamCreateWithPriority, stream);
}
int hipStreamQuery(void* stream) { CALL(streamQuery, stream); }
int hipStreamSynchronize(void* stream) { CALL(streamSynchronize, stream); }
int hipStreamWaitEvent(void* stream, void* event, unsigned) {
  CALL(streamWaitEvent, stream, event);
}
int hipStreamBeginCapture(void* stream, int mode) {
  if (mode != 2) return 1;  // other modes end a capture if another thread calls HIP
  CALL(streamBeginCapture, stream);
}
int hipStreamEndCapture(void* stream, void** graph) { CALL(streamEndCapture, graph, stream); }
int hipGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
  return *executable = graph, 0;
}
int hipGraphDestroy(void*) { return 0; }
int hipGraphExecDestroy(void*) { return 0; }
int hipGraphLaunch(void* executable, void* stream) { CALL(graphLaunch, executable, stream); }
int hipEventCreateWithFlags(void** event, unsigned flags) {
  if (flags != 2 && flags != 0x20000000) return 1;  // HIP's other stamps would write L2 back
  CALL(eventCreateWithFlags, event);
}
int hipEventDestroy(void*) { return 0; }
int hipEventRecord(void* event, void* stream) { CALL(eventRecord, event, stream); }
int hipEventElapsedTime(float* ms, void* start, void* end) {
  CALL(eventElapsedTime, ms, start, end);
}
int hipModuleLoad(void** module, const char* file) {
  return *module = dlopen(file, RTLD_NOW), *module ? 0 : 200;
}
int hipModuleGetFunction(void** function, void* module, const char* name) {
  return *function = dlsym(module, name), *function ? 0 : 500;
}
int hipFuncGetAttribute(int* value, int, const void*) { return *value = 32, 0; }
// The kernels take one structure, whose size a driver knows from the code object, and this library
// by gpu_parameters.
int hipModuleLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads,
                          unsigned, unsigned, unsigned, void* stream, void** parameters, void**) {
  const int status = gpu_entering("launchKernel", 0);
  if (status) return status;
  return gpu_launchKernel(stream, function, x * y * z, threads, parameters[0], parameter_bytes);
}

// -- hipRTC
int hiprtcVersion(int* major, int* minor) { return *major = 7, *minor = 0, 0; }
int hiprtcCreateProgram(long* program, const char* source, const char* name, int, const char**,
                        const char**) {
  return *program = compiler.create(source, name), 0;
}
int hiprtcCompileProgram(long program, int count, const char* const* options) {
  return compiler.compile(program, count, options);
}
int hiprtcGetCodeSize(long program, size_t* size) { return *size = compiler.size(program, 0), 0; }
int hiprtcGetCode(long program, char* code) { return compiler.get(program, 0, code), 0; }
int hiprtcGetProgramLogSize(long program, size_t* size) {
  return *size = compiler.size(program, 1), 0;
}
int hiprtcGetProgramLog(long program, char* log) { return compiler.get(program, 1, log), 0; }
int hiprtcDestroyProgram(long* program) { return compiler.destroy(*program), *program = 0, 0; }
}
