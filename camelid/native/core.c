// A LLaMA's decoding on a CPU: weight-only products, norms, rotations, attention, and a whole step in one call.
//
// Pointers come in, pointers go out; nothing here allocates what it returns, except `camelid_room`. Every number of a
// token is computed by one thread in one order that depends on that token's own sequence alone: neither the number of
// tokens in a call, nor the tile, nor the number of threads changes a bit of it.
#define _GNU_SOURCE
#include "lanes.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

enum { FLOAT32, BFLOAT16, Q8, Q4 };
enum { PANEL = 16, GROUP = 32 };  // rows side by side; weights that share a scale

// A matrix [rows, cols]. Floats lie row by row, as PyTorch holds them. Quantised weights lie in panels of 16 rows: a
// group of a panel is 16 scales (half floats) in `scales`, and in `data` 4 weights of each row in turn:
//   Q8  8 times 64 bytes, w + 128;  Q4  4 times 64 bytes, weight k in the low and k + 16 in the high half, w + 8
typedef struct { int64_t kind, rows, cols; const void *data; const uint16_t *scales; } Matrix;
typedef struct { Matrix query, key, value, out, gate, up, down; const float *before, *after; } Layer;
typedef struct {
  int64_t layers, width, heads, kv_heads, head_width, hidden, vocab;
  double eps;
  Matrix embed, head;
  const float *norm;
  const Layer *layer;
} Model;
// Tokens of a call: token i has id ids[i], continues the sequence in cache row slot[i] at place[i], and is turned by
// row turn[i] of `cosines` and `sines` [., E] (the first half of the sines negated). The tokens of a slot stand in
// order and side by side. Keys and values are [layers, slots, kv_heads, room, E]. With a `table` [., across] they are
// [layers, pages, kv_heads, room, E] (`slots` pages in all), and a sequence's places lie in the pages that its row names.
// Where `cached` is INTS (attention.h) the room has a multiple of 16 places, and they have scales beside them
typedef struct {
  int64_t tokens, slots, room, wanted, threads;
  const int64_t *ids;
  const int32_t *slot, *place, *turn, *want;
  const float *cosines, *sines;
  void *keys, *values;
  float *states;  // [tokens, width] after the final norm
  float *logits;  // [wanted, vocab] of the tokens `want`, at most as many as there are
  const int32_t *table;
  int64_t across, reach;  // `reach`: places of the longest sequence; left out (0) it is the room
  int64_t cached;         // FLOATS or INTS
  float *key_scales, *value_scales;
} Batch;

// What a matrix is multiplied with: rows of floats, and, for quantised weights, int8 with a scale for every group.
typedef struct {
  const float *x;
  int64_t stride;
  const int8_t *q;
  const float *scale;
  const int32_t *total;  // minus the sum of a group's int8, times what is added to weights
  int64_t groups;
} Given;

const char *camelid_lanes(void) { return LANES; }

// ---------------------------------------------------------------------------------------------------- products

INLINE V weights(const void *row, int64_t k, int n, int kind) {
  if (kind == BFLOAT16) return n < 16 ? brains_some((const uint16_t *)row + k, n) : brains((const uint16_t *)row + k);
  return n < 16 ? load_some((const float *)row + k, n) : load((const float *)row + k);
}

// y[j * stride + i] = row i of w . row j of x, for `rows` x `tokens` of them
INLINE void dots(const Matrix *w, int64_t first, const Given *x, int64_t token, float *y, int64_t stride, int rows,
                 int tokens, int kind) {
  const int64_t cols = w->cols, size = kind == BFLOAT16 ? 2 : 4;
  const char *base = (const char *)w->data + first * cols * size;
  const float *given = x->x + token * x->stride;
  V acc[4][4];
  for (int i = 0; i < rows; i++) for (int j = 0; j < tokens; j++) acc[i][j] = zero();
  int64_t k = 0;
  for (; k + 16 <= cols; k += 16) {
    V b[4];
    for (int j = 0; j < tokens; j++) b[j] = load(given + j * x->stride + k);
    for (int i = 0; i < rows; i++) {
      V a = weights(base + i * cols * size, k, 16, kind);
      for (int j = 0; j < tokens; j++) acc[i][j] = fma16(a, b[j], acc[i][j]);
    }
  }
  if (k < cols) {
    int n = (int)(cols - k);
    for (int i = 0; i < rows; i++) {
      V a = weights(base + i * cols * size, k, n, kind);
      for (int j = 0; j < tokens; j++) acc[i][j] = fma16(a, load_some(given + j * x->stride + k, n), acc[i][j]);
    }
  }
  if (rows == 4 && tokens == 4) {
    V turned[16];
    float all_sums[16];
    for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) turned[4 * j + i] = acc[i][j];
    store(all_sums, sums(turned));
    for (int j = 0; j < 4; j++) memcpy(y + j * stride, all_sums + 4 * j, 4 * sizeof(float));
    return;
  }
  for (int i = 0; i < rows; i++) for (int j = 0; j < tokens; j++) y[j * stride + i] = sum(acc[i][j]);
}

// The products of rows `a` and `b` with one token: two rows far apart, so that memory is asked for two streams
INLINE void two_rows(const Matrix *w, int64_t a, int64_t b, const float *x, float *y, int kind) {
  const int64_t cols = w->cols, size = kind == BFLOAT16 ? 2 : 4;
  const char *one = (const char *)w->data + a * cols * size, *other = (const char *)w->data + b * cols * size;
  V first = zero(), second = zero();
  int64_t k = 0;
  for (; k + 16 <= cols; k += 16) {
    V given = load(x + k);
    first = fma16(weights(one, k, 16, kind), given, first);
    second = fma16(weights(other, k, 16, kind), given, second);
  }
  if (k < cols) {
    V given = load_some(x + k, (int)(cols - k));
    first = fma16(weights(one, k, (int)(cols - k), kind), given, first);
    second = fma16(weights(other, k, (int)(cols - k), kind), given, second);
  }
  y[a] = sum(first), y[b] = sum(second);
}

INLINE void float_rows(const Matrix *w, int64_t from, int64_t to, const Given *x, int64_t tokens, float *y,
                       int64_t stride, int kind) {
  // One row after the other in each half: eight side by side were a third slower, and bf16 half as fast
  const int64_t half = (to - from) / 2;
  if (tokens == 1) {
    for (int64_t r = from; r < from + half; r++) two_rows(w, r, r + half, x->x, y, kind);
    if ((to - from) % 2) dots(w, to - 1, x, 0, y + to - 1, stride, 1, 1, kind);
  } else for (int64_t start = from; start < to; start += PANEL) {  // rows stay in the cache while all tokens pass by
    const int64_t end = start + PANEL < to ? start + PANEL : to;
    int64_t t = 0;
    for (; t + 4 <= tokens; t += 4) {
      int64_t r = start;
      for (; r + 4 <= end; r += 4) dots(w, r, x, t, y + t * stride + r, stride, 4, 4, kind);
      for (; r < end; r++) dots(w, r, x, t, y + t * stride + r, stride, 1, 4, kind);
    }
    for (; t < tokens; t++) for (int64_t r = start; r < end; r++) dots(w, r, x, t, y + t * stride + r, stride, 1, 1, kind);
  }
}

