// Attention of one query over the keys and values of its sequence, which lie in pages.
//
// Scores, weights and sums are computed place after place, so that pages of any size, and one page that holds all, give
// the same bits. Where there are several pages, a page has a multiple of 16 places.

// Page i of a sequence begins table[i] * stride + start places into keys and values; it holds `page` places
typedef struct { const int32_t *table; int64_t page, stride, start; } Pages;

// Keys and values of all pages. FLOATS: E numbers a place. INTS: int8 in groups of 32 numbers, the last filled up with
// zeros, with a scale each. 16 places of keys lie in a panel, as 16 rows of Q8 do: [places / 16, G, 8, 16, 4] bytes,
// k + 128, and scales [places / 16, G, 16]. Values lie place by place: [places, G, 32], and scales [places, G].
enum { FLOATS, INTS };
typedef struct { int64_t kind; void *keys, *values; float *key_scales, *value_scales; } Held;

INLINE int64_t place_of(Pages p, int64_t place) {
  return p.start + p.table[place / p.page] * p.stride + place % p.page;
}

INLINE float dot(const float *a, const float *b, int64_t n) {
  V acc = zero();
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) acc = fma16(load(a + k), load(b + k), acc);
  if (k < n) acc = fma16(load_some(a + k, (int)(n - k)), load_some(b + k, (int)(n - k)), acc);
  return sum(acc);
}

// The largest of n numbers, NaN left out
static float largest(const float *x, int64_t n) {
  float lanes[PANEL], most = -INFINITY;
  for (int i = 0; i < PANEL; i++) lanes[i] = -INFINITY;
  int64_t k = 0;
  for (; k + PANEL <= n; k += PANEL)
    for (int i = 0; i < PANEL; i++) lanes[i] = x[k + i] > lanes[i] ? x[k + i] : lanes[i];
  for (; k < n; k++) lanes[0] = x[k] > lanes[0] ? x[k] : lanes[0];
  for (int i = 0; i < PANEL; i++) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

// scores[i] -> e^(scores[i] - the largest); their sum comes back
static float soften(float *scores, int64_t n) {
  float most = largest(scores, n);
  for (int64_t i = 0; i < n; i++) scores[i] = exp1(scores[i] - most);
  V acc = zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) acc = add(acc, load(scores + i));
  if (i < n) acc = add(acc, load_some(scores + i, (int)(n - i)));
  return sum(acc);
}

// `vectors` of 16 columns of the values from `column` on, weighted and summed: in `ways` sums side by side, so that none
// waits for its last addition. The last vector has `last` columns.
INLINE void mixed(const float *values, Pages pages, int64_t column, int64_t width, int64_t seen, const float *weights,
                  V scale, float *out, int vectors, int ways, int last) {
  V acc[4][4];
  for (int way = 0; way < ways; way++) for (int i = 0; i < vectors; i++) acc[way][i] = zero();
  const int32_t *number = pages.table;
  for (int64_t first = 0; first < seen; first += pages.page) {
    const float *page = values + (pages.start + *number++ * pages.stride) * width + column, *w = weights + first;
    const int64_t n = seen - first < pages.page ? seen - first : pages.page;
    for (int64_t s = 0; s < n; s += ways) {
      for (int way = 0; way < ways && s + way < n; way++) {
        const float *v = page + (s + way) * width;
        V p = all(w[s + way]);
        for (int i = 0; i < vectors - 1; i++) acc[way][i] = fma16(p, load(v + 16 * i), acc[way][i]);
        const float *end = v + 16 * (vectors - 1);
        acc[way][vectors - 1] = fma16(p, last == PANEL ? load(end) : load_some(end, last), acc[way][vectors - 1]);
      }
    }
  }
  for (int i = 0; i < vectors; i++) {
    V total = acc[0][i];
    for (int way = 1; way < ways; way++) total = add(total, acc[way][i]);
    total = mul(total, scale);
    if (i < vectors - 1 || last == PANEL) store(out + 16 * i, total);
    else store_some(out + 16 * i, total, last);
  }
}

