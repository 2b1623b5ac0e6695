/* The elementwise work of a step on a processor, each group of operations in one pass; matrix products are torch's.

   llm/model/functions.py has the torch function of each kernel in the same order. The second half of this file is compiled for float and for bfloat16 (E), by including itself; arithmetic is in float. Rows are divided
   among the threads in fixed parts and sums have a fixed order, so that equal inputs give equal bytes. */
#ifndef E
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WIDTH 512 /* of a head */
#define WEIGHTS_PER_LAYER 22 /* of `decode` */
#define LANES 16 /* of the widest vectors */
#define PARTS 16 /* of a sum over a matrix */
#define SIMD _Pragma("omp simd")
#define SIMD_SUM(x) SIMD_SUM_(omp simd reduction(+ : x))
#define SIMD_SUM_(text) _Pragma(#text)
#define ROWS _Pragma("omp parallel for schedule(static)")
#define NAME_(name, suffix) name##suffix
#define NAME2(name, suffix) NAME_(name, suffix)
#define NAME(name) NAME2(name, SUFFIX)

typedef uint16_t bfloat;

static inline float from_bfloat(bfloat x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline bfloat to_bfloat(float value) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (bfloat)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* e^x by a polynomial on [-ln 2 / 2, ln 2 / 2] and a shift of the exponent; the library's is not vectorized everywhere. */
static inline float fast_exp(float x) {
    float bounded = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = rintf(bounded * 1.44269504f), r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, bounded)); /* in two parts */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t exponent = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &exponent, 4);
    return x < -87.0f ? 0.0f : p * power;
}

/* sums (n) = the sum over the threads of parts (threads, n), in the order of the threads. */
static void add_parts(const float *parts, float *sums, long n) {
    int threads = omp_get_max_threads();
    for (long i = 0; i < n; i++) {
        float sum = 0;
        for (int t = 0; t < threads; t++) sum += parts[t * n + i];
        sums[i] = sum;
    }
}

/* y (B, O) = x (B, I) · wᵀ + bias, or that added to y. Four outputs at once; no row's sum depends on the other rows. */
static void affine(const float *x, float *const *w, float *y, long B, long O, long I, int adds) {
    const float *bias = w[1];
#pragma omp for schedule(static)
    for (long block = 0; block < (O + 3) / 4; block++) {
        const float *row[4];
        for (long j = 0; j < 4; j++) row[j] = w[0] + (4 * block + j < O ? 4 * block + j : O - 1) * I;
        for (long b = 0; b < B; b++) {
            const float *in = x + b * I;
            float sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
            for (long i = 0; i < I; i++) {
                sum0 += in[i] * row[0][i];
                sum1 += in[i] * row[1][i];
                sum2 += in[i] * row[2][i];
                sum3 += in[i] * row[3][i];
            }
            float sums[4] = {sum0, sum1, sum2, sum3};
            for (long j = 0, o = 4 * block; j < 4 && o < O; j++, o++)
                y[b * O + o] = sums[j] + (bias ? bias[o] : 0) + (adds ? y[b * O + o] : 0);
        }
    }
}

/* y = RMSNorm of x (B, D), or with a bias LayerNorm. */
static void normalize(const float *x, float *const *w, float *y, long B, long D, float eps) {
#pragma omp for schedule(static)
    for (long b = 0; b < B; b++) {
        const float *in = x + b * D;
        float *out = y + b * D, sum = 0, square = 0;
        if (w[1]) SIMD_SUM(sum) for (long i = 0; i < D; i++) sum += in[i];
        float mean = sum / D;
        SIMD_SUM(square) for (long i = 0; i < D; i++) square += (in[i] - mean) * (in[i] - mean);
        float r = 1.0f / sqrtf(square / D + eps);
        SIMD for (long i = 0; i < D; i++) out[i] = (in[i] - mean) * r * w[0][i] + (w[1] ? w[1][i] : 0);
    }
}