INLINE int32_t offset_of(int64_t kind) { return kind == Q8 ? 128 : 8; }
INLINE int32_t four(const int8_t *p) {
  int32_t r;
  memcpy(&r, p, 4);
  return r;
}

// `panels` panels of 16 rows times `tokens` rows of int8; `bytes` and `steps` from a panel's data and scales to the next's.
// `ahead` asks memory for the panels that come next, which arrive while these are computed with.
INLINE void tile(const uint8_t *data, const uint16_t *scales, int64_t bytes, int64_t steps, const Given *x, int64_t token,
                 float *y, int64_t stride, int rows, int panels, int tokens, int kind, int ahead) {
  const int64_t groups = x->groups;
  const int8_t *q = x->q + token * groups * GROUP;
  V total[2][4];
  for (int p = 0; p < panels; p++) for (int j = 0; j < tokens; j++) total[p][j] = zero();
  for (int64_t g = 0; g < groups; g++) {
    I acc[2][4];
    for (int p = 0; p < panels; p++)
      for (int j = 0; j < tokens; j++) acc[p][j] = all_int(x->total[(token + j) * groups + g]);
    for (int s = 0; s < (kind == Q8 ? 8 : 4); s++) {
      W w[2], a[2], b[2];
      for (int p = 0; p < panels; p++) {
        const uint8_t *near = data + p * bytes + g * (kind == Q8 ? 512 : 256) + s * 64;
        if (ahead) PREFETCH(near + panels * bytes);
        w[p] = load_bytes(near);
        if (kind == Q4) a[p] = low(w[p]), b[p] = high(w[p]);
      }
      for (int j = 0; j < tokens; j++) {
        const int8_t *near = q + (j * groups + g) * GROUP + 4 * s;
        for (int p = 0; p < panels; p++) {
          if (kind == Q8) acc[p][j] = dot4(acc[p][j], w[p], four(near));
          else acc[p][j] = dot4_small(dot4_small(acc[p][j], a[p], four(near)), b[p], four(near + 16));
        }
      }
    }
    for (int p = 0; p < panels; p++) {
      if (ahead) PREFETCH(scales + (p + panels) * steps + g * PANEL);
      V scale = halves(scales + p * steps + g * PANEL);
      for (int j = 0; j < tokens; j++)
        total[p][j] = fma16(floats(acc[p][j]), mul(scale, all(x->scale[(token + j) * groups + g])), total[p][j]);
    }
  }
  for (int p = 0; p < panels; p++) {
    for (int j = 0; j < tokens; j++) {
      if (rows == panels * PANEL) store(y + j * stride + p * PANEL, total[p][j]);
      else store_some(y + j * stride, total[p][j], rows);
    }
  }
}

INLINE void quantised_rows(const Matrix *w, int64_t from, int64_t to, const Given *x, int64_t tokens, float *y,
                           int64_t stride, int kind) {
  const int64_t bytes = x->groups * (kind == Q8 ? 512 : 256), steps = x->groups * PANEL;
  int64_t r = from;
#define TILE(panels, tokens, ahead) \
  tile(data, scales, bytes, steps, x, t, y + t * stride + r, stride, rows, panels, tokens, kind, ahead)
  for (int64_t next; r < to; r = next) {
    const uint8_t *data = (const uint8_t *)w->data + r / PANEL * bytes;
    const uint16_t *scales = w->scales + r * x->groups;
    const int pair = tokens >= 4 && r + 2 * PANEL <= to;
    next = r + (pair ? 2 * PANEL : PANEL);
    const int rows = (int)(next < to ? next - r : to - r);
    int64_t t = 0;
    if (pair) TILE(2, 4, 1), t = 4;
    for (; pair && t + 4 <= tokens; t += 4) TILE(2, 4, 0);
    for (; t + 4 <= tokens; t += 4) TILE(1, 4, 0);
    for (; pair && t < tokens; t++) TILE(2, 1, 0);
    for (; t < tokens; t++) TILE(1, 1, 0);
  }
#undef TILE
}

static void f32_rows(const Matrix *w, int64_t a, int64_t b, const Given *x, int64_t n, float *y, int64_t s) {
  float_rows(w, a, b, x, n, y, s, FLOAT32);
}
static void bf16_rows(const Matrix *w, int64_t a, int64_t b, const Given *x, int64_t n, float *y, int64_t s) {
  float_rows(w, a, b, x, n, y, s, BFLOAT16);
}
static void q8_rows(const Matrix *w, int64_t a, int64_t b, const Given *x, int64_t n, float *y, int64_t s) {
  quantised_rows(w, a, b, x, n, y, s, Q8);
}
static void q4_rows(const Matrix *w, int64_t a, int64_t b, const Given *x, int64_t n, float *y, int64_t s) {
  quantised_rows(w, a, b, x, n, y, s, Q4);
}

// Rows from..to of w times `tokens` rows of x; `from` is a multiple of 16
static void rows_of(const Matrix *w, int64_t from, int64_t to, const Given *x, int64_t tokens, float *y, int64_t stride) {
  static void (*const by_kind[])(const Matrix *, int64_t, int64_t, const Given *, int64_t, float *, int64_t) = {
      f32_rows, bf16_rows, q8_rows, q4_rows};
  by_kind[w->kind](w, from, to, x, tokens, y, stride);
}

// ------------------------------------------------------------------------------------------- one token at a time

// int8 and a scale for every 32 numbers, the last group filled up with zeros. A group without a finite largest number
// gets the scale NaN, and one whose largest is below 1e-30 becomes zeros. `total` makes up for weights stored as
// w + `offset`.
static void quantise(const float *x, int64_t cols, int32_t offset, int8_t *q, float *scale, int32_t *total) {
  for (int64_t g = 0; g * GROUP < cols; g++) {
    const int64_t n = cols - g * GROUP;
    float part[GROUP] = {0}, most;
    if (n < GROUP) memcpy(part, x + g * GROUP, sizeof(float) * n);
    else memcpy(part, x + g * GROUP, sizeof part);
    int32_t bits[GROUP], most_bits = 0;  // sizes compare as the integers of their bits do; what is not finite is largest
    memcpy(bits, part, sizeof bits);
    for (int i = 0; i < GROUP; i++) most_bits = (bits[i] & INT32_MAX) > most_bits ? bits[i] & INT32_MAX : most_bits;
    memcpy(&most, &most_bits, sizeof most);
    const int finite = most_bits < 0x7f800000, usable = finite && most >= 1e-30f;
    float up = usable ? 127.0f / most : 0;
    int32_t all_of_them = 0;
    for (int i = 0; i < GROUP; i++) {
      int32_t rounded = usable ? (int32_t)rintf(part[i] * up) : 0;
      q[g * GROUP + i] = (int8_t)rounded;
      all_of_them -= rounded;
    }
    scale[g] = !finite ? NAN : usable ? most / 127.0f : 0;
    total[g] = offset * all_of_them;
  }
}