// scores[s] = q . key s * scale for the first n keys [n, width]
INLINE void compare(const float *q, const float *keys, int64_t n, int64_t width, float scale, float *scores) {
  int64_t s = 0;
  for (; s + 16 <= n; s += 16) {
    const float *near = keys + s * width;
    V acc[16];
    for (int i = 0; i < 16; i++) acc[i] = zero();
    int64_t k = 0;
    for (; k + 16 <= width; k += 16) {
      V a = load(q + k);
      for (int i = 0; i < 16; i++) acc[i] = fma16(a, load(near + i * width + k), acc[i]);
    }
    if (k < width) {
      V a = load_some(q + k, (int)(width - k));
      for (int i = 0; i < 16; i++) acc[i] = fma16(a, load_some(near + i * width + k, (int)(width - k)), acc[i]);
    }
    store(scores + s, mul(sums(acc), all(scale)));
  }
  for (; s < n; s++) scores[s] = dot(q, keys + s * width, width) * scale;
}

// One query head over the first `seen` places; `scores` has room for `seen`
static void attend(const float *q, const float *keys, const float *values, Pages pages, int64_t seen, int64_t width,
                   float *scores, float *out) {
  float scale = 1.0f / sqrtf((float)width);
  const int32_t *number = pages.table;
  for (int64_t s = 0; s < seen; s += pages.page) {
    const float *page = keys + (pages.start + *number++ * pages.stride) * width;
    compare(q, page, seen - s < pages.page ? seen - s : pages.page, width, scale, scores + s);
  }
  V w = all(1.0f / soften(scores, seen));
  int64_t k = 0;
  for (; k + 64 <= width; k += 64) mixed(values, pages, k, width, seen, scores, w, out + k, 4, 1, PANEL);
  int last = (int)(width - k) % PANEL ? (int)(width - k) % PANEL : PANEL;
  int vectors = (int)(width - k + PANEL - 1) / PANEL;
  if (vectors == 4) mixed(values, pages, k, width, seen, scores, w, out + k, 4, 1, last);
  if (vectors == 3) mixed(values, pages, k, width, seen, scores, w, out + k, 3, 1, last);
  if (vectors == 2) mixed(values, pages, k, width, seen, scores, w, out + k, 2, 2, last);
  if (vectors == 1) mixed(values, pages, k, width, seen, scores, w, out + k, 1, 4, last);
}

// ------------------------------------------------------------------------------------------------ keys and values in int8

// Rounds the key and the value of one place, `at` places into all of them
static void keep_ints(const Held *h, int64_t at, const float *key, const float *value, int64_t width) {
  const int64_t groups = (width + GROUP - 1) / GROUP, panel = at / PANEL, in = at % PANEL;
  for (int64_t g = 0; g < groups; g++) {
    const int64_t n = width - g * GROUP < GROUP ? width - g * GROUP : GROUP;
    uint8_t *to = (uint8_t *)h->keys + (panel * groups + g) * 512 + in * 4;
    int8_t rounded[GROUP];
    int32_t total;
    quantise(key + g * GROUP, n, 0, rounded, h->key_scales + (panel * groups + g) * PANEL + in, &total);
    for (int i = 0; i < 8; i++) {
      uint32_t part;
      memcpy(&part, rounded + 4 * i, 4);
      part ^= 0x80808080u;
      memcpy(to + 64 * i, &part, 4);
    }
    int8_t *values = (int8_t *)h->values + (at * groups + g) * GROUP;
    quantise(value + g * GROUP, n, 0, values, h->value_scales + at * groups + g, &total);
  }
}

// A query as int8; `total` is what makes up for keys stored as k + 128
typedef struct { int8_t *q; float *scale; int32_t *total; } Asked;

