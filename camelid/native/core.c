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
// Without `scales` they lie row by row as GGUF's blocks, and products lay out what they need of them, panel by panel: the
// same bits, slower. Where `turned` is the width of a head, each head's row i stands at 2i, and i + turned / 2 at 2i + 1.
typedef struct { int64_t kind, rows, cols; const void *data; const uint16_t *scales; int64_t turned; } Matrix;
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
  float *states;  // [tokens, width] after the final norm; left out (NULL), what only these need is not computed
  float *logits;  // [wanted, vocab] of the tokens `want`, at most as many as there are
  const int32_t *table;
  int64_t across, reach;  // `reach`: places of the longest sequence; left out (0) it is the room
  int64_t cached;         // FLOATS or INTS
  float *key_scales, *value_scales;
} Batch;

// What a matrix is multiplied with: rows of floats, and what becomes of them. For quantised weights, int8 with a scale
// for every group. For float weights `lines` of 64 bytes, filled up with zeros: float32, or bf16 for bf16 weights. Lines
// k of the tokens of a tile (`tile_of`) lie side by side, before lines k + 1. One token of float32 is read from `x`.
typedef struct {
  const float *x;
  int64_t stride;
  const char *lines;
  const int8_t *q;
  const float *scale;
  const int32_t *total;  // minus the sum of a group's int8, times what is added to weights
  int64_t groups;
} Given;

const char *camelid_lanes(void) { return LANES; }

// ---------------------------------------------------------------------------------------------------- products

// Float products go along a row 64 bytes at a time, 16 float32 or 32 bf16: lane by lane in 16 sums, which are added in
// one tree. So one row's numbers are the same whatever rows and tokens it is multiplied together with.

INLINE int64_t row_bytes(int64_t cols, int64_t kind) { return cols * (kind == BFLOAT16 ? 2 : 4); }
INLINE int64_t lines_of(int64_t cols, int64_t kind) { return (row_bytes(cols, kind) + 63) / 64; }

// 64 bytes of a row, or its last n; of bf16 the numbers that take part in step `part`
INLINE V piece(const char *p, int n, int kind, int part) {
  if (kind == FLOAT32) return n < 64 ? load_some((const float *)p, n / 4) : load((const float *)p);
  return brain_part(n < 64 ? load_some_bytes((const uint8_t *)p, n) : load_bytes((const uint8_t *)p), part);
}
INLINE V plus(V sums, V w, V x, int kind) { return kind == FLOAT32 ? fma16(w, x, sums) : brain_add(sums, w, x); }
INLINE int parts_of(int kind) { return kind == FLOAT32 ? 1 : BRAIN_PARTS; }

// One line of `rows` rows, or its first n bytes, times that of `tokens` tokens
INLINE void line(V (*acc)[TILE_TOKENS], const char *w, int64_t row, const char *x, int n, int rows, int tokens, int kind) {
  for (int part = 0; part < parts_of(kind); part++) {
    V b[TILE_TOKENS];
    for (int j = 0; j < tokens; j++) b[j] = piece(x + j * 64, 64, kind, part);
    for (int i = 0; i < rows; i++) {
      V a = kept(piece(w + i * row, n, kind, part));
      for (int j = 0; j < tokens; j++) acc[i][j] = plus(acc[i][j], a, b[j], kind);
    }
  }
}

// y[j * stride + i] = the sum of acc[i][j]
INLINE void summed(V (*acc)[TILE_TOKENS], float *y, int64_t stride, int rows, int tokens) {
  int i = 0;
  float found[16];
  for (; tokens == 4 && i + 4 <= rows; i += 4) {
    V turned[16];
    for (int j = 0; j < 4; j++) for (int r = 0; r < 4; r++) turned[4 * j + r] = acc[i + r][j];
    store(found, sums(turned));
    for (int j = 0; j < 4; j++) memcpy(y + j * stride + i, found + 4 * j, 4 * sizeof(float));
  }
  for (; tokens == 4 && i + 2 <= rows; i += 2) {
    V turned[8];
    for (int j = 0; j < 4; j++) for (int r = 0; r < 2; r++) turned[2 * j + r] = acc[i + r][j];
    store(found, eight_sums(turned));
    for (int j = 0; j < 4; j++) memcpy(y + j * stride + i, found + 4 * j, 2 * sizeof(float));
  }
  for (; i < rows; i++) for (int j = 0; j < tokens; j++) y[j * stride + i] = sum(acc[i][j]);
}

// `rows` rows of w times `tokens` tokens. Memory is asked for the lines from `soon` to `end` meanwhile, `each` at a time
typedef struct { const char *w, *x, *soon, *end; int64_t row, each; } Tile;

INLINE void float_tile(const Tile *t, float *y, int64_t stride, int rows, int tokens, int kind) {
  V acc[TILE_ROWS][TILE_TOKENS];
  const char *w = t->w, *x = t->x, *soon = t->soon, *end = t->end;
  const int64_t row = t->row, lines = row / 64, each = t->each;
  for (int i = 0; i < rows; i++) for (int j = 0; j < tokens; j++) acc[i][j] = zero();
  for (int64_t k = 0; k < lines; k++) {
    if (soon < end) for (int64_t i = 0; i < each; i++, soon += 64) PREFETCH(soon);
    line(acc, w + k * 64, row, x + k * tokens * 64, 64, rows, tokens, kind);
  }
  if (row % 64) line(acc, w + lines * 64, row, x + lines * tokens * 64, (int)(row % 64), rows, tokens, kind);
  summed(acc, y, stride, rows, tokens);
}

// Sizes of tiles: as large as may be, then 2, then 1
INLINE int64_t tile_of(int64_t left, int64_t most) { return left >= most ? most : left >= 2 ? 2 : 1; }