static void normalise(const float *x, const float *weight, int64_t width, float eps, float *y) {
  V squares = zero();
  int64_t k = 0;
  for (; k + 16 <= width; k += 16) { V a = load(x + k); squares = fma16(a, a, squares); }
  if (k < width) { V a = load_some(x + k, (int)(width - k)); squares = fma16(a, a, squares); }
  float scale = 1.0f / sqrtf(sum(squares) / (float)width + eps);
  for (int64_t i = 0; i < width; i++) y[i] = x[i] * scale * weight[i];
}

static void turn(float *x, const float *cosines, const float *sines, int64_t half_width) {
  for (int64_t i = 0; i < half_width; i++) {
    float a = x[i], b = x[i + half_width];
    x[i] = fma1(b, sines[i], a * cosines[i]);
    x[i + half_width] = fma1(a, sines[i + half_width], b * cosines[i + half_width]);
  }
}

static void gate(const float *g, float *u, int64_t n) {  // u becomes silu(g) * u
  for (int64_t i = 0; i < n; i++) u[i] *= g[i] / (1.0f + exp1(-g[i]));
}

#include "attention.h"
#include "train.h"

// --------------------------------------------------------------------------------------------------- the threads
// A call takes as many threads as it asks for. Between calls they spin for a moment, then sleep.

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE() ((void)0)
#endif
enum { MOST = 256, SPINS = 20000, SHORT = 100000 };  // turns of a waiting loop: between calls, and within one

typedef struct { void (*work)(void *, int, int); void *data; int threads; } Job;
static struct {
  pthread_mutex_t turn, step, linear;  // one call at a time; who uses the space of each
  int count;
  Job job;
  _Alignas(64) atomic_int epoch;  // grows with every job
  _Alignas(64) atomic_int left;   // workers that have not seen the job through
  _Alignas(64) atomic_int asleep;
  struct { _Alignas(64) atomic_int here; } flag[MOST];  // how many meetings of this job a thread has come to
} pool = {.turn = PTHREAD_MUTEX_INITIALIZER, .step = PTHREAD_MUTEX_INITIALIZER, .linear = PTHREAD_MUTEX_INITIALIZER};

// Until *word is no longer `old`: spinning, then asleep, so that on busy cores the one waited for gets to run
static int awaited(atomic_int *word, int old, int spins) {
  int now;
  while ((now = atomic_load_explicit(word, memory_order_acquire)) == old && spins-- > 0) PAUSE();
  if (now != old) return now;
  atomic_fetch_add(&pool.asleep, 1);
  while ((now = atomic_load(word)) == old) {
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
#else
    usleep(20);
#endif
  }
  atomic_fetch_sub(&pool.asleep, 1);
  return now;
}

static void changed(atomic_int *word, int now) {
  atomic_store(word, now);
#ifdef __linux__
  if (atomic_load(&pool.asleep)) syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, MOST, NULL, NULL, 0);
#endif
}

// Nobody goes on before all are here. Each writes a line of its own and reads everyone's: one way between two cores and
// no queue. Nobody can be more than one meeting ahead, so any other number than the last one means "here".
static void meet(int own, int threads) {
  if (threads == 1) return;
  const int last = atomic_load_explicit(&pool.flag[own].here, memory_order_relaxed);
  changed(&pool.flag[own].here, (int)(last + 1u));
  for (int other = 0; other < threads; other++) if (other != own) awaited(&pool.flag[other].here, last, SHORT);
}

static void *worker(void *number) {
  int own = (int)((intptr_t)number & 0xffff), seen = (int)((intptr_t)number >> 16);
  for (;;) {
    seen = awaited(&pool.epoch, seen, SPINS);
    // `left` counts every worker of the pool, so that none reads the next job's description half written
    Job job = pool.job;
    if (own < job.threads) job.work(job.data, own, job.threads);
    int left = atomic_fetch_sub(&pool.left, 1) - 1;
#ifdef __linux__
    if (left == 0 && atomic_load(&pool.asleep)) syscall(SYS_futex, &pool.left, FUTEX_WAKE_PRIVATE, MOST, NULL, NULL, 0);
#endif
  }
  return NULL;
}

static void forked(void) {  // a child has no threads but its own
  pool.count = 0;
  pthread_mutex_init(&pool.turn, NULL);
  pthread_mutex_init(&pool.step, NULL);
  pthread_mutex_init(&pool.linear, NULL);
  atomic_store(&pool.asleep, 0);
}

static void once_only(void) { pthread_atfork(NULL, NULL, forked); }

static void run(void (*work)(void *, int, int), void *data, int64_t asked) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, once_only);
  pthread_mutex_lock(&pool.turn);
  int threads = asked < 1 ? 1 : asked > MOST ? MOST : (int)asked;
  int epoch = atomic_load(&pool.epoch);
  while (pool.count < threads - 1) {
    pthread_t made;
    pthread_attr_t kind;
    pthread_attr_init(&kind);
    pthread_attr_setdetachstate(&kind, PTHREAD_CREATE_DETACHED);
    intptr_t number = (intptr_t)((uintptr_t)(intptr_t)epoch << 16 | (uintptr_t)(pool.count + 1));
    int failed = pthread_create(&made, &kind, worker, (void *)number);
    pthread_attr_destroy(&kind);
    if (failed) { threads = pool.count + 1; break; }  // fewer threads: slower, the same bits
    pool.count++;
  }
  if (threads == 1) {
    work(data, 0, 1);
  } else {
    pool.job = (Job){work, data, threads};
    for (int i = 0; i < threads; i++) atomic_store_explicit(&pool.flag[i].here, 0, memory_order_relaxed);
    atomic_store(&pool.left, pool.count);
    changed(&pool.epoch, (int)(epoch + 1u));
    work(data, 0, threads);
    for (int left; (left = atomic_load_explicit(&pool.left, memory_order_acquire));) awaited(&pool.left, left, SHORT);
  }
  pthread_mutex_unlock(&pool.turn);
}

INLINE void share(int64_t items, int own, int threads, int64_t *from, int64_t *to) {
  *from = items * own / threads;
  *to = items * (own + 1) / threads;
}

// ------------------------------------------------------------------------------------------------ a whole step

