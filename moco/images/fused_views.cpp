// The random views of an image in one pass over memory: what `paint` of moco/images/views.py does with plain
// libraries, from the same drawn parameters, where a compiler and libjpeg-turbo are installed.
//
// A JPEG is decoded only where the crops of its views lie. A view has four bytes a pixel, one unused,
// until it is whole.
//
// Plain C functions for ctypes. They keep no state but a scratch memory per thread, write nothing to the
// terminal and never end the process: what is wrong is in the code that they return.

#include <csetjmp>
#include <cstdio>
#include <new>

#include <jpeglib.h>

#include "fused_colors.h"
#include "fused_filters.h"

#ifndef LIBJPEG_TURBO_VERSION
#error "libjpeg-turbo is needed: other libjpegs cannot decode a region"
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Result { DONE = 0, DAMAGED = 1, INVALID = 2 };

constexpr int64_t MOST_PIXELS = 178956970;  // where Pillow, too, refuses an image as a decompression bomb
constexpr float LARGEST_SIGMA = 1000, LARGEST_FACTOR = 1000;
constexpr size_t KEPT = size_t(1) << 26;  // bytes of scratch memory that outlive a large image

// RGB pixels of the part of an image that its views need.
struct Region {
    const uint8_t* pixels;
    size_t stride;  // bytes from row to row
    int top, left;  // where it begins in the image
};

struct Box {
    int top, left, bottom, right;
};

struct Scratch {
    std::vector<uint8_t> region, bytes;
    std::vector<uint16_t> sums, quads, line;
    std::vector<uint32_t> view;
    std::vector<const uint8_t*> above, below;
    std::vector<const uint16_t*> before, after;
    std::vector<double> exact;
    std::vector<uint16_t> weights;
    Taps across, down;
};

Scratch& scratch() {
    thread_local Scratch memory;
    return memory;
}

template <class T>
T* grown(std::vector<T>& memory, size_t size) {
    if (memory.size() < size) memory.resize(size);
    return memory.data();
}

int blocks_of(int size) { return (size + ROWS - 1) / ROWS; }

// The crop of a view, resized to size x size pixels in `memory.view`: [size / ROWS][size][ROWS]; rows past the end are
// black.
void resize(const Region& region, const View& view, int size, Scratch& memory) {
    memory.down.make(view.height, size);
    memory.across.make(view.width, size);
    const Taps &down = memory.down, &across = memory.across;
    const int width = view.width, reach = width + across.count;  // weights of 0 may reach past the end
    uint16_t* sums = grown(memory.sums, size_t(ROWS) * width * 3 + 1);
    uint16_t* quads = grown(memory.quads, size_t(reach) * LANES);
    const size_t block = size_t(size) * ROWS;
    uint32_t* out = grown(memory.view, (blocks_of(size) * block + CHUNK - 1) / CHUNK * CHUNK);
    memory.above.resize(down.count);
    const uint8_t* crop = region.pixels + size_t(view.top - region.top) * region.stride +
                          size_t(view.left - region.left) * 3;
    for (int y = 0; y < size; y += ROWS, out += block) {
        const int rows = std::min(ROWS, size - y);
        for (int row = 0; row < rows; ++row) {
            const uint16_t* weights = &down.weights[size_t(y + row) * down.count];
            int taps = down.count;
            while (weights[taps - 1] == 0) --taps;
            for (int k = 0; k < taps; ++k) memory.above[k] = crop + (down.start[y + row] + k) * region.stride;
            sum_of_rows(memory.above.data(), weights, taps, width * 3, sums + size_t(row) * width * 3);
        }
        std::fill(sums + size_t(rows) * width * 3, sums + size_t(ROWS) * width * 3, 0);
        interleave(sums, width, quads);
        resample(quads, across.start.data(), across.weights.data(), across.count, size,
                 reinterpret_cast<uint8_t*>(out));
    }
}

// Gaussian blur of uint8 [size][size][3], edges repeated, to three standard deviations.
void blur(const uint8_t* pixels, int size, double sigma, Scratch& memory, uint8_t* out) {
    const int radius = int(std::ceil(3 * sigma)), pairs = radius + 1, n = size * 3;
    memory.exact.resize(pairs);  // of the middle, and of the two at each distance together
    for (int k = 0; k < pairs; ++k) memory.exact[k] = (k ? 2 : 1) * std::exp(-0.5 * k * k / (sigma * sigma));
    uint16_t *down = grown(memory.weights, size_t(2) * pairs), *across = down + pairs;
    quantize(memory.exact, pairs, 32768, down);
    quantize(memory.exact, pairs, 65536, across);
    uint16_t* line = grown(memory.line, size_t(size + 2 * radius) * 3) + size_t(radius) * 3;
    uint16_t *last = line + n - 3, *sums = grown(memory.sums, n);
    memory.above.resize(pairs), memory.below.resize(pairs);
    memory.before.resize(pairs), memory.after.resize(pairs);
    for (int k = 0; k < pairs; ++k) memory.before[k] = line - 3 * k, memory.after[k] = line + 3 * k;
    for (int y = 0; y < size; ++y) {
        for (int k = 0; k < pairs; ++k) {
            memory.above[k] = pixels + size_t(std::max(y - k, 0)) * n;
            memory.below[k] = pixels + size_t(std::min(y + k, size - 1)) * n;
        }
        sum_of_byte_pairs(memory.above.data(), memory.below.data(), down, pairs, n, line);
        for (int k = 1; k <= radius; ++k) {
            std::copy_n(line, 3, line - 3 * k);
            std::copy_n(last, 3, last + 3 * k);
        }
        sum_of_word_pairs(memory.before.data(), memory.after.data(), across, pairs, n, sums);
        round_row(sums, n, out + size_t(y) * n);
    }
}

