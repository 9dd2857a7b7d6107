// Filters of `fused_views.cpp`: weighted sums of whole rows in 16-bit integers, whatever the channel.
// Compilers vectorize that best, and every processor computes it alike.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

// Several versions of a loop, the processor's own chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINED __attribute__((always_inline))
#define INLINE static inline INLINED

namespace {

// Sums have 8 bits of fraction, weights are fractions of 65536. A product keeps its upper 16 bits and so
// loses half a unit on average, for which a sum begins with a bias.
constexpr int FEW = 84;  // terms: the bias of three sums, the rounding and 255 * 256 still fit 16 bits
constexpr int PIECE = 512;  // of a row, for sums of many terms, which are kept in 32 bits

INLINE uint16_t bias_of(int taps) { return uint16_t(taps / 2); }
INLINE uint16_t product(uint16_t sample, uint16_t weight) {
    return uint16_t(uint32_t(sample) * weight >> 16);
}
INLINE uint8_t rounded(uint16_t sum) { return uint8_t((sum + 128) >> 8); }

template <int TAPS>
INLINE void add_rows(const uint8_t* const* rows, const uint16_t* weights, int n, bool first, uint16_t bias,
                     uint16_t* __restrict out) {
    const uint8_t* __restrict a = rows[0];
    const uint8_t* __restrict b = rows[TAPS > 1 ? 1 : 0];
    const uint8_t* __restrict c = rows[TAPS > 2 ? 2 : 0];
    const uint8_t* __restrict d = rows[TAPS > 3 ? 3 : 0];
    const uint16_t wa = weights[0], wb = weights[TAPS > 1 ? 1 : 0];
    const uint16_t wc = weights[TAPS > 2 ? 2 : 0], wd = weights[TAPS > 3 ? 3 : 0];
    const auto sum = [=](int i) INLINED {
        uint16_t total = product(uint16_t(a[i] << 8), wa);
        if constexpr (TAPS > 1) total = uint16_t(total + product(uint16_t(b[i] << 8), wb));
        if constexpr (TAPS > 2) total = uint16_t(total + product(uint16_t(c[i] << 8), wc));
        if constexpr (TAPS > 3) total = uint16_t(total + product(uint16_t(d[i] << 8), wd));
        return total;
    };
    if (first)
        for (int i = 0; i < n; ++i) out[i] = uint16_t(bias + sum(i));
    else
        for (int i = 0; i < n; ++i) out[i] = uint16_t(out[i] + sum(i));
}

INLINE void sum_of_many_rows(const uint8_t* const* rows, const uint16_t* weights, int taps, int n,
                             uint16_t* __restrict out) {
    uint32_t sums[PIECE];
    for (int start = 0; start < n; start += PIECE) {
        const int length = std::min(PIECE, n - start);
        std::fill_n(sums, length, 128);
        for (int k = 0; k < taps; ++k) {
            const uint8_t* row = rows[k] + start;
            for (int i = 0; i < length; ++i) sums[i] += uint32_t(row[i]) * weights[k];
        }
        for (int i = 0; i < length; ++i) out[start + i] = uint16_t(sums[i] >> 8);
    }
}

// out[i] = sum over k of weights[k] * rows[k][i]
CLONES void sum_of_rows(const uint8_t* const* rows, const uint16_t* weights, int taps, int n, uint16_t* out) {
    if (taps > FEW) return sum_of_many_rows(rows, weights, taps, n, out);
    const uint16_t bias = bias_of(taps);
    for (int k = 0; k < taps; k += 4) {
        switch (std::min(taps - k, 4)) {
            case 1: add_rows<1>(rows + k, weights + k, n, k == 0, bias, out); break;
            case 2: add_rows<2>(rows + k, weights + k, n, k == 0, bias, out); break;
            case 3: add_rows<3>(rows + k, weights + k, n, k == 0, bias, out); break;
            default: add_rows<4>(rows + k, weights + k, n, k == 0, bias, out);
        }
    }
}

// A symmetric filter weighs the mean of two rows, half the multiplications. Words have 15 bits, to be added.
INLINE uint16_t mean_of(uint8_t a, uint8_t b) { return uint16_t((a + b) << 7); }
INLINE uint16_t mean_of(uint16_t a, uint16_t b) { return uint16_t(a + b); }

template <int PAIRS, class Sample>
INLINE void add_pairs(const Sample* const* before, const Sample* const* after, const uint16_t* weights, int n,
                      bool first, uint16_t bias, uint16_t* __restrict out) {
    constexpr int B = PAIRS > 1 ? 1 : 0, C = PAIRS > 2 ? 2 : 0;
    const Sample *__restrict a0 = before[0], *__restrict a1 = after[0];
    const Sample *__restrict b0 = before[B], *__restrict b1 = after[B];
    const Sample *__restrict c0 = before[C], *__restrict c1 = after[C];
    const uint16_t wa = weights[0], wb = weights[B], wc = weights[C];
    const auto sum = [=](int i) INLINED {
        uint16_t total = product(mean_of(a0[i], a1[i]), wa);
        if constexpr (PAIRS > 1) total = uint16_t(total + product(mean_of(b0[i], b1[i]), wb));
        if constexpr (PAIRS > 2) total = uint16_t(total + product(mean_of(c0[i], c1[i]), wc));
        return total;
    };
    if (first)
        for (int i = 0; i < n; ++i) out[i] = uint16_t(bias + sum(i));
    else
        for (int i = 0; i < n; ++i) out[i] = uint16_t(out[i] + sum(i));
}

template <class Sample>
INLINE void sum_of_many_pairs(const Sample* const* before, const Sample* const* after,
                              const uint16_t* weights, int pairs, int n, uint16_t* __restrict out) {
    uint32_t sums[PIECE];
    for (int start = 0; start < n; start += PIECE) {
        const int length = std::min(PIECE, n - start);
        std::fill_n(sums, length, 32768);
        for (int k = 0; k < pairs; ++k) {
            const Sample *a = before[k] + start, *b = after[k] + start;
            for (int i = 0; i < length; ++i) sums[i] += uint32_t(mean_of(a[i], b[i])) * weights[k];
        }
        for (int i = 0; i < length; ++i) out[start + i] = uint16_t(sums[i] >> 16);
    }
}

template <class Sample>
INLINE void sum_of_pairs(const Sample* const* before, const Sample* const* after, const uint16_t* weights,
                         int pairs, int n, uint16_t* out) {
    if (pairs > FEW) return sum_of_many_pairs(before, after, weights, pairs, n, out);
    const uint16_t bias = bias_of(pairs);
    for (int k = 0; k < pairs; k += 3) {
        switch (std::min(pairs - k, 3)) {
            case 1: add_pairs<1>(before + k, after + k, weights + k, n, k == 0, bias, out); break;
            case 2: add_pairs<2>(before + k, after + k, weights + k, n, k == 0, bias, out); break;
            default: add_pairs<3>(before + k, after + k, weights + k, n, k == 0, bias, out);
        }
    }
}

CLONES void sum_of_byte_pairs(const uint8_t* const* before, const uint8_t* const* after,
                              const uint16_t* weights, int pairs, int n, uint16_t* out) {
    sum_of_pairs(before, after, weights, pairs, n, out);
}

CLONES void sum_of_word_pairs(const uint16_t* const* before, const uint16_t* const* after,
                              const uint16_t* weights, int pairs, int n, uint16_t* out) {
    sum_of_pairs(before, after, weights, pairs, n, out);
}

CLONES void round_row(const uint16_t* __restrict sums, int n, uint8_t* __restrict out) {
    for (int i = 0; i < n; ++i) out[i] = rounded(sums[i]);
}

// Weights as whole numbers that sum to `total`, the remainder going to the largest.
void quantize(const std::vector<double>& weights, int count, int total, uint16_t* out) {
    const double unit = std::accumulate(weights.begin(), weights.begin() + count, 0.0) / total;
    const auto largest = std::max_element(weights.begin(), weights.begin() + count) - weights.begin();
    int remainder = total;
    for (int k = 0; k < count; ++k) {
        out[k] = uint16_t(std::min(std::lround(weights[k] / unit), 65535L));
        remainder -= out[k];
    }
    out[largest] = uint16_t(std::clamp(out[largest] + remainder, 0, 65535));
}

constexpr int ROWS = 4;  // rows of the result made together
constexpr int LANES = 4 * ROWS;

// Which samples of a line, with which weights, make each sample of the resized line.
struct Taps {
    int count = 0;  // the same for all; weights beyond the filter are 0
    std::vector<int> start;
    std::vector<uint16_t> weights;
    std::vector<double> exact;

