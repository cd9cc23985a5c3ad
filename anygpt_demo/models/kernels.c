/* The LLaMA of models/llama.py for writing on a CPU, in one call per forward: what models/compiled.py calls.

   ids --[ norm+qkv -> rotary -> attention over the cache -> out ; norm+gate,up -> silu -> down ] x layers--> rows
   rows --head of the legal ids--> scores --penalty, top-k, top-p, luck--> ids

   A row is rounded to 8 bits by itself and multiplied in whole numbers; sums of floats are taken in an order that depends on
   the row's own position only. So a row's result has the same bits whatever else is computed with it. Weights are kept as
   unsigned bytes (value + 128), in tiles of 32 outputs: for every four inputs 128 bytes, four per output; they are read in order
   and multiplied while they are read. Keys and values are kept in 8 bit in tiles of the same kind, see keep().

   `luck` is a number in [0, 1) from the caller: equal numbers give equal ids. Plain C with vectors of GCC and Clang; the product
   has a way of its own for AVX-512 VNNI and AVX2. Nothing is kept between calls: any number of threads may be in here at once, each
   with a Space of its own. With -DLAPS the time of each part is counted, for one thread at a time. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { OUTS = 32, STEP = 8, BLOCK = 128, TOGETHER = 4, BUCKETS = 256, STEPS = 32, FINE = 128 * 127 + 127, LARGEST_TURN = 512 };
#define INLINE static inline __attribute__((always_inline))

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef int8_t bytes __attribute__((vector_size(LANES)));

typedef struct { /* y = x W', or rms_norm(x) W' where eps >= 0 */
    int64_t width, outs;
    const uint8_t *weights; /* (outs / 32, width / 4, 32, 4), both rounded up */
    const float *scales;    /* (outs,) */
    double eps;
} Matrix;

typedef struct { Matrix qkv, out, gate_up, down; } Layer;

typedef struct {
    int64_t heads, groups, width, model, hidden, layers, longest; /* longest: positions that `looks` has room for, per row */
    const Layer *layer;
    const float *embedding; /* (vocabulary, model) */
    const float *turns;     /* (positions, width / 2, 2): cosine and sine */
} Model;

typedef struct { /* what one thread computes in; room for BLOCK rows, and for draw() */
    float *x, *y, *mixed, *gated, *looks, *scores;
    int8_t *codes;
} Space;

typedef struct { int64_t id, position, capacity, wanted; uint8_t *cache; } Row; /* cache: (2, layers, groups, capacity, width + 4), see keep() */

typedef struct { /* one way to draw an id: a state of the grammar, and settings */
    const Matrix *head;
    const int64_t *ids, *place; /* score -> id; id -> score or -1 */
    int64_t from, to;           /* ids after which the plan of a wish goes on */
    int64_t top_k;
    double temperature, top_p, penalty;
} Way;

typedef struct { /* what one session draws, at most STEPS ids in a row; tokens and shares are the answer */
    const Way *ways[STEPS]; /* the plan: of each id, if the ids before it are among those after which it goes on */
    double luck[STEPS];
    int64_t tokens[STEPS]; /* -1 and the last one where the scores are no numbers */
    double shares[STEPS];  /* how likely each was among the legal ids */
    int64_t *seen, count;  /* ids drawn since the block began, each once */
    int64_t wanted, drawn;
    double guidance;              /* other than 1: it has a second row, which was not asked for anything, and is led away from that */
    int64_t position, capacity;   /* of the second row's id, which is that of the first */
    uint8_t *cache;
} Wish;

enum { MATRICES, ATTENTION, ACTIVATION, HEAD, DRAW, PARTS_IN_ALL };
#ifdef LAPS
#include <time.h>
int64_t laps[PARTS_IN_ALL]; /* nanoseconds so far */
static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}
#define BEGIN_LAPS int64_t began = nanoseconds(), ended
#define LAP(part) (ended = nanoseconds(), laps[part] += ended - began, began = ended)
#else
#define BEGIN_LAPS
#define LAP(part)
#endif

INLINE floats load(const float *p) { floats v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, floats v) { memcpy(p, &v, sizeof v); }
INLINE floats all(float value) { return value - (floats){0}; }
INLINE floats choose(ints which, floats yes, floats no) { return (floats)(((ints)yes & which) | ((ints)no & ~which)); }