// A block of rows stays in the second cache while all tokens pass by, and a tile's tokens in the first while the block
// does. Few tokens take few rows at once, for they wait for the first block.
INLINE void many_tokens(const Matrix *m, int64_t from, int64_t to, const Given *x, int64_t tokens, float *y,
                        int64_t stride, int kind) {
  enum { BLOCK = 256 << 10, SHARE = 4 };  // ours: bytes; tiles of tokens for one of rows
  const int64_t row = row_bytes(m->cols, kind), lines = lines_of(m->cols, kind);
  const int64_t token_tiles = (tokens + TILE_TOKENS - 1) / TILE_TOKENS, fit = BLOCK / (row * TILE_ROWS);
  const int64_t wanted = fit < token_tiles / SHARE ? fit : token_tiles / SHARE, height = (wanted < 1 ? 1 : wanted) * TILE_ROWS;
  for (int64_t first = from, last; first < to; first = last) {
    last = first + height < to ? first + height : to;
    const int64_t next = last + height < m->rows ? last + height : m->rows;  // whoever has these rows, most likely we
    const char *soon = (const char *)m->data + last * row, *end = (const char *)m->data + next * row;
    const int64_t tiles = token_tiles * ((last - first + TILE_ROWS - 1) / TILE_ROWS);
    const int64_t asked = ((end - soon) / 64 + tiles - 1) / tiles, each = (asked + lines - 1) / lines;
    for (int64_t t = 0, count; t < tokens; t += count) {
      count = tile_of(tokens - t, TILE_TOKENS);
      for (int64_t r = first, rows; r < last; r += rows) {
        rows = tile_of(last - r, TILE_ROWS);
        const char *then = soon + asked * 64 < end ? soon + asked * 64 : end;
        const Tile tile = {(const char *)m->data + r * row, x->lines + t * lines * 64, soon, then, row, each};
        float *out = y + t * stride + r;
        soon = then;
#define CASE(r, c) if (rows == r && count == c) float_tile(&tile, out, stride, r, c, kind)
        if (TILE_ROWS > 2 && rows > 2) {
          CASE(TILE_ROWS, TILE_TOKENS);
          else CASE(TILE_ROWS, 2);
          else CASE(TILE_ROWS, 1);
        } else if (TILE_TOKENS > 2 && count > 2) {
          CASE(2, TILE_TOKENS);
          else CASE(1, TILE_TOKENS);
        } else CASE(2, 2);
        else CASE(2, 1);
        else CASE(1, 2);
        else CASE(1, 1);
#undef CASE
      }
    }
  }
}

// `rows` rows of w, `apart` rows from each other, times one token
INLINE void one_token(const Matrix *m, int64_t first, int64_t apart, const char *x, float *y, int rows, int kind) {
  const int64_t row = row_bytes(m->cols, kind), step = apart * row;
  const int rest = (int)(row % 64);
  const char *w = (const char *)m->data + first * row;
  V acc[2] = {zero(), zero()};
  int64_t k = 0;
  for (; k + 64 <= row; k += 64)
    for (int part = 0; part < parts_of(kind); part++)
      for (int i = 0; i < rows; i++)
        acc[i] = plus(acc[i], piece(w + i * step + k, 64, kind, part), piece(x + k, 64, kind, part), kind);
  if (rest)
    for (int part = 0; part < parts_of(kind); part++)
      for (int i = 0; i < rows; i++)
        acc[i] = plus(acc[i], piece(w + i * step + k, rest, kind, part), piece(x + k, rest, kind, part), kind);
  for (int i = 0; i < rows; i++) y[first + i * apart] = sum(acc[i]);
}

INLINE void float_rows(const Matrix *w, int64_t from, int64_t to, const Given *x, int64_t tokens, float *y,
                       int64_t stride, int kind) {
  if (tokens > 1) {
    many_tokens(w, from, to, x, tokens, y, stride, kind);
    return;
  }
  // One token: two rows far apart, so that memory is asked for two streams. Eight side by side were a third slower.
  const int64_t half = (to - from) / 2;
  const char *given = kind == BFLOAT16 ? x->lines : (const char *)x->x;
  for (int64_t r = from; r < from + half; r++) one_token(w, r, half, given, y, 2, kind);
  if ((to - from) % 2) one_token(w, to - 1, 0, given, y, 1, kind);
}

INLINE int32_t offset_of(int64_t kind) { return kind == Q8 ? 128 : 8; }
INLINE int32_t four(const int8_t *p) {
  int32_t r;
  memcpy(&r, p, 4);
  return r;
}

// `panels` panels of 16 rows times `tokens` rows of int8; `bytes` and `steps` from a panel's data and scales to the next's.
// `ahead` asks memory for the panels that come next, which arrive while these are computed with. The groups are `count`
// from `start` on, added to what `y` has of those before.
INLINE void tile(const uint8_t *data, const uint16_t *scales, int64_t bytes, int64_t steps, const Given *x, int64_t start,
                 int64_t count, int64_t token, float *y, int64_t stride, int rows, int panels, int tokens, int kind,
                 int ahead) {
  const int64_t groups = x->groups;
  const int8_t *q = x->q + (token * groups + start) * GROUP;
  const float *own = x->scale + token * groups + start;
  const int32_t *makes_up = x->total + token * groups + start;
  V total[2][4];
  for (int p = 0; p < panels; p++) {
    for (int j = 0; j < tokens; j++) {
      const float *before = y + j * stride + p * PANEL;
      total[p][j] = !start ? zero() : rows == panels * PANEL ? load(before) : load_some(before, rows);
    }
  }
  for (int64_t g = 0; g < count; g++) {
    I acc[2][4];
    for (int p = 0; p < panels; p++)
      for (int j = 0; j < tokens; j++) acc[p][j] = all_int(makes_up[j * groups + g]);
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
        total[p][j] = fma16(floats(acc[p][j]), mul(scale, all(own[j * groups + g])), total[p][j]);
    }
  }
  for (int p = 0; p < panels; p++) {
    for (int j = 0; j < tokens; j++) {
      if (rows == panels * PANEL) store(y + j * stride + p * PANEL, total[p][j]);
      else store_some(y + j * stride, total[p][j], rows);
    }
  }
}