    // Pillow's bilinear filter: a triangle, widened by the scale where the line shrinks, cut off at the ends.
    void make(int length, int size) {
        const double scale = double(length) / size, support = std::max(scale, 1.0);
        count = std::min(length, int(std::ceil(2 * support)) + 1);
        start.assign(size, 0);
        weights.assign(size_t(size) * count, 0);
        exact.resize(count);
        int needed = 0;
        for (int i = 0; i < size; ++i) {
            const double center = (i + 0.5) * scale;
            const int from = std::max(0, int(center - support + 0.5));
            const int to = std::min({length, int(center + support + 0.5), from + count});
            for (int k = 0; k < to - from; ++k)
                exact[k] = std::max(0.0, 1 - std::abs(from + k - center + 0.5) / support);
            start[i] = from;
            quantize(exact, to - from, 65536, &weights[size_t(i) * count]);
            needed = std::max(needed, to - from);
        }
        if (needed < count) {  // one tap less is a third of the time less where nothing shrinks
            for (int i = 0; i < size; ++i)
                std::copy_n(&weights[size_t(i) * count], needed, &weights[size_t(i) * needed]);
            count = needed;
        }
    }
};

// in: [width + taps][ROWS][4] sums; out: [size][ROWS][4] bytes.
template <int TAPS>
INLINE void resample_rows(const uint16_t* in, const int* start, const uint16_t* weights, int taps, int size,
                          uint8_t* __restrict out) {
    const uint16_t bias = bias_of(taps);
    for (int x = 0; x < size; ++x, weights += taps, out += LANES) {
        const uint16_t* from = in + size_t(start[x]) * LANES;
        for (int i = 0; i < LANES; ++i) {
            uint16_t sum = bias;
            for (int k = 0; k < TAPS; ++k) sum = uint16_t(sum + product(from[k * LANES + i], weights[k]));
            out[i] = rounded(sum);
        }
    }
}

INLINE void resample_any(const uint16_t* in, const int* start, const uint16_t* weights, int taps, int size,
                         uint8_t* __restrict out) {
    for (int x = 0; x < size; ++x, weights += taps, out += LANES) {
        const uint16_t* from = in + size_t(start[x]) * LANES;
        uint32_t sums[LANES];
        std::fill_n(sums, LANES, 32768);
        for (int k = 0; k < taps; ++k)
            for (int i = 0; i < LANES; ++i) sums[i] += uint32_t(from[k * LANES + i]) * weights[k];
        for (int i = 0; i < LANES; ++i) out[i] = rounded(uint16_t(sums[i] >> 16));
    }
}

// Resample ROWS rows at once along x; few taps, the usual case, are unrolled.
CLONES void resample(const uint16_t* in, const int* start, const uint16_t* weights, int taps, int size,
                     uint8_t* out) {
    switch (taps) {
        case 1: return resample_rows<1>(in, start, weights, taps, size, out);
        case 2: return resample_rows<2>(in, start, weights, taps, size, out);
        case 3: return resample_rows<3>(in, start, weights, taps, size, out);
        case 4: return resample_rows<4>(in, start, weights, taps, size, out);
        case 5: return resample_rows<5>(in, start, weights, taps, size, out);
        default: return resample_any(in, start, weights, taps, size, out);
    }
}

// [ROWS][n][3] sums, readable one further, to [n][ROWS][4]; the fourth means nothing.
CLONES void interleave(const uint16_t* __restrict in, int n, uint16_t* __restrict out) {
    for (int x = 0; x < n; ++x)
        for (int row = 0; row < ROWS; ++row)
            std::memcpy(out + x * LANES + row * 4, in + (size_t(row) * n + x) * 3, 8);
}

using Words = uint32_t __attribute__((vector_size(16)));
using Bytes = uint8_t __attribute__((vector_size(16)));
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, decltype(a){__VA_ARGS__})
#endif