/* RMS-normalize a head where w is not null, and turn it where cos is not null. */
static void turn_head(float *x, const float *w, const float *cos, const float *sin, long C, float eps) {
    float square = 0;
    if (w) {
        SIMD_SUM(square) for (long i = 0; i < C; i++) square += x[i] * x[i];
        float r = 1.0f / sqrtf(square / C + eps);
        SIMD for (long i = 0; i < C; i++) x[i] *= r * w[i];
    }
    if (!cos) return;
    SIMD for (long i = 0; i < C / 2; i++) {
        float left = x[i], right = x[i + C / 2];
        x[i] = left * cos[i] - right * sin[i];
        x[i + C / 2] = right * cos[i + C / 2] + left * sin[i + C / 2];
    }
}

/* The query q (C) attends to the first S rows of keys and values (S, C). */
static void attend(const float *q, const float *keys, const float *values, float *out, float *score, long S, long C) {
    float highest = -INFINITY, sum = 0, factor = 1.0f / sqrtf(C);
    for (long s = 0; s < S; s++) {
        float dot = 0;
        SIMD_SUM(dot) for (long i = 0; i < C; i++) dot += q[i] * keys[s * C + i];
        score[s] = dot * factor;
        highest = score[s] > highest ? score[s] : highest;
    }
    SIMD_SUM(sum) for (long s = 0; s < S; s++) sum += score[s] = fast_exp(score[s] - highest);
    memset(out, 0, C * sizeof(float));
    for (long s = 0; s < S; s++) SIMD for (long i = 0; i < C; i++) out[i] += score[s] * values[s * C + i];
    SIMD for (long i = 0; i < C; i++) out[i] /= sum;
}

/* Decode one position of B texts: token[b] at position[b] → logits (B, V), and the position's keys and values.

   shape: layers, D, H, K, C, F, V. A token's embedding is multiplied by `factor`; `added`, where not null, has what is
   added to each position (positions, D), cos and sin (positions, C) turn queries and keys. weights: of weight and bias of
   norm, query, key, value, query norm, key norm, out, norm, gate, up, down of each layer, then of the last norm and the
   head; null where there is none, and without a gate the feed-forward is GELU's. keys and values (layers, B): buffers
   (K, room[b], C) that have position[b] rows. */
void decode_float32(float *restrict logits, const float *restrict embedding, float factor, const float *added,
                    const float *cos, const float *sin, const long *shape, float eps, float *const *weights,
                    float *const *keys, float *const *values, const long *token, const long *position, const long *room,
                    long B) {
    long L = shape[0], D = shape[1], H = shape[2], K = shape[3], C = shape[4], F = shape[5], V = shape[6], longest = 0;
    for (long b = 0; b < B; b++) longest = room[b] > longest ? room[b] : longest;
    float *x = malloc(B * (2 * D + 2 * (H + K) * C + 2 * F) * sizeof(float)), *h = x + B * D, *q = h + B * D;
    float *k = q + B * H * C, *v = k + B * K * C, *mixed = v + B * K * C, *gate = mixed + B * H * C, *up = gate + B * F;
    for (long b = 0; b < B; b++)
        for (long i = 0; i < D; i++)
            x[b * D + i] = embedding[token[b] * D + i] * factor + (added ? added[position[b] * D + i] : 0);
#pragma omp parallel
    {
        float *score = malloc(longest * sizeof(float));
        float *const *w = weights;
        for (long layer = 0; layer < L; layer++, w += WEIGHTS_PER_LAYER) {
            normalize(x, w, h, B, D, eps);
            affine(h, w + 2, q, B, H * C, D, 0);
            affine(h, w + 4, k, B, K * C, D, 0);
            affine(h, w + 6, v, B, K * C, D, 0);
#pragma omp for collapse(2) schedule(static)
            for (long b = 0; b < B; b++)
                for (long head = 0; head < K; head++) {
                    long at = (head * room[b] + position[b]) * C, from = (b * K + head) * C;
                    float *key = keys[layer * B + b] + at;
                    memcpy(key, k + from, C * sizeof(float));
                    memcpy(values[layer * B + b] + at, v + from, C * sizeof(float));
                    turn_head(key, w[10], cos ? cos + position[b] * C : NULL, sin + position[b] * C, C, eps);
                }
#pragma omp for collapse(2) schedule(static)
            for (long b = 0; b < B; b++)
                for (long head = 0; head < H; head++) {
                    float *query = q + (b * H + head) * C;
                    long group = head / (H / K) * room[b] * C;
                    turn_head(query, w[8], cos ? cos + position[b] * C : NULL, sin + position[b] * C, C, eps);
                    attend(query, keys[layer * B + b] + group, values[layer * B + b] + group, mixed + (b * H + head) * C,
                           score, position[b] + 1, C);
                }
            affine(mixed, w + 12, x, B, D, H * C, 1);
            normalize(x, w + 14, h, B, D, eps);
            if (w[16]) affine(h, w + 16, gate, B, F, D, 0);
            affine(h, w + 18, up, B, F, D, 0);
#pragma omp for simd schedule(static)
            for (long i = 0; i < B * F; i++) {
                float u = up[i], g = w[16] ? gate[i] : 2 * 0.79788456f * (u + 0.044715f * u * u * u);
                up[i] = w[16] ? g / (1.0f + fast_exp(-g)) * u : u / (1.0f + fast_exp(-g)); /* tanh by a sigmoid */
            }
            affine(up, w + 20, x, B, D, F, 1);
        }
        normalize(x, w, h, B, D, eps);
        affine(h, w + 2, logits, B, V, D, 0);
        free(score);
    }
    free(x);
}

