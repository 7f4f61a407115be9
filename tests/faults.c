// Laid over the C library by tests/faults.rs (LD_PRELOAD): counts the operations on files that change something, ends
// the process at one of them as a power cut would, or lets one fail as on a full disk.
//
// FAULT_KILL=rename:3     SIGKILL instead of the third rename
// FAULT_FULL=rename:NAME  ENOSPC for each rename to a path that ends with NAME (also: write, to an open file of that name)
// FAULT_COUNTS=FILE       at exit, the count of each kind
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPEN, WRITE, SYNC, RENAME, UNLINK, MKDIR, KINDS };
static const char *NAMES[KINDS] = {"open", "write", "sync", "rename", "unlink", "mkdir"};
static long count[KINDS];

static void step(int kind) {
    long n = __sync_add_and_fetch(&count[kind], 1);
    const char *kill_at = getenv("FAULT_KILL");
    size_t length = strlen(NAMES[kind]);
    if (kill_at && !strncmp(kill_at, NAMES[kind], length) && kill_at[length] == ':' && atol(kill_at + length + 1) == n) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

static int full(int kind, const char *path) {
    const char *at = getenv("FAULT_FULL");
    size_t length = strlen(NAMES[kind]);
    if (!at || strncmp(at, NAMES[kind], length) || at[length] != ':') return 0;
    const char *name = at + length + 1;
    size_t p = strlen(path), n = strlen(name);
    return p >= n && !strcmp(path + p - n, name);
}

#define REAL(name, ...) ((int (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

int rename(const char *from, const char *to) {
    step(RENAME);
    if (full(RENAME, to)) return errno = ENOSPC, -1;
    return REAL(rename, const char *, const char *)(from, to);
}
int unlink(const char *path) { step(UNLINK); return REAL(unlink, const char *)(path); }
int unlinkat(int at, const char *path, int flags) { step(UNLINK); return REAL(unlinkat, int, const char *, int)(at, path, flags); }
int rmdir(const char *path) { step(UNLINK); return REAL(rmdir, const char *)(path); }
int mkdir(const char *path, mode_t mode) { step(MKDIR); return REAL(mkdir, const char *, mode_t)(path, mode); }
int fsync(int file) { step(SYNC); return REAL(fsync, int)(file); }
int fdatasync(int file) { step(SYNC); return REAL(fdatasync, int)(file); }

static int opened(const char *name, const char *path, int flags, va_list more) {
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    if (flags & O_CREAT) step(OPEN);
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name))(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int file = opened("open", path, flags, more);
    va_end(more);
    return file;
}
int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int file = opened("open64", path, flags, more);
    va_end(more);
    return file;
}
ssize_t write(int file, const void *bytes, size_t n) {
    if (file > 2) {
        step(WRITE);
        if (getenv("FAULT_FULL")) {
            char link[64], path[4096] = "";
            snprintf(link, sizeof link, "/proc/self/fd/%d", file);
            if (readlink(link, path, sizeof path - 1) > 0 && full(WRITE, path)) return errno = ENOSPC, -1;
        }
    }
    return ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(file, bytes, n);
}

__attribute__((destructor)) static void counts(void) {
    const char *path = getenv("FAULT_COUNTS");
    FILE *out = path ? fopen(path, "w") : 0;
    for (int kind = 0; out && kind < KINDS; kind++) fprintf(out, "%s %ld\n", NAMES[kind], count[kind]);
    if (out) fclose(out);
}