// One view: uint8 [size][size][3].
void make_view(const Region& region, const View& view, int size, Scratch& memory, uint8_t* out) {
    resize(region, view, size, memory);
    uint32_t* pixels = memory.view.data();
    const int n = blocks_of(size) * ROWS * size;
    const bool jitter = view.order[0] >= 0, blurred = view.sigma > 0;
    if (jitter || view.grayscale) {
        const float mean = jitter ? mean_gray(pixels, n, size * size, view, position_of_contrast(view)) : 0;
        recolor(pixels, n, view, jitter, mean);
    }
    uint8_t* sharp = blurred ? grown(memory.bytes, size_t(size) * size * 3) : out;
    for (int y = 0; y < size; y += ROWS) {
        const int rows = std::min(ROWS, size - y);
        narrow(pixels + size_t(y) * size, size, rows, view.flip, sharp + size_t(y) * size * 3);
    }
    if (blurred) blur(sharp, size, view.sigma, memory, out);
}

// By its bits, for the compiler may assume that floats are finite.
bool in_range(float x, float least, float most) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return (bits >> 23 & 255) != 255 && x >= least && x <= most;
}

bool valid(const View& view, int height, int width) {
    if (view.top < 0 || view.left < 0 || view.height < 1 || view.width < 1) return false;
    if (view.height > height - view.top || view.width > width - view.left) return false;
    if (!in_range(view.sigma, 0, LARGEST_SIGMA)) return false;
    if (view.order[0] < 0) return true;
    int seen = 0;
    for (int operation : view.order) seen |= operation >= 0 && operation < 4 ? 1 << operation : 0;
    const auto is_factor = [](float x) { return in_range(x, 0, LARGEST_FACTOR); };
    return seen == 15 && std::all_of(view.factors, view.factors + 3, is_factor) &&
           in_range(view.factors[HUE], -0.5f, 0.5f);
}

bool all_valid(const View* views, int count, int size, int height, int width) {
    return count > 0 && size > 0 && size <= 16384 &&
           std::all_of(views, views + count, [=](const View& view) { return valid(view, height, width); });
}

Box union_of(const View* views, int count) {
    Box box = {views->top, views->left, views->top + views->height, views->left + views->width};
    for (const View* view = views + 1; view < views + count; ++view)
        box = {std::min(box.top, view->top), std::min(box.left, view->left),
               std::max(box.bottom, view->top + view->height), std::max(box.right, view->left + view->width)};
    return box;
}

struct Decoder {
    jpeg_decompress_struct jpeg;
    jpeg_error_mgr errors;
    std::jmp_buf stop;
};

[[noreturn]] void give_up(j_common_ptr jpeg) {
    std::longjmp(static_cast<Decoder*>(jpeg->client_data)->stop, 1);
}

void judge(j_common_ptr jpeg, int level) {
    if (level < 0) give_up(jpeg);  // a warning: the data are damaged
}

// Reads the header; the caller has set `stop` and destroys the decoder.
bool open(Decoder& decoder, const uint8_t* data, size_t size) {
    jpeg_decompress_struct& jpeg = decoder.jpeg;
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, const_cast<uint8_t*>(data), static_cast<unsigned long>(size));
    if (jpeg_read_header(&jpeg, TRUE) != JPEG_HEADER_OK) return false;
    const bool color = jpeg.num_components == 3 &&
                        (jpeg.jpeg_color_space == JCS_YCbCr || jpeg.jpeg_color_space == JCS_RGB);
    const bool gray = jpeg.num_components == 1 && jpeg.jpeg_color_space == JCS_GRAYSCALE;
    return (color || gray) && jpeg.data_precision == 8 &&
           int64_t(jpeg.image_height) * jpeg.image_width <= MOST_PIXELS;
}

void prepare(Decoder& decoder) {
    std::memset(&decoder.jpeg, 0, sizeof decoder.jpeg);  // destroying what was never created does nothing
    decoder.jpeg.err = jpeg_std_error(&decoder.errors);
    decoder.jpeg.client_data = &decoder;
    decoder.errors.error_exit = give_up;
    decoder.errors.emit_message = judge;
}

