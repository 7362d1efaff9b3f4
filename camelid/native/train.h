// What a training step does between its matrix products, forwards and backwards: norms, gates, attention, the softmax of
// the loss. One thread; few passes, each over what is still in the cache. Every sum has one order, whatever the call.
// Rows of arrays lie one after the other unless a stride is given. Scratch comes from the caller.

enum { BLOCK = 16 };  // queries that are worked on together; texts are filled up with zeros to a multiple of it

// ---------------------------------------------------------------------------------------------------------------- norm

// y = x / sqrt(mean(x ** 2) + eps) * weight, row by row; `scale` [rows] keeps the factor
void camelid_norm_forward(const float *x, const float *weight, int64_t rows, int64_t width, double eps, float *y,
                          float *scale) {
  for (int64_t r = 0; r < rows; r++, x += width, y += width) {
    const float s = (float)(1.0 / sqrt((double)dot(x, x, width) / (double)width + eps));
    scale[r] = s;
    for (int64_t k = 0; k < width; k++) y[k] = x[k] * s * weight[k];
  }
}

// The same again from the factor that was kept
void camelid_norm_again(const float *x, const float *weight, const float *scale, int64_t rows, int64_t width, float *y) {
  for (int64_t r = 0; r < rows; r++, x += width, y += width) {
    const float s = scale[r];
    for (int64_t k = 0; k < width; k++) y[k] = x[k] * s * weight[k];
  }
}

// With n = x s: to_x = s (g w - n mean(g w n)) + plus (where there is one), to_weight = sum of g n over rows, in sums of
// 64 rows. `room` is [2, width]
void camelid_norm_backward(const float *g, const float *x, const float *weight, const float *scale, const float *plus,
                           int64_t rows, int64_t width, float *to_x, float *to_weight, float *room) {
  float *restrict part = room, *restrict gw = room + width;
  for (int64_t k = 0; k < width; k++) to_weight[k] = part[k] = 0;
  for (int64_t r = 0; r < rows; r++, g += width, x += width, to_x += width) {
    const float s = scale[r];
    for (int64_t k = 0; k < width; k++) {
      const float n = x[k] * s;
      part[k] += g[k] * n;
      gw[k] = g[k] * weight[k];
    }
    const float mean = dot(gw, x, width) * s / (float)width;
    if (plus) {
      for (int64_t k = 0; k < width; k++) to_x[k] = s * (gw[k] - x[k] * s * mean) + plus[k];
      plus += width;
    } else
      for (int64_t k = 0; k < width; k++) to_x[k] = s * (gw[k] - x[k] * s * mean);
    if (r % 64 == 63 || r == rows - 1)
      for (int64_t k = 0; k < width; k++) to_weight[k] += part[k], part[k] = 0;
  }
}

// ---------------------------------------------------------------------------------------------------------------- gate

// inner [rows, hidden] = silu(left half) * right half of `both` [rows, 2 hidden]
void camelid_gate_forward(const float *both, int64_t rows, int64_t hidden, float *inner) {
  for (int64_t r = 0; r < rows; r++, both += 2 * hidden, inner += hidden) {
    const float *restrict gate = both, *restrict up = both + hidden;
    float *restrict out = inner;
    for (int64_t k = 0; k < hidden; k++) out[k] = gate[k] / (1.0f + exp1(-gate[k])) * up[k];
  }
}

// The gradient at `both` from that at inner, `g`; `inner` is made again beside it
void camelid_gate_backward(const float *g, const float *both, int64_t rows, int64_t hidden, float *to_both, float *inner) {
  enum { PART = 256 };
  for (int64_t r = 0; r < rows; r++, both += 2 * hidden, to_both += 2 * hidden, inner += hidden, g += hidden)
    for (int64_t first = 0; first < hidden; first += PART) {
      const int64_t n = hidden - first < PART ? hidden - first : PART;
      const float *restrict gate = both + first, *restrict up = gate + hidden, *restrict given = g + first;
      float *restrict to_gate = to_both + first, *restrict to_up = to_gate + hidden, *restrict out = inner + first;
      float part[PART];
      for (int64_t k = 0; k < n; k++) part[k] = 1.0f / (1.0f + exp1(-gate[k]));
      for (int64_t k = 0; k < n; k++) {
        const float silu = gate[k] * part[k];
        out[k] = silu * up[k];
        to_up[k] = given[k] * silu;
        to_gate[k] = given[k] * up[k] * (part[k] + silu * (1.0f - part[k]));
      }
    }
}

