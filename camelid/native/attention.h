// Attention of queries over the keys and values of their sequence, which lie in pages.
//
// A score is one vector of 16 sums along the head, added in one tree; weights and sums are computed place after place. So
// pages of any size, one page that holds all, and one query alone or four at a time (heads that share a key, tokens that
// follow each other), which read each key and value once, all give the same bits. Where there are several pages, a page
// has a multiple of 16 places.

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
  V acc[4];
  for (int i = 0; i < 4; i++) acc[i] = all(-INFINITY);
  int64_t k = 0;
  for (; k + 4 * PANEL <= n; k += 4 * PANEL) for (int i = 0; i < 4; i++) acc[i] = larger(load(x + k + i * PANEL), acc[i]);
  for (; k + PANEL <= n; k += PANEL) acc[0] = larger(load(x + k), acc[0]);
  if (n >= PANEL) acc[1] = larger(load(x + n - PANEL), acc[1]);
  else for (; k < n; k++) most = x[k] > most ? x[k] : most;
  store(lanes, larger(larger(acc[0], acc[1]), larger(acc[2], acc[3])));
  for (int i = 8; i; i /= 2) for (int j = 0; j < i; j++) lanes[j] = lanes[j] > lanes[j + i] ? lanes[j] : lanes[j + i];
  return lanes[0] > most ? lanes[0] : most;
}

// scores[i] -> e^(scores[i] - the largest); their sum comes back
static float soften(float *scores, int64_t n) {
  const float most = largest(scores, n);
  V acc = zero();
  int64_t i = 0;
  for (; i + PANEL <= n; i += PANEL) {
    for (int j = 0; j < PANEL; j++) scores[i + j] = exp1(scores[i + j] - most);
    acc = add(acc, load(scores + i));
  }
  if (i < n) {
    float rest[PANEL];
    store(rest, load_some(scores + i, (int)(n - i)));
    for (int j = 0; j < PANEL; j++) rest[j] = exp1(rest[j] - most);
    store_some(scores + i, load(rest), (int)(n - i));
    acc = add(acc, load_some(rest, (int)(n - i)));
  }
  return sum(acc);
}

// Queries side by side, in the order of what they see: query j sees `seen[j]` places, its scores begin j * `reach` into
// all, and what comes out of it lies at out[j]
enum { ABREAST = 4 };
typedef struct { const float *q[ABREAST]; float *out[ABREAST]; int64_t seen[ABREAST], reach; float *scores; } Queries;

