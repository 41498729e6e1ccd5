// Every operation of torch.ops.mbu on one screen. What they compute is written in mbu_ops/functional.py.
#include "torch/ops.h"

#ifndef MBU_LIBRARY  // tests register the same operations elsewhere
#define MBU_LIBRARY mbu
#endif

STABLE_TORCH_LIBRARY(MBU_LIBRARY, m) {
  m.def("pack(Tensor x, Tensor? threshold=None, Tensor? flip=None, Tensor? gate=None) -> Tensor");
  m.def("unpack(Tensor bits, int channels) -> Tensor");
  m.def("join_bits(Tensor[] bits, int[] channels) -> Tensor");
  m.def("tile_weight(Tensor planes) -> Tensor");
  m.def(
      "conv2d(Tensor[] bits, Tensor weight, int out_channels, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation, int pad_value=0, SymInt[]? size=None) -> Tensor");
  m.def(
      "conv2d_threshold(Tensor[] bits, Tensor weight, Tensor threshold, Tensor flip, int out_channels, "
      "int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, int pad_value=0, SymInt[]? "
      "size=None) -> Tensor");
  m.def(
      "conv_transpose2d(Tensor[] bits, Tensor weight, int out_channels, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] output_padding, int[2] dilation, SymInt[]? size=None) -> Tensor");
  m.def(
      "conv_transpose2d_threshold(Tensor[] bits, Tensor weight, Tensor threshold, Tensor flip, "
      "int out_channels, int[2] kernel_size, int[2] stride, int[2] padding, int[2] output_padding, "
      "int[2] dilation, SymInt[]? size=None) -> Tensor");
  m.def(
      "conv2d_stream(Tensor[] bits, Tensor weight, Tensor affine, Tensor[]? residual, Tensor? threshold, "
      "int out_channels, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, "
      "int pad_value=0, int pool=1, int upsample=1, bool relu=False, SymInt[]? size=None, Tensor? head=None, "
      "Tensor? head_bias=None, ScalarType? dtype=None) -> (Tensor, Tensor)");
  m.def(
      "conv_transpose2d_stream(Tensor[] bits, Tensor weight, Tensor affine, Tensor[]? residual, "
      "Tensor? threshold, int out_channels, int[2] kernel_size, int[2] stride, int[2] padding, "
      "int[2] output_padding, int[2] dilation, int pool=1, int upsample=1, bool relu=False, SymInt[]? "
      "size=None, ScalarType? dtype=None) "
      "-> (Tensor, Tensor)");
  m.def("gemm(Tensor bits, Tensor weight, int out_channels) -> Tensor");
  m.def(
      "gemm_threshold(Tensor bits, Tensor weight, Tensor threshold, Tensor flip, int out_channels) -> "
      "Tensor");
  m.def(
      "stem_threshold(Tensor x, Tensor weight, Tensor threshold, Tensor flip, int[2] stride, "
      "int[2] padding, int[2] dilation) -> Tensor");
  m.def(
      "stem_stream(Tensor x, Tensor weight, Tensor affine, Tensor? threshold, int[2] stride, "
      "int[2] padding, int[2] dilation, bool relu=False, ScalarType? dtype=None) -> (Tensor, Tensor)");
  m.def("head_conv2d(Tensor x, Tensor weight, Tensor? bias, int[2] padding) -> Tensor");
  m.def("joined_head(Tensor[] x, Tensor weight, Tensor? bias, Tensor? gate) -> Tensor");
  m.def(
      "upsample_bilinear2d(Tensor x, SymInt[2] size, bool align_corners, float? scale_h=None, "
      "float? scale_w=None) -> Tensor");
  m.def("attention(Tensor query, Tensor key, Tensor value, float scale) -> Tensor");
  m.def(
      "max_pool2d(Tensor bits, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, "
      "bool ceil_mode) -> Tensor");
}
