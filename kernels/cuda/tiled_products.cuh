// SPDX-License-Identifier: Apache-2.0
// Products of one x with several matrices as one row of tiles: what the kernels of few and of several rows work on.
#ifndef UNFOLD_KERNELS_CUDA_TILED_PRODUCTS_CUH_
#define UNFOLD_KERNELS_CUDA_TILED_PRODUCTS_CUH_

#include <span>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/product_output.cuh"
#include "kernels/cuda/products.h"

namespace unfold {

// A tile has kTile rows of `weight`, or, of a gated product, half as many, and the same of `up`.
template <int kTile>
struct TiledProduct {
  const __nv_bfloat16 *weight = nullptr, *up = nullptr;
  Index columns = 0;
  int first_tile = 0;
  ProductOutput out;

  __host__ __device__ int TileColumns() const { return up == nullptr ? kTile : kTile / 2; }
};

template <typename X, int kTile>
struct TiledProducts {
  const X* x = nullptr;  // [rows, inner]
  int rows = 0, inner = 0, tiles = 0;
  TiledProduct<kTile> products[kMostProductsAtOnce];  // those that are not used begin past the last tile

  // Of products of one x; `up` is that of the only one, where it is gated.
  TiledProducts(std::span<const MatMulArgs> all, const X* x, const __nv_bfloat16* up)
      : x(x), rows(static_cast<int>(all[0].x.dims[0])), inner(static_cast<int>(all[0].x.dims[1])) {
    for (std::size_t p = 0; p < all.size(); ++p) {
      const Index columns = all[p].weight.dims[0];
      products[p] = {all[p].weight.as<const __nv_bfloat16>(), up, columns, tiles, ProductOutput(all[p])};
      tiles += static_cast<int>(CeilDiv(columns, products[p].TileColumns()));
    }
    for (std::size_t p = all.size(); p < kMostProductsAtOnce; ++p) products[p].first_tile = tiles;
  }

  // The product of a tile.
  __device__ __forceinline__ const TiledProduct<kTile>& ProductOf(int tile) const {
    int which = 0;
#pragma unroll
    for (int p = 1; p < kMostProductsAtOnce; ++p) which = tile >= products[p].first_tile ? p : which;
    return products[which];
  }
};

}  // namespace unfold

#endif  // UNFOLD_KERNELS_CUDA_TILED_PRODUCTS_CUH_
