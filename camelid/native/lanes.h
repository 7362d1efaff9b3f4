// Sixteen numbers at a time. Three spellings of the same arithmetic: AVX-512 with VNNI (and BF16, where there is), AVX2
// with FMA, plain C.
// V: 16 float32.  I: 16 int32.  W: 64 bytes, four for each of 16 lanes.
// `larger` is b where a is NaN. `kept` keeps a vector in a register, where a compiler would read it from memory for every use.
// Every sum runs lane by lane in the order of the input, and `sum` adds lanes in one fixed tree, so that a result does
// not depend on the tile it was computed in. AVX-512 and AVX2 give the same bits; plain C rounds products as well.
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define PREFETCH(p) __builtin_prefetch(p, 0, 2)  // into the second cache; any address may be asked for

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#ifdef __AVX512BF16__
#define LANES "AVX-512 VNNI BF16"
#else
#define LANES "AVX-512 VNNI"
#endif
typedef __m512 V;
typedef __m512i I;
typedef __m512i W;
INLINE V zero(void) { return _mm512_setzero_ps(); }
INLINE V all(float x) { return _mm512_set1_ps(x); }
INLINE V load(const float *p) { return _mm512_loadu_ps(p); }
INLINE V load_some(const float *p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void store(float *p, V x) { _mm512_storeu_ps(p, x); }
INLINE void store_some(float *p, V x, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x); }
INLINE V kept(V x) { __asm__("" : "+v"(x)); return x; }
INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
INLINE V larger(V a, V b) { return _mm512_max_ps(a, b); }
INLINE V fma16(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
INLINE V halves(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE float sum(V x) {
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
// One step of the tree of `sum`, of two vectors at once: lanes whose number has the bit `by` hold b's sums, others a's
INLINE V fold(V a, V b, int by) {
  const __m512i fours = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
  const __m512i ones = _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
  if (by == 8) return _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
  if (by == 4) return _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, a, b), _mm512_permutex2var_ps(a, fours, b));
  if (by == 2) return _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
  return _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, a, b), _mm512_permutex2var_ps(a, ones, b));
}
// The sums of 16 vectors, each by the tree of `sum`
INLINE V sums(const V *x) {
  V y[8], z[4], r[2];
  for (int i = 0; i < 8; i++) y[i] = fold(x[i], x[i + 8], 8);
  for (int i = 0; i < 4; i++) z[i] = fold(y[i], y[i + 4], 4);
  for (int i = 0; i < 2; i++) r[i] = fold(z[i], z[i + 2], 2);
  return fold(r[0], r[1], 1);
}
// The same of 8; those of vectors 2 i and 2 i + 1 stand in lanes 4 i and 4 i + 1
INLINE V eight_sums(const V *x) {
  V y[4], z[2];
  for (int i = 0; i < 4; i++) y[i] = fold(x[i], x[i + 4], 8);
  for (int i = 0; i < 2; i++) z[i] = fold(y[i], y[i + 2], 4);
  return fold(fold(z[0], z[0], 2), fold(z[1], z[1], 2), 1);
}
INLINE I all_int(int32_t x) { return _mm512_set1_epi32(x); }
INLINE V floats(I x) { return _mm512_cvtepi32_ps(x); }
INLINE V small_ints(const int8_t *p) { return floats(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }
INLINE W load_bytes(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE W load_some_bytes(const uint8_t *p, int n) { return _mm512_maskz_loadu_epi8(((__mmask64)1 << n) - 1, p); }
INLINE V odd(W w) { return _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int32_t)0xffff0000))); }
INLINE V even(W w) { return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)); }
INLINE W low(W w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
INLINE W high(W w) { return _mm512_and_si512(_mm512_srli_epi16(w, 4), _mm512_set1_epi8(15)); }
// 16 rows of `count` times 4 bytes, 8 or 4, as `count` vectors of the first four bytes of all, the next four, ..., each number
// exclusive-or'd with `flip`
INLINE void across(const uint8_t *const *row, int count, uint32_t flip, uint8_t *to) {
  __m512i x[8], y[8];
  for (int i = 0; i < count; i++) {
    if (count == 8) {
      const int first = i / 4 * 8 + i % 4;
      __m256i a = _mm256_loadu_si256((const __m256i *)row[first]), b = _mm256_loadu_si256((const __m256i *)row[first + 4]);
      x[i] = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
    } else {
      x[i] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)row[i]));
      x[i] = _mm512_inserti32x4(x[i], _mm_loadu_si128((const __m128i *)row[i + 4]), 1);
      x[i] = _mm512_inserti32x4(x[i], _mm_loadu_si128((const __m128i *)row[i + 8]), 2);
      x[i] = _mm512_inserti32x4(x[i], _mm_loadu_si128((const __m128i *)row[i + 12]), 3);
    }
  }
  for (int i = 0; i < count; i += 4) {  // four by four within each part of 16 bytes
    __m512i a = _mm512_unpacklo_epi32(x[i], x[i + 1]), b = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    __m512i c = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]), d = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
    y[i] = _mm512_unpacklo_epi64(a, c), y[i + 1] = _mm512_unpackhi_epi64(a, c);
    y[i + 2] = _mm512_unpacklo_epi64(b, d), y[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  for (int i = 0; i < count; i++) {
    __m512i all_rows = y[i];
    if (count == 8 && i < 4) all_rows = _mm512_shuffle_i32x4(y[i], y[i + 4], 0x88);
    if (count == 8 && i >= 4) all_rows = _mm512_shuffle_i32x4(y[i - 4], y[i], 0xDD);
    _mm512_storeu_si512(to + 64 * i, _mm512_xor_si512(all_rows, _mm512_set1_epi32((int32_t)flip)));
  }
}
INLINE I dot4(I acc, W w, int32_t x) { return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x)); }
INLINE I dot4_small(I acc, W w, int32_t x) { return dot4(acc, w, x); }

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define LANES "AVX2"
typedef struct { __m256 a, b; } V;
typedef struct { __m256i a, b; } I;
typedef I W;
INLINE V zero(void) { return (V){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE V all(float x) { return (V){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE V load(const float *p) { return (V){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE V load_some(const float *p, int n) {
  float t[16] = {0};
  memcpy(t, p, sizeof(float) * n);
  return load(t);
}
INLINE void store(float *p, V x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
INLINE void store_some(float *p, V x, int n) {
  float t[16];
  store(t, x);
  memcpy(p, t, sizeof(float) * n);
}
INLINE V kept(V x) { return x; }
INLINE V add(V a, V b) { return (V){_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)}; }
INLINE V mul(V a, V b) { return (V){_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)}; }
INLINE V larger(V a, V b) { return (V){_mm256_max_ps(a.a, b.a), _mm256_max_ps(a.b, b.b)}; }
INLINE V fma16(V a, V b, V c) { return (V){_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)}; }
INLINE V halves(const uint16_t *p) {
  return (V){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
INLINE float sum(V x) {
  __m256 h = _mm256_add_ps(x.a, x.b);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE I all_int(int32_t x) { return (I){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE V floats(I x) { return (V){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
INLINE V small_ints(const int8_t *p) {
  return floats((I){_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                    _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))});
}
INLINE W load_bytes(const uint8_t *p) {
  return (W){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
INLINE W load_some_bytes(const uint8_t *p, int n) {
  uint8_t t[64] = {0};
  memcpy(t, p, n);
  return load_bytes(t);
}
INLINE __m256 odd8(__m256i w) { return _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int32_t)0xffff0000))); }
INLINE V odd(W w) { return (V){odd8(w.a), odd8(w.b)}; }
INLINE V even(W w) { return (V){_mm256_castsi256_ps(_mm256_slli_epi32(w.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(w.b, 16))}; }
INLINE __m256i nibble(__m256i w) { return _mm256_and_si256(w, _mm256_set1_epi8(15)); }
INLINE W low(W w) { return (W){nibble(w.a), nibble(w.b)}; }
INLINE W high(W w) { return (W){nibble(_mm256_srli_epi16(w.a, 4)), nibble(_mm256_srli_epi16(w.b, 4))}; }
INLINE __m256i pairs(__m256i w, __m256i x) {  // w up to 127: the sums of two products fit 16 bits
  return _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1));
}
INLINE __m256i dot4_half(__m256i acc, __m256i w, __m256i x) {
  __m256i top = _mm256_and_si256(_mm256_srli_epi16(w, 7), _mm256_set1_epi8(1));
  acc = _mm256_add_epi32(acc, pairs(_mm256_and_si256(w, _mm256_set1_epi8(127)), x));
  return _mm256_add_epi32(acc, _mm256_slli_epi32(pairs(top, x), 7));
}
INLINE I dot4(I acc, W w, int32_t x) {
  __m256i wide = _mm256_set1_epi32(x);
  return (I){dot4_half(acc.a, w.a, wide), dot4_half(acc.b, w.b, wide)};
}
INLINE I dot4_small(I acc, W w, int32_t x) {
  __m256i wide = _mm256_set1_epi32(x);
  return (I){_mm256_add_epi32(acc.a, pairs(w.a, wide)), _mm256_add_epi32(acc.b, pairs(w.b, wide))};
}

#else
#define LANES "plain C"
#define EACH for (int i = 0; i < 16; i++)
typedef struct { float v[16]; } V;
typedef struct { int32_t v[16]; } I;
typedef struct { uint8_t v[64]; } W;
INLINE V all(float x) { V r; EACH r.v[i] = x; return r; }
INLINE V zero(void) { return all(0); }
INLINE V load(const float *p) { V r; memcpy(&r, p, sizeof r); return r; }
INLINE V load_some(const float *p, int n) { V r = all(0); memcpy(&r, p, sizeof(float) * n); return r; }
INLINE void store(float *p, V x) { memcpy(p, &x, sizeof x); }
INLINE void store_some(float *p, V x, int n) { memcpy(p, &x, sizeof(float) * n); }
INLINE V kept(V x) { return x; }
INLINE V add(V a, V b) { EACH a.v[i] += b.v[i]; return a; }
INLINE V mul(V a, V b) { EACH a.v[i] *= b.v[i]; return a; }
INLINE V larger(V a, V b) { EACH b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return b; }
INLINE V fma16(V a, V b, V c) { EACH c.v[i] += a.v[i] * b.v[i]; return c; }
INLINE float half(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023, bits;
  if (exponent == 0) {
    float small = (float)fraction * 0x1p-24f;
    memcpy(&bits, &small, 4);
    bits |= sign;
  } else bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float r;
  memcpy(&r, &bits, 4);
  return r;
}
INLINE V halves(const uint16_t *p) { V r; EACH r.v[i] = half(p[i]); return r; }
INLINE float sum(V x) {
  for (int n = 8; n; n /= 2) for (int i = 0; i < n; i++) x.v[i] += x.v[i + n];
  return x.v[0];
}
INLINE I all_int(int32_t x) { I r; EACH r.v[i] = x; return r; }
INLINE V floats(I x) { V r; EACH r.v[i] = (float)x.v[i]; return r; }
INLINE V small_ints(const int8_t *p) { V r; EACH r.v[i] = (float)p[i]; return r; }
INLINE W load_bytes(const uint8_t *p) { W r; memcpy(&r, p, 64); return r; }
INLINE W load_some_bytes(const uint8_t *p, int n) { W r = {{0}}; memcpy(&r, p, n); return r; }
INLINE V odd(W w) { uint32_t b[16]; V r; memcpy(b, &w, 64); EACH b[i] &= 0xffff0000; memcpy(&r, b, 64); return r; }
INLINE V even(W w) { uint32_t b[16]; V r; memcpy(b, &w, 64); EACH b[i] <<= 16; memcpy(&r, b, 64); return r; }
INLINE W low(W w) { for (int i = 0; i < 64; i++) w.v[i] &= 15; return w; }
INLINE W high(W w) { for (int i = 0; i < 64; i++) w.v[i] >>= 4; return w; }
INLINE I dot4(I acc, W w, int32_t x) {
  int8_t b[4];
  memcpy(b, &x, 4);
  EACH for (int j = 0; j < 4; j++) acc.v[i] += w.v[4 * i + j] * b[j];
  return acc;
}
INLINE I dot4_small(I acc, W w, int32_t x) { return dot4(acc, w, x); }
#endif

#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512VL__)
INLINE V sums(const V *x) {
  float each[16];
  for (int i = 0; i < 16; i++) each[i] = sum(x[i]);
  return load(each);
}
INLINE V eight_sums(const V *x) {
  float each[16] = {0};
  for (int i = 0; i < 8; i++) each[4 * (i / 2) + i % 2] = sum(x[i]);
  return load(each);
}
INLINE void across(const uint8_t *const *row, int count, uint32_t flip, uint8_t *to) {
  for (int r = 0; r < 16; r++) {
    for (int i = 0; i < count; i++) {
      uint32_t part;
      memcpy(&part, row[r] + 4 * i, 4);
      part ^= flip;
      memcpy(to + 64 * i + 4 * r, &part, 4);
    }
  }
}
enum { TILE_ROWS = 2, TILE_TOKENS = 2 };
#else
enum { TILE_ROWS = 6, TILE_TOKENS = 4 };  // of float products: 24 sums, and what is multiplied, fill the 32 registers
#endif

// bf16: 32 numbers w times 32 numbers x. Lane i adds w[2i + 1] x[2i + 1], then w[2i] x[2i], each product exact and each
// sum rounded once; what is smaller than 2^-126 counts as zero, given or found. That is VDPBF16PS; where it is missing
// two additions do the same, and so every AVX spelling gives the same bits.
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
enum { BRAIN_PARTS = 1 };
INLINE V brain_part(W w, int part) { return (void)part, _mm512_castsi512_ps(w); }
INLINE V brain_add(V sums, V w, V x) {
  return _mm512_dpbf16_ps(sums, (__m512bh)_mm512_castps_si512(w), (__m512bh)_mm512_castps_si512(x));
}
#else
enum { BRAIN_PARTS = 2 };
INLINE V brain_part(W w, int part) { return part ? even(w) : odd(w); }
#ifdef __AVX2__
INLINE V brain_add(V sums, V w, V x) { return fma16(w, x, sums); }
#else
INLINE float flushed(float x) { return fabsf(x) < 0x1p-126f ? 0 * x : x; }
INLINE V brain_add(V sums, V w, V x) {
  EACH sums.v[i] = flushed(flushed(w.v[i]) * flushed(x.v[i]) + sums.v[i]);
  return sums;
}
#endif
#endif
// Around it: numbers below 2^-126 are zero for additions of this thread, too
#ifdef __AVX2__
INLINE uint32_t flush(void) { uint32_t was = _mm_getcsr(); _mm_setcsr(was | 0x8040); return was; }
INLINE void unflush(uint32_t was) { _mm_setcsr(was); }
#else
INLINE uint32_t flush(void) { return 0; }
INLINE void unflush(uint32_t was) { (void)was; }
#endif

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
INLINE float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
INLINE float fma1(float a, float b, float c) { return a * b + c; }
#endif

// e^x to about one unit in the last place; 0 below -87, infinity above 88, NaN stays. 2^n times Cephes' polynomial. Beyond
// these bounds everything is computed all the same and thrown away, so that a compiler makes one vector of it.
INLINE float exp1(float x) {
  const float rounder = 0x1.8p23f;
  float n = fma1(x, 1.44269504088896341f, rounder) - rounder;
  float r = fma1(n, -0.693359375f, x);
  r = fma1(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fma1(p, r, 1.3981999507e-3f);
  p = fma1(p, r, 8.3334519073e-3f);
  p = fma1(p, r, 4.1665795894e-2f);
  p = fma1(p, r, 1.6666665459e-1f);
  p = fma1(p, r, 5.0000001201e-1f);
  p = fma1(p, r * r, r) + 1.0f;
  float safe = x >= -87.0f && x <= 88.0f ? n : 0.0f;
  uint32_t bits = (uint32_t)((int32_t)safe + 127) << 23;
  float scale;
  memcpy(&scale, &bits, 4);
  return x < -87.0f ? 0.0f : x > 88.0f ? INFINITY : p * scale;
}