INLINE float total(floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float part[LANES];
    memcpy(part, &v, sizeof v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
#endif
}

INLINE floats larger(floats a, floats b) {
#if defined(__AVX512F__)
    return (floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return choose(a > b, a, b);
#endif
}

/* The highest of n numbers times `sign`. */
INLINE float highest(const float *x, int64_t n, float sign) {
    floats tops = all(sign * x[0]);
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) tops = larger(sign * load(x + j), tops);
    float part[LANES];
    store(part, tops);
#if defined(__AVX512F__)
    part[0] = _mm512_reduce_max_ps((__m512)tops);
#else
    for (int i = 1; i < LANES; i++) part[0] = part[i] > part[0] ? part[i] : part[0];
#endif
    for (; j < n; j++) part[0] = sign * x[j] > part[0] ? sign * x[j] : part[0];
    return part[0];
}

/* Numbers from `seen` to before `whole`, a multiple of LANES, become `other`. */
INLINE void hide(float *x, int64_t seen, int64_t whole, float other) {
    for (int64_t j = seen / LANES * LANES; j < whole; j += LANES) {
        ints place;
        for (int i = 0; i < LANES; i++) place[i] = i;
        store(x + j, choose(place < (int32_t)(seen - j), load(x + j), all(other)));
    }
}

INLINE int32_t count(ints v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
#endif
}

/* e to the x, to the last bit or two; below -87 about 1e-38 */
INLINE floats power(floats x) {
    const floats magic = all(12582912.0f); /* its last bit is 1: what is added is rounded to a whole number */
    x = choose(x < all(-87.0f), all(-87.0f), x);
    x = choose(x > all(88.0f), all(88.0f), x);
    floats whole = x * 1.44269504088896f + magic;
    ints exponent = (ints)whole - (ints)magic;
    whole -= magic;
    x = x - whole * 0.693359375f;
    x = x + whole * 2.12194440e-4f;
    floats y = x * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * (x * x) + x + 1.0f;
    return (floats)((ints)y + (exponent << 23));
}

/* ---------------------------------------------------------------------------------------------------------- products */

/* One row to whole numbers -127..127, as Int8 of models/fast.py does it. Returns the factor of its sums. */
static float quantize(const float *x, int64_t width, int64_t padded, double eps, int8_t *codes, int32_t *sum) {
    int32_t top = 0, squares = 0, plain = 0;
    for (int64_t i = 0; i < width; i++) { /* floats that are not negative are ordered as their bits are */
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        top = bits > top ? bits : top;
    }
    float peak;
    memcpy(&peak, &top, sizeof peak);
    double largest = (double)peak + 1e-30, step = 127.0 / largest;
    float scale = (float)step;
    for (int64_t i = 0; i < width; i++) {
        int32_t code = (int32_t)rintf(x[i] * scale);
        codes[i] = (int8_t)code;
        plain += code;
        squares += code * code;
    }
    memset(codes + width, 0, (size_t)(padded - width));
    *sum = plain;
    return (float)(eps < 0 ? largest / 127.0 : 1.0 / sqrt((double)squares / (double)width + eps * step * step));
}

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
enum { ROWS = 8, PARTS = 2 };
typedef __m512i lane;
INLINE lane fill(int32_t value) { return _mm512_set1_epi32(value); }
INLINE lane weights(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE lane multiply(lane sums, lane w, lane c) { return _mm512_dpbusd_epi32(sums, w, c); }
INLINE lane plus(lane a, lane b) { return _mm512_add_epi32(a, b); }
INLINE int32_t begin(int32_t sum) { return -128 * sum; }
#elif defined(__AVX2__)
enum { ROWS = 2, PARTS = 4 };
typedef __m256i lane;
INLINE lane fill(int32_t value) { return _mm256_set1_epi32(value); }
INLINE lane weights(const uint8_t *p) { return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)p), _mm256_set1_epi8(-128)); }
INLINE lane multiply(lane sums, lane w, lane c) { /* pairs stay below 2^15, for no weight is -128 */
    lane pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(c), _mm256_sign_epi8(w, c));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE lane plus(lane a, lane b) { return _mm256_add_epi32(a, b); }
INLINE int32_t begin(int32_t sum) { return 0 * sum; }
#endif

#if !defined(__AVX2__)
enum { ROWS = 1, PARTS = OUTS };
typedef int32_t lane;
INLINE lane fill(int32_t value) { return value; }
INLINE int32_t begin(int32_t sum) { return -128 * sum; }
INLINE lane plus(lane a, lane b) { return a + b; }
#endif

typedef struct { lane at[2][ROWS][PARTS]; } Sums; /* of rows and 32 outputs, in one or two parts */

/* sums: of the codes of each of R rows. */
INLINE void start(const int R, Sums *found, const int32_t *sums) {
    for (int r = 0; r < R; r++)
        for (int p = 0; p < PARTS; p++) found->at[0][r][p] = fill(begin(sums[r])), found->at[1][r][p] = fill(0);
}