typedef struct {
  const Model *m;
  const Batch *b;
  int64_t widest, groups;  // of all inputs of products
  int64_t reach;           // numbers in the scores of a thread
  float *x, *h, *q, *k, *v, *a, *g, *u;  // [tokens, .]
  int8_t *ints;
  float *scales, *scores;
  int32_t *totals;
} Step;

// The input of a product, quantised if `kind` asks for it. With one token every thread makes its own copy; otherwise
// the tokens are shared out. `from` is where the numbers lie, `weight` the norm put on them first, if any.
static Given given_rows(const Step *s, float *from, int64_t cols, int64_t tokens, const float *weight, int64_t kind, int own,
                        int threads) {
  const int64_t alone = tokens == 1;
  float *h = weight ? s->h + (alone ? own : 0) * s->m->width : from;
  Given x = {h, cols, NULL, NULL, NULL, (cols + GROUP - 1) / GROUP};
  int8_t *q = s->ints + (alone ? own : 0) * s->groups * GROUP;
  float *scales = s->scales + (alone ? own : 0) * s->groups;
  int32_t *totals = s->totals + (alone ? own : 0) * s->groups;
  int64_t first = 0, last = 1;
  if (!alone) share(tokens, own, threads, &first, &last);
  for (int64_t t = first; t < last; t++) {
    if (weight) normalise(from + t * cols, weight, cols, (float)s->m->eps, h + t * cols);
    if (kind >= Q8) quantise(h + t * cols, cols, offset_of(kind), q + t * x.groups * GROUP, scales + t * x.groups, totals + t * x.groups);
  }
  if (kind >= Q8) x.q = q, x.scale = scales, x.total = totals;
  if (!alone && (weight || kind >= Q8)) meet(own, threads);
  return x;
}
static Given prepared(const Step *s, float *from, int64_t cols, const float *weight, int64_t kind, int own, int threads) {
  return given_rows(s, from, cols, s->b->tokens, weight, kind, own, threads);
}

static int64_t panels_of(const Matrix *w) { return (w->rows + PANEL - 1) / PANEL; }
static void share_rows(const Matrix *w, int own, int threads, int64_t *from, int64_t *to) {  // in whole panels
  share(panels_of(w), own, threads, from, to);
  *from *= PANEL;
  *to = *to * PANEL < w->rows ? *to * PANEL : w->rows;
}

// Asks memory for the beginning of a thread's rows of the next product, so that it works while threads meet, norm and
// look at keys. One token only: with more, products do not wait for memory.
static void soon(const Step *s, const Matrix *w, int own, int threads) {
  enum { LINES = 512 };  // ours: about what memory gives in the meantime
  int64_t from, to, row = w->cols * (w->kind == FLOAT32 ? 4 : 2);
  if (s->b->tokens > 1) return;
  share_rows(w, own, threads, &from, &to);
  if (w->kind >= Q8) row = (w->cols + GROUP - 1) / GROUP * (w->kind == Q8 ? 32 : 16);
  const char *start = (const char *)w->data + from * row;
  const int64_t lines = (to - from) * row / 64;
  for (int64_t i = 0; i < LINES && i < lines; i++) PREFETCH(start + i * 64);
}

typedef struct { const Matrix *w; float *y; } Product;

// Several matrices times the same input, their rows shared out in panels
static void products(const Product *each, int count, const Given *x, int64_t tokens, int own, int threads) {
  int64_t panels = 0, from, to, start = 0;
  for (int i = 0; i < count; i++) panels += panels_of(each[i].w);
  share(panels, own, threads, &from, &to);
  for (int i = 0; i < count; i++) {
    const Matrix *w = each[i].w;
    int64_t mine = panels_of(w);
    int64_t a = from > start ? from - start : 0, b = to - start < mine ? to - start : mine;
    if (a < b) rows_of(w, a * PANEL, b * PANEL < w->rows ? b * PANEL : w->rows, x, tokens, each[i].y, w->rows);
    start += mine;
  }
}

static void embed(const Matrix *w, int64_t row, float *y) {
  if (w->kind == FLOAT32) {
    memcpy(y, (const float *)w->data + row * w->cols, sizeof(float) * w->cols);
  } else if (w->kind == BFLOAT16) {
    const uint16_t *from = (const uint16_t *)w->data + row * w->cols;
    for (int64_t i = 0; i < w->cols; i++) {
      uint32_t bits = (uint32_t)from[i] << 16;
      memcpy(y + i, &bits, 4);
    }
  } else {
    int64_t groups = (w->cols + GROUP - 1) / GROUP, in = row % PANEL, panel_of = row / PANEL;
    const uint8_t *data = (const uint8_t *)w->data + panel_of * groups * (w->kind == Q8 ? 512 : 256);
    const uint16_t *scales = w->scales + panel_of * groups * PANEL;
    for (int64_t g = 0; g < groups; g++) {
      float wide[PANEL];
      store(wide, halves(scales + g * PANEL));
      int64_t n = w->cols - g * GROUP < GROUP ? w->cols - g * GROUP : GROUP;
      for (int64_t i = 0; i < n; i++) {
        int64_t part = i & 15;
        int value = w->kind == Q8 ? data[g * 512 + i / 4 * 64 + in * 4 + i % 4] - 128
                                  : (data[g * 256 + part / 4 * 64 + in * 4 + part % 4] >> (i < 16 ? 0 : 4) & 15) - 8;
        y[g * GROUP + i] = (float)value * wide[in];
      }
    }
  }
}

// Where the keys and values of token t lie for key-value head `head` of layer `l`
static Pages pages_of(const Model *m, const Batch *b, int64_t l, int64_t t, int64_t head) {
  const int64_t stride = m->kv_heads * b->room;
  Pages p = {b->table ? b->table + b->slot[t] * b->across : b->slot + t, b->room, stride,
             l * b->slots * stride + head * b->room};
  return p;
}
static Held held_by(const Batch *b) { return (Held){b->cached, b->keys, b->values, b->key_scales, b->value_scales}; }

// Rotates and stores keys, stores values, of tokens t for key-value head `head` in layer `l`
static void remember(const Step *s, int64_t l, int64_t t, int64_t head) {
  const Model *m = s->m;
  const Batch *b = s->b;
  const int64_t e = m->head_width, in_row = t * m->kv_heads * e + head * e;
  const int64_t at = place_of(pages_of(m, b, l, t, head), b->place[t]);
  const Held held = held_by(b);
  turn(s->k + in_row, b->cosines + b->turn[t] * e, b->sines + b->turn[t] * e, e / 2);
  if (held.kind == INTS) {
    keep_ints(&held, at, s->k + in_row, s->v + in_row, e);
    return;
  }
  memcpy((float *)held.keys + at * e, s->k + in_row, sizeof(float) * e);
  memcpy((float *)held.values + at * e, s->v + in_row, sizeof(float) * e);
}