// Whether every bit of every coefficient came: libjpeg says nothing of scans that are missing.
bool complete(const jpeg_decompress_struct& jpeg) {
    if (!jpeg.progressive_mode) return true;
    const int* bits = jpeg.coef_bits[0];
    return std::all_of(bits, bits + jpeg.num_components * DCTSIZE2, [](int missing) { return missing == 0; });
}

// Reads what a box needs, and some pixels around it, from which chroma is interpolated.
Region read_region(jpeg_decompress_struct& jpeg, const Box& box, std::vector<uint8_t>& memory) {
    constexpr int CONTEXT = 4;
    JDIMENSION left = JDIMENSION(std::max(0, box.left - CONTEXT));
    JDIMENSION width = std::min(jpeg.output_width, JDIMENSION(box.right + CONTEXT)) - left;
    if (left > 0 || width < jpeg.output_width) jpeg_crop_scanline(&jpeg, &left, &width);
    const int top = std::max(0, box.top - CONTEXT);
    if (top > 0) jpeg_skip_scanlines(&jpeg, JDIMENSION(top));
    const size_t stride = size_t(jpeg.output_width) * 3;
    uint8_t* pixels = grown(memory, stride * (box.bottom - top));
    while (int(jpeg.output_scanline) < box.bottom) {
        JSAMPROW rows[16];
        const int wanted = std::min(16, box.bottom - int(jpeg.output_scanline));
        for (int row = 0; row < wanted; ++row)
            rows[row] = pixels + stride * (jpeg.output_scanline - top + row);
        jpeg_read_scanlines(&jpeg, rows, JDIMENSION(wanted));
    }
    return {pixels, stride, top, int(left)};
}

// No object with a destructor lives here: `stop` jumps over them.
Result decode(Decoder& decoder, const uint8_t* data, size_t size, const View* views, int count, int side,
              std::vector<uint8_t>& memory, Region& region) {
    if (setjmp(decoder.stop)) return DAMAGED;
    if (!open(decoder, data, size)) return DAMAGED;
    if (!all_valid(views, count, side, int(decoder.jpeg.image_height), int(decoder.jpeg.image_width)))
        return INVALID;
    decoder.jpeg.out_color_space = JCS_RGB;
    decoder.jpeg.dct_method = JDCT_ISLOW;
    jpeg_start_decompress(&decoder.jpeg);  // reads all scans of a progressive file
    if (!complete(decoder.jpeg)) return DAMAGED;
    region = read_region(decoder.jpeg, union_of(views, count), memory);
    return DONE;
}

void forget_large(Scratch& memory) {
    if (memory.region.size() > KEPT) std::vector<uint8_t>().swap(memory.region);
}

}  // namespace

// Version of this interface, and the size of a view: the binding refuses a library built from another source.
EXPORT int moco_views_layout() { return 2000 + int(sizeof(View)); }

// The height and width of a JPEG that moco_views_of_jpeg takes; DAMAGED for any other.
EXPORT int moco_jpeg_size(const uint8_t* data, size_t size, int32_t* height_and_width) {
    Decoder decoder;
    prepare(decoder);
    if (setjmp(decoder.stop)) {
        jpeg_destroy_decompress(&decoder.jpeg);
        return DAMAGED;
    }
    const bool taken = open(decoder, data, size);
    height_and_width[0] = int32_t(decoder.jpeg.image_height);
    height_and_width[1] = int32_t(decoder.jpeg.image_width);
    jpeg_destroy_decompress(&decoder.jpeg);
    return taken ? DONE : DAMAGED;
}

// Views of a JPEG; out: uint8 [side][side][3] for each, `step` bytes from one to the next.
EXPORT int moco_views_of_jpeg(const uint8_t* data, size_t size, const View* views, int count, int side,
                              uint8_t* out, ptrdiff_t step) {
    Decoder decoder;
    prepare(decoder);
    Result result = DAMAGED;
    try {
        Scratch& memory = scratch();
        Region region = {};
        result = decode(decoder, data, size, views, count, side, memory.region, region);
        for (int i = 0; result == DONE && i < count; ++i)
            make_view(region, views[i], side, memory, out + i * step);
        forget_large(memory);
    } catch (const std::bad_alloc&) {
        result = DAMAGED;  // the ordinary decoder judges an image like this
    }
    jpeg_destroy_decompress(&decoder.jpeg);  // aborts: the rows below the crops are never read
    return result;
}

// Views of pixels that something else decoded: uint8 [height][width][3].
EXPORT int moco_views_of_pixels(const uint8_t* image, int height, int width, const View* views, int count,
                                int side, uint8_t* out, ptrdiff_t step) {
    if (!all_valid(views, count, side, height, width)) return INVALID;
    try {
        const Region region = {image, size_t(width) * 3, 0, 0};
        for (int i = 0; i < count; ++i) make_view(region, views[i], side, scratch(), out + i * step);
    } catch (const std::bad_alloc&) {
        return DAMAGED;
    }
    return DONE;
}