/* `inputs` more, a multiple of STEP. w: the tile; codes: rows `apart` apart. */
INLINE void gather(const int R, Sums *found, const uint8_t *w, const int8_t *codes, int64_t apart, int64_t inputs) {
#if defined(__AVX2__)
    const int chains = R <= 2 ? 2 : 1; /* with one, sums wait for each other; with two, many rows need more registers than there are */
    for (int64_t k = 0; k < inputs; k += STEP, w += STEP * OUTS) {
        for (int half = 0; half < 2; half++) {
            lane part[PARTS];
            for (int p = 0; p < PARTS; p++) part[p] = weights(w + half * 4 * OUTS + p * sizeof(lane));
            for (int r = 0; r < R; r++) {
                int32_t four;
                memcpy(&four, codes + r * apart + k + 4 * half, sizeof four);
                lane c = fill(four);
                lane *into = found->at[chains == 2 ? half : 0][r];
                for (int p = 0; p < PARTS; p++) into[p] = multiply(into[p], part[p], c);
            }
        }
    }
#else
    for (int r = 0; r < R; r++)
        for (int64_t k = 0; k < inputs; k += 4) {
            const int8_t *c = codes + r * apart + k;
            const uint8_t *part = w + k * OUTS;
            for (int o = 0; o < OUTS; o++)
                found->at[0][r][o] += part[4 * o] * c[0] + part[4 * o + 1] * c[1] + part[4 * o + 2] * c[2] + part[4 * o + 3] * c[3];
        }
#endif
}

/* result: (R, 32) */
INLINE void finish(const int R, const Sums *found, int32_t *result) {
    for (int r = 0; r < R; r++)
        for (int p = 0; p < PARTS; p++) {
            lane both = R <= 2 ? plus(found->at[0][r][p], found->at[1][r][p]) : found->at[0][r][p];
            memcpy((char *)(result + r * OUTS) + p * sizeof(lane), &both, sizeof both);
        }
}

/* Sums of R rows and 32 outputs. w: the tile; codes: rows `padded` apart; sums: of each row's codes; result: (R, 32). */
INLINE void tile(const int R, const uint8_t *w, const int8_t *codes, int64_t padded, const int32_t *sums, int32_t *result) {
    Sums found;
    start(R, &found, sums);
    gather(R, &found, w, codes, padded, padded);
    finish(R, &found, result);
}

/* y: (rows, outs), or added to it, from x: (rows, width), at most BLOCK rows. codes: work space. */
static void product(const Matrix *m, const float *x, int64_t rows, float *y, int add, int8_t *codes) {
    int64_t padded = (m->width + STEP - 1) / STEP * STEP;
    int32_t sums[BLOCK], found[ROWS * OUTS];
    float factors[BLOCK];
    for (int64_t r = 0; r < rows; r++) factors[r] = quantize(x + r * m->width, m->width, padded, m->eps, codes + r * padded, sums + r);
    for (int64_t o = 0; o < m->outs; o += OUTS) {
        const uint8_t *w = m->weights + o * padded;
        int64_t many = m->outs - o < OUTS ? m->outs - o : OUTS;
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int8_t *c = codes + r * padded;
            int64_t left = rows - r < ROWS ? rows - r : ROWS;
            switch (left) {
                case 1: tile(1, w, c, padded, sums + r, found); break;
#if defined(__AVX2__)
                case 2: tile(2, w, c, padded, sums + r, found); break;
#endif
#if defined(__AVX512VNNI__)
                case 3: tile(3, w, c, padded, sums + r, found); break;
                case 4: tile(4, w, c, padded, sums + r, found); break;
                case 5: tile(5, w, c, padded, sums + r, found); break;
                case 6: tile(6, w, c, padded, sums + r, found); break;
                case 7: tile(7, w, c, padded, sums + r, found); break;
                default: tile(8, w, c, padded, sums + r, found);
#endif
            }
            for (int64_t i = 0; i < left; i++) {
                float *into = y + (r + i) * m->outs + o, factor = factors[r + i];
                const int32_t *from = found + i * OUTS;
                const float *scales = m->scales + o;
                if (add)
                    for (int64_t n = 0; n < many; n++) into[n] += (float)from[n] * scales[n] * factor;
                else
                    for (int64_t n = 0; n < many; n++) into[n] = (float)from[n] * scales[n] * factor;
            }
        }
    }
}

/* --------------------------------------------------------------------------------------------------------- attention */

/* R consecutive positions of one session and one head; the first sees `first` + 1 keys, each a key more than the one before.
   query, result: rows `apart` and `wide` floats apart; keys, values: tiles, see keep(); looks: (R, longest); codes: work space.
   The shares of the softmax, times the scales of the values, become whole numbers of 14 bits, which are multiplied as two of 7. */