#define E float
#define SUFFIX _float32
#define LOAD(x) (x)
#define STORE(x) (x)
#include "kernels.c"
#undef E
#undef SUFFIX
#undef LOAD
#undef STORE
#define E bfloat
#define SUFFIX _bfloat16
#define LOAD(x) from_bfloat(x)
#define STORE(x) to_bfloat(x)
#include "kernels.c"

#else

/* RMSNorm of x (N, D), to which `added` is added first where it is not null: total = x + added, y = total / rms · w.
   scale (N) = 1 / rms. */
void NAME(rms_norm)(const E *restrict x, const E *restrict added, const float *restrict w, E *restrict total,
                    E *restrict y, float *restrict scale, long N, long D, float eps) {
    ROWS for (long n = 0; n < N; n++) {
        const E *in = x + n * D;
        if (added) {
            const E *more = added + n * D;
            E *out = total + n * D;
            SIMD for (long i = 0; i < D; i++) out[i] = STORE(LOAD(in[i]) + LOAD(more[i]));
            in = out;
        }
        float sum = 0;
        SIMD_SUM(sum) for (long i = 0; i < D; i++) sum += LOAD(in[i]) * LOAD(in[i]);
        float r = scale[n] = 1.0f / sqrtf(sum / D + eps);
        SIMD for (long i = 0; i < D; i++) y[n * D + i] = STORE(LOAD(in[i]) * r * w[i]);
    }
}

/* Gradients of x and w; `passed` is the gradient that reaches x beside the norm, or null. */
void NAME(rms_norm_backward)(const E *restrict x, const float *restrict w, const float *restrict scale,
                             const E *restrict dy, const E *restrict passed, E *restrict dx, float *restrict dw, long N,
                             long D) {
    float *parts = calloc(omp_get_max_threads() * D, sizeof(float));
#pragma omp parallel
    {
        float *part = parts + omp_get_thread_num() * D;
#pragma omp for schedule(static)
        for (long n = 0; n < N; n++) {
            const E *in = x + n * D, *up = dy + n * D;
            E *out = dx + n * D;
            float r = scale[n], dot = 0;
            SIMD_SUM(dot) for (long i = 0; i < D; i++) dot += LOAD(up[i]) * w[i] * LOAD(in[i]);
            dot *= r * r * r / D;
            SIMD for (long i = 0; i < D; i++) part[i] += LOAD(up[i]) * LOAD(in[i]) * r;
            if (passed) {
                const E *also = passed + n * D;
                SIMD for (long i = 0; i < D; i++)
                    out[i] = STORE(LOAD(up[i]) * w[i] * r - LOAD(in[i]) * dot + LOAD(also[i]));
            } else {
                SIMD for (long i = 0; i < D; i++) out[i] = STORE(LOAD(up[i]) * w[i] * r - LOAD(in[i]) * dot);
            }
        }
    }
    add_parts(parts, dw, D);
    free(parts);
}

