// The operations as C++ functions, one signature each: cpu.cpp implements them, cuda.cpp refuses them.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace mbu {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::stable::Tensor;
using Pair = IntHeaderOnlyArrayRef;
using Images = std::vector<Tensor>;
// Optional because a compiled package hands an empty list over as None (torch 2.14, oss_proxy_executor.cpp).
using MaybePair = std::optional<Pair>;
using MaybeImages = std::optional<Images>;
using FloatAndBits = std::tuple<Tensor, Tensor>;

// MBU_OP(result, name, arguments): the list that schema.cpp, cpu.cpp and cuda.cpp share.
#define MBU_OPS(MBU_OP)                                                                                      \
  MBU_OP(Tensor, pack,                                                                                       \
         (const Tensor& x, std::optional<Tensor> threshold, std::optional<Tensor> flip,                      \
          std::optional<Tensor> gate))                                                                       \
  MBU_OP(Tensor, unpack, (const Tensor& bits, int64_t channels))                                             \
  MBU_OP(Tensor, join_bits, (Images bits, Pair channels))                                                    \
  MBU_OP(Tensor, tile_weight, (const Tensor& planes))                                                        \
  MBU_OP(Tensor, conv2d,                                                                                     \
         (Images bits, const Tensor& weight, int64_t out_channels, Pair kernel_size, Pair stride,            \
          Pair padding, Pair dilation, int64_t pad_value, MaybePair size))                                   \
  MBU_OP(                                                                                                    \
      Tensor, conv2d_threshold,                                                                              \
      (Images bits, const Tensor& weight, const Tensor& threshold, const Tensor& flip, int64_t out_channels, \
       Pair kernel_size, Pair stride, Pair padding, Pair dilation, int64_t pad_value, MaybePair size))       \
  MBU_OP(Tensor, conv_transpose2d,                                                                           \
         (Images bits, const Tensor& weight, int64_t out_channels, Pair kernel_size, Pair stride,            \
          Pair padding, Pair output_padding, Pair dilation, MaybePair size))                                 \
  MBU_OP(                                                                                                    \
      Tensor, conv_transpose2d_threshold,                                                                    \
      (Images bits, const Tensor& weight, const Tensor& threshold, const Tensor& flip, int64_t out_channels, \
       Pair kernel_size, Pair stride, Pair padding, Pair output_padding, Pair dilation, MaybePair size))     \
  MBU_OP(FloatAndBits, conv2d_stream,                                                                        \
         (Images bits, const Tensor& weight, const Tensor& affine, MaybeImages residual,                     \
          std::optional<Tensor> threshold, int64_t out_channels, Pair kernel_size, Pair stride,              \
          Pair padding, Pair dilation, int64_t pad_value, int64_t pool, int64_t upsample, bool relu,         \
          MaybePair size, std::optional<Tensor> head, std::optional<Tensor> head_bias,                       \
          std::optional<torch::headeronly::ScalarType> dtype))                                               \
  MBU_OP(FloatAndBits, conv_transpose2d_stream,                                                              \
         (Images bits, const Tensor& weight, const Tensor& affine, MaybeImages residual,                     \
          std::optional<Tensor> threshold, int64_t out_channels, Pair kernel_size, Pair stride,              \
          Pair padding, Pair output_padding, Pair dilation, int64_t pool, int64_t upsample, bool relu,       \
          MaybePair size, std::optional<torch::headeronly::ScalarType> dtype))                               \
  MBU_OP(Tensor, gemm, (const Tensor& bits, const Tensor& weight, int64_t out_channels))                     \
  MBU_OP(Tensor, gemm_threshold,                                                                             \
         (const Tensor& bits, const Tensor& weight, const Tensor& threshold, const Tensor& flip,             \
          int64_t out_channels))                                                                             \
  MBU_OP(Tensor, stem_threshold,                                                                             \
         (const Tensor& x, const Tensor& weight, const Tensor& threshold, const Tensor& flip, Pair stride,   \
          Pair padding, Pair dilation))                                                                      \
  MBU_OP(FloatAndBits, stem_stream,                                                                          \
         (const Tensor& x, const Tensor& weight, const Tensor& affine, std::optional<Tensor> threshold,      \
          Pair stride, Pair padding, Pair dilation, bool relu,                                               \
          std::optional<torch::headeronly::ScalarType> dtype))                                               \
  MBU_OP(Tensor, head_conv2d,                                                                                \
         (const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, Pair padding))                  \
  MBU_OP(Tensor, joined_head,                                                                                \
         (Images x, const Tensor& weight, std::optional<Tensor> bias, std::optional<Tensor> gate))           \
  MBU_OP(Tensor, upsample_bilinear2d,                                                                        \
         (const Tensor& x, Pair size, bool align_corners, std::optional<double> scale_h,                     \
          std::optional<double> scale_w))                                                                    \
  MBU_OP(Tensor, attention, (const Tensor& query, const Tensor& key, const Tensor& value, double scale))     \
  MBU_OP(Tensor, max_pool2d,                                                                                 \
         (const Tensor& bits, Pair kernel_size, Pair stride, Pair padding, Pair dilation, bool ceil_mode))

}  // namespace mbu