INLINE void attend(const int R, const int64_t width, int64_t first, const float *query, int64_t apart, const uint8_t *keys,
                   const uint8_t *values, float *looks, int64_t longest, int8_t *codes, float *result, int64_t wide) {
    const int many = R < ROWS ? R : ROWS, halves = 2 * R < ROWS ? 2 * R : ROWS;
    int64_t most = first + R, padded = (most + OUTS - 1) / OUTS * OUTS, inputs = (most + STEP - 1) / STEP * STEP;
    int8_t asked[R * width];
    int32_t sums[2 * TOGETHER], found[2 * TOGETHER * OUTS];
    float factors[TOGETHER];
    const floats magic = all(12582912.0f); /* as in power() */
    for (int r = 0; r < R; r++) factors[r] = quantize(query + r * apart, width, width, -1, asked + r * width, sums + r);
    for (int64_t j = 0; j < most; j += OUTS) {
        const uint8_t *block = keys + j * (width + 4);
        const float *scales = (const float *)(block + OUTS * width);
        for (int r = 0; r < R; r += many) tile(many, block, asked + r * width, width, sums + r, found + r * OUTS);
        for (int r = 0; r < R; r++)
            for (int n = 0; n < OUTS; n++) looks[r * longest + j + n] = (float)found[r * OUTS + n] * scales[n] * factors[r];
    }
    for (int r = 0; r < R; r++) {
        float *look = looks + r * longest, top;
        int64_t seen = first + r + 1, whole = (seen + OUTS - 1) / OUTS * OUTS;
        hide(look, seen, whole, -INFINITY);
        top = highest(look, whole, 1);
        floats sum = all(0.0f);
        for (int64_t j = 0; j < whole; j += OUTS) {
            const float *scales = (const float *)(values + j * (width + 4) + OUTS * width);
            for (int n = 0; n < OUTS; n += LANES) {
                floats share = power(load(look + j + n) - top);
                sum += share;
                store(look + j + n, share * load(scales + n));
            }
        }
        hide(look, seen, padded, 0.0f);
        top = highest(look, whole, 1);
        int8_t *coarse = codes + 2 * r * padded, *fine = coarse + padded;
        float scale = (float)FINE / top;
        ints plain[2] = {{0}};
        for (int64_t j = 0; j < padded; j += LANES) {
            ints code = (ints)(load(look + j) * scale + magic) - (ints)magic, upper = code >> 7, lower = code & 127;
            bytes some = __builtin_convertvector(upper, bytes), rest = __builtin_convertvector(lower, bytes);
            memcpy(coarse + j, &some, sizeof some);
            memcpy(fine + j, &rest, sizeof rest);
            plain[0] += upper;
            plain[1] += lower;
        }
        sums[2 * r] = count(plain[0]);
        sums[2 * r + 1] = count(plain[1]);
        factors[r] = top / ((float)FINE * total(sum));
    }
    for (int64_t e = 0; e < width; e += OUTS) {
        for (int r = 0; r < 2 * R; r += halves) {
            Sums mixed;
            start(halves, &mixed, sums + r);
            for (int64_t j = 0; j < inputs; j += OUTS)
                gather(halves, &mixed, values + j * (width + 4) + e * OUTS, codes + r * padded + j, padded, inputs - j < OUTS ? inputs - j : OUTS);
            finish(halves, &mixed, found + r * OUTS);
        }
        for (int r = 0; r < R; r++) {
            const int32_t *coarse = found + 2 * r * OUTS, *fine = coarse + OUTS;
            for (int n = 0; n < OUTS; n++) result[r * wide + e + n] = ((float)coarse[n] * 128.0f + (float)fine[n]) * factors[r];
        }
    }
}

/* The same for any number of rows up to TOGETHER; with the usual width known, everything stays in registers. */
static void look(const Model *m, const Space *s, int64_t count, int64_t first, const float *query, const uint8_t *keys, const uint8_t *values, float *result) {
    int64_t apart = (m->heads + 2 * m->groups) * m->width, wide = m->heads * m->width;
#define LOOK(R, E) attend(R, E, first, query, apart, keys, values, s->looks, m->longest, s->codes, result, wide)
    if (count == TOGETHER && m->width == 64) LOOK(TOGETHER, 64);
    else if (count == 1 && m->width == 64) LOOK(1, 64);
    else for (int64_t r = 0; r < count; r++, first++, query += apart, result += wide) LOOK(1, m->width);
}

/* Rotary positions of one row's queries and keys, in place; its key and value into the cache, in 8 bit, each with a scale. Of every 32
   positions first the tile, of the keys with positions as its outputs, of the values (32 each) with positions as its inputs; then the scales. */