/* Split x (B, T, K · G · C) into y (B, K, T, G, C); each head of width C is RMS-normalized where w (C) is not null, turned
   by cos and sin, (T, C) or, with `by_row`, (B, T, C), where they are not null, and multiplied by `factor`.
   scale (B · T, K · G) = 1 / rms. */
void NAME(split_heads)(const E *restrict x, const float *restrict w, const float *restrict cos,
                      const float *restrict sin, long by_row, E *restrict y, float *restrict scale, long B, long T,
                      long K, long G, long C, float eps, float factor) {
    long half = C / 2, H = K * G;
    ROWS for (long n = 0; n < B * T; n++) {
        long b = n / T, t = n % T, angle = (by_row ? n : t) * C;
        for (long h = 0; h < H; h++) {
            const E *in = x + (n * H + h) * C;
            E *out = y + (((b * K + h / G) * T + t) * G + h % G) * C;
            const float *c = cos ? cos + angle : NULL, *s = cos ? sin + angle : NULL;
            float head[MAX_WIDTH], r = 1.0f;
            SIMD for (long i = 0; i < C; i++) head[i] = LOAD(in[i]);
            if (w) {
                float sum = 0;
                SIMD_SUM(sum) for (long i = 0; i < C; i++) sum += head[i] * head[i];
                r = scale[n * H + h] = 1.0f / sqrtf(sum / C + eps);
                SIMD for (long i = 0; i < C; i++) head[i] *= r * w[i];
            }
            if (!cos) {
                SIMD for (long i = 0; i < C; i++) out[i] = STORE(head[i] * factor);
                continue;
            }
            SIMD for (long i = 0; i < half; i++) {
                float left = head[i], right = head[i + half];
                out[i] = STORE((left * c[i] - right * s[i]) * factor);
                out[i + half] = STORE((right * c[i + half] + left * s[i + half]) * factor);
            }
        }
    }
}

void NAME(split_heads_backward)(const E *restrict x, const float *restrict w, const float *restrict cos,
                               const float *restrict sin, long by_row, const float *restrict scale,
                               const E *restrict dy, E *restrict dx, float *restrict dw, long B, long T, long K, long G,
                               long C, float factor) {
    long half = C / 2, H = K * G;
    float *parts = calloc(omp_get_max_threads() * C, sizeof(float));
#pragma omp parallel
    {
        float *part = parts + omp_get_thread_num() * C;
#pragma omp for schedule(static)
        for (long n = 0; n < B * T; n++) {
            long b = n / T, t = n % T, angle = (by_row ? n : t) * C;
            for (long h = 0; h < H; h++) {
                const E *in = x + (n * H + h) * C, *up = dy + (((b * K + h / G) * T + t) * G + h % G) * C;
                E *out = dx + (n * H + h) * C;
                const float *c = cos ? cos + angle : NULL, *s = cos ? sin + angle : NULL;
                float head[MAX_WIDTH];
                if (cos) {
                    SIMD for (long i = 0; i < half; i++) {
                        float left = LOAD(up[i]) * factor, right = LOAD(up[i + half]) * factor;
                        head[i] = left * c[i] + right * s[i + half];
                        head[i + half] = right * c[i + half] - left * s[i];
                    }
                } else {
                    SIMD for (long i = 0; i < C; i++) head[i] = LOAD(up[i]) * factor;
                }
                if (!w) {
                    SIMD for (long i = 0; i < C; i++) out[i] = STORE(head[i]);
                    continue;
                }
                float r = scale[n * H + h], dot = 0;
                SIMD for (long i = 0; i < C; i++) part[i] += head[i] * LOAD(in[i]) * r;
                SIMD_SUM(dot) for (long i = 0; i < C; i++) dot += head[i] * w[i] * LOAD(in[i]);
                dot *= r * r * r / C;
                SIMD for (long i = 0; i < C; i++) out[i] = STORE(head[i] * w[i] * r - LOAD(in[i]) * dot);
            }
        }
    }
    if (w) add_parts(parts, dw, C);
    free(parts);
}

