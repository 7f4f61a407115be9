/* What this processor's multipliers can do at most: independent sums that stay in registers, on THREADS processors.
   Prints one JSON object: GFLOP/s in f32, and with operands in bf16 where the processor has them (AMX, AVX-512 BF16).

     cc -O3 -march=native -pthread peak.c -o peak && ./peak THREADS */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#endif

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
#define SUMS 12
#if defined(__AVX512F__)
#define FENCE(a, b) __asm__ volatile("" : "+v"(a), "+v"(b))
#elif defined(__x86_64__)
#define FENCE(a, b) __asm__ volatile("" : "+x"(a), "+x"(b))
#else
#define FENCE(a, b) __asm__ volatile("" : "+w"(a), "+w"(b))
#endif

/* GFLOP of one call. */
static double f32(void) {
    vec a, b, sum[SUMS];
    for (int l = 0; l < LANES; l++) a[l] = 0.999f, b[l] = 1e-3f;
    for (int s = 0; s < SUMS; s++) sum[s] = a;
    const long n = 4000000;
    for (long i = 0; i < n; i++) {
        /* Neither factor is known to the compiler, nor anything but registers. */
        FENCE(a, b);
#pragma GCC unroll 12
        for (int s = 0; s < SUMS; s++) sum[s] = sum[s] * a + b;
    }
    volatile float keep = 0;
    for (int s = 0; s < SUMS; s++) keep += sum[s][0];
    return 2.0 * LANES * SUMS * n / 1e9;
}

#if defined(__AVX512BF16__)
static double vectors(void) {
    __m512bh a = (__m512bh)_mm512_set1_epi16(0x3c00), b = a;
    __m512 sum[SUMS];
    for (int s = 0; s < SUMS; s++) sum[s] = _mm512_setzero_ps();
    const long n = 2000000;
    for (long i = 0; i < n; i++) {
        FENCE(a, b);
#pragma GCC unroll 12
        for (int s = 0; s < SUMS; s++) sum[s] = _mm512_dpbf16_ps(sum[s], a, b);
    }
    volatile float keep = 0;
    for (int s = 0; s < SUMS; s++) keep += _mm512_cvtss_f32(sum[s]);
    return 64.0 * SUMS * n / 1e9;
}
#endif

#if defined(__AMX_BF16__) && defined(__linux__)
static double tiles(void) {
    char set[64] = {1};
    for (int i = 0; i < 8; i++) set[16 + 2 * i] = 64, set[48 + i] = 16;
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 0;
    _tile_loadconfig(set);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
    const long n = 500000;
    for (long i = 0; i < n; i++) {
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4.0 * 16 * 16 * 64 * n / 1e9;
}
#endif

typedef double (*loop)(void);
static void *work(void *run) {
    double *done = malloc(sizeof *done);
    *done = ((loop)run)();
    return done;
}

/* The best of several rounds. */
static double peak(loop run, int threads) {
    double best = 0;
    for (int round = 0; round < 8; round++) {
        pthread_t all[threads];
        double start = now(), total = 0;
        for (int t = 0; t < threads; t++) pthread_create(&all[t], 0, work, (void *)run);
        for (int t = 0; t < threads; t++) {
            void *done;
            pthread_join(all[t], &done);
            total += *(double *)done;
            free(done);
        }
        double rate = total / (now() - start);
        if (rate > best) best = rate;
    }
    return best;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    double bf16 = 0;
    const char *unit = "none";
#if defined(__AVX512BF16__)
    bf16 = peak(vectors, threads), unit = "AVX-512 BF16";
#endif
#if defined(__AMX_BF16__) && defined(__linux__)
    double amx = peak(tiles, threads);
    if (amx > bf16) bf16 = amx, unit = "AMX";
#endif
    printf("{\"f32\": %.1f, \"bf16\": %.1f, \"unit\": \"%s\"}\n", peak(f32, threads), bf16, unit);
}
