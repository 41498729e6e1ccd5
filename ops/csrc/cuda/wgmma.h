// The products of warpgroups, which sm_90a alone has: what ptx.h is for single warps. Tests put an emulated
// page in its place too.
#pragma once
#include "cuda/ptx.h"

namespace mbu::cuda {

constexpr int kWgmmaSums = 128;  // of a thread: 64 x 256 by four warps

// A matrix in shared memory, 32 bytes of K to a row, for a product: blocks of 8 rows x 16 bytes in one piece,
// at a distance in bytes along K, and from 8 rows to the next.
MBU_DEVICE uint64_t describe_matrix(uint32_t offset, uint32_t along_k, uint32_t along_rows) {
  return (shared_address(offset) & 0x3ffff) >> 4 | static_cast<uint64_t>(along_k >> 4) << 16 |
         static_cast<uint64_t>(along_rows >> 4) << 32;
}

// What threads stored in shared memory is seen by products, behind the next barrier.
MBU_DEVICE void publish_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Around products that run on their own; the sums rest in registers meanwhile.
MBU_DEVICE void keep_in_place(int32_t (&c)[kWgmmaSums]) {
#pragma unroll
  for (int i = 0; i < kWgmmaSums; ++i) asm volatile("" : "+r"(c[i])::"memory");
}
MBU_DEVICE void begin_wgmma(int32_t (&c)[kWgmmaSums]) {
  keep_in_place(c);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
MBU_DEVICE void finish_wgmma(int32_t (&c)[kWgmmaSums]) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  keep_in_place(c);
}

#define MBU_SUMS_8(i)                                                                         \
  "+r"(c[i]), "+r"(c[i + 1]), "+r"(c[i + 2]), "+r"(c[i + 3]), "+r"(c[i + 4]), "+r"(c[i + 5]), \
      "+r"(c[i + 6]), "+r"(c[i + 7])
#define MBU_SUMS_32(i) MBU_SUMS_8(i), MBU_SUMS_8(i + 8), MBU_SUMS_8(i + 16), MBU_SUMS_8(i + 24)
#define MBU_WGMMA(product)                                                                   \
  asm volatile("wgmma.mma_async.sync.aligned." product " " MBU_WGMMA_SUMS ", %128, %129, 1;" \
               : MBU_SUMS_32(0), MBU_SUMS_32(32), MBU_SUMS_32(64), MBU_SUMS_32(96)           \
               : "l"(a), "l"(b))
// clang-format off
#define MBU_WGMMA_SUMS \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15," \
  " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31," \
  " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47," \
  " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63," \
  " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79," \
  " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95," \
  " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111," \
  " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"
// clang-format on

// c[row, column] += popc(a[row] & b[column]) over 256 bits, for 64 rows of a and 256 of b. Warp w of four
// holds rows 16 w and up; of those, lane l holds l / 4 and l / 4 + 8, and of every 8 columns 2 * (l % 4) and
// the next.
MBU_DEVICE void wgmma_and_m64n256k256(int32_t (&c)[kWgmmaSums], uint64_t a, uint64_t b) {
  MBU_WGMMA("m64n256k256.s32.b1.b1.and.popc");
}
// The same with 32 signed bytes in place of 256 bits and products in place of popc(a & b).
MBU_DEVICE void wgmma_s8_m64n256k32(int32_t (&c)[kWgmmaSums], uint64_t a, uint64_t b) {
  MBU_WGMMA("m64n256k32.s32.s8.s8");
}
#undef MBU_WGMMA_SUMS
#undef MBU_WGMMA
#undef MBU_SUMS_32
#undef MBU_SUMS_8

}  // namespace mbu::cuda
