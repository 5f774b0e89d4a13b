// The names that hipRTC's implicit header declares before a kernel, of ROCm 6.3 to 7.2: a kernel
// that declares one of them with another meaning compiles with clang alone and fails on a user's
// GPU. The compile matrix includes this file after hip_prelude.h. Left out: names that begin with
// `hip`, `HIP`, `__`, `tex` or `surf`, and operators. Source: the header inside
// libhiprtc-builtins.so of ROCm 6.4.3 and 7.2.4 (symbol __hipRTC_header; made from HIP's headers by
// ROCm/clr, hipamd/src/hiprtc/cmake/HIPRTC.cmake), with which test_hiprtc.py compares this file.
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
#define AMD_HIP_MATH_CONSTANTS_H
#define _HIP_BFLOAT16_H_
#define _CG_STATIC_CONST_DECL_ static constexpr

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
struct dim3 {
  uint x, y, z;
};
struct ucharHolder {
  uchar c[4];
};
struct uchar2Holder {
  uchar c[8];
};
struct surfaceReference;
struct textureReference;
template <class T, int DIMENSIONS, int MODE>
struct texture;
template <bool CONDITION, class T = void>
struct Cond_t;
template <bool CONDITION, class T = void>
using Enable_if_t = typename Cond_t<CONDITION, T>::type;
namespace std {}
namespace hip_impl {}
namespace cooperative_groups {}

#define F(result, name, ...) __device__ result name(__VA_ARGS__) = delete;
#define VECTORS(name, element)                                 \
  struct name##1 { element x; };                               \
  typedef element name##2 __attribute__((ext_vector_type(2))); \
  typedef element name##3 __attribute__((ext_vector_type(3))); \
  typedef element name##4 __attribute__((ext_vector_type(4))); \
  F(name##1, make_##name##1, element)                          \
  F(name##2, make_##name##2, element, element)                 \
  F(name##3, make_##name##3, element, element, element)        \
  F(name##4, make_##name##4, element, element, element, element)
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
struct __Coordinates {
  uint x, y, z;
};
extern const __device__ __attribute__((weak)) __Coordinates threadIdx, blockIdx, blockDim, gridDim;
__device__ constexpr int warpSize = 64;

// Functions. A deleted function is defined, so that a second definition and a call both fail.
template <class T>
__device__ void get_native_vector(T) = delete;
template <class T>
__device__ void make_vector_type(T) = delete;
template <class T>
__device__ void make_vector_type_impl(T) = delete;
template <class T>
__device__ void _hip_compare(T) = delete;
template <class T>
__device__ T min(T a, T b) = delete;
template <class T>
__device__ T max(T a, T b) = delete;
#include "hiprtc_functions.inc"
#undef F