static void keep(const Model *m, const Row *row, float *y, uint8_t *keys, uint8_t *values) {
    const float *turns = m->turns + row->position * m->width;
    int64_t width = m->width, at = row->position % OUTS;
    uint8_t which[4] = {0};
    uint32_t four, one;
    which[at % 4] = 1;
    memcpy(&one, which, sizeof one);
    for (int64_t h = 0; h < m->heads + m->groups; h++)
        for (int64_t e = 0; e < width; e += 2) {
            float *pair = y + h * width + e, a = pair[0], b = pair[1];
            pair[0] = a * turns[e] - b * turns[e + 1];
            pair[1] = b * turns[e] + a * turns[e + 1];
        }
    for (int64_t g = 0; g < m->groups; g++) {
        int64_t block = (g * row->capacity + row->position - at) * (width + 4);
        int8_t codes[width];
        int32_t sum;
        float scale = quantize(y + (m->heads + g) * width, width, width, -1, codes, &sum);
        uint8_t *into = keys + block;
        memcpy(into + OUTS * width + 4 * at, &scale, sizeof scale);
        for (int64_t e = 0; e < width; e += 4) {
            memcpy(&four, codes + e, sizeof four);
            four ^= 0x80808080;
            memcpy(into + e * OUTS + 4 * at, &four, sizeof four);
        }
        scale = quantize(y + (m->heads + m->groups + g) * width, width, width, -1, codes, &sum);
        into = values + block;
        memcpy(into + OUTS * width + 4 * at, &scale, sizeof scale);
        for (int64_t e = 0; e < width; e += OUTS)
            for (int n = 0; n < OUTS; n++) { /* one byte of each four */
                uint8_t *place = into + e * OUTS + at / 4 * 4 * OUTS + 4 * n;
                memcpy(&four, place, sizeof four);
                four = (four & ~(255 * one)) | (uint8_t)(codes[e + n] ^ 128) * one;
                memcpy(place, &four, sizeof four);
            }
    }
}

/* One step of spread() within a vector: v[i] + v[i + half] and v[i] - v[i + half]. half: known when it is compiled. */
INLINE floats mingle(floats v, const int half) {
    ints other;
    floats sign, moved;
    for (int i = 0; i < LANES; i++) other[i] = i ^ half, sign[i] = i & half ? -1.0f : 1.0f;
#if defined(__clang__)
    for (int i = 0; i < LANES; i++) moved[i] = v[i ^ half];
#else
    moved = __builtin_shuffle(v, other);
#endif
    return moved + sign * v;
}

INLINE floats mingled(const float *x) {
    floats v = mingle(mingle(load(x), 1), 2);
    if (LANES > 4) v = mingle(v, 4 % LANES);
    if (LANES > 8) v = mingle(v, 8 % LANES);
    return v;
}

/* A row times Hadamard matrices on the diagonal, as spread() of models/fast.py. */
static void spread(float *x, int64_t width) {
    int64_t size = width & -width, half = 1;
    if (size > LARGEST_TURN) size = LARGEST_TURN;
    if (size >= 4 * LANES) {
        for (float *at = x; at < x + width; at += 4 * LANES) {
            floats a = mingled(at), b = mingled(at + LANES), c = mingled(at + 2 * LANES), d = mingled(at + 3 * LANES);
            floats one = a + b, two = a - b, three = c + d, four = c - d;
            store(at, one + three), store(at + LANES, two + four);
            store(at + 2 * LANES, one - three), store(at + 3 * LANES, two - four);
        }
        half = 4 * LANES;
    }
    for (; half < size; half *= 2)
        for (int64_t i = 0; i < width; i += 2 * half)
            for (int64_t j = i; j < i + half; j++) {
                float first = x[j], second = x[j + half];
                x[j] = first + second, x[j + half] = first - second;
            }
}

/* Read `count` ids, at most BLOCK; rows of one session stand side by side, in the order of their positions. The rows that are wanted
   then stand in s->x side by side, not yet normalised. */
