// Jitter and grayscale of `fused_views.cpp`, in floats without rounding between operations, as in
// moco/images/color.py.

#pragma once

#include "fused_filters.h"

namespace {

struct View {  // `VIEW` of moco/images/operations.py
    int32_t top, left, height, width;
    int32_t order[4];
    float factors[4];
    int32_t grayscale;
    float sigma;
    int32_t flip;
};

enum Operation { BRIGHTNESS = 0, CONTRAST = 1, SATURATION = 2, HUE = 3 };
enum Grayscale { BEFORE_JITTER = 1, AFTER_JITTER = 2 };

constexpr int CHUNK = 256;  // pixels whose channels, as floats, stay in the first-level cache

struct Colors {
    alignas(64) float r[CHUNK], g[CHUNK], b[CHUNK];
};

INLINE float gray_of(float r, float g, float b) { return 0.2989f * r + 0.587f * g + 0.114f * b; }
INLINE float clipped(float x) { return std::min(std::max(x, 0.0f), 255.0f); }
INLINE int32_t level(float x) { return int32_t(x + 0.5f); }

INLINE void unpack(const uint32_t* pixels, Colors& c) {
    for (int i = 0; i < CHUNK; ++i) {
        c.r[i] = float(int32_t(pixels[i] & 255));
        c.g[i] = float(int32_t(pixels[i] >> 8 & 255));
        c.b[i] = float(int32_t(pixels[i] >> 16 & 255));
    }
}

INLINE void pack(const Colors& c, int n, uint32_t* pixels) {
    for (int i = 0; i < n; ++i)
        pixels[i] = uint32_t(level(c.r[i]) | level(c.g[i]) << 8 | level(c.b[i]) << 16);
}

INLINE void make_gray(Colors& c) {
    for (int i = 0; i < CHUNK; ++i)
        c.r[i] = c.g[i] = c.b[i] = float(level(gray_of(c.r[i], c.g[i], c.b[i])));
}

INLINE void scale(Colors& c, float factor, float offset) {
    for (int i = 0; i < CHUNK; ++i) {
        c.r[i] = clipped(c.r[i] * factor + offset);
        c.g[i] = clipped(c.g[i] * factor + offset);
        c.b[i] = clipped(c.b[i] * factor + offset);
    }
}

INLINE void saturate(Colors& c, float factor) {
    for (int i = 0; i < CHUNK; ++i) {
        const float offset = (1 - factor) * gray_of(c.r[i], c.g[i], c.b[i]);
        c.r[i] = clipped(c.r[i] * factor + offset);
        c.g[i] = clipped(c.g[i] * factor + offset);
        c.b[i] = clipped(c.b[i] * factor + offset);
    }
}

// Hue counts in sixths of a turn and, like every distance here, in units of the spread: nothing is divided.
INLINE void shift_hue(Colors& c, float turn) {
    const float shift = 6 * turn;
    for (int i = 0; i < CHUNK; ++i) {
        const float r = c.r[i], g = c.g[i], b = c.b[i];
        const float high = std::max(std::max(r, g), b), low = std::min(std::min(r, g), b);
        const float spread = high - low;
        float hue = high == g ? 2 * spread + (b - r) : 4 * spread + (r - g);
        hue = (high == r ? g - b : hue) + shift * spread;
        hue = hue < 0 ? hue + 6 * spread : hue;
        hue = hue >= 6 * spread ? hue - 6 * spread : hue;
        const float from_cyan = std::abs(hue - 3 * spread), from_green = std::abs(hue - 2 * spread);
        const float from_blue = std::abs(hue - 4 * spread);
        c.r[i] = low + std::min(std::max(from_cyan - spread, 0.0f), spread);
        c.g[i] = low + std::min(std::max(2 * spread - from_green, 0.0f), spread);
        c.b[i] = low + std::min(std::max(2 * spread - from_blue, 0.0f), spread);
    }
}

INLINE void apply(Colors& c, const View& view, int first, int last, float mean) {
    for (int at = first; at < last; ++at) {
        const int operation = view.order[at];
        const float factor = view.factors[operation];
        if (operation == BRIGHTNESS) scale(c, factor, 0);
        if (operation == CONTRAST) scale(c, factor, (1 - factor) * mean);
        if (operation == SATURATION) saturate(c, factor);
        if (operation == HUE) shift_hue(c, factor);
    }
}

int position_of_contrast(const View& view) {
    return int(std::find(view.order, view.order + 4, int32_t(CONTRAST)) - view.order);
}

// The mean gray before contrast is changed; grays are whole numbers, as torchvision's mean has them.
// pixels: readable up to a multiple of CHUNK; those beyond `counted` are black until contrast is changed.
CLONES float mean_gray(const uint32_t* pixels, int n, int counted, const View& view, int last) {
    Colors c;
    alignas(64) int32_t grays[CHUNK];
    int64_t total = 0;
    for (int start = 0; start < n; start += CHUNK) {
        unpack(pixels + start, c);
        if (view.grayscale == BEFORE_JITTER) make_gray(c);
        apply(c, view, 0, last, 0);
        const int length = std::min(CHUNK, n - start);
        for (int i = 0; i < CHUNK; ++i) grays[i] = int32_t(gray_of(c.r[i], c.g[i], c.b[i]));
        int32_t sum = 0;
        for (int i = 0; i < length; ++i) sum += grays[i];
        total += sum;
    }
    return float(double(total) / counted);
}

CLONES void recolor(uint32_t* pixels, int n, const View& view, bool jitter, float mean) {
    Colors c;
    for (int start = 0; start < n; start += CHUNK) {
        unpack(pixels + start, c);
        if (view.grayscale == BEFORE_JITTER) make_gray(c);
        if (jitter) apply(c, view, 0, 4, mean);
        if (view.grayscale == AFTER_JITTER) {
            for (int i = 0; i < CHUNK; ++i) {  // of the levels that would have been stored
                c.r[i] = float(level(c.r[i]));
                c.g[i] = float(level(c.g[i]));
                c.b[i] = float(level(c.b[i]));
            }
            make_gray(c);
        }
        pack(c, std::min(CHUNK, n - start), pixels + start);
    }
}

}  // namespace