// `own` is the thread, whose room for scores it uses, and that for the input of products, which is not in use meanwhile
static void look(const Step *s, int64_t l, int64_t t, int64_t head, int own) {
  const Model *m = s->m;
  const Batch *b = s->b;
  const int64_t e = m->head_width, kv = head / (m->heads / m->kv_heads);
  float *q = s->q + (t * m->heads + head) * e, *out = s->a + (t * m->heads + head) * e, *scores = s->scores + own * s->reach;
  const Held held = held_by(b);
  const Pages pages = pages_of(m, b, l, t, kv);
  const Asked asked = {s->ints + own * s->groups * GROUP, s->scales + own * s->groups, s->totals + own * s->groups};
  turn(q, b->cosines + b->turn[t] * e, b->sines + b->turn[t] * e, e / 2);
  if (held.kind == INTS) attend_ints(q, &held, pages, b->place[t] + 1, e, asked, scores, out);
  else attend(q, held.keys, held.values, pages, b->place[t] + 1, e, scores, out);
}

// One token: every thread makes queries, keys and values of heads of its own, so that none waits for another. Returns
// 0 where heads do not divide into panels or are too few.
static int own_heads(const Step *s, int64_t l, const Given *x, int own, int threads) {
  const Model *m = s->m;
  const Layer *layer = m->layer + l;
  const int64_t shared = m->heads / m->kv_heads, e = m->head_width;
  int64_t from, to;
  if (s->b->tokens != 1 || m->kv_heads < threads || e % PANEL) return 0;
  share(m->kv_heads, own, threads, &from, &to);
  rows_of(&layer->query, from * shared * e, to * shared * e, x, 1, s->q, m->heads * e);
  rows_of(&layer->key, from * e, to * e, x, 1, s->k, m->kv_heads * e);
  rows_of(&layer->value, from * e, to * e, x, 1, s->v, m->kv_heads * e);
  for (int64_t head = from; head < to; head++) {
    remember(s, l, 0, head);
    for (int64_t i = 0; i < shared; i++) look(s, l, 0, head * shared + i, own);
  }
  return 1;
}

static void attention(const Step *s, int64_t l, int own, int threads) {
  const Model *m = s->m;
  const int64_t tokens = s->b->tokens, shared = m->heads / m->kv_heads;
  int64_t from, to;
  share(tokens * m->kv_heads, own, threads, &from, &to);
  for (int64_t i = from; i < to; i++) remember(s, l, i / m->kv_heads, i % m->kv_heads);
  meet(own, threads);
  // Later tokens see more: work is dealt out in turn. Heads that share keys stand side by side.
  const int64_t all_heads = tokens * m->heads, chunk = tokens == 1 ? 1 : shared;
  if (tokens == 1) share(all_heads, own, threads, &from, &to);
  else from = own * chunk, to = all_heads;
  const int64_t stride = tokens == 1 ? 1 : chunk * threads;
  for (int64_t i = from; i < to; i += stride)
    for (int64_t j = i; j < i + chunk && j < to; j++) look(s, l, j / m->heads, j % m->heads, own);
}

// x += w times `given`, every thread for rows of its own
static void added(const Step *s, const Matrix *w, const Given *given, int own, int threads) {
  const int64_t tokens = s->b->tokens, width = w->rows;
  int64_t from, to;
  share_rows(w, own, threads, &from, &to);
  rows_of(w, from, to, given, tokens, s->g, width);
  for (int64_t t = 0; t < tokens; t++) for (int64_t i = t * width + from; i < t * width + to; i++) s->x[i] += s->g[i];
}

// u = silu(gate) * up, every thread for rows of its own
static void gated(const Step *s, const Layer *layer, const Given *given, int own, int threads) {
  const int64_t tokens = s->b->tokens, hidden = s->m->hidden;
  int64_t from, to;
  share_rows(&layer->gate, own, threads, &from, &to);
  rows_of(&layer->gate, from, to, given, tokens, s->g, hidden);
  rows_of(&layer->up, from, to, given, tokens, s->u, hidden);
  for (int64_t t = 0; t < tokens; t++) gate(s->g + t * hidden + from, s->u + t * hidden + from, to - from);
}

// The final norm, and the head for tokens that want it
static void finish(const Step *s, int own, int threads) {
  const Model *m = s->m;
  const Batch *b = s->b;
  const int64_t tokens = b->tokens, width = m->width;
  Given x;
  if (tokens == 1) {
    x = given_rows(s, s->x, width, 1, m->norm, m->head.kind, own, threads);
    if (own == 0) memcpy(b->states, x.x, sizeof(float) * width);
  } else {
    int64_t from, to;
    share(tokens, own, threads, &from, &to);
    for (int64_t t = from; t < to; t++) normalise(s->x + t * width, m->norm, width, (float)m->eps, b->states + t * width);
    if (!b->wanted) return;
    meet(own, threads);
    share(b->wanted, own, threads, &from, &to);
    for (int64_t i = from; i < to; i++) memcpy(s->x + i * width, b->states + b->want[i] * width, sizeof(float) * width);
    meet(own, threads);
    x = given_rows(s, s->x, width, b->wanted, NULL, m->head.kind, own, threads);
  }
  if (b->wanted) products((Product[]){{&m->head, b->logits}}, 1, &x, b->wanted, own, threads);
}

static void step(void *given, int own, int threads) {
  const Step *s = given;
  const Model *m = s->m;
  const Batch *b = s->b;
  const int64_t tokens = b->tokens, width = m->width;
  int64_t from, to;
  share(tokens, own, threads, &from, &to);
  for (int64_t t = from; t < to; t++) embed(&m->embed, b->ids[t], s->x + t * width);
  meet(own, threads);
  for (int64_t l = 0; l < m->layers; l++) {
    const Layer *layer = m->layer + l;
    Given x = prepared(s, s->x, width, layer->before, layer->query.kind, own, threads);
    if (!own_heads(s, l, &x, own, threads)) {
      products((Product[]){{&layer->query, s->q}, {&layer->key, s->k}, {&layer->value, s->v}}, 3, &x, tokens, own, threads);
      meet(own, threads);
      attention(s, l, own, threads);
    }
    soon(s, &layer->out, own, threads);
    meet(own, threads);
    x = prepared(s, s->a, m->heads * m->head_width, NULL, layer->out.kind, own, threads);
    added(s, &layer->out, &x, own, threads);
    soon(s, &layer->gate, own, threads);
    meet(own, threads);
    x = prepared(s, s->x, width, layer->after, layer->gate.kind, own, threads);
    gated(s, layer, &x, own, threads);
    soon(s, &layer->down, own, threads);
    meet(own, threads);
    x = prepared(s, s->u, m->hidden, NULL, layer->down.kind, own, threads);
    added(s, &layer->down, &x, own, threads);
    soon(s, l + 1 < m->layers ? &m->layer[l + 1].query : &m->head, own, threads);
    meet(own, threads);
  }
  finish(s, own, threads);
}