// ----------------------------------------------------------------------------------------------------------- attention

enum { ASKS = 8 };  // parts of a tile, before each of which some of the next one's lines are asked for: all at once would wait

// c [rows, 16 vectors] = or += a b, where a[i][k] stands at a[i * row + k * step] and row k of b at b + k * below. Where the
// next tile's a and c are told, their lines are on their way meanwhile; eight rows then
INLINE void small_tile(const float *a, int64_t row, int64_t step, const float *b, int64_t below, int64_t depth, float *c,
                 int64_t stride, int rows, int vectors, int adds, const float *next_a, const float *next_c) {
  V acc[8][3];
  const int parts = next_a ? ASKS : 1;
  for (int i = 0; i < rows; i++)
    for (int v = 0; v < vectors; v++) acc[i][v] = adds ? load(c + i * stride + 16 * v) : zero();
  int64_t k = 0;
  for (int part = 0; part < parts; part++) {
    const int64_t end = depth * (part + 1) / parts;
    if (next_a) {
      for (int v = 0; v < vectors; v++) __builtin_prefetch(next_c + part * stride + 16 * v, 1, 3);
      if (step == 1)
        for (int64_t at = 0; at < depth; at += 16) __builtin_prefetch(next_a + part * row + at, 0, 3);
      else
        for (int64_t at = k; at < end; at++) __builtin_prefetch(next_a + at * step, 0, 3);
    }
    for (; k < end; k++) {
      V other[3];
      for (int v = 0; v < vectors; v++) other[v] = load(b + k * below + 16 * v);
      for (int i = 0; i < rows; i++) {
        V one = all(a[i * row + k * step]);
        for (int v = 0; v < vectors; v++) acc[i][v] = fma16(one, other[v], acc[i][v]);
      }
    }
  }
  for (int i = 0; i < rows; i++)
    for (int v = 0; v < vectors; v++) store(c + i * stride + 16 * v, acc[i][v]);
}

// The same for rows in eights and columns in sixteens
INLINE void small_product(const float *a, int64_t row, int64_t step, const float *b, int64_t below, int64_t depth, float *c,
                    int64_t stride, int64_t rows, int64_t cols, int adds) {
  int64_t k = 0;
  for (int64_t next; k < cols; k = next) {
    const int64_t left = (cols - k) / 16, vectors = left == 4 ? 2 : left < 3 ? left : 3;
    next = k + 16 * vectors;
    for (int64_t i = 0; i < rows; i += 8) {
      const float *from = a + i * row;
      float *to = c + i * stride + k;
      if (vectors == 3) small_tile(from, row, step, b + k, below, depth, to, stride, 8, 3, adds, NULL, NULL);
      else if (vectors == 2) small_tile(from, row, step, b + k, below, depth, to, stride, 8, 2, adds, NULL, NULL);
      else small_tile(from, row, step, b + k, below, depth, to, stride, 8, 1, adds, NULL, NULL);
    }
  }
}

enum { DEEP = 128, WIDE = 48 };  // rows and columns of b that are worked on together: 24 KiB, laid end to end