// How many bytes of GGUF 32 weights take, and where row `row` of a matrix of such blocks begins
INLINE int64_t block_bytes(int64_t kind) { return kind == Q8 ? 34 : 18; }
INLINE const uint8_t *blocks_of(const Matrix *w, int64_t row) {
  const int64_t half_head = w->turned / 2, in = w->turned ? row % w->turned : 0;
  const int64_t at = w->turned ? row - in + 2 * (in % half_head) + in / half_head : row;
  return (const uint8_t *)w->data + at * ((w->cols + GROUP - 1) / GROUP) * block_bytes(w->kind);
}

// `count` groups from `start` on of 16 rows of GGUF's blocks, from row `first` on, as a panel has them. Rows that the
// matrix lacks become zeros.
INLINE void lay_panel(const Matrix *w, int64_t first, int64_t start, int64_t count, uint8_t *data, uint16_t *scales, int kind) {
  static const uint8_t nothing[34];
  const uint8_t *row[PANEL], *part[PANEL];
  int64_t step[PANEL];
  for (int i = 0; i < PANEL; i++) {
    step[i] = first + i < w->rows ? block_bytes(kind) : 0;
    row[i] = step[i] ? blocks_of(w, first + i) + start * step[i] : nothing;
  }
  for (int64_t g = 0; g < count; g++) {
    for (int i = 0; i < PANEL; i++) {
      memcpy(scales + g * PANEL + i, row[i], 2);
      part[i] = row[i] + 2;
      row[i] += step[i];
    }
    if (kind == Q8) across(part, 8, 0x80808080u, data + g * 512);
    else across(part, 4, 0, data + g * 256);
  }
}

#define TILES(pair, ahead)                                                                                                 \
  do {                                                                                                                     \
    int64_t t = 0;                                                                                                         \
    if (pair && ahead) TILE(2, 4, 1), t = 4;                                                                               \
    for (; pair && t + 4 <= tokens; t += 4) TILE(2, 4, 0);                                                                 \
    for (; t + 4 <= tokens; t += 4) TILE(1, 4, 0);                                                                         \
    for (; pair && t < tokens; t++) TILE(2, 1, 0);                                                                         \
    for (; t < tokens; t++) TILE(1, 1, 0);                                                                                 \
  } while (0)

INLINE void quantised_rows(const Matrix *w, int64_t from, int64_t to, const Given *x, int64_t tokens, float *y,
                           int64_t stride, int kind) {
  const int64_t bytes = x->groups * (kind == Q8 ? 512 : 256), steps = x->groups * PANEL;
  int64_t r = from;
#define TILE(panels, tokens, ahead) \
  tile(data, scales, bytes, steps, x, 0, x->groups, t, y + t * stride + r, stride, rows, panels, tokens, kind, ahead)
  for (int64_t next; r < to; r = next) {
    const uint8_t *data = (const uint8_t *)w->data + r / PANEL * bytes;
    const uint16_t *scales = w->scales + r * x->groups;
    const int pair = tokens >= 4 && r + 2 * PANEL <= to;
    next = r + (pair ? 2 * PANEL : PANEL);
    const int rows = (int)(next < to ? next - r : to - r);
    TILES(pair, 1);
  }
#undef TILE
}

// The same from GGUF's blocks: a few groups of a panel are laid out at a time, which stay in the nearest cache
INLINE void stored_rows(const Matrix *w, int64_t from, int64_t to, const Given *x, int64_t tokens, float *y, int64_t stride,
                        int kind) {
  enum { PIECE = 32 };
  _Alignas(64) uint8_t data[PIECE * 512];
  uint16_t scales[PIECE * PANEL];
#define TILE(panels, tokens, ahead) \
  tile(data, scales, 0, 0, x, start, count, t, y + t * stride + r, stride, rows, panels, tokens, kind, ahead)
  for (int64_t r = from; r < to; r += PANEL) {
    const int rows = to - r < PANEL ? (int)(to - r) : PANEL;
    for (int64_t start = 0; start < x->groups; start += PIECE) {
      const int64_t count = x->groups - start < PIECE ? x->groups - start : PIECE;
      lay_panel(w, r, start, count, data, scales, kind);
      TILES(0, 0);
    }
  }
#undef TILE
}
#undef TILES

static void f32_rows(const Matrix *w, int64_t a, int64_t b, const Given *x, int64_t n, float *y, int64_t s) {
  float_rows(w, a, b, x, n, y, s, FLOAT32);
}
static __attribute__((noinline)) void flushing_rows(const Matrix *w, int64_t a, int64_t b, const Given *x, int64_t n,
                                                   float *y, int64_t s) {
  float_rows(w, a, b, x, n, y, s, BFLOAT16);
}
static void bf16_rows(const Matrix *w, int64_t a, int64_t b, const Given *x, int64_t n, float *y, int64_t s) {
  const uint32_t was = flush();  // a call of its own, for compilers move additions, but not past a call
  flushing_rows(w, a, b, x, n, y, s);
  unflush(was);
}
static void q8_rows(const Matrix *w, int64_t a, int64_t b, const Given *x, int64_t n, float *y, int64_t s) {
  if (w->scales) quantised_rows(w, a, b, x, n, y, s, Q8);
  else stored_rows(w, a, b, x, n, y, s, Q8);
}
static void q4_rows(const Matrix *w, int64_t a, int64_t b, const Given *x, int64_t n, float *y, int64_t s) {
  if (w->scales) quantised_rows(w, a, b, x, n, y, s, Q4);
  else stored_rows(w, a, b, x, n, y, s, Q4);
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

// bf16, to the nearest, halves to even: numbers below 2^-126 become zero, those beyond bf16's infinite, and NaN stays
static void round_brains(const float *x, int64_t n, uint16_t *y) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits, size;
    memcpy(&bits, x + i, 4);
    size = bits & 0x7fffffff;
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, top = bits >> 16;
    y[i] = (uint16_t)(size < 0x800000 ? top & 0x8000 : size > 0x7f800000 ? top | 0x40 : rounded);
  }
}