typedef struct { const Matrix *w; const float *x; int64_t tokens; float *y; int8_t *ints; float *scales; int32_t *totals; } Linear;

static void linear(void *given, int own, int threads) {
  const Linear *l = given;
  Given x = {l->x, l->w->cols, l->ints, l->scales, l->totals, (l->w->cols + GROUP - 1) / GROUP};
  if (l->w->kind >= Q8) {
    int64_t from, to;
    share(l->tokens, own, threads, &from, &to);
    for (int64_t t = from; t < to; t++)
      quantise(l->x + t * x.stride, x.stride, offset_of(l->w->kind), l->ints + t * x.groups * GROUP, l->scales + t * x.groups, l->totals + t * x.groups);
    meet(own, threads);
  }
  products((Product[]){{l->w, l->y}}, 1, &x, l->tokens, own, threads);
}

// Space that grows and is kept for the next call; calls that use the same wait for each other
static void *space(void **held, size_t *size, size_t wanted) {
  if (*size < wanted) {
    free(*held);
    *held = NULL, *size = 0;
    if (posix_memalign(held, 64, wanted)) return *held = NULL;
    *size = wanted;
  }
  return *held;
}
static void *step_space, *linear_space;
static size_t step_size, linear_size;

// y [tokens, rows] = x [tokens, cols] times the transpose of w. 0, or ENOMEM.
int camelid_linear(const Matrix *w, const float *x, int64_t tokens, float *y, int64_t threads) {
  Linear l = {w, x, tokens, y, NULL, NULL, NULL};
  pthread_mutex_lock(&pool.linear);
  if (w->kind >= Q8) {
    size_t groups = (size_t)tokens * ((w->cols + GROUP - 1) / GROUP);
    char *held = space(&linear_space, &linear_size, groups * (GROUP + 8));
    if (!held) {
      pthread_mutex_unlock(&pool.linear);
      return ENOMEM;
    }
    l.ints = (int8_t *)held;
    l.scales = (float *)(held + groups * GROUP);
    l.totals = (int32_t *)(l.scales + groups);
  }
  run(linear, &l, threads);
  pthread_mutex_unlock(&pool.linear);
  return 0;
}

static size_t lined(size_t bytes) { return (bytes + 63) / 64 * 64; }

static int whole_step(const Model *m, const Batch *b) {
  Step s = {.m = m, .b = b, .reach = b->reach > 0 ? b->reach : b->room};
  const size_t n = (size_t)b->tokens, threads = b->threads < 1 ? 1 : (size_t)b->threads;
  const int64_t inner = m->heads * m->head_width;
  s.widest = m->width > m->hidden ? m->width : m->hidden;
  if (inner > s.widest) s.widest = inner;
  s.groups = (s.widest + GROUP - 1) / GROUP;
  const size_t copies = n > threads ? n : threads, outer = m->hidden > m->width ? m->hidden : m->width;
  const size_t sizes[] = {n * m->width, copies * m->width, n * inner, n * m->kv_heads * m->head_width,
                          n * m->kv_heads * m->head_width, n * inner, n * outer, n * m->hidden};
  float **const places[] = {&s.x, &s.h, &s.q, &s.k, &s.v, &s.a, &s.g, &s.u};
  size_t wanted = lined(copies * s.groups * GROUP) + 2 * lined(copies * s.groups * 4) + lined(threads * s.reach * 4);
  for (int i = 0; i < 8; i++) wanted += lined(sizes[i] * sizeof(float));
  char *held = space(&step_space, &step_size, wanted);
  if (!held) return ENOMEM;
  for (int i = 0; i < 8; i++) *places[i] = (float *)held, held += lined(sizes[i] * sizeof(float));
  s.scales = (float *)held, held += lined(copies * s.groups * 4);
  s.totals = (int32_t *)held, held += lined(copies * s.groups * 4);
  s.scores = (float *)held, held += lined(threads * s.reach * 4);
  s.ints = (int8_t *)held;
  run(step, &s, b->threads);
  return 0;
}

// All layers for the tokens of `b`: keys and values are stored, `states` written, and `logits` where wanted.
// 0, or ENOMEM.
int camelid_step(const Model *m, const Batch *b) {
  pthread_mutex_lock(&pool.step);
  int failed = whole_step(m, b);
  pthread_mutex_unlock(&pool.step);
  return failed;
}

// ---------------------------------------------------------------------------------- choosing ids, and single steps

typedef struct {
  const float *logits;
  int64_t rows, vocab;
  int given;
  int64_t *ids;
  float *logprobs;
  atomic_llong wrong;
} Picking;

static void pick(void *given, int own, int threads) {
  enum { PART = 1024 };
  Picking *p = given;
  const int64_t vocab = p->vocab;
  int64_t from, to;
  share(p->rows, own, threads, &from, &to);
  for (int64_t r = from; r < to; r++) {
    const float *x = p->logits + r * vocab;
    const float most = largest(x, vocab);
    int64_t best = -1;
    double total = 0;
    int off = 0;
    for (int64_t i = 0; i < vocab; i += PART) {
      const int n = vocab - i < PART ? (int)(vocab - i) : PART;
      float part[PART], lanes[PANEL];
      int here = 0;
      memset(part + n, 0, sizeof(float) * (PART - n));
      for (int j = 0; j < n; j++) off |= !(fabsf(x[i + j]) <= 3.4028235e38f);
      for (int j = 0; j < n; j++) here |= x[i + j] == most;
      for (int j = 0; here && best < 0 && j < n; j++) if (x[i + j] == most) best = i + j;
      for (int j = 0; j < n; j++) part[j] = exp1(x[i + j] - most);
      V sums_of = zero();
      for (int j = 0; j < n; j += PANEL) sums_of = add(sums_of, load(part + j));
      store(lanes, sums_of);
      for (int lane = 0; lane < PANEL; lane++) total += lanes[lane];
    }
    long long before = off ? atomic_load(&p->wrong) : 0;
    while (off && (before < 0 || before > r) && !atomic_compare_exchange_weak(&p->wrong, &before, r)) {}
    if (!p->given) p->ids[r] = best < 0 ? vocab - 1 : best;
    p->logprobs[r] = (float)((double)x[p->ids[r]] - most - log(total));
  }
}

// For every row of logits [rows, vocab]: the likeliest id (the lowest among equals), and the log-probability of it, or
// of the id that stands in `ids` where `given`. The first row that is not finite comes back, or -1.
int64_t camelid_pick(const float *logits, int64_t rows, int64_t vocab, int given, int64_t *ids, float *logprobs, int64_t threads) {
  Picking p = {logits, rows, vocab, given, ids, logprobs, -1};
  run(pick, &p, threads < rows ? threads : rows);
  return atomic_load(&p.wrong);
}

