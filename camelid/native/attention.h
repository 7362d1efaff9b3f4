// Attention of one query over the keys and values of its sequence, which lie in pages.
//
// Scores, weights and sums are computed place after place, so that pages of any size, and one page that holds all, give
// the same bits. Where there are several pages, a page has a multiple of 16 places.

// Page i of a sequence begins table[i] * stride + start numbers into keys and values; it holds `page` places of E each
typedef struct { const int32_t *table; int64_t page, stride, start; } Pages;

INLINE int64_t place_of(Pages p, int64_t place, int64_t width) {
  return p.start + p.table[place / p.page] * p.stride + place % p.page * width;
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
    const float *page = values + pages.start + *number++ * pages.stride + column, *w = weights + first;
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
    const float *page = keys + pages.start + *number++ * pages.stride;
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
