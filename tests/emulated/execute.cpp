// The inner loop of machine.py: executes a wave's instructions until one needs the machine. The
// emulator compiles each instruction to a function of up to six buffers.

struct Instruction {
  void (*run)(void*, void*, void*, void*, void*, void*);
  unsigned char parameters[6];  // a buffer's index for each parameter
  unsigned char kind, size;
};

enum { NOT_DECODED, NO_OPERATION, RUN };

constexpr unsigned long END = ~0ul;  // the program counter after s_endpgm

// Executes up to `most` instructions, and returns how many. `instructions` has an entry for each
// 4-byte word from `base` on; `counter` is the wave's program counter, low half first.
extern "C" long execute(unsigned* counter, void* const* buffers, const Instruction* instructions,
                        unsigned long base, long most) {
  for (long done = 0; done < most; ++done) {
    const unsigned long address = counter[0] | (unsigned long)counter[1] << 32;
    if (address == END) return done;
    const Instruction& i = instructions[(address - base) / 4];
    if (i.kind == RUN) {
      const unsigned char* p = i.parameters;
      i.run(buffers[p[0]], buffers[p[1]], buffers[p[2]], buffers[p[3]], buffers[p[4]],
            buffers[p[5]]);
    } else if (i.kind == NO_OPERATION) {
      counter[0] = (unsigned)(address + i.size);
      counter[1] = (unsigned)((address + i.size) >> 32);
    } else {
      return done;
    }
  }
  return most;
}
