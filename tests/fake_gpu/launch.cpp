// The multiprocessors of the software GPU.
//
// A launch takes one host thread per multiprocessor, which runs its resident blocks at once. Each
// thread of a block is a fibre, which yields at barriers and when it reads a flag. Further blocks
// wait until a resident block ends, as on a GPU: a grid that is too large and waits for itself
// hangs.
#include "launch.h"

#include <dlfcn.h>
#include <sched.h>
#include <setjmp.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "device.h"

constexpr size_t STACK_BYTES = 128 << 10;
constexpr unsigned WAVE_THREADS = 32, SHARED_BYTES = 8 << 10;  // as in emulation.h
struct Meeting {
  unsigned threads, arrived;
  unsigned long generation;
};
struct Block {
  unsigned left;
  Meeting all;
  std::vector<Meeting> waves;
  std::vector<int> values[2];  // that a wave's threads exchange, in this meeting and in the next
  alignas(16) char shared[SHARED_BYTES];
  explicit Block(unsigned threads) : left(threads), all{threads, 0, 0} {
    for (unsigned t = 0; t < threads; t += WAVE_THREADS)
      waves.push_back({std::min(threads - t, WAVE_THREADS), 0, 0});
    for (auto& of_threads : values) of_threads.resize(threads);
  }
};
struct Lane {
  unsigned thread, threads, block, blocks;
};  // as in emulation.h
struct Fibre {
  Lane lane;
  Block* of;
  std::unique_ptr<char[]> stack;
  jmp_buf at;
  bool begun, ended;
};

static thread_local Fibre* current;
static thread_local jmp_buf home;
static thread_local const Launch* launched;
static thread_local std::vector<std::unique_ptr<char[]>> stacks;

extern "C" const Lane* gpu_lane() { return &current->lane; }
extern "C" void gpu_give_way() {
  if (!_setjmp(current->at)) _longjmp(home, 1);
}
static void meet(Meeting& m) {
  const unsigned long generation = m.generation;
  if (++m.arrived == m.threads) m.arrived = 0, ++m.generation;
  while (m.generation == generation) gpu_give_way();
}
extern "C" void gpu_barrier() { meet(current->of->all); }
extern "C" void* gpu_shared() { return current->of->shared; }
// Returns the value of lane `at` / 4 of this wave, after all lanes have arrived.
extern "C" int gpu_of_lane(int at, int value) {
  const unsigned t = current->lane.thread;
  Meeting& wave = current->of->waves[t / WAVE_THREADS];
  std::vector<int>& values = current->of->values[wave.generation & 1];
  values[t] = value;
  meet(wave);
  return values[t / WAVE_THREADS * WAVE_THREADS + (unsigned)at / 4 % WAVE_THREADS];
}
extern "C" unsigned long long gpu_clock_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (unsigned long long)t.tv_sec * 1000000000u + (unsigned long long)t.tv_nsec;
}

// What a kernel calls before each load and store, if nvrtc.py builds it so.
static void about_to_load(const void* at) {
  Dl_info found;
  if (launched && of_peer(at) && dladdr(launched->function, &found)) note_read(found.dli_sname);
}
extern "C" {
void __sanitizer_cov_load1(const void* at) { about_to_load(at); }
void __sanitizer_cov_load2(const void* at) { about_to_load(at); }
void __sanitizer_cov_load4(const void* at) { about_to_load(at); }
void __sanitizer_cov_load8(const void* at) { about_to_load(at); }
void __sanitizer_cov_load16(const void* at) { about_to_load(at); }
void __sanitizer_cov_store1(const void* to) { note_store(to); }
void __sanitizer_cov_store2(const void* to) { note_store(to); }
void __sanitizer_cov_store4(const void* to) { note_store(to); }
void __sanitizer_cov_store8(const void* to) { note_store(to); }
void __sanitizer_cov_store16(const void* to) { note_store(to); }
}

// Passes the parameter by value. Above 16 bytes it lies on the stack, and the kernel reads only its
// own bytes.
static void begin_fibre() {
  const Launch& l = *launched;
  if (l.size > 16)
    ((void (*)(Parameters))l.function)(l.parameters);
  else {
    unsigned long words[2] = {};
    memcpy(words, l.parameters.bytes, l.size);
    ((void (*)(unsigned long, unsigned long))l.function)(words[0], words[1]);
  }
  current->ended = true;
  _longjmp(home, 1);
}

static void resume(Fibre& f) {
  current = &f;
  if (_setjmp(home)) return;
  if (f.begun) _longjmp(f.at, 1);
  f.begun = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = f.stack.get(), context.uc_stack.ss_size = STACK_BYTES,
  context.uc_link = nullptr;
  makecontext(&context, begin_fibre, 0);
  setcontext(&context);
}

void run_blocks(Launch& l) {
  launched = &l;
  std::deque<Block> blocks;
  std::vector<std::unique_ptr<Fibre>> fibres;
  unsigned resident = 0;
  for (bool more = true; more || !fibres.empty();) {
    while (more && resident < l.resident) {
      const unsigned b = l.next++;
      if (!(more = b < l.blocks)) break;
      ++resident;
      blocks.emplace_back(l.threads);
      for (unsigned i = 0; i < l.threads; ++i) {
        const unsigned t =
            b & 1 ? l.threads - 1 - i : i;  // odd blocks start with their last thread
        auto f = std::make_unique<Fibre>();
        f->lane = {t, l.threads, b, l.blocks}, f->of = &blocks.back();
        if (stacks.empty())
          f->stack.reset(new char[STACK_BYTES]);
        else
          f->stack = std::move(stacks.back()), stacks.pop_back();
        fibres.push_back(std::move(f));
      }
    }
    bool ended = false;
    for (size_t i = 0; i < fibres.size();) {
      Fibre& f = *fibres[i];
      resume(f);
      if (!f.ended) {
        ++i;
        continue;
      }
      if (--f.of->left == 0) --resident;
      stacks.push_back(std::move(f.stack));
      fibres.erase(fibres.begin() + (long)i);
      ended = true;
    }
    if (!ended) sched_yield();
  }
  mark_last_store();
}