// The lines of a row of floats, `apart` lines from each other
static void lay_lines(const float *x, int64_t cols, int64_t kind, int64_t apart, char *to) {
  const int64_t each = kind == BFLOAT16 ? 32 : 16;
  for (int64_t k = 0; k < cols; k += each, to += apart * 64) {
    const int64_t n = cols - k < each ? cols - k : each;
    if (n < each) memset(to, 0, 64);
    if (kind == FLOAT32) memcpy(to, x + k, sizeof(float) * n);
    else round_brains(x + k, n, (uint16_t *)to);
  }
}

// Where the lines of token t begin among those of `tokens`; `apart` becomes how many lines lie between two of them
static char *line_place(char *start, int64_t t, int64_t tokens, int64_t lines, int64_t *apart) {
  int64_t first = t / TILE_TOKENS * TILE_TOKENS;
  if (first + TILE_TOKENS > tokens) first += (t - first) / 2 * 2;
  *apart = tile_of(tokens - first, TILE_TOKENS);
  return start + (first * lines + t - first) * 64;
}

static void normalise(const float *x, const float *weight, int64_t width, float eps, float *y) {
  V squares = zero();
  int64_t k = 0;
  for (; k + 16 <= width; k += 16) { V a = load(x + k); squares = fma16(a, a, squares); }
  if (k < width) { V a = load_some(x + k, (int)(width - k)); squares = fma16(a, a, squares); }
  float scale = 1.0f / sqrtf(sum(squares) / (float)width + eps);
  for (int64_t i = 0; i < width; i++) y[i] = x[i] * scale * weight[i];
}

