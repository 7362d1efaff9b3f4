// Bytes read a second by so many threads from so much memory on huge pages: the floor under one decoded token.
// cc -O3 -march=native -pthread stream.c -o stream; ./stream THREADS MIB REPEATS   prints the median in GB/s
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef uint64_t Eight __attribute__((vector_size(64), aligned(64)));
static const char *start;
static size_t share;
static void *reader(void *number) {
  const Eight *p = (const Eight *)(start + (size_t)(intptr_t)number * share);
  Eight a = {0}, b = {0}, c = {0}, d = {0};
  for (size_t i = 0; i + 4 <= share / 64; i += 4) a += p[i], b += p[i + 1], c += p[i + 2], d += p[i + 3];
  a += b + c + d;
  uint64_t sum = 0;
  for (int i = 0; i < 8; i++) sum += a[i];
  return (void *)(intptr_t)sum;
}
static int ascending(const void *a, const void *b) { return (*(double *)a > *(double *)b) - (*(double *)a < *(double *)b); }
int main(int count, char **word) {
  if (count != 4) return 2;
  int threads = atoi(word[1]), repeats = atoi(word[3]);
  size_t size = (size_t)atoi(word[2]) << 20;
  char *memory = aligned_alloc(2 << 20, size);
  if (!memory) return 1;
  madvise(memory, size, MADV_HUGEPAGE);
  memset(memory, 1, size);
  start = memory, share = size / threads / 256 * 256;
  double rates[1000];
  if (repeats > 1000) repeats = 1000;
  uintptr_t sum = 0;
  for (int r = 0; r < repeats; r++) {
    struct timespec a, b;
    pthread_t made[256];
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int t = 0; t < threads; t++) if (pthread_create(made + t, NULL, reader, (void *)(intptr_t)t)) return 1;
    for (int t = 0; t < threads; t++) { void *part; pthread_join(made[t], &part); sum += (uintptr_t)part; }
    clock_gettime(CLOCK_MONOTONIC, &b);
    rates[r] = (double)share * threads / ((b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec) * 1e-9) / 1e9;
  }
  qsort(rates, repeats, sizeof *rates, ascending);
  printf("%.2f %.2f %.2f\n", rates[repeats / 2], rates[0], rates[repeats - 1]);
  return sum == 1;
}