void camelid_norm(const float *x, const float *weight, int64_t rows, int64_t width, double eps, float *y) {
  for (int64_t r = 0; r < rows; r++) normalise(x + r * width, weight, width, (float)eps, y + r * width);
}
void camelid_turn(float *x, const float *cosines, const float *sines, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; r++) turn(x + r * width, cosines + r * width, sines + r * width, width / 2);
}
void camelid_gate(const float *g, float *u, int64_t n) { gate(g, u, n); }
// The same where places 0.. lie `page` by page, page i at table[i] * stride places
void camelid_attend_pages(const float *q, const float *keys, const float *values, const int32_t *table, int64_t page,
                          int64_t stride, int64_t heads, int64_t seen, int64_t width, float *scores, float *out) {
  const Pages p = {table, page, stride, 0};
  for (int64_t h = 0; h < heads; h++) attend(q + h * width, keys, values, p, seen, width, scores, out + h * width);
}
void camelid_attend(const float *q, const float *keys, const float *values, int64_t heads, int64_t seen, int64_t width,
                    float *scores, float *out) {  // `heads` queries that share keys
  camelid_attend_pages(q, keys, values, &(int32_t){0}, seen, 0, heads, seen, width, scores, out);
}
// The same over int8: `q` [E] in groups of 32 as `Asked` has it
void camelid_attend_ints(const float *q, const Held *held, const int32_t *table, int64_t page, int64_t stride, int64_t heads,
                         int64_t seen, int64_t width, int8_t *ints, float *scales, int32_t *totals, float *scores, float *out) {
  const Pages p = {table, page, stride, 0};
  for (int64_t h = 0; h < heads; h++)
    attend_ints(q + h * width, held, p, seen, width, (Asked){ints, scales, totals}, scores, out + h * width);
}
void camelid_keep_ints(const Held *held, int64_t at, const float *key, const float *value, int64_t width) {
  keep_ints(held, at, key, value, width);
}
void camelid_quantise(const float *x, int64_t cols, int8_t *q, float *scale, int32_t *total) {
  quantise(x, cols, 1, q, scale, total);
}
void camelid_embed(const Matrix *w, int64_t row, float *y) { embed(w, row, y); }

// ------------------------------------------------------------------------------------------- packing the weights

static uint16_t to_half(float x) {  // to the nearest, halves to even
  uint32_t bits;
  memcpy(&bits, &x, 4);
  uint16_t sign = bits >> 16 & 0x8000;
  float size = fabsf(x);
  if (size >= 65520.0f) return sign | 0x7c00;
  if (size < 0x1p-14f) return sign | (uint16_t)rintf(size * 0x1p24f);
  memcpy(&bits, &size, 4);
  bits += 0xfff + (bits >> 13 & 1);
  return sign | (uint16_t)((bits >> 13) - (112 << 10));
}

