/* A FUSE server whose every operation takes the same time: passes on to a directory, and waits.

   Arguments: backing directory, seconds, then libfuse's own. It lets the kernel remember what it
   has answered, as network filesystems do, and counts the operations: statfs tells how many. */

#define _GNU_SOURCE
#define FUSE_USE_VERSION 31

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int backing;
static long long nanoseconds; /* for one operation, from its arrival */
static atomic_ulong operations;

static const char *below(const char *path) { return path[1] ? path + 1 : "."; }

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int answer(long long arrived, int failed) {
    int number = failed ? -errno : 0;
    long long until = arrived + nanoseconds;
    struct timespec time = {until / 1000000000LL, until % 1000000000LL};
    atomic_fetch_add(&operations, 1);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
        ;
    return number;
}

static int slow_getattr(const char *path, struct stat *status, struct fuse_file_info *info) {
    (void)info;
    long long arrived = now();
    return answer(arrived, fstatat(backing, below(path), status, AT_SYMLINK_NOFOLLOW));
}

static int slow_mkdir(const char *path, mode_t mode) {
    long long arrived = now();
    return answer(arrived, mkdirat(backing, below(path), mode));
}

/* What clears up, and so need not be slow. */

static int slow_rmdir(const char *path) {
    return unlinkat(backing, below(path), AT_REMOVEDIR) ? -errno : 0;
}

static int slow_readdir(const char *path, void *list, fuse_fill_dir_t fill, off_t offset,
                        struct fuse_file_info *info, enum fuse_readdir_flags flags) {
    (void)offset, (void)info, (void)flags;
    int opened = openat(backing, below(path), O_RDONLY | O_DIRECTORY);
    DIR *directory = opened < 0 ? NULL : fdopendir(opened);
    if (!directory)
        return -errno;
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct stat status = {.st_ino = entry->d_ino, .st_mode = DTTOIF(entry->d_type)};
        fill(list, entry->d_name, &status, 0, 0);
    }
    closedir(directory);
    return 0;
}

static int slow_statfs(const char *path, struct statvfs *status) {
    (void)path;
    *status = (struct statvfs){.f_bsize = 4096, .f_files = atomic_load(&operations)};
    return 0;
}

static void *slow_init(struct fuse_conn_info *connection, struct fuse_config *config) {
    (void)connection;
    config->use_ino = 1;
    config->entry_timeout = config->attr_timeout = 3600; /* seconds */
    return NULL;
}

static const struct fuse_operations slow = {
    .init = slow_init,
    .getattr = slow_getattr,
    .mkdir = slow_mkdir,
    .rmdir = slow_rmdir,
    .readdir = slow_readdir,
    .statfs = slow_statfs,
};

int main(int count, char *arguments[]) {
    if (count < 4) {
        fprintf(stderr, "usage: %s BACKING SECONDS MOUNTPOINT [OPTIONS]\n", arguments[0]);
        return 2;
    }
    backing = open(arguments[1], O_PATH | O_DIRECTORY);
    if (backing < 0) {
        perror(arguments[1]);
        return 1;
    }
    nanoseconds = (long long)(atof(arguments[2]) * 1e9);
    umask(0);
    arguments[2] = arguments[0];
    return fuse_main(count - 2, arguments + 2, &slow, NULL);
}