/* Softmax of scores (N, T · G, S) over the keys that a row may see: row t · G + g sees the first S - T + t + 1, and of
   those with a mask (N / repeats, T, S) only the keys where it is 0. In place where x = y. */
void NAME(causal_softmax)(const E *x, const uint8_t *restrict mask, E *y, long N, long T, long G, long S, long repeats) {
#pragma omp parallel
    {
        float *value = malloc((S + LANES) * sizeof(float));
#pragma omp for schedule(static)
        for (long row = 0; row < N * T * G; row++) {
            long t = row / G % T, visible = S - T + t + 1, whole = (visible + LANES - 1) / LANES * LANES;
            const E *in = x + row * S;
            const uint8_t *hidden = mask ? mask + (row / (T * G) / repeats * T + t) * S : NULL;
            E *out = y + row * S;
            float highest = -INFINITY, sum = 0;
            for (long s = 0; s < visible; s++) value[s] = LOAD(in[s]);
            for (long s = visible; s < whole; s++) value[s] = -INFINITY; /* whole vectors are faster than their parts */
            if (hidden)
                for (long s = 0; s < visible; s++) value[s] = hidden[s] ? -INFINITY : value[s];
#pragma omp simd reduction(max : highest)
            for (long s = 0; s < whole; s++) highest = value[s] > highest ? value[s] : highest;
            SIMD_SUM(sum) for (long s = 0; s < whole; s++) sum += value[s] = fast_exp(value[s] - highest);
            float share = 1.0f / sum;
            SIMD for (long s = 0; s < visible; s++) out[s] = STORE(value[s] * share);
            memset(out + visible, 0, (S - visible) * sizeof(E));
        }
        free(value);
    }
}

/* dx = y · (dy - Σ y · dy), over the visible keys; in place where dx = dy. */
void NAME(causal_softmax_backward)(const E *restrict y, const E *dy, E *dx, long N, long T, long G, long S) {
    ROWS for (long row = 0; row < N * T * G; row++) {
        long visible = S - T + row / G % T + 1;
        const E *weight = y + row * S, *up = dy + row * S;
        E *out = dx + row * S;
        float dot = 0;
        SIMD_SUM(dot) for (long s = 0; s < visible; s++) dot += LOAD(weight[s]) * LOAD(up[s]);
        SIMD for (long s = 0; s < visible; s++) out[s] = STORE(LOAD(weight[s]) * (LOAD(up[s]) - dot));
        memset(out + visible, 0, (S - visible) * sizeof(E));
    }
}

/* y = silu(gate) · up, elements (n). */
void NAME(swiglu)(const E *restrict gate, const E *restrict up, E *restrict y, long n) {
#pragma omp parallel for simd schedule(static)
    for (long i = 0; i < n; i++) {
        float g = LOAD(gate[i]);
        y[i] = STORE(g / (1.0f + fast_exp(-g)) * LOAD(up[i]));
    }
}

void NAME(swiglu_backward)(const E *restrict gate, const E *restrict up, const E *restrict dy, E *restrict dgate,
                           E *restrict dup, long n) {
#pragma omp parallel for simd schedule(static)
    for (long i = 0; i < n; i++) {
        float g = LOAD(gate[i]), d = LOAD(dy[i]), sigmoid = 1.0f / (1.0f + fast_exp(-g));
        dup[i] = STORE(d * g * sigmoid);
        dgate[i] = STORE(d * LOAD(up[i]) * sigmoid * (1.0f + g * (1.0f - sigmoid)));
    }
}