static void pass(const Model *m, const Space *s, const Row *rows, int64_t count) {
    int64_t D = m->model, inner = m->heads * m->width, apart = inner + 2 * m->groups * m->width, shared = m->heads / m->groups;
    size_t line = (size_t)D * sizeof(float);
    for (int64_t r = 0; r < count; r++) memcpy(s->x + r * D, m->embedding + rows[r].id * D, line);
    BEGIN_LAPS;
    for (int64_t number = 0; number < m->layers; number++) {
        const Layer *layer = m->layer + number;
        int last = number == m->layers - 1;
        product(&layer->qkv, s->x, count, s->y, 0, s->codes);
        LAP(MATRICES);
        for (int64_t r = 0; r < count; r++) {
            int64_t plane = m->groups * rows[r].capacity * (m->width + 4);
            uint8_t *keys = rows[r].cache + number * plane;
            keep(m, rows + r, s->y + r * apart, keys, keys + m->layers * plane);
        }
        int64_t kept = 0;
        for (int64_t r = 0, many; r < count; r += many) {
            for (many = 1; !last && many < TOGETHER && r + many < count && rows[r + many].cache == rows[r].cache;) many++;
            if (last && !rows[r].wanted) continue;
            int64_t plane = m->groups * rows[r].capacity * (m->width + 4), into = last ? kept : r;
            const uint8_t *keys = rows[r].cache + number * plane, *values = keys + m->layers * plane;
            for (int64_t h = 0; h < m->heads; h++) {
                int64_t at = h / shared * rows[r].capacity * (m->width + 4);
                look(m, s, many, rows[r].position, s->y + r * apart + h * m->width, keys + at, values + at, s->mixed + into * inner + h * m->width);
            }
            if (into < r) memcpy(s->x + into * D, s->x + r * D, line);
            kept += many;
        }
        LAP(ATTENTION);
        product(&layer->out, s->mixed, kept, s->x, 1, s->codes);
        product(&layer->gate_up, s->x, kept, s->y, 0, s->codes);
        LAP(MATRICES);
        for (int64_t r = 0; r < kept; r++) {
            const float *gate = s->y + r * 2 * m->hidden, *up = gate + m->hidden;
            float *into = s->gated + r * m->hidden;
            int64_t i = 0;
            for (; i + LANES <= m->hidden; i += LANES) store(into + i, load(gate + i) / (1.0f + power(-load(gate + i))) * load(up + i));
            for (; i < m->hidden; i++) into[i] = gate[i] / (1.0f + power(-all(gate[i]))[0]) * up[i];
            spread(into, m->hidden);
        }
        LAP(ACTIVATION);
        product(&layer->down, s->gated, kept, s->x, 1, s->codes);
        LAP(MATRICES);
    }
}

/* ---------------------------------------------------------------------------------------------------------- drawing */

/* Scores of a head after `count` rows (count, model), at most BLOCK. result: (count, outs); codes: work space. */
void score(const Matrix *head, const float *rows, int64_t count, float *result, int8_t *codes) {
    product(head, rows, count, result, 0, codes);
}

typedef struct { float value; int32_t place; } Item;

static int better(const void *a, const void *b) {
    const Item *x = a, *y = b;
    return x->value != y->value ? (x->value < y->value) - (x->value > y->value) : x->place - y->place;
}

/* Whether the scores that are not below `least` are many enough, or fill `wanted` of the shares. */
static int enough(const float *scores, const float *shares, int64_t n, float least, int64_t most, double wanted) {
    int64_t i = 0;
    if (wanted <= 0) {
        int32_t count = 0;
        for (; i < n; i++) count += scores[i] >= least;
        return count >= most;
    }
    floats sum = all(0.0f);
    for (; i + LANES <= n; i += LANES) sum += choose(load(scores + i) >= least, load(shares + i), all(0.0f));
    double whole = total(sum);
    for (; i < n; i++) whole += scores[i] >= least ? shares[i] : 0.0f;
    return whole >= wanted * 1.0001;
}

/* The best scores, the best first: `most` of them, or (wanted > 0) at least as many as fill `wanted` of the shares.
   A bound below which there is no winner is found by halving; what is above it is dealt into buckets, and those are sorted.
   items, spare: room for n each. Returns how many. */