// c [rows, cols] = or += a b for any strides: a[i][k] at a[i * row + k * step], b[k][j] at b[k * below + j * beside];
// cols in sixteens. Each number is one sum along k, in order, wherever it stands. `room` is [DEEP, WIDE]
void camelid_product(const float *a, int64_t row, int64_t step, const float *b, int64_t below, int64_t beside, float *c,
                     int64_t stride, int64_t rows, int64_t depth, int64_t cols, int64_t adds, float *room) {
  for (int64_t first = 0; first < depth; first += DEEP) {
    const int64_t deep = depth - first < DEEP ? depth - first : DEEP;
    const int more = adds || first;
    for (int64_t at = 0, next; at < cols; at = next) {
      const int64_t left = cols - at, n = left == 64 ? 32 : left < WIDE ? left : WIDE;
      next = at + n;
      const float *part = b + first * below + at * beside;
      if (beside == 1)
        for (int64_t k = 0; k < deep; k++) memcpy(room + k * n, part + k * below, (size_t)n * sizeof(float));
      else
        for (int64_t j = 0; j < n; j++)
          for (int64_t k = 0; k < deep; k++) room[k * n + j] = part[k * below + j * beside];
      int64_t i = 0;
      for (; i + 8 <= rows; i += 8) {
        const float *from = a + i * row + first * step;
        float *to = c + i * stride + at;
        const int64_t next_rows = i + 16 <= rows ? 8 : 0;
        const float *next_a = from + next_rows * row, *next_c = to + next_rows * stride;
        if (n == 48) small_tile(from, row, step, room, n, deep, to, stride, 8, 3, more, next_a, next_c);
        else if (n == 32) small_tile(from, row, step, room, n, deep, to, stride, 8, 2, more, next_a, next_c);
        else small_tile(from, row, step, room, n, deep, to, stride, 8, 1, more, next_a, next_c);
      }
      for (; i < rows; i++)
        for (int64_t j = 0; j < n; j += 16)
          small_tile(a + i * row + first * step, row, step, room + j, n, deep, c + i * stride + at + j, stride, 1, 1, more, NULL, NULL);
    }
  }
}

// Rows of one head out of [places, across], turned where there are `cosines` (and sines, [places, width] each, the first
// half of the sines negated), times `factor`, and filled up with zeros
static void head_in(const float *from, int64_t across, const float *cosines, const float *sines, float factor,
                    int64_t length, int64_t filled, int64_t width, float *to) {
  const int64_t half = width / 2;
  for (int64_t p = 0; p < length; p++, from += across, to += width) {
    if (cosines) {
      const float *c = cosines + p * width, *s = sines + p * width;
      for (int64_t k = 0; k < half; k++) to[k] = (from[k] * c[k] + from[k + half] * s[k]) * factor;
      for (int64_t k = half; k < width; k++) to[k] = (from[k] * c[k] + from[k - half] * s[k]) * factor;
    } else
      memcpy(to, from, (size_t)width * sizeof(float));
  }
  memset(to, 0, (size_t)((filled - length) * width) * sizeof(float));
}

// Back again: gradients, turned the other way where there are cosines
static void head_out(const float *from, const float *cosines, const float *sines, float factor, int64_t length,
                     int64_t width, float *to, int64_t across) {
  const int64_t half = width / 2;
  for (int64_t p = 0; p < length; p++, from += width, to += across) {
    if (cosines) {
      const float *c = cosines + p * width, *s = sines + p * width;
      for (int64_t k = 0; k < half; k++) to[k] = (from[k] * c[k] - from[k + half] * s[k]) * factor;
      for (int64_t k = half; k < width; k++) to[k] = (from[k] * c[k] - from[k - half] * s[k]) * factor;
    } else
      memcpy(to, from, (size_t)width * sizeof(float));
  }
}

static void transposed(const float *from, int64_t rows, int64_t cols, float *to) {
  for (int64_t i = 0; i < rows; i += 16)
    for (int64_t k = 0; k < cols; k++)
      for (int64_t j = 0; j < 16; j++) to[k * rows + i + j] = from[(i + j) * cols + k];
}

// Scores [BLOCK, seen] of queries first.. with the keys up to their own; what lies beyond is -infinity
static void scores_of(const float *q, const float *turned, int64_t filled, int64_t first, int64_t width, float *scores) {
  const int64_t seen = first + BLOCK;
  small_product(q + first * width, width, 1, turned, filled, width, scores, seen, BLOCK, seen, 0);
  for (int64_t i = 0; i < BLOCK; i++)
    for (int64_t j = i + 1; j < BLOCK; j++) scores[i * seen + first + j] = -INFINITY;
}