// [n][ROWS] pixels of four bytes to rows of three bytes, mirrored if asked to.
CLONES void narrow(const uint32_t* in, int n, int rows, bool flip, uint8_t* out) {
    static_assert(ROWS == 4);
    const ptrdiff_t step = flip ? -ROWS : ROWS;
    const uint32_t* from = flip ? in + size_t(n - 1) * ROWS : in;
    int x = 0;
    for (; x + 4 <= n; x += 4) {
        Words columns[4];
        for (Words& column : columns) std::memcpy(&column, from, 16), from += step;
        const auto [a, b, c, d] = columns;
        const Words ab = SHUFFLED(a, b, 0, 4, 1, 5), cd = SHUFFLED(c, d, 0, 4, 1, 5);
        const Words ef = SHUFFLED(a, b, 2, 6, 3, 7), gh = SHUFFLED(c, d, 2, 6, 3, 7);
        const Words lines[] = {SHUFFLED(ab, cd, 0, 1, 4, 5), SHUFFLED(ab, cd, 2, 3, 6, 7),
                               SHUFFLED(ef, gh, 0, 1, 4, 5), SHUFFLED(ef, gh, 2, 3, 6, 7)};
        for (int row = 0; row < rows; ++row) {
            const Bytes four = Bytes(lines[row]);
            const Words three =
                Words(SHUFFLED(four, four, 0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15));
            uint8_t* to = out + (size_t(row) * n + x) * 3;
            const uint32_t last = three[2];
            std::memcpy(to, &three, 8), std::memcpy(to + 8, &last, 4);
        }
    }
    for (; x < n; ++x, from += step)
        for (int row = 0; row < rows; ++row) std::memcpy(out + (size_t(row) * n + x) * 3, from + row, 3);
}

}  // namespace