static int64_t sorted(const float *scores, const float *shares, int64_t n, float peak, int64_t most, double wanted, Item *items, Item *spare) {
    float low = -highest(scores, n, -1), high = peak;
    for (int turn = 0; turn < 9; turn++) {
        float middle = 0.5f * (low + high);
        if (enough(scores, shares, n, middle, most, wanted)) low = middle;
        else high = middle;
    }
    int64_t many = 0, i = 0;
#if defined(__AVX512F__)
    __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    float *values = (float *)items;
    int32_t *where = (int32_t *)(items + n) - n; /* the second half of the same room */
    for (; i + 16 <= n; i += 16, places = _mm512_add_epi32(places, _mm512_set1_epi32(16))) {
        __m512 v = _mm512_loadu_ps(scores + i);
        __mmask16 is = _mm512_cmp_ps_mask(v, _mm512_set1_ps(low), _CMP_GE_OQ);
        _mm512_mask_storeu_ps(values + many, (__mmask16)((1u << __builtin_popcount(is)) - 1), _mm512_maskz_compress_ps(is, v));
        _mm512_mask_storeu_epi32(where + many, (__mmask16)((1u << __builtin_popcount(is)) - 1), _mm512_maskz_compress_epi32(is, places));
        many += __builtin_popcount(is);
    }
    for (; i < n; i++)
        if (scores[i] >= low) values[many] = scores[i], where[many++] = (int32_t)i;
    for (i = 0; i < many; i++) spare[i] = (Item){values[i], where[i]};
#else
    for (; i < n; i++) {
        spare[many] = (Item){scores[i], (int32_t)i};
        many += scores[i] >= low;
    }
#endif
    int32_t begins[BUCKETS + 1] = {0};
    float scale = (float)(BUCKETS - 1) / (peak - low > 1e-20f ? peak - low : 1e-20f);
#define BUCKET(item) ((int32_t)((peak - (item).value) * scale))
    for (i = 0; i < many; i++) begins[BUCKET(spare[i]) + 1]++;
    for (i = 0; i < BUCKETS; i++) begins[i + 1] += begins[i];
    for (i = 0; i < many; i++) items[begins[BUCKET(spare[i])]++] = spare[i]; /* now each begin is the next one's */
    for (int64_t b = 0, from = 0; b < BUCKETS; from = begins[b++])
        if (begins[b] - from > 24) qsort(items + from, (size_t)(begins[b] - from), sizeof *items, better);
    for (i = 1; i < many; i++) {
        Item one = items[i];
        int64_t j = i;
        for (; j > 0 && items[j - 1].value < one.value; j--) items[j] = items[j - 1];
        items[j] = one;
    }
    return many < most ? many : most;
}

/* shares: e to the (scores - peak) / temperature. Returns their sum. */
static double weigh(const float *scores, int64_t n, float peak, float temperature, float *shares) {
    float scale = 1.0f / temperature;
    floats sum = all(0.0f);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        floats share = power((load(scores + i) - peak) * scale);
        store(shares + i, share);
        sum += share;
    }
    double whole = total(sum);
    for (; i < n; i++) whole += shares[i] = power(all((scores[i] - peak) * scale))[0];
    return whole;
}

/* One draw from scores (n,), which are changed: as engine.penalise() and engine.draw(). The place; -1 if they are no numbers. */
static int64_t place_of(const Way *way, const Wish *wish, float *scores, int64_t n, float *shares, Item *items, Item *spare, double *share) {
    if (way->penalty != 1.0)
        for (int64_t i = 0; i < wish->count; i++) {
            int64_t at = way->place[wish->seen[i]];
            if (at >= 0) scores[at] = scores[at] < 0 ? scores[at] * (float)way->penalty : scores[at] / (float)way->penalty;
        }
    int bad = 0;
    double plain;
    int64_t best = 0;
    for (int64_t i = 0; i < n; i++) bad |= scores[i] - scores[i] != 0.0f;
    if (bad) return -1;
    float peak = highest(scores, n, 1);
    if (way->temperature == 0.0 || n == 1) {
        while (scores[best] != peak) best++;
        *share = 1.0 / weigh(scores, n, peak, 1.0f, shares);
        return best;
    }
    double sum = plain = weigh(scores, n, peak, (float)way->temperature, shares), upto = 0.0;
    int64_t most = way->top_k > 0 && way->top_k < n ? way->top_k : n, found = most, i = 0;
    int ordered = most < n || way->top_p < 1.0;
    if (ordered) {
        found = sorted(scores, shares, n, peak, most, most < n ? 0.0 : way->top_p * sum, items, spare);
        if (most < n)
            for (sum = 0.0; i < found; i++) sum += shares[items[i].place];
        double wanted = way->top_p < 1.0 ? way->top_p * sum : INFINITY;
        for (sum = 0.0, i = 0; i < found && sum < wanted; i++) sum += shares[items[i].place];
        found = i;
    }
    double goal = wish->luck[wish->drawn] * sum;
    for (i = 0; i < found; i++) {
        best = ordered ? items[i].place : i;
        if ((upto += shares[best]) > goal) break;
    }
    if (way->temperature != 1.0) {
        float mine = scores[best] - peak;
        plain = weigh(scores, n, peak, 1.0f, shares);
        *share = exp((double)mine) / plain;
    } else *share = shares[best] / plain;
    return best;
}

static double log_sum(const float *scores, int64_t n, float *shares) {
    float peak = highest(scores, n, 1);
    return peak + log(weigh(scores, n, peak, 1.0f, shares));
}