// `vectors` of 16 columns of the values from `column` on, weighted and summed for `count` queries: in `ways` sums side by
// side, so that none waits for its last addition. The last vector has `last` columns.
INLINE void mixed(const Queries *a, const float *values, Pages pages, int64_t column, int64_t width, const V *scale, int count,
                  int vectors, int ways, int last) {
  V acc[ABREAST][4][4];
  for (int j = 0; j < count; j++)
    for (int way = 0; way < ways; way++) for (int i = 0; i < vectors; i++) acc[j][way][i] = zero();
  const int32_t *number = pages.table;
  const int64_t all_see = a->seen[0], seen = a->seen[count - 1];
  for (int64_t first = 0; first < seen; first += pages.page) {
    const float *page = values + (pages.start + *number++ * pages.stride) * width + column, *w = a->scores + first;
    const int64_t n = seen - first < pages.page ? seen - first : pages.page;
    const int64_t whole = all_see - first < n ? all_see - first : n;
#define MIX(place, way, query)                                                                                             \
  do {                                                                                                                     \
    const float *v = page + (place) * width, *end = v + 16 * (vectors - 1);                                                \
    V near[4];                                                                                                             \
    for (int i = 0; i < vectors - 1; i++) near[i] = kept(load(v + 16 * i));                                                \
    near[vectors - 1] = kept(last == PANEL ? load(end) : load_some(end, last));                                            \
    for (int j = 0; j < count; j++) {                                                                                      \
      if (!(query)) continue;                                                                                              \
      V p = all(w[j * a->reach + (place)]);                                                                                \
      for (int i = 0; i < vectors; i++) acc[j][way][i] = fma16(p, near[i], acc[j][way][i]);                                \
    }                                                                                                                      \
  } while (0)
    int64_t s = 0;
    for (; s + ways <= whole; s += ways) for (int way = 0; way < ways; way++) MIX(s + way, way, 1);
    for (; s < n; s += ways)
      for (int way = 0; way < ways && s + way < n; way++) MIX(s + way, way, first + s + way < a->seen[j]);
#undef MIX
  }
  for (int j = 0; j < count; j++) {
    float *out = a->out[j] + column;
    for (int i = 0; i < vectors; i++) {
      V total = acc[j][0][i];
      for (int way = 1; way < ways; way++) total = add(total, acc[j][way][i]);
      total = mul(total, scale[j]);
      if (i < vectors - 1 || last == PANEL) store(out + 16 * i, total);
      else store_some(out + 16 * i, total, last);
    }
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

// The same for four queries, with four keys at a time; `scores` of query j begin at j * reach
INLINE void compare_four(const float *const *q, const float *keys, int64_t n, int64_t width, float scale, int64_t reach,
                         float *scores) {
  int64_t s = 0;
  for (; s + 4 <= n; s += 4) {
    const float *near = keys + s * width;
    V acc[16];
    for (int i = 0; i < 16; i++) acc[i] = zero();
    int64_t k = 0;
    for (; k + 16 <= width; k += 16) {
      V b[4];
      for (int i = 0; i < 4; i++) b[i] = kept(load(near + i * width + k));
      for (int j = 0; j < 4; j++) {
        V a = kept(load(q[j] + k));
        for (int i = 0; i < 4; i++) acc[4 * j + i] = fma16(a, b[i], acc[4 * j + i]);
      }
    }
    if (k < width) {
      const int rest = (int)(width - k);
      for (int j = 0; j < 4; j++)
        for (int i = 0; i < 4; i++)
          acc[4 * j + i] = fma16(load_some(q[j] + k, rest), load_some(near + i * width + k, rest), acc[4 * j + i]);
    }
    float found[16];
    store(found, mul(sums(acc), all(scale)));
    for (int j = 0; j < 4; j++) memcpy(scores + j * reach + s, found + 4 * j, 4 * sizeof(float));
  }
  for (; s < n; s++) for (int j = 0; j < 4; j++) scores[j * reach + s] = dot(q[j], keys + s * width, width) * scale;
}

// `count` queries: one, or ABREAST
INLINE void attend(const Queries *a, const float *keys, const float *values, Pages pages, int64_t width, int count) {
  const float scale = 1.0f / sqrtf((float)width);
  const int32_t *number = pages.table;
  const int64_t seen = a->seen[count - 1];
  for (int64_t s = 0; s < seen; s += pages.page) {
    const float *page = keys + (pages.start + *number++ * pages.stride) * width;
    const int64_t n = seen - s < pages.page ? seen - s : pages.page;
    if (count == 1) compare(a->q[0], page, n, width, scale, a->scores + s);
    else compare_four(a->q, page, n, width, scale, a->reach, a->scores + s);
  }
  V w[ABREAST];
  for (int j = 0; j < count; j++) w[j] = all(1.0f / soften(a->scores + j * a->reach, a->seen[j]));
  int64_t k = 0;
  for (; k + 64 <= width; k += 64) mixed(a, values, pages, k, width, w, count, 4, 1, PANEL);
  const int last = (int)(width - k) % PANEL ? (int)(width - k) % PANEL : PANEL;
  const int vectors = (int)(width - k + PANEL - 1) / PANEL;
  if (vectors == 4) mixed(a, values, pages, k, width, w, count, 4, 1, last);
  if (vectors == 3) mixed(a, values, pages, k, width, w, count, 3, 1, last);
  if (vectors == 2 && last == PANEL) mixed(a, values, pages, k, width, w, count, 2, 2, PANEL);
  else if (vectors == 2) mixed(a, values, pages, k, width, w, count, 2, 2, last);
  if (vectors == 1) mixed(a, values, pages, k, width, w, count, 1, 4, last);
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

// Queries as int8, one after the other; `total` is what makes up for keys stored as k + 128
typedef struct { int8_t *q; float *scale; int32_t *total; } Asked;

// The scores of `count` queries and the first n keys of panels that lie one after the other
INLINE void compare_ints(Asked a, const uint8_t *keys, const float *scales, int64_t n, int64_t groups, float scale,
                         int64_t reach, float *scores, int count) {
  for (int64_t s = 0; s < n; s += PANEL) {
    V total[ABREAST];
    for (int j = 0; j < count; j++) total[j] = zero();
    for (int64_t g = 0; g < groups; g++, keys += 512, scales += PANEL) {
      I acc[ABREAST];
      for (int j = 0; j < count; j++) acc[j] = all_int(a.total[j * groups + g]);
      for (int i = 0; i < 8; i++) {
        W near = load_bytes(keys + 64 * i);
        for (int j = 0; j < count; j++) acc[j] = dot4(acc[j], near, four(a.q + (j * groups + g) * GROUP + 4 * i));
      }
      V near = load(scales);
      for (int j = 0; j < count; j++)
        total[j] = fma16(floats(acc[j]), mul(near, all(a.scale[j * groups + g])), total[j]);
    }
    for (int j = 0; j < count; j++) {
      V found = mul(total[j], all(scale));
      if (s + PANEL <= n) store(scores + j * reach + s, found);
      else store_some(scores + j * reach + s, found, (int)(n - s));
    }
  }
}

// `wide` groups of the values from group `first` on, weighted and summed for `count` queries, in `ways` sums side by side
INLINE void mixed_ints(const Queries *a, const Held *h, Pages pages, int64_t first, int64_t width, const V *scale, int count,
                       int wide, int ways) {
  const int64_t groups = (width + GROUP - 1) / GROUP, all_see = a->seen[0], seen = a->seen[count - 1];
  V acc[ABREAST][2][4];
  for (int j = 0; j < count; j++)
    for (int way = 0; way < ways; way++) for (int i = 0; i < 2 * wide; i++) acc[j][way][i] = zero();
  const int32_t *number = pages.table;
  for (int64_t from = 0; from < seen; from += pages.page) {
    const int64_t at = (pages.start + *number++ * pages.stride) * groups + first;
    const int8_t *page = (const int8_t *)h->values + at * GROUP;
    const float *scales = h->value_scales + at, *w = a->scores + from;
    const int64_t n = seen - from < pages.page ? seen - from : pages.page;
    const int64_t whole = all_see - from < n ? all_see - from : n;
#define MIX(place, way, query)                                                                                             \
  for (int g = 0; g < wide; g++) {                                                                                         \
    const int8_t *v = page + ((place) * groups + g) * GROUP;                                                               \
    const float own = scales[(place) * groups + g];                                                                        \
    V low_half = kept(small_ints(v)), high_half = kept(small_ints(v + 16));                                                \
    for (int j = 0; j < count; j++) {                                                                                      \
      if (!(query)) continue;                                                                                              \
      V p = all(w[j * a->reach + (place)] * own);                                                                          \
      acc[j][way][2 * g] = fma16(p, low_half, acc[j][way][2 * g]);                                                         \
      acc[j][way][2 * g + 1] = fma16(p, high_half, acc[j][way][2 * g + 1]);                                                \
    }                                                                                                                      \
  }
    int64_t s = 0;
    for (; s + ways <= whole; s += ways) for (int way = 0; way < ways; way++) MIX(s + way, way, 1)
    for (; s < n; s += ways)
      for (int way = 0; way < ways && s + way < n; way++) MIX(s + way, way, from + s + way < a->seen[j])
#undef MIX
  }
  for (int j = 0; j < count; j++) {
    for (int i = 0; i < 2 * wide; i++) {
      const int64_t left = width - first * GROUP - 16 * i;
      float *out = a->out[j] + first * GROUP + 16 * i;
      V total = acc[j][0][i];
      for (int way = 1; way < ways; way++) total = add(total, acc[j][way][i]);
      total = mul(total, scale[j]);
      if (left >= PANEL) store(out, total);
      else if (left > 0) store_some(out, total, (int)left);
    }
  }
}

// As `attend`, over int8; `asked` has room for the groups of `count` queries
INLINE void attend_ints(const Queries *a, const Held *h, Pages pages, int64_t width, Asked asked, int count) {
  const int64_t groups = (width + GROUP - 1) / GROUP, seen = a->seen[count - 1];
  const float scale = 1.0f / sqrtf((float)width);
  const int32_t *number = pages.table;
  for (int j = 0; j < count; j++)
    quantise(a->q[j], width, 128, asked.q + j * groups * GROUP, asked.scale + j * groups, asked.total + j * groups);
  for (int64_t s = 0; s < seen; s += pages.page) {
    const int64_t panel = (pages.start + *number++ * pages.stride) / PANEL, n = seen - s < pages.page ? seen - s : pages.page;
    compare_ints(asked, (const uint8_t *)h->keys + panel * groups * 512, h->key_scales + panel * groups * PANEL, n, groups,
                 scale, a->reach, a->scores + s, count);
  }
  V w[ABREAST];
  for (int j = 0; j < count; j++) w[j] = all(1.0f / soften(a->scores + j * a->reach, a->seen[j]));
  int64_t g = 0;
  for (; g + 2 <= groups; g += 2) mixed_ints(a, h, pages, g, width, w, count, 2, 1);
  if (g < groups) mixed_ints(a, h, pages, g, width, w, count, 1, 2);
}

// What `count` queries, one or ABREAST, see of one sequence
static void answer(const Queries *a, int count, const Held *h, Pages pages, int64_t width, Asked asked) {
  if (h->kind == INTS && count == 1) attend_ints(a, h, pages, width, asked, 1);
  else if (h->kind == INTS) attend_ints(a, h, pages, width, asked, ABREAST);
  else if (count == 1) attend(a, h->keys, h->values, pages, width, 1);
  else attend(a, h->keys, h->values, pages, width, ABREAST);
}
