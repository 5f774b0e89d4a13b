// The names that hipRTC's implicit header declares before a kernel, of ROCm 6.3 and 7: a kernel that declares one of
// them with another meaning compiles with clang alone and fails on a user's GPU. The compile matrix includes this file
// after hip_prelude.h. Left out: names that begin with `hip`, `HIP`, `__`, `tex` or `surf`.
#pragma once

#define __constant__ __attribute__((constant))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __local __attribute__((address_space(3)))
#define __launch_bounds__(...) __attribute__((amdgpu_flat_work_group_size(1, 1024)))
#define launch_bounds_impl0(threads) __launch_bounds__(threads)
#define launch_bounds_impl1(threads, blocks) __launch_bounds__(threads)
#define select_impl_(one, two, implementation, ...) implementation
#define MASK1 0x00ff00ff
#define MASK2 0xff00ff00
#define MAYBE_UNDEF
#define ICMP_NE 33
#define HW_ID 4
#define HW_ID_CU_ID_OFFSET 8
#define HW_ID_CU_ID_SIZE 4
#define HW_ID_SE_ID_OFFSET 13
#define HW_ID_SE_ID_SIZE 2
#define GETREG_IMMED(size, offset, reg) (((size) << 11) | ((offset) << 6) | (reg))
#define ADDRESS_SPACE_CONSTANT __attribute__((address_space(4)))
#define TEXTURE_PARAMETERS_INIT
#define TEXTURE_OBJECT_PARAMETERS_INIT

// Types.
typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef long clock_t;
typedef __INT32_TYPE__ int32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned uint;
typedef unsigned long ulong;
typedef unsigned long long ullong;
typedef unsigned long long lane_mask;
typedef _Float16 half;
typedef _Float16 half2 __attribute__((ext_vector_type(2)));
typedef _Float16 _Float16_2 __attribute__((ext_vector_type(2)));
struct dim3 { uint x, y, z; };
struct ucharHolder { uchar c[4]; };
struct uchar2Holder { uchar c[8]; };
struct surfaceReference;
struct textureReference;
template <class T, int DIMENSIONS, int MODE> struct texture;
template <bool CONDITION, class T = void> struct Cond_t;
template <bool CONDITION, class T = void> using Enable_if_t = typename Cond_t<CONDITION, T>::type;
namespace std {}
namespace hip_impl {}
namespace cooperative_groups {}

#define VECTORS(name, element) \
  struct name##1 { element x; }; \
  typedef element name##2 __attribute__((ext_vector_type(2))); \
  typedef element name##3 __attribute__((ext_vector_type(3))); \
  typedef element name##4 __attribute__((ext_vector_type(4))); \
  __device__ name##1 make_##name##1(element x) = delete; \
  __device__ name##2 make_##name##2(element x, element y) = delete; \
  __device__ name##3 make_##name##3(element x, element y, element z) = delete; \
  __device__ name##4 make_##name##4(element x, element y, element z, element w) = delete;
VECTORS(char, signed char)
VECTORS(uchar, unsigned char)
VECTORS(short, short)
VECTORS(ushort, unsigned short)
VECTORS(int, int)
VECTORS(uint, unsigned)
VECTORS(long, long)
VECTORS(ulong, unsigned long)
VECTORS(longlong, long long)
VECTORS(ulonglong, unsigned long long)
VECTORS(float, float)
VECTORS(double, double)
#undef VECTORS

// Variables.
struct __Coordinates { uint x, y, z; };
extern const __device__ __attribute__((weak)) __Coordinates threadIdx, blockIdx, blockDim, gridDim;
__device__ constexpr int warpSize = 64;