// 32 floats as a GGUF block, as its reference quantiser makes it: Q8_0 a half float and 32 int8, Q4_0 a half float and
// 16 bytes, weight k in the low and k + 16 in the high half. -1, or the place of a weight that cannot be held.
static int block_of(const float *x, int kind, uint8_t *block) {
  float most = 0, signed_most = 0;
  const float limit = kind == Q8 ? 65504.0f * 127 : 65504.0f * 8;
  for (int i = 0; i < GROUP; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
  int held = 1;
  for (int i = 0; i < GROUP; i++) held &= fabsf(x[i]) <= limit;
  for (int i = 0; !held && i < GROUP; i++) if (!(fabsf(x[i]) <= limit)) return i;
  for (int i = GROUP - 1; i >= 0; i--) if (fabsf(x[i]) == most) signed_most = x[i];
  float scale = kind == Q8 ? most / 127.0f : signed_most / -8.0f;
  float up = scale != 0 ? 1.0f / scale : 0;
  uint16_t half_scale = to_half(scale);
  memcpy(block, &half_scale, 2);
  if (kind == Q8) {
    for (int i = 0; i < GROUP; i++) {  // to the nearest, halves away from zero
      float v = x[i] * up, whole;
      v = v > 127 ? 127 : v < -127 ? -127 : v == v ? v : 0;
      whole = (float)(int32_t)v;
      block[2 + i] = (uint8_t)((int32_t)whole + (v - whole >= 0.5f) - (v - whole <= -0.5f));
    }
  } else {
    for (int i = 0; i < 16; i++) {
      float a = x[i] * up + 8.5f, b = x[i + 16] * up + 8.5f;
      a = a > 0 ? a < 15 ? a : 15 : 0, b = b > 0 ? b < 15 ? b : 15 : 0;
      block[2 + i] = (uint8_t)((int32_t)a | (int32_t)b << 4);
    }
  }
  return -1;
}

INLINE void into_panel(const uint8_t *block, int64_t at, int64_t in, int kind, uint8_t *data, uint16_t *scales) {
  memcpy(scales + at * PANEL + in, block, 2);
  uint8_t *to = data + at * (kind == Q8 ? 512 : 256) + in * 4;
  for (int i = 0; i < (kind == Q8 ? 8 : 4); i++) {
    uint32_t part;
    memcpy(&part, block + 2 + 4 * i, 4);
    part ^= kind == Q8 ? 0x80808080u : 0;
    memcpy(to + 64 * i, &part, 4);
  }
}

typedef struct { const Matrix *from; int kind; uint8_t *blocks, *data; uint16_t *scales; atomic_llong wrong; } Packing;

static void pack(void *given, int own, int threads) {
  Packing *p = given;
  const Matrix *w = p->from;
  const int64_t groups = (w->cols + GROUP - 1) / GROUP, bytes = p->kind == Q8 ? 34 : 18;
  int64_t from, to;
  share((w->rows + PANEL - 1) / PANEL, own, threads, &from, &to);
  for (int64_t r = from * PANEL; r < to * PANEL && r < w->rows; r++) {
    for (int64_t g = 0; g < groups; g++) {
      float part[GROUP] = {0};
      uint8_t block[34];
      int64_t n = w->cols - g * GROUP < GROUP ? w->cols - g * GROUP : GROUP, at = r * w->cols + g * GROUP;
      if (w->kind == FLOAT32) memcpy(part, (const float *)w->data + at, sizeof(float) * n);
      for (int64_t i = 0; w->kind == BFLOAT16 && i < n; i++) {
        uint32_t bits = (uint32_t)((const uint16_t *)w->data)[at + i] << 16;
        memcpy(part + i, &bits, 4);
      }
      int wrong = block_of(part, p->kind, block);
      if (wrong >= 0) {
        long long before = atomic_load(&p->wrong);
        while ((before < 0 || before > at + wrong) && !atomic_compare_exchange_weak(&p->wrong, &before, at + wrong)) {}
        return;
      }
      if (p->blocks) memcpy(p->blocks + (r * groups + g) * bytes, block, bytes);
      if (p->data) into_panel(block, r / PANEL * groups + g, r % PANEL, p->kind, p->data, p->scales);
    }
  }
}

// A float matrix rounded into GGUF `blocks`, or into panels (`data` and `scales`), or both. -1, or the place (row * cols
// + col) of the first weight that cannot be held: not finite, or too large for a scale.
int64_t camelid_pack(const Matrix *w, int kind, uint8_t *blocks, uint8_t *data, uint16_t *scales, int64_t threads) {
  Packing p = {w, kind, blocks, data, scales, -1};
  run(pack, &p, threads);
  return atomic_load(&p.wrong);
}

// Says that these bytes will be read: where they belong to a mapped file its pages are entered together, not one by one
static void coming(const void *start, size_t bytes) {
#if defined(__linux__)
  enum { POPULATE_READ = 22 };  // MADV_POPULATE_READ; kernels before 5.14 refuse it, which does no harm
  const uintptr_t page = 4095, from = (uintptr_t)start & ~page;
  if (bytes) madvise((void *)from, (((uintptr_t)start + bytes + page) & ~page) - from, POPULATE_READ);
#else
  (void)start, (void)bytes;
#endif
}

typedef struct { char *to; const char *from; int64_t bytes; } Copying;

static void copy(void *given, int own, int threads) {
  enum { PIECE = 1 << 20 };  // ours: what is entered is still in the cache when it is copied
  const Copying *c = given;
  int64_t from, to;
  share((c->bytes + PIECE - 1) / PIECE, own, threads, &from, &to);
  for (int64_t i = from; i < to; i++) {
    const int64_t start = i * PIECE, size = c->bytes - start < PIECE ? c->bytes - start : PIECE;
    coming(c->from + start, size);
    memcpy(c->to + start, c->from + start, size);
  }
}

// Copies bytes, of a mapped file for instance, on several threads
void camelid_copy(void *to, const void *from, int64_t bytes, int64_t threads) {
  Copying c = {to, from, bytes};
  if (threads < 2) copy(&c, 0, 1);  // beside calls that compute
  else run(copy, &c, threads);
}

// Says that a matrix's numbers lie elsewhere now, between two calls; afterwards nobody looks where they were
void camelid_moved(Matrix *w, const void *to) {
  pthread_mutex_lock(&pool.step);
  pthread_mutex_lock(&pool.linear);
  w->data = to;
  pthread_mutex_unlock(&pool.linear);
  pthread_mutex_unlock(&pool.step);
}

typedef struct { const uint8_t *blocks; int64_t row, count, groups; int kind; uint8_t *data; uint16_t *scales; } Laying;

static void lay(void *given, int own, int threads) {
  const Laying *l = given;
  const int64_t bytes = l->kind == Q8 ? 34 : 18;
  int64_t from, to;
  share((l->count + PANEL - 1) / PANEL, own, threads, &from, &to);
  for (int64_t p = from; p < to; p++) {
    const int64_t first = p * PANEL, rows = l->count - first < PANEL ? l->count - first : PANEL;
    coming(l->blocks + first * l->groups * bytes, rows * l->groups * bytes);
    for (int64_t g = 0; g < l->groups; g++)
      for (int64_t i = 0; i < rows; i++)
        into_panel(l->blocks + ((first + i) * l->groups + g) * bytes, (l->row / PANEL + p) * l->groups + g, i, l->kind, l->data,
                   l->scales);
  }
}

// Rows of GGUF blocks, `row` to `row` + `count`, into the panels of a matrix [rows, cols]; `row` is a multiple of 16
void camelid_panels(const uint8_t *blocks, int64_t row, int64_t count, int64_t cols, int kind, uint8_t *data, uint16_t *scales,
                    int64_t threads) {
  Laying l = {blocks, row, count, (cols + GROUP - 1) / GROUP, kind, data, scales};
  run(lay, &l, threads);
}

// Zeroed memory on huge pages where the system has them; NULL where there is none
void *camelid_room(size_t bytes) {
  const size_t huge = 2 << 20;
  size_t whole = (bytes + huge - 1) / huge * huge;
  char *raw = mmap(NULL, whole + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return NULL;
  char *start = (char *)(((uintptr_t)raw + huge - 1) / huge * huge);
  if (start > raw) munmap(raw, start - raw);
  if (start < raw + huge) munmap(start + whole, raw + huge - start);
#ifdef MADV_HUGEPAGE
  madvise(start, whole, MADV_HUGEPAGE);
#endif
  return start;
}
void camelid_leave(void *start, size_t bytes) {
  const size_t huge = 2 << 20;
  munmap(start, (bytes + huge - 1) / huge * huge);
}

// Small products of every kind against sums made one by one; 0 when they agree. A library that cannot run here dies of
// it, which is why it is tried in a process of its own.
int camelid_check(void) {
  enum { ROWS = 21, COLS = 70, TOKENS = 5, GROUPS = 3 };
  static float w[ROWS * COLS], x[TOKENS * COLS], y[TOKENS * ROWS], exact[COLS];
  static uint16_t brain[ROWS * COLS], scales[2 * GROUPS * PANEL];
  static uint8_t data[2 * GROUPS * 512];
  for (int i = 0; i < ROWS * COLS; i++) w[i] = (float)((i * 37 + 11) % 101 - 50) / 64;
  for (int i = 0; i < TOKENS * COLS; i++) x[i] = (float)((i * 29 + 7) % 89 - 44) / 32;
  for (int i = 0; i < ROWS * COLS; i++) {
    uint32_t bits;
    memcpy(&bits, w + i, 4);
    brain[i] = bits >> 16;
  }
  for (int kind = FLOAT32; kind <= Q4; kind++) {
    Matrix m = {kind, ROWS, COLS, kind == FLOAT32 ? (void *)w : kind == BFLOAT16 ? (void *)brain : (void *)data, scales};
    if (kind >= Q8 && camelid_pack(&(Matrix){FLOAT32, ROWS, COLS, w, NULL}, kind, NULL, data, scales, 2) >= 0) return 1;
    if (camelid_linear(&m, x, TOKENS, y, 2)) return 2;
    for (int r = 0; r < ROWS; r++) {
      camelid_embed(&m, r, exact);
      for (int t = 0; t < TOKENS; t++) {
        double wanted = 0, size = 0;
        for (int k = 0; k < COLS; k++) {
          wanted += (double)exact[k] * x[t * COLS + k];
          size += fabs((double)exact[k] * x[t * COLS + k]);
        }
        if (!(fabs(wanted - y[t * ROWS + r]) <= size * (kind >= Q8 ? 0.02 : 1e-6))) return 10 + kind;
      }
    }
  }
  return 0;
}