// scores[s] = q . key s * scale for the first n keys of panels that lie one after the other
INLINE void compare_ints(Asked a, const uint8_t *keys, const float *scales, int64_t n, int64_t groups, float scale,
                         float *scores) {
  for (int64_t s = 0; s < n; s += PANEL) {
    V total = zero();
    for (int64_t g = 0; g < groups; g++, keys += 512, scales += PANEL) {
      I acc = all_int(a.total[g]);
      for (int i = 0; i < 8; i++) acc = dot4(acc, load_bytes(keys + 64 * i), four(a.q + g * GROUP + 4 * i));
      total = fma16(floats(acc), mul(load(scales), all(a.scale[g])), total);
    }
    total = mul(total, all(scale));
    if (s + PANEL <= n) store(scores + s, total);
    else store_some(scores + s, total, (int)(n - s));
  }
}

// `count` groups of the values from group `first` on, weighted and summed, in `ways` sums side by side
INLINE void mixed_ints(const Held *h, Pages pages, int64_t first, int64_t width, int64_t seen, const float *weights, V scale,
                       float *out, int count, int ways) {
  const int64_t groups = (width + GROUP - 1) / GROUP;
  V acc[2][4];
  for (int way = 0; way < ways; way++) for (int i = 0; i < 2 * count; i++) acc[way][i] = zero();
  const int32_t *number = pages.table;
  for (int64_t from = 0; from < seen; from += pages.page) {
    const int64_t at = (pages.start + *number++ * pages.stride) * groups + first;
    const int8_t *page = (const int8_t *)h->values + at * GROUP;
    const float *scales = h->value_scales + at, *w = weights + from;
    const int64_t n = seen - from < pages.page ? seen - from : pages.page;
    for (int64_t s = 0; s < n; s += ways) {
      for (int way = 0; way < ways && s + way < n; way++) {
        for (int g = 0; g < count; g++) {
          const int8_t *v = page + ((s + way) * groups + g) * GROUP;
          V p = all(w[s + way] * scales[(s + way) * groups + g]);
          acc[way][2 * g] = fma16(p, small_ints(v), acc[way][2 * g]);
          acc[way][2 * g + 1] = fma16(p, small_ints(v + 16), acc[way][2 * g + 1]);
        }
      }
    }
  }
  for (int i = 0; i < 2 * count; i++) {
    const int64_t left = width - first * GROUP - 16 * i;
    V total = acc[0][i];
    for (int way = 1; way < ways; way++) total = add(total, acc[way][i]);
    total = mul(total, scale);
    if (left >= PANEL) store(out + 16 * i, total);
    else if (left > 0) store_some(out + 16 * i, total, (int)left);
  }
}

// As `attend`, over int8; `a` has room for the groups of a query
static void attend_ints(const float *q, const Held *h, Pages pages, int64_t seen, int64_t width, Asked a, float *scores,
                        float *out) {
  const int64_t groups = (width + GROUP - 1) / GROUP;
  const float scale = 1.0f / sqrtf((float)width);
  const int32_t *number = pages.table;
  quantise(q, width, 128, a.q, a.scale, a.total);
  for (int64_t s = 0; s < seen; s += pages.page) {
    const int64_t panel = (pages.start + *number++ * pages.stride) / PANEL, n = seen - s < pages.page ? seen - s : pages.page;
    compare_ints(a, (const uint8_t *)h->keys + panel * groups * 512, h->key_scales + panel * groups * PANEL, n, groups, scale,
                 scores + s);
  }
  V w = all(1.0f / soften(scores, seen));
  int64_t g = 0;
  for (; g + 2 <= groups; g += 2) mixed_ints(h, pages, g, width, seen, scores, w, out + g * GROUP, 2, 1);
  if (g < groups) mixed_ints(h, pages, g, width, seen, scores, w, out + g * GROUP, 1, 2);
}