// Functions. A deleted function is defined, so that a second definition and a call both fail.
#define F(result, name, ...) __device__ result name(__VA_ARGS__) = delete;
template <class T> __device__ T min(T a, T b) = delete;
template <class T> __device__ T max(T a, T b) = delete;
F(void*, malloc, size_t) F(void, free, void*) F(int, abs, int) F(long, labs, long) F(long long, llabs, long long)
F(float, acosf, float) F(float, acoshf, float) F(float, asinf, float) F(float, asinhf, float)
F(float, atan2f, float, float) F(float, atanf, float) F(float, atanhf, float) F(float, cbrtf, float)
F(float, ceilf, float) F(float, copysignf, float, float) F(float, cosf, float) F(float, coshf, float)
F(float, cospif, float) F(float, cyl_bessel_i0f, float) F(float, cyl_bessel_i1f, float) F(float, erfcf, float)
F(float, erfcinvf, float) F(float, erfcxf, float) F(float, erff, float) F(float, erfinvf, float)
F(float, exp10f, float) F(float, exp2f, float) F(float, expf, float) F(float, expm1f, float) F(float, fabsf, float)
F(float, fdimf, float, float) F(float, fdividef, float, float) F(float, floorf, float)
F(float, fmaf, float, float, float) F(float, fmaxf, float, float) F(float, fminf, float, float)
F(float, fmodf, float, float) F(float, frexpf, float, int*) F(float, hypotf, float, float) F(int, ilogbf, float)
F(float, j0f, float) F(float, j1f, float) F(float, jnf, int, float) F(float, ldexpf, float, int)
F(float, lgammaf, float) F(long long, llrintf, float) F(long long, llroundf, float) F(float, log10f, float)
F(float, log1pf, float) F(float, log2f, float) F(float, logbf, float) F(float, logf, float) F(long, lrintf, float)
F(long, lroundf, float) F(float, modff, float, float*) F(float, nanf, const char*) F(float, nearbyintf, float)
F(float, nextafterf, float, float) F(float, norm3df, float, float, float)
F(float, norm4df, float, float, float, float) F(float, normcdff, float) F(float, normcdfinvf, float)
F(float, normf, int, const float*) F(float, powf, float, float) F(float, powif, float, int) F(float, rcbrtf, float)
F(float, remainderf, float, float) F(float, remquof, float, float, int*) F(float, rhypotf, float, float)
F(float, rintf, float) F(float, rnorm3df, float, float, float) F(float, rnorm4df, float, float, float, float)
F(float, rnormf, int, const float*) F(float, roundf, float) F(float, rsqrtf, float) F(float, scalblnf, float, long)
F(float, scalbnf, float, int) F(void, sincosf, float, float*, float*) F(void, sincospif, float, float*, float*)
F(float, sinf, float) F(float, sinhf, float) F(float, sinpif, float) F(float, sqrtf, float) F(float, tanf, float)
F(float, tanhf, float) F(float, tgammaf, float) F(float, truncf, float) F(float, y0f, float) F(float, y1f, float)
F(float, ynf, int, float) F(double, acos, double) F(double, acosh, double) F(double, asin, double)
F(double, asinh, double) F(double, atan, double) F(double, atan2, double, double) F(double, atanh, double)
F(double, cbrt, double) F(double, ceil, double) F(double, copysign, double, double) F(double, cos, double)
F(double, cosh, double) F(double, cospi, double) F(double, cyl_bessel_i0, double) F(double, cyl_bessel_i1, double)
F(double, erf, double) F(double, erfc, double) F(double, erfcinv, double) F(double, erfcx, double)
F(double, erfinv, double) F(double, exp, double) F(double, exp10, double) F(double, exp2, double)
F(double, expm1, double) F(double, fabs, double) F(double, fdim, double, double) F(double, floor, double)
F(double, fma, double, double, double) F(double, fmax, double, double) F(double, fmin, double, double)
F(double, fmod, double, double) F(double, frexp, double, int*) F(double, hypot, double, double) F(int, ilogb, double)
F(double, j0, double) F(double, j1, double) F(double, jn, int, double) F(double, ldexp, double, int)
F(double, lgamma, double) F(long long, llrint, double) F(long long, llround, double) F(double, log, double)
F(double, log10, double) F(double, log1p, double) F(double, log2, double) F(double, logb, double)
F(long, lrint, double) F(long, lround, double) F(double, modf, double, double*) F(double, nan, const char*)
F(double, nearbyint, double) F(double, nextafter, double, double) F(double, norm, int, const double*)
F(double, norm3d, double, double, double) F(double, norm4d, double, double, double, double) F(double, normcdf, double)
F(double, normcdfinv, double) F(double, pow, double, double) F(double, powi, double, int) F(double, rcbrt, double)
F(double, remainder, double, double) F(double, remquo, double, double, int*) F(double, rhypot, double, double)
F(double, rint, double) F(double, rnorm, int, const double*) F(double, rnorm3d, double, double, double)
F(double, rnorm4d, double, double, double, double) F(double, round, double) F(double, rsqrt, double)
F(double, scalbln, double, long) F(double, scalbn, double, int) F(double, sin, double)
F(void, sincos, double, double*, double*) F(void, sincospi, double, double*, double*) F(double, sinh, double)
F(double, sinpi, double) F(double, sqrt, double) F(double, tan, double) F(double, tanh, double)
F(double, tgamma, double) F(double, trunc, double) F(double, y0, double) F(double, y1, double)
F(double, yn, int, double) F(int, min, int, int) F(int, max, int, int) F(float, max, float, float)
F(double, max, double, double) F(float, min, float, float) F(double, min, double, double) F(double, abs, double)
F(float, abs, float) F(long long, abs, long long) F(long, abs, long) F(float, fma, float, float, float)
F(float, frexp, float, int*) F(bool, isinf, float) F(bool, isinf, double) F(bool, isfinite, float)
F(bool, isfinite, double) F(bool, isnan, float) F(bool, isnan, double) F(bool, isgreater, float, float)
F(bool, isgreater, double, double) F(bool, isgreaterequal, float, float) F(bool, isgreaterequal, double, double)
F(bool, isless, float, float) F(bool, isless, double, double) F(bool, islessequal, float, float)
F(bool, islessequal, double, double) F(bool, islessgreater, float, float) F(bool, islessgreater, double, double)
F(bool, isnormal, float) F(bool, isnormal, double) F(bool, isunordered, float, float)
F(bool, isunordered, double, double) F(float, modf, float, float*) F(float, pow, float, int)
F(double, pow, double, int) F(float, remquo, float, float, int*) F(float, scalbln, float, long)
F(bool, signbit, float) F(bool, signbit, double) F(_Float16, fma, _Float16, _Float16, _Float16)
F(_Float16, pow, _Float16, int) F(float, acos, float) F(float, acosh, float) F(float, asin, float)
F(float, asinh, float) F(float, atan, float) F(float, atan2, float, float) F(float, atanh, float)
F(float, cbrt, float) F(float, ceil, float) F(float, copysign, float, float) F(float, cos, float)
F(float, cosh, float) F(float, erf, float) F(float, erfc, float) F(float, exp, float) F(float, exp2, float)
F(float, expm1, float) F(float, fabs, float) F(float, fdim, float, float) F(float, floor, float)
F(float, fmax, float, float) F(float, fmin, float, float) F(float, fmod, float, float) F(float, hypot, float, float)
F(int, ilogb, float) F(float, ldexp, float, int) F(float, lgamma, float) F(float, log, float) F(float, log10, float)
F(float, log1p, float) F(float, log2, float) F(float, logb, float) F(long long, llrint, float)
F(long long, llround, float) F(long, lrint, float) F(long, lround, float) F(float, nearbyint, float)
F(float, nextafter, float, float) F(float, pow, float, float) F(float, remainder, float, float) F(float, rint, float)
F(float, round, float) F(float, scalbn, float, int) F(float, sin, float) F(float, sinh, float) F(float, sqrt, float)
F(float, tan, float) F(float, tanh, float) F(float, tgamma, float) F(float, trunc, float) F(void, abort)
F(int, printf, const char*, ...) F(long long, clock64) F(long long, clock) F(long long, wall_clock64)
F(void*, memcpy, void*, const void*, size_t) F(void*, memset, void*, int, size_t)
F(float, unsafeAtomicAdd, float*, float) F(float, unsafeAtomicMax, float*, float)
F(float, unsafeAtomicMin, float*, float) F(double, unsafeAtomicAdd, double*, double)
F(double, unsafeAtomicMax, double*, double) F(double, unsafeAtomicMin, double*, double)
F(float, safeAtomicAdd, float*, float) F(float, safeAtomicMax, float*, float) F(float, safeAtomicMin, float*, float)
F(double, safeAtomicAdd, double*, double) F(double, safeAtomicMax, double*, double)
F(double, safeAtomicMin, double*, double) F(int, atomicCAS, int*, int, int) F(int, atomicCAS_system, int*, int, int)
F(uint, atomicCAS, uint*, uint, uint) F(uint, atomicCAS_system, uint*, uint, uint)
F(ulong, atomicCAS, ulong*, ulong, ulong) F(ulong, atomicCAS_system, ulong*, ulong, ulong)
F(ullong, atomicCAS, ullong*, ullong, ullong) F(ullong, atomicCAS_system, ullong*, ullong, ullong)
F(float, atomicCAS, float*, float, float) F(float, atomicCAS_system, float*, float, float)
F(double, atomicCAS, double*, double, double) F(double, atomicCAS_system, double*, double, double)
F(int, atomicAdd, int*, int) F(int, atomicAdd_system, int*, int) F(uint, atomicAdd, uint*, uint)
F(uint, atomicAdd_system, uint*, uint) F(ulong, atomicAdd, ulong*, ulong) F(ulong, atomicAdd_system, ulong*, ulong)
F(ullong, atomicAdd, ullong*, ullong) F(ullong, atomicAdd_system, ullong*, ullong) F(float, atomicAdd, float*, float)
F(float, atomicAdd_system, float*, float) F(void, atomicAddNoRet, float*, float) F(double, atomicAdd, double*, double)
F(double, atomicAdd_system, double*, double) F(int, atomicSub, int*, int) F(int, atomicSub_system, int*, int)
F(uint, atomicSub, uint*, uint) F(uint, atomicSub_system, uint*, uint) F(ulong, atomicSub, ulong*, ulong)
F(ulong, atomicSub_system, ulong*, ulong) F(ullong, atomicSub, ullong*, ullong)
F(ullong, atomicSub_system, ullong*, ullong) F(float, atomicSub, float*, float)
F(float, atomicSub_system, float*, float) F(double, atomicSub, double*, double)
F(double, atomicSub_system, double*, double) F(int, atomicExch, int*, int) F(int, atomicExch_system, int*, int)
F(uint, atomicExch, uint*, uint) F(uint, atomicExch_system, uint*, uint) F(ulong, atomicExch, ulong*, ulong)
F(ulong, atomicExch_system, ulong*, ulong) F(ullong, atomicExch, ullong*, ullong)
F(ullong, atomicExch_system, ullong*, ullong) F(float, atomicExch, float*, float)
F(float, atomicExch_system, float*, float) F(double, atomicExch, double*, double)
F(double, atomicExch_system, double*, double) F(int, atomicMin, int*, int) F(int, atomicMin_system, int*, int)
F(uint, atomicMin, uint*, uint) F(uint, atomicMin_system, uint*, uint) F(ullong, atomicMin, ulong*, ulong)
F(ulong, atomicMin_system, ulong*, ulong) F(ullong, atomicMin, ullong*, ullong)
F(ullong, atomicMin_system, ullong*, ullong) F(long long, atomicMin, long long*, long long)
F(long long, atomicMin_system, long long*, long long) F(float, atomicMin, float*, float)
F(float, atomicMin_system, float*, float) F(double, atomicMin, double*, double)
F(double, atomicMin_system, double*, double) F(int, atomicMax, int*, int) F(int, atomicMax_system, int*, int)
F(uint, atomicMax, uint*, uint) F(uint, atomicMax_system, uint*, uint) F(ulong, atomicMax, ulong*, ulong)
F(ulong, atomicMax_system, ulong*, ulong) F(ullong, atomicMax, ullong*, ullong)
F(ullong, atomicMax_system, ullong*, ullong) F(long long, atomicMax, long long*, long long)
F(long long, atomicMax_system, long long*, long long) F(float, atomicMax, float*, float)
F(float, atomicMax_system, float*, float) F(double, atomicMax, double*, double)
F(double, atomicMax_system, double*, double) F(uint, atomicInc, uint*, uint) F(uint, atomicDec, uint*, uint)
F(int, atomicAnd, int*, int) F(int, atomicAnd_system, int*, int) F(uint, atomicAnd, uint*, uint)
F(uint, atomicAnd_system, uint*, uint) F(ulong, atomicAnd, ulong*, ulong) F(ulong, atomicAnd_system, ulong*, ulong)
F(ullong, atomicAnd, ullong*, ullong) F(ullong, atomicAnd_system, ullong*, ullong) F(int, atomicOr, int*, int)
F(int, atomicOr_system, int*, int) F(uint, atomicOr, uint*, uint) F(uint, atomicOr_system, uint*, uint)
F(ulong, atomicOr, ulong*, ulong) F(ulong, atomicOr_system, ulong*, ulong) F(ullong, atomicOr, ullong*, ullong)
F(ullong, atomicOr_system, ullong*, ullong) F(int, atomicXor, int*, int) F(int, atomicXor_system, int*, int)
F(uint, atomicXor, uint*, uint) F(uint, atomicXor_system, uint*, uint) F(ulong, atomicXor, ulong*, ulong)
F(ulong, atomicXor_system, ulong*, ulong) F(ullong, atomicXor, ullong*, ullong)
F(ullong, atomicXor_system, ullong*, ullong) F(int, amd_mixed_dot, short2, short2, int, bool)
F(uint, amd_mixed_dot, ushort2, ushort2, uint, bool) F(int, amd_mixed_dot, char4, char4, int, bool)
F(uint, amd_mixed_dot, uchar4, uchar4, uint, bool) F(int, amd_mixed_dot, int, int, int, bool)
F(uint, amd_mixed_dot, uint, uint, uint, bool)
#undef F