// How many texts of one length lie end to end, and how queries, keys and values of a place [H + 2 K heads of width E] do
typedef struct { int64_t texts, length, heads, kv_heads, width; } Texts;

int64_t camelid_attention_room(const Texts *t) {  // floats of scratch that either pass needs
  const int64_t filled = (t->length + BLOCK - 1) / BLOCK * BLOCK;
  return 10 * filled * t->width + 2 * BLOCK * filled + 2 * filled;
}

// out [places, H, E] of causal attention; `kept` [places, H, 2]: the largest score and one over the sum
void camelid_attention_forward(const Texts *t, const float *joint, const float *cosines, const float *sines, float *out,
                               float *kept, float *room) {
  const int64_t E = t->width, L = t->length, H = t->heads, K = t->kv_heads, across = (H + 2 * K) * E;
  const int64_t filled = (L + BLOCK - 1) / BLOCK * BLOCK, size = filled * E;
  float *q = room, *keys = q + size, *values = keys + size, *turned = values + size, *mixed_out = turned + size;
  float *scores = mixed_out + BLOCK * E;
  const float scale = 1.0f / sqrtf((float)E);
  for (int64_t n = 0; n < t->texts; n++, joint += L * across, cosines += L * E, sines += L * E, out += L * H * E, kept += L * H * 2)
    for (int64_t h = 0; h < H; h++) {
      if (h % (H / K) == 0) {
        const float *held = joint + (H + h / (H / K)) * E;
        head_in(held, across, cosines, sines, 1, L, filled, E, keys);
        head_in(held + K * E, across, NULL, NULL, 1, L, filled, E, values);
        transposed(keys, filled, E, turned);
      }
      head_in(joint + h * E, across, cosines, sines, scale, L, filled, E, q);
      for (int64_t first = 0; first < L; first += BLOCK) {
        const int64_t seen = first + BLOCK, real = L - first < BLOCK ? L - first : BLOCK;
        scores_of(q, turned, filled, first, E, scores);
        float factors[BLOCK] = {0};
        for (int64_t i = 0; i < real; i++) {
          float *row = scores + i * seen, most = largest(row, seen);
          for (int64_t j = 0; j < seen; j++) row[j] = exp1(row[j] - most);
          V acc = zero();
          for (int64_t j = 0; j < seen; j += 16) acc = add(acc, load(row + j));
          factors[i] = 1.0f / sum(acc);
          float *k = kept + ((first + i) * H + h) * 2;
          k[0] = most, k[1] = factors[i];
        }
        for (int64_t j = real * seen; j < BLOCK * seen; j++) scores[j] = 0;
        small_product(scores, seen, 1, values, E, seen, mixed_out, E, BLOCK, E, 0);
        for (int64_t i = 0; i < real; i++)
          for (int64_t k = 0; k < E; k++) out[((first + i) * H + h) * E + k] = mixed_out[i * E + k] * factors[i];
      }
    }
}