/* As engine.lead(): scores of codes are led away from `other`; a mark keeps its odds against all codes. shares: work space. */
static void lead(const Way *way, double guidance, float *scores, const float *other, int64_t n, float *shares) {
    int64_t first = 0, last = n;
    while (first < last && (way->ids[first] < way->from || way->ids[first] >= way->to)) first++;
    while (last > first && (way->ids[last - 1] < way->from || way->ids[last - 1] >= way->to)) last--;
    double before = log_sum(scores + first, last - first, shares);
    for (int64_t i = first; i < last; i++) scores[i] = other[i] + (float)guidance * (scores[i] - other[i]);
    float change = (float)(log_sum(scores + first, last - first, shares) - before);
    for (int64_t i = 0; i < n; i++)
        if (i < first || i >= last) scores[i] += change;
}

static int lines(const Wish *wish) { return wish->guidance == 1.0 ? 1 : 2; }

/* Draw the next id of each of some wishes, up to TOGETHER rows at once if they draw from the same head. rows: one of each wish, or two
   side by side, at most BLOCK. s->scores: TOGETHER (width + outs) + 5 outs of the widest head. */
void draw(int64_t count, Wish *const *wishes, const float *rows, const Space *s) {
    int64_t group[TOGETHER], begins[BLOCK];
    char done[BLOCK] = {0};
    BEGIN_LAPS;
    for (int64_t i = 0, line = 0; i < count; line += lines(wishes[i++])) begins[i] = line;
    for (int64_t i = 0; i < count; i++) {
        if (done[i]) continue;
        const Matrix *head = wishes[i]->ways[wishes[i]->drawn]->head;
        int64_t n = head->outs, many = 0, taken = 0;
        float *given = s->scores, *scores = given + TOGETHER * head->width, *shares = scores + TOGETHER * n;
        Item *items = (Item *)(shares + n);
        for (int64_t j = i; j < count && taken < TOGETHER; j++)
            if (!done[j] && taken + lines(wishes[j]) <= TOGETHER && wishes[j]->ways[wishes[j]->drawn]->head == head) {
                memcpy(given + taken * head->width, rows + begins[j] * head->width, (size_t)(lines(wishes[j]) * head->width) * sizeof(float));
                taken += lines(wishes[j]);
                done[j] = 1;
                group[many++] = j;
            }
        product(head, given, taken, scores, 0, s->codes);
        LAP(HEAD);
        for (int64_t j = 0; j < many; j++) {
            Wish *wish = wishes[group[j]];
            const Way *way = wish->ways[wish->drawn];
            float *mine = scores;
            scores += lines(wish) * n;
            if (lines(wish) == 2 && way->from < way->to) lead(way, wish->guidance, mine, mine + n, n, shares);
            int64_t place = place_of(way, wish, mine, n, shares, items, items + n, wish->shares + wish->drawn);
            int64_t token = wish->tokens[wish->drawn++] = place < 0 ? -1 : way->ids[place], at = 0;
            if (place < 0 || way->penalty == 1.0) continue;
            while (at < wish->count && wish->seen[at] != token) at++;
            if (at == wish->count) wish->seen[wish->count++] = token;
        }
        LAP(DRAW);
    }
}

/* ------------------------------------------------------------------------------------------------------------ forward */

/* Read `count` ids, see pass(). result: (rows that are wanted, model), not yet normalised. s: of this call alone. */
void forward(const Model *m, const Space *s, const Row *rows, int64_t count, float *result) {
    int64_t wanted = 0;
    for (int64_t r = 0; r < count; r++) wanted += rows[r].wanted;
    pass(m, s, rows, count);
    memcpy(result, s->x, (size_t)(wanted * m->model) * sizeof(float));
}

/* Read one id for each of some wishes, draw what follows it, read that, and so on, until each has what it wanted or its plan does
   not go on. rows: all wanted, at most BLOCK / 2; they are changed. */
void write_ids(const Model *m, const Space *s, Row *rows, int64_t count, Wish **wishes) {
    Row every[BLOCK] = {0};
    while (count) {
        int64_t line = 0;
        for (int64_t i = 0; i < count; i++) {
            every[line++] = rows[i];
            if (lines(wishes[i]) == 2) every[line++] = (Row){rows[i].id, wishes[i]->position++, wishes[i]->capacity, 1, wishes[i]->cache};
        }
        pass(m, s, every, line);
        draw(count, wishes, s->x, s);
        int64_t left = 0;
        for (int64_t i = 0; i < count; i++) {
            Wish *wish = wishes[i];
            const Way *way = wish->ways[wish->drawn - 1];
            int64_t token = wish->tokens[wish->drawn - 1];
            if (wish->drawn == wish->wanted || token < way->from || token >= way->to) continue;
            wishes[left] = wish;
            rows[left] = rows[i];
            rows[left].id = token;
            rows[left++].position++;
        }
        count = left;
    }
}