/* nats (N) of targets under logits x (N, V), 0 for negative targets; with dx, their gradient times `factor` (may be x). */
void NAME(cross_entropy)(const E *x, const int64_t *restrict target, E *dx, float *restrict nats, long N, long V,
                         float factor) {
#pragma omp parallel
    {
        float *value = malloc(V * sizeof(float));
#pragma omp for schedule(static)
        for (long n = 0; n < N; n++) {
            const E *in = x + n * V;
            float highest = -INFINITY, sum = 0;
            for (long i = 0; i < V; i++) value[i] = LOAD(in[i]);
#pragma omp simd reduction(max : highest)
            for (long i = 0; i < V; i++) highest = value[i] > highest ? value[i] : highest;
            float given = target[n] < 0 ? 0 : value[target[n]];
            SIMD_SUM(sum) for (long i = 0; i < V; i++) sum += value[i] = fast_exp(value[i] - highest);
            nats[n] = target[n] < 0 ? 0 : logf(sum) + highest - given;
            if (!dx) continue;
            E *out = dx + n * V;
            float share = target[n] < 0 ? 0 : factor / sum;
            SIMD for (long i = 0; i < V; i++) out[i] = STORE(value[i] * share);
            if (target[n] >= 0) out[target[n]] = STORE(value[target[n]] * share - factor);
        }
        free(value);
    }
}

/* The same nats, the probability of the most likely id, and whether that is the target; of equal ones the first counts. */
void NAME(score_targets)(const E *restrict x, const int64_t *restrict target, float *restrict nats, float *restrict top,
                         uint8_t *restrict is_top, long N, long V) {
    ROWS for (long n = 0; n < N; n++) {
        const E *in = x + n * V;
        float highest = -INFINITY, sum = 0, given = LOAD(in[target[n]]);
#pragma omp simd reduction(max : highest)
        for (long i = 0; i < V; i++) highest = LOAD(in[i]) > highest ? LOAD(in[i]) : highest;
        SIMD_SUM(sum) for (long i = 0; i < V; i++) sum += fast_exp(LOAD(in[i]) - highest);
        int ties = 0;
#pragma omp simd reduction(| : ties)
        for (long i = 0; i < target[n]; i++) ties |= LOAD(in[i]) == highest;
        nats[n] = logf(sum) + highest - given;
        top[n] = 1.0f / sum;
        is_top[n] = given == highest && !ties;
    }
}

/* average (n, size) moves towards the gradients, n arrays of `size`; update (n, size) is the next such average (Nesterov),
   of norm 1. Sums are of PARTS parts each, whatever the number of threads. */
void NAME(muon_momentum)(E *restrict update, float *restrict average, float *const *gradient, long n, long size,
                         float momentum, float factor) {
    float *squares = malloc(n * PARTS * sizeof(float));
#pragma omp parallel
    {
#pragma omp for collapse(2) schedule(static)
        for (long i = 0; i < n; i++)
            for (long part = 0; part < PARTS; part++) {
                const float *given = gradient[i];
                float *mean = average + i * size, square = 0;
                E *out = update + i * size;
                SIMD_SUM(square) for (long j = size * part / PARTS; j < size * (part + 1) / PARTS; j++) {
                    float g = given[j] * factor, m = mean[j] = mean[j] * momentum + g * (1 - momentum);
                    float next = m * momentum + g * (1 - momentum);
                    out[j] = STORE(next);
                    square += next * next;
                }
                squares[i * PARTS + part] = square;
            }
#pragma omp for collapse(2) schedule(static)
        for (long i = 0; i < n; i++)
            for (long part = 0; part < PARTS; part++) {
                E *out = update + i * size;
                float sum = 0;
                for (long p = 0; p < PARTS; p++) sum += squares[i * PARTS + p];
                float scale = 1.0f / (sqrtf(sum) + 1e-7f);
                SIMD for (long j = size * part / PARTS; j < size * (part + 1) / PARTS; j++)
                    out[j] = STORE(LOAD(out[j]) * scale);
            }
    }
    free(squares);
}

/* weight = weight · kept - update · rate, of n weights of `size`, each with numbers of its own. */
void NAME(muon_apply)(const E *restrict update, float *const *weight, const float *restrict kept,
                      const float *restrict rate, long n, long size) {
#pragma omp parallel for collapse(2) schedule(static)
    for (long i = 0; i < n; i++)
        for (long part = 0; part < PARTS; part++) {
            float *w = weight[i];
            const E *change = update + i * size;
            float k = kept[i], r = rate[i];
            SIMD for (long j = size * part / PARTS; j < size * (part + 1) / PARTS; j++)
                w[j] = w[j] * k - LOAD(change[j]) * r;
        }
}

#endif