// The gradient at `joint` from that at out, `g`
void camelid_attention_backward(const Texts *t, const float *joint, const float *cosines, const float *sines,
                                const float *out, const float *kept, const float *g, float *to_joint, float *room) {
  const int64_t E = t->width, L = t->length, H = t->heads, K = t->kv_heads, across = (H + 2 * K) * E;
  const int64_t filled = (L + BLOCK - 1) / BLOCK * BLOCK, size = filled * E;
  float *q = room, *keys = q + size, *values = keys + size, *keys_turned = values + size;
  float *values_turned = keys_turned + size, *given = values_turned + size, *to_q = given + size, *to_keys = to_q + size;
  float *to_values = to_keys + size, *scores = to_values + size, *slopes = scores + BLOCK * filled;
  const float scale = 1.0f / sqrtf((float)E);
  for (int64_t n = 0; n < t->texts; n++) {
    for (int64_t h = 0; h < H; h++) {
      const int64_t shared = H / K, kv = h / shared;
      if (h % shared == 0) {
        head_in(joint + (H + kv) * E, across, cosines, sines, 1, L, filled, E, keys);
        head_in(joint + (H + K + kv) * E, across, NULL, NULL, 1, L, filled, E, values);
        transposed(keys, filled, E, keys_turned);
        transposed(values, filled, E, values_turned);
        memset(to_keys, 0, (size_t)(2 * size) * sizeof(float));
      }
      head_in(joint + h * E, across, cosines, sines, scale, L, filled, E, q);
      head_in(g + h * E, H * E, NULL, NULL, 1, L, filled, E, given);
      for (int64_t first = 0; first < L; first += BLOCK) {
        const int64_t seen = first + BLOCK, real = L - first < BLOCK ? L - first : BLOCK;
        scores_of(q, keys_turned, filled, first, E, scores);
        small_product(given + first * E, E, 1, values_turned, filled, E, slopes, seen, BLOCK, seen, 0);
        for (int64_t i = 0; i < real; i++) {
          const int64_t at = (first + i) * H + h;
          const float most = kept[2 * at], factor = kept[2 * at + 1], both = dot(given + (first + i) * E, out + at * E, E);
          float *restrict row = scores + i * seen, *restrict slope = slopes + i * seen;
          for (int64_t j = 0; j < seen; j++) {
            row[j] = exp1(row[j] - most) * factor;
            slope[j] = row[j] * (slope[j] - both);
          }
        }
        for (int64_t j = real * seen; j < BLOCK * seen; j++) scores[j] = slopes[j] = 0;
        small_product(slopes, seen, 1, keys, E, seen, to_q + first * E, E, BLOCK, E, 0);
        small_product(slopes, 1, seen, q + first * E, E, BLOCK, to_keys, E, seen, E, 1);
        small_product(scores, 1, seen, given + first * E, E, BLOCK, to_values, E, seen, E, 1);
      }
      head_out(to_q, cosines, sines, scale, L, E, to_joint + h * E, across);
      if (h % shared == shared - 1) {
        head_out(to_keys, cosines, sines, 1, L, E, to_joint + (H + kv) * E, across);
        head_out(to_values, NULL, NULL, 1, L, E, to_joint + (H + K + kv) * E, across);
      }
    }
    joint += L * across, to_joint += L * across, cosines += L * E, sines += L * E;
    out += L * H * E, g += L * H * E, kept += L * H * 2;
  }
}

// ---------------------------------------------------------------------------------------------------------------- loss

// Each row of logits [rows, vocab] becomes softmax - one hot, the gradient of its loss -log softmax[target]. Returns
// `rows`, or the first whose target is none of the vocabulary
int64_t camelid_loss(float *logits, const int64_t *targets, int64_t rows, int64_t vocab, float *losses) {
  for (int64_t r = 0; r < rows; r++, logits += vocab) {
    if (targets[r] < 0 || targets[r] >= vocab) return r;
    const float most = largest(logits, vocab), aim = logits[targets[r]];
    for (int64_t k = 0; k < vocab; k++) logits[k] = exp1(logits[k] - most);
    double total = 0;
    for (int64_t k = 0; k < vocab; k += 4096) {  // in parts: one chain of additions would lose digits
      const int64_t n = vocab - k < 4096 ? vocab - k : 4096;
      V acc = zero();
      int64_t i = 0;
      for (; i + 16 <= n; i += 16) acc = add(acc, load(logits + k + i));
      if (i < n) acc = add(acc, load_some(logits + k + i, (int)(n - i)));
      total += (double)sum(acc);
    }
    const float factor = (float)(1.0 / total);
    losses[r] = (float)(log(total) + (double)most - (double)aim);
    for (int64_t k = 0; k < vocab; k++) logits[k] *= factor;
    logits[targets[r]] -= 1.0f;
  }
  return rows;
}