static void turn(float *restrict x, const float *restrict cosines, const float *restrict sines, int64_t half_width) {
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
static int come(int own, int threads) {  // how many meetings those had who are not here yet
  const int last = atomic_load_explicit(&pool.flag[own].here, memory_order_relaxed);
  if (threads > 1) changed(&pool.flag[own].here, (int)(last + 1u));
  return last;
}
static void await_all(int last, int own, int threads) {
  for (int other = 0; other < threads; other++) if (other != own) awaited(&pool.flag[other].here, last, SHORT);
}
static void meet(int own, int threads) { await_all(come(own, threads), own, threads); }

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

INLINE void share(int64_t items, int own, int threads, int64_t *from, int64_t *to) {
  *from = items * own / threads;
  *to = items * (own + 1) / threads;
}

// Work dealt out while it goes on, for threads get on unequally well. Everybody begins with a share of its own, the same
// in every call, so that its cache holds it still; then it takes what others have not come to. `taken` counts what is gone
// of a share. Two deals one after the other have a meeting between them, so that two counts by turns are enough.
enum { CUTS = 4 };  // ours: of what is left of a share, one of so many parts is taken at a time
static struct { _Alignas(64) atomic_llong taken[2]; int64_t deals; } dealt[MOST];
typedef struct { int64_t items, least; int own, threads, passed, which; } Deal;  // `least` items at a time

static Deal deal(int64_t items, int64_t least, int own, int threads) {
  const int which = dealt[own].deals++ & 1;
  atomic_store_explicit(&dealt[own].taken[!which], 0, memory_order_relaxed);
  return (Deal){items, least, own, threads, 0, which};
}

// The next items for this thread; 0 where none are left
static int take(Deal *d, int64_t *from, int64_t *to) {
  for (; d->passed < d->threads; d->passed++) {
    const int whose = (d->own + d->passed) % d->threads;
    atomic_llong *taken = &dealt[whose].taken[d->which];
    int64_t first, last;
    share(d->items, whose, d->threads, &first, &last);
    for (long long gone = atomic_load_explicit(taken, memory_order_relaxed); first + gone < last;) {
      const int64_t left = last - first - gone, part = d->threads == 1 ? left : left / (CUTS * d->least) * d->least;
      const int64_t count = part > d->least ? part : left < d->least ? left : d->least;
      if (!atomic_compare_exchange_weak_explicit(taken, &gone, gone + count, memory_order_relaxed, memory_order_relaxed)) continue;
      *from = first + gone, *to = *from + count;
      return 1;
    }
  }
  return 0;
}

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
  for (int i = 0; i < threads; i++) {
    for (int which = 0; which < 2; which++) atomic_store_explicit(&dealt[i].taken[which], 0, memory_order_relaxed);
    dealt[i].deals = 0;
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

// ------------------------------------------------------------------------------------------------ a whole step

typedef struct {
  const Model *m;
  const Batch *b;
  int64_t widest, groups;  // of all inputs of products; at least the groups of ABREAST queries
  int64_t reach;           // scores of a query; a thread has room for ABREAST of them
  float *x, *h, *q, *k, *v, *a, *g, *u;  // [tokens, .]
  int8_t *ints;
  char *lines;  // where the ints are: a product's input is either
  int64_t line_row;  // bytes of a row of them
  float *scales, *scores;
  int32_t *totals;
  float *states;  // [tokens, width]
  float *last;    // where nobody wants all states: [wanted, width], and of each of these tokens:
  int32_t *slot, *place, *turn, *want;
} Step;

// The input of a product, as `kind` asks for it. With one token every thread makes its own copy; otherwise
// the tokens are shared out. `from` is where the numbers lie, `weight` the norm put on them first, if any.
static Given given_rows(const Step *s, float *from, int64_t cols, int64_t tokens, const float *weight, int64_t kind, int own,
                        int threads) {
  const int64_t alone = tokens == 1;
  float *h = weight ? s->h + (alone ? own : 0) * s->m->width : from;
  Given x = {h, cols, NULL, NULL, NULL, NULL, (cols + GROUP - 1) / GROUP};
  char *lines = kind < Q8 && (kind == BFLOAT16 || !alone) ? s->lines + (alone ? own : 0) * s->line_row : NULL;
  int8_t *q = s->ints + (alone ? own : 0) * s->groups * GROUP;
  float *scales = s->scales + (alone ? own : 0) * s->groups;
  int32_t *totals = s->totals + (alone ? own : 0) * s->groups;
  int64_t first = 0, last = 1;
  if (!alone) share(tokens, own, threads, &first, &last);
  for (int64_t t = first; t < last; t++) {
    if (weight) normalise(from + t * cols, weight, cols, (float)s->m->eps, h + t * cols);
    if (kind >= Q8) quantise(h + t * cols, cols, offset_of(kind), q + t * x.groups * GROUP, scales + t * x.groups, totals + t * x.groups);
    if (lines) {
      int64_t apart;
      char *to = line_place(lines, t, tokens, lines_of(cols, kind), &apart);
      lay_lines(h + t * cols, cols, kind, apart, to);
    }
  }
  x.lines = lines;
  if (kind >= Q8) x.q = q, x.scale = scales, x.total = totals;
  if (!alone) meet(own, threads);
  return x;
}
static Given prepared(const Step *s, float *from, int64_t cols, const float *weight, int64_t kind, int own, int threads) {
  return given_rows(s, from, cols, s->b->tokens, weight, kind, own, threads);
}

static int64_t panels_of(const Matrix *w) { return (w->rows + PANEL - 1) / PANEL; }

// Panels of a product, dealt out: of float rows times many tokens as many as fill tiles, of others two at a time
static Deal deal_panels(int64_t panels, int64_t kind, int64_t tokens, int own, int threads) {
  return deal(panels, tokens == 1 ? 1 : kind >= Q8 ? 2 : 3, own, threads);
}
static int take_rows(Deal *d, const Matrix *w, int64_t *from, int64_t *to) {
  if (!take(d, from, to)) return 0;
  *from *= PANEL;
  *to = *to * PANEL < w->rows ? *to * PANEL : w->rows;
  return 1;
}

typedef struct { const Matrix *w; float *y; } Product;

// Asks memory for the beginning of the thread's share of these products
static void ask_for(const Product *each, int count, int own, int threads) {
  enum { LINES = 512 };  // ours: about what memory gives while threads meet, norm and look at keys
  int64_t panels = 0, from, to;
  for (int i = 0; i < count; i++) panels += panels_of(each[i].w);
  share(panels, own, threads, &from, &to);
  for (; from >= panels_of(each->w) && count > 1; each++, count--) from -= panels_of(each->w), to -= panels_of(each->w);
  const Matrix *w = each->w;
  if (w->kind >= Q8 && !w->scales) return;
  const int64_t groups = (w->cols + GROUP - 1) / GROUP, last = to < panels_of(w) ? to : panels_of(w);
  const int64_t row = w->kind < Q8 ? row_bytes(w->cols, w->kind) : groups * (w->kind == Q8 ? 32 : 16);
  const char *start = (const char *)w->data + from * PANEL * row;
  const int64_t lines = (last - from) * PANEL * row / 64;
  for (int64_t i = 0; i < LINES && i < lines; i++) PREFETCH(start + i * 64);
}

// Meets, while memory works for what comes next. One token only: with more, products do not wait for memory.
static void meet_before(const Step *s, const Product *each, int count, int own, int threads) {
  const int last = come(own, threads);
  if (s->b->tokens == 1) ask_for(each, count, own, threads);
  await_all(last, own, threads);
}

// Several matrices times the same input, their rows dealt out in panels
static void products(const Product *each, int count, const Given *x, int64_t tokens, int own, int threads) {
  int64_t panels = 0, from, to;
  for (int i = 0; i < count; i++) panels += panels_of(each[i].w);
  for (Deal d = deal_panels(panels, each[0].w->kind, tokens, own, threads); take(&d, &from, &to);) {
    for (int64_t i = 0, start = 0, mine; i < count; start += mine, i++) {
      const Matrix *w = each[i].w;
      mine = panels_of(w);
      const int64_t a = from > start ? from - start : 0, b = to - start < mine ? to - start : mine;
      if (a < b) rows_of(w, a * PANEL, b * PANEL < w->rows ? b * PANEL : w->rows, x, tokens, each[i].y, w->rows);
    }
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
  } else if (!w->scales) {
    const uint8_t *block = blocks_of(w, row);
    for (int64_t i = 0; i < w->cols; i++) {
      uint16_t half_scale[PANEL] = {0};
      float wide[PANEL];
      const int64_t part = i % GROUP;
      if (i && !part) block += block_bytes(w->kind);
      memcpy(half_scale, block, 2);
      store(wide, halves(half_scale));
      const int value = w->kind == Q8 ? (int8_t)block[2 + part] : (block[2 + part % 16] >> (part < 16 ? 0 : 4) & 15) - 8;
      y[i] = (float)value * wide[0];
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

// What `count` tokens of one sequence, from `t` on, see with all heads that share key-value head `head`: four queries at a
// time while there are as many. `own` is the thread, whose room for scores it uses, and that for the input of products,
// which is not in use meanwhile.
static void look(const Step *s, int64_t l, int64_t t, int64_t count, int64_t head, int own) {
  const Model *m = s->m;
  const Batch *b = s->b;
  const int64_t e = m->head_width, shared = m->heads / m->kv_heads, all_of_them = count * shared;
  const Held held = held_by(b);
  const Pages pages = pages_of(m, b, l, t, head);
  const Asked asked = {s->ints + own * s->groups * GROUP, s->scales + own * s->groups, s->totals + own * s->groups};
  for (int64_t first = 0; first < all_of_them;) {
    const int together = first + ABREAST <= all_of_them ? ABREAST : 1;
    Queries a = {.reach = s->reach, .scores = s->scores + own * ABREAST * s->reach};
    for (int j = 0; j < together; j++, first++) {
      const int64_t token = t + first / shared, in_row = (token * m->heads + head * shared + first % shared) * e;
      const int32_t row = b->turn[token];
      turn(s->q + in_row, b->cosines + row * e, b->sines + row * e, e / 2);
      a.q[j] = s->q + in_row, a.out[j] = s->a + in_row, a.seen[j] = b->place[token] + 1;
    }
    answer(&a, together, &held, pages, e, asked);
  }
}

// One token: whoever takes a head makes its queries, keys and values too, so that none waits for another in between;
// but where a thread has few heads, one that is slow holds the others up for longer than a meeting takes.
static int heads_apart(const Step *s, int threads) {
  enum { FEW = 2 };  // ours: heads of a thread
  return s->b->tokens == 1 && s->m->kv_heads >= FEW * threads && s->m->head_width % PANEL == 0;
}
static void own_heads(const Step *s, int64_t l, const Given *x, int own, int threads) {
  const Model *m = s->m;
  const Layer *layer = m->layer + l;
  const int64_t shared = m->heads / m->kv_heads, e = m->head_width;
  int64_t from, to;
  for (Deal d = deal(m->kv_heads, 1, own, threads); take(&d, &from, &to);) {
    rows_of(&layer->query, from * shared * e, to * shared * e, x, 1, s->q, m->heads * e);
    rows_of(&layer->key, from * e, to * e, x, 1, s->k, m->kv_heads * e);
    rows_of(&layer->value, from * e, to * e, x, 1, s->v, m->kv_heads * e);
    for (int64_t head = from; head < to; head++) remember(s, l, 0, head), look(s, l, 0, 1, head, own);
  }
}

static void attention(const Step *s, int64_t l, int own, int threads) {
  const Model *m = s->m;
  const int32_t *slot = s->b->slot, *place = s->b->place;
  const int64_t tokens = s->b->tokens;
  int64_t unit = 0;
  // Later tokens see more: work is dealt out in turn, up to ABREAST tokens of a sequence at a time
  for (int64_t t = 0, end; t < tokens; t = end) {
    for (end = t + 1; end < t + ABREAST && end < tokens && slot[end] == slot[t] && place[end] > place[end - 1]; end++) {}
    for (int64_t head = 0; head < m->kv_heads; head++, unit++)
      if (unit % threads == own) look(s, l, t, end - t, head, own);
  }
}

static void remember_all(const Step *s, int64_t l, int own, int threads) {
  const int64_t heads = s->m->kv_heads, tokens = s->b->tokens;
  for (int64_t i = own; i < tokens * heads; i += threads) remember(s, l, i / heads, i % heads);
}

// x += w times `given`
static void added(const Step *s, const Matrix *w, const Given *given, int own, int threads) {
  const int64_t tokens = s->b->tokens, width = w->rows;
  int64_t from, to;
  for (Deal d = deal_panels(panels_of(w), w->kind, tokens, own, threads); take_rows(&d, w, &from, &to);) {
    rows_of(w, from, to, given, tokens, s->g, width);
    for (int64_t t = 0; t < tokens; t++) for (int64_t i = t * width + from; i < t * width + to; i++) s->x[i] += s->g[i];
  }
}

// u = silu(gate) * up
static void gated(const Step *s, const Layer *layer, const Given *given, int own, int threads) {
  const int64_t tokens = s->b->tokens, hidden = s->m->hidden;
  const Matrix *w = &layer->gate;
  int64_t from, to;
  for (Deal d = deal_panels(panels_of(w), w->kind, tokens, own, threads); take_rows(&d, w, &from, &to);) {
    rows_of(w, from, to, given, tokens, s->g, hidden);
    rows_of(&layer->up, from, to, given, tokens, s->u, hidden);
    for (int64_t t = 0; t < tokens; t++) gate(s->g + t * hidden + from, s->u + t * hidden + from, to - from);
  }
}

// The final norm, and the head for tokens that want it
static void finish(const Step *s, int own, int threads) {
  const Model *m = s->m;
  const Batch *b = s->b;
  const int64_t tokens = b->tokens, width = m->width;
  Given x;
  if (tokens == 1) {
    x = given_rows(s, s->x, width, 1, m->norm, m->head.kind, own, threads);
    if (own == 0) memcpy(s->states, x.x, sizeof(float) * width);
  } else {
    int64_t from, to;
    share(tokens, own, threads, &from, &to);
    for (int64_t t = from; t < to; t++) normalise(s->x + t * width, m->norm, width, (float)m->eps, s->states + t * width);
    if (!b->wanted) return;
    meet(own, threads);
    share(b->wanted, own, threads, &from, &to);
    for (int64_t i = from; i < to; i++) memcpy(s->x + i * width, s->states + b->want[i] * width, sizeof(float) * width);
    meet(own, threads);
    x = given_rows(s, s->x, width, b->wanted, NULL, m->head.kind, own, threads);
  }
  if (b->wanted) products((Product[]){{&m->head, b->logits}}, 1, &x, b->wanted, own, threads);
}

// The tokens `want` as a batch of their own, their inputs of the last layer as its numbers. Nobody has changed these yet.
static void narrow(const Step *s, Step *few, Batch *fewer, int own, int threads) {
  const Batch *b = s->b;
  const int64_t width = s->m->width;
  int64_t from, to;
  *fewer = *b, *few = *s;
  fewer->tokens = b->wanted, fewer->slot = s->slot, fewer->place = s->place, fewer->turn = s->turn, fewer->want = s->want;
  few->b = fewer, few->x = s->last;
  share(b->wanted, own, threads, &from, &to);
  for (int64_t i = from; i < to; i++) {
    const int32_t t = b->want[i];
    s->slot[i] = b->slot[t], s->place[i] = b->place[t], s->turn[i] = b->turn[t], s->want[i] = (int32_t)i;
    memcpy(s->last + i * width, s->x + t * width, sizeof(float) * width);
  }
}

static void step(void *given, int own, int threads) {
  const Step *s = given;
  const Model *m = s->m;
  const int64_t width = m->width;
  Step few;
  Batch fewer;
  int64_t from, to;
  share(s->b->tokens, own, threads, &from, &to);
  for (int64_t t = from; t < to; t++) embed(&m->embed, s->b->ids[t], s->x + t * width);
  meet(own, threads);
  for (int64_t l = 0; l < m->layers; l++) {
    const Layer *layer = m->layer + l;
    const Product each[] = {{&layer->key, s->k}, {&layer->value, s->v}, {&layer->query, s->q}};
    const Product out = {&layer->out, NULL}, forward = {&layer->gate, NULL}, down = {&layer->down, NULL}, head = {&m->head, NULL};
    const int wanted_alone = l == m->layers - 1 && !s->b->states && s->b->wanted < s->b->tokens;
    Given x = prepared(s, s->x, width, layer->before, layer->query.kind, own, threads);
    if (wanted_alone) {
      products(each, 2, &x, s->b->tokens, own, threads);
      narrow(s, &few, &fewer, own, threads);
      meet(own, threads);
      remember_all(s, l, own, threads);
      if (!s->b->wanted) return;
      s = &few;
      x = prepared(s, s->x, width, layer->before, layer->query.kind, own, threads);
      products(each + 2, 1, &x, s->b->tokens, own, threads);
      meet(own, threads);
      attention(s, l, own, threads);
    } else if (heads_apart(s, threads)) {
      own_heads(s, l, &x, own, threads);
    } else {
      products(each, 3, &x, s->b->tokens, own, threads);
      meet(own, threads);
      remember_all(s, l, own, threads);
      if (s->b->tokens > 1) meet(own, threads);  // one token's heads are seen by those who remembered them
      attention(s, l, own, threads);
    }
    meet_before(s, &out, 1, own, threads);
    x = prepared(s, s->a, m->heads * m->head_width, NULL, layer->out.kind, own, threads);
    added(s, &layer->out, &x, own, threads);
    meet_before(s, &forward, 1, own, threads);
    x = prepared(s, s->x, width, layer->after, layer->gate.kind, own, threads);
    gated(s, layer, &x, own, threads);
    meet_before(s, &down, 1, own, threads);
    x = prepared(s, s->u, m->hidden, NULL, layer->down.kind, own, threads);
    added(s, &layer->down, &x, own, threads);
    const Layer *next = layer + (l + 1 < m->layers);
    if (next == layer) meet_before(s, &head, 1, own, threads);
    else if (heads_apart(s, threads)) meet_before(s, &(Product){&next->query, s->q}, 1, own, threads);
    else meet_before(s, (Product[]){{&next->key, s->k}, {&next->value, s->v}, {&next->query, s->q}}, 3, own, threads);
  }
  finish(s, own, threads);
}

typedef struct {
  const Matrix *w;
  const float *x;
  int64_t tokens;
  float *y;
  int8_t *ints;
  float *scales;
  int32_t *totals;
  char *lines;
} Linear;

static void linear(void *given, int own, int threads) {
  const Linear *l = given;
  const int64_t kind = l->w->kind, cols = l->w->cols;
  Given x = {l->x, cols, l->lines, l->ints, l->scales, l->totals, (cols + GROUP - 1) / GROUP};
  int64_t from, to, apart;
  share(l->tokens, own, threads, &from, &to);
  for (int64_t t = from; t < to; t++) {
    if (kind >= Q8)
      quantise(l->x + t * cols, cols, offset_of(kind), l->ints + t * x.groups * GROUP, l->scales + t * x.groups, l->totals + t * x.groups);
    else if (l->lines) {
      char *place = line_place(l->lines, t, l->tokens, lines_of(cols, kind), &apart);
      lay_lines(l->x + t * cols, cols, kind, apart, place);
    }
  }
  if (kind >= Q8 || l->lines) meet(own, threads);
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
  Linear l = {w, x, tokens, y, NULL, NULL, NULL, NULL};
  const size_t groups = (size_t)tokens * ((w->cols + GROUP - 1) / GROUP);
  const size_t wanted = w->kind >= Q8 ? groups * (GROUP + 8) : (size_t)(tokens * lines_of(w->cols, w->kind) * 64);
  pthread_mutex_lock(&pool.linear);
  char *held = space(&linear_space, &linear_size, wanted);
  if (!held) {
    pthread_mutex_unlock(&pool.linear);
    return ENOMEM;
  }
  if (w->kind >= Q8) {
    l.ints = (int8_t *)held;
    l.scales = (float *)(held + groups * GROUP);
    l.totals = (int32_t *)(l.scales + groups);
  } else if (tokens > 1 || w->kind == BFLOAT16) l.lines = held;
  run(linear, &l, threads);
  pthread_mutex_unlock(&pool.linear);
  return 0;
}

static size_t lined(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Bytes of one number of a product's input, where it is int8 or is laid out in lines
static int64_t input_size(const Model *m) {
  int64_t most = m->head.kind == FLOAT32 ? 4 : m->head.kind == BFLOAT16 ? 2 : 1;
  for (int64_t l = 0; l < m->layers; l++) {
    const Layer *o = m->layer + l;
    const int64_t kinds[] = {o->query.kind, o->key.kind, o->value.kind, o->out.kind, o->gate.kind, o->up.kind, o->down.kind};
    for (int i = 0; i < 7; i++) if (kinds[i] < Q8 && most < 4) most = kinds[i] == FLOAT32 ? 4 : 2;
  }
  return most;
}

static int whole_step(const Model *m, const Batch *b) {
  Step s = {.m = m, .b = b, .reach = b->reach > 0 ? b->reach : b->room};
  const size_t n = (size_t)b->tokens, threads = b->threads < 1 ? 1 : (size_t)b->threads;
  const int64_t inner = m->heads * m->head_width;
  s.widest = m->width > m->hidden ? m->width : m->hidden;
  if (inner > s.widest) s.widest = inner;
  s.groups = (s.widest + GROUP - 1) / GROUP;
  const int64_t asked = ABREAST * ((m->head_width + GROUP - 1) / GROUP);
  if (asked > s.groups) s.groups = asked;
  const size_t copies = n > threads ? n : threads, outer = m->hidden > m->width ? m->hidden : m->width;
  const size_t few = b->states ? 0 : (size_t)b->wanted;
  const size_t sizes[] = {n * m->width, copies * m->width, n * inner, n * m->kv_heads * m->head_width,
                          n * m->kv_heads * m->head_width, n * inner, n * outer, n * m->hidden,
                          few * m->width, few * m->width, threads * ABREAST * s.reach, copies * s.groups};
  float **const places[] = {&s.x, &s.h, &s.q, &s.k, &s.v, &s.a, &s.g, &s.u, &s.last, &s.states, &s.scores, &s.scales};
  int32_t **const small[] = {&s.slot, &s.place, &s.turn, &s.want};
  enum { FLOAT_PARTS = sizeof sizes / sizeof *sizes };
  s.line_row = (int64_t)lined(s.groups * GROUP * input_size(m));
  size_t wanted = copies * s.line_row + lined(copies * s.groups * 4) + 4 * lined(few * 4);
  for (int i = 0; i < FLOAT_PARTS; i++) wanted += lined(sizes[i] * sizeof(float));
  char *held = space(&step_space, &step_size, wanted);
  if (!held) return ENOMEM;
  for (int i = 0; i < FLOAT_PARTS; i++) *places[i] = (float *)held, held += lined(sizes[i] * sizeof(float));
  for (int i = 0; i < 4; i++) *small[i] = (int32_t *)held, held += lined(few * 4);
  s.totals = (int32_t *)held, held += lined(copies * s.groups * 4);
  s.ints = (int8_t *)held, s.lines = held;
  if (b->states) s.states = b->states;
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
// `count` queries that share keys, in the order of what they see, over places that lie `page` by page, page i at table[i] *
// stride places: four at a time while there are as many. Query i sees seen[i] places; `scores` has room for four times the
// last of these, and `asked` for the groups of four queries.
void camelid_attend(const float *q, const Held *held, const int32_t *table, int64_t page, int64_t stride, int64_t count,
                    const int64_t *seen, int64_t width, const Asked *asked, float *scores, float *out) {
  for (int64_t first = 0; first < count;) {
    const int together = first + ABREAST <= count ? ABREAST : 1;
    Queries a = {.reach = seen[count - 1], .scores = scores};
    for (int j = 0; j < together; j++, first++)
      a.q[j] = q + first * width, a.out[j] = out + first * width, a.seen[j] = seen[first];
    answer(&a, together, held, (Pages){table, page, stride, 0}, width, *asked);
  }
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
void camelid_moved(Matrix *w, const void *to, const uint16_t *scales) {
  pthread_mutex_lock(&pool.step);
  pthread_mutex_lock(&pool.linear);
  w->data = to, w->scales = scales;
  pthread_mutex_unlock(&pool.linear);
  pthread_mutex_unlock(&pool.step);
}

typedef struct { const Matrix *from; uint8_t *data; uint16_t *scales; } Laying;

static void lay(void *given, int own, int threads) {
  const Laying *l = given;
  const Matrix *w = l->from;
  const int64_t groups = (w->cols + GROUP - 1) / GROUP, bytes = w->kind == Q8 ? 512 : 256;
  int64_t from, to;
  share(panels_of(w), own, threads, &from, &to);
  for (int64_t p = from; p < to; p++) {
    const int64_t first = p * PANEL, rows = w->rows - first < PANEL ? w->rows - first : PANEL;
    uint8_t *data = l->data + p * groups * bytes;
    uint16_t *scales = l->scales + p * groups * PANEL;
    if (!w->turned) coming(blocks_of(w, first), rows * groups * block_bytes(w->kind));
    if (w->kind == Q8) lay_panel(w, first, 0, groups, data, scales, Q8);
    else lay_panel(w, first, 0, groups, data, scales, Q4);
  }
}

// A matrix of GGUF's blocks as panels; on one thread beside calls that compute
void camelid_panels(const Matrix *w, uint8_t *data, uint16_t *scales, int64_t threads) {
  Laying l = {w, data, scales};
  if (threads < 2) lay(&l, 0, 1);
  else run(lay, &l, threads);
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
    Matrix m = {kind, ROWS, COLS, kind == FLOAT32 ? (void *)w : kind == BFLOAT16 ? (void *)brain : (void *)data, scales, 0};
    if (kind >= Q8 && camelid_pack(&(Matrix){FLOAT32, ROWS, COLS, w, NULL, 0}, kind, NULL, data, scales, 2) >= 0) return 1;
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
