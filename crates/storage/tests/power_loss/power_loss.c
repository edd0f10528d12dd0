/*
 * A disk that loses power, for LD_PRELOAD: beside the files of one directory it keeps a shadow that holds only what
 * was made durable. After the process was killed, the shadow is what a disk would hold that lost power at that moment.
 * (The files themselves survive a kill in the page cache, flushed or not, and so prove nothing.)
 *
 *   ROLLCALL_POWER_LOSS_ROOT     the directory to watch, absolute and without symbolic links
 *   ROLLCALL_POWER_LOSS_SHADOW   where the shadow is kept, on the same file system, beside the root and not in it:
 *                                SHADOW/tree is the directory after the power loss, SHADOW/inodes the tool's own
 *   ROLLCALL_POWER_LOSS_KILL_AT  optional: SIGKILL instead of the n-th durable step (a sync, rename or removal), from 1
 *   ROLLCALL_POWER_LOSS_FAIL_AT  optional: the n-th sync of a file, from 1, and all after it fail with EIO
 *   ROLLCALL_POWER_LOSS_APPENDED optional: files are only ever appended to, so that a sync copies no more than what is
 *                                new; without it every sync copies the whole file
 *   ROLLCALL_POWER_LOSS_ORDERS   optional: a file that is looked at on each sync of a file. While it begins with `f`
 *                                the sync fails with EIO; with `l` it is a lie: answered, and nothing is kept
 *
 * The model is the strictest that POSIX allows. A file's bytes are durable once the file was synced; a name, a rename
 * or a removal once its directory was synced. A name without synced bytes is an empty file. sync_file_range makes
 * nothing durable. Only directories above a synced one are taken to be durable themselves. If the shadow is there when a
 * process starts it goes on with it, else everything in the root counts as durable. One process at a time may use a
 * shadow.
 *
 *   cc -shared -fPIC -O1 -o power_loss.so power_loss.c -ldl -lpthread
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define LONG_PATH (2 * PATH_MAX)
#define SPARE_FDS 16

static char root[PATH_MAX], shadow[PATH_MAX];
static const char *orders;
static long steps, kill_at, syncs, fail_at;
static int appended;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* What the limit of descriptors is while the lock is held, if it was raised. */
static rlim_t raised;

static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_unlink)(const char *), (*real_rmdir)(const char *),
    (*real_unlinkat)(int, const char *, int), (*real_rename)(const char *, const char *);

static void give_up(const char *what) {
    fprintf(stderr, "power_loss: %s: %s\n", what, strerror(errno));
    abort();
}

/* A disk needs no file descriptors of the process, and must not fail where that has none left. */
static void enter(void) {
    pthread_mutex_lock(&lock);
    struct rlimit limit;
    raised = 0;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_max - limit.rlim_cur < SPARE_FDS) return;
    limit.rlim_cur += SPARE_FDS;
    if (!setrlimit(RLIMIT_NOFILE, &limit)) raised = limit.rlim_cur;
}

static void leave(void) {
    struct rlimit limit;
    /* Unless somebody else set it meanwhile. */
    if (raised && !getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur == raised) {
        limit.rlim_cur -= SPARE_FDS;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    pthread_mutex_unlock(&lock);
}

/* The path below the root, "" for the root itself; NULL if it is elsewhere. */
static const char *below_root(const char *path) {
    size_t length = strlen(root);
    if (!length || strncmp(path, root, length) || (path[length] && path[length] != '/')) return NULL;
    return path + length;
}

static int fd_path(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return -1;
    path[length] = 0;
    return 0;
}

/* An absolute path, whose last part need not exist. */
static int at_path(int dir, const char *name, char *path) {
    char base[PATH_MAX];
    if (name[0] == '/') return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX ? 0 : -1;
    if (dir == AT_FDCWD ? !getcwd(base, sizeof base) : fd_path(dir, base)) return -1;
    return snprintf(path, PATH_MAX, "%s/%s", base, name) < PATH_MAX ? 0 : -1;
}

static void inode_path(ino_t inode, char *path) { snprintf(path, LONG_PATH, "%s/inodes/%lu", shadow, (unsigned long)inode); }

/* Written over and never emptied first, so that a kill in between loses nothing that was durable before. */
static void copy_bytes(const char *from, const char *to) {
    static char buffer[1 << 16];
    struct stat kept;
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0) {
        if (errno == ENOENT) return; /* removed meanwhile */
        give_up(from);
    }
    int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (out < 0) give_up(to);
    off_t size = 0;
    ssize_t got;
    if (appended && !fstat(out, &kept)) size = kept.st_size;
    while ((got = pread(in, buffer, sizeof buffer, size)) > 0) {
        if (pwrite(out, buffer, got, size) != got) give_up(to);
        size += got;
    }
    if (got < 0 || ftruncate(out, size)) give_up(to);
    close(in);
    close(out);
}

static void keep_file(const char *path) {
    struct stat info;
    char inode[LONG_PATH];
    if (stat(path, &info)) return; /* removed, its bytes are of no interest */
    inode_path(info.st_ino, inode);
    copy_bytes(path, inode);
}

static void remove_tree(const char *path) {
    DIR *dir = opendir(path);
    struct dirent *entry;
    char child[LONG_PATH];
    if (!dir) {
        real_unlink(path);
        return;
    }
    while ((entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        remove_tree(child);
    }
    closedir(dir);
    real_rmdir(path);
}

/* Makes the names in a directory durable; with `all`, everything below it. */
static void keep_dir(const char *path, int all) {
    char from[LONG_PATH], to[LONG_PATH], inode[LONG_PATH], fresh[LONG_PATH], kept[LONG_PATH];
    const char *relative = below_root(path);
    struct dirent *entry;
    struct stat info, old;
    snprintf(kept, sizeof kept, "%s/tree%s", shadow, relative);
    DIR *dir = opendir(path);
    if (!dir) return;
    for (char *slash = kept + strlen(shadow) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(kept, 0755);
        *slash = '/';
    }
    mkdir(kept, 0755);
    while ((entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(from, sizeof from, "%s/%s", path, entry->d_name);
        snprintf(to, sizeof to, "%s/%s", kept, entry->d_name);
        if (lstat(from, &info)) continue;
        if (S_ISDIR(info.st_mode)) {
            mkdir(to, 0755);
            if (all) keep_dir(from, 1);
            continue;
        }
        inode_path(info.st_ino, inode);
        if (all) keep_file(from);
        close(open(inode, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
        struct stat now;
        if (stat(inode, &now)) give_up(inode);
        if (!stat(to, &old) && old.st_ino == now.st_ino) continue;
        /* Replaced in one step, so that a kill in between leaves the old file or the new one. */
        snprintf(fresh, sizeof fresh, "%s/inodes/fresh", shadow);
        real_unlink(fresh);
        if (link(inode, fresh) || real_rename(fresh, to)) give_up(to);
    }
    closedir(dir);
    dir = opendir(kept);
    while (dir && (entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(from, sizeof from, "%s/%s", path, entry->d_name);
        snprintf(to, sizeof to, "%s/%s", kept, entry->d_name);
        if (lstat(from, &info) && errno == ENOENT) remove_tree(to);
    }
    if (dir) closedir(dir);
}

__attribute__((constructor)) static void start(void) {
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
    real_rmdir = dlsym(RTLD_NEXT, "rmdir");
    real_rename = dlsym(RTLD_NEXT, "rename");
    const char *root_name = getenv("ROLLCALL_POWER_LOSS_ROOT"), *shadow_name = getenv("ROLLCALL_POWER_LOSS_SHADOW");
    if (!root_name || !shadow_name) return;
    const char *kill_text = getenv("ROLLCALL_POWER_LOSS_KILL_AT"), *fail_text = getenv("ROLLCALL_POWER_LOSS_FAIL_AT");
    kill_at = kill_text ? atol(kill_text) : 0;
    fail_at = fail_text ? atol(fail_text) : 0;
    orders = getenv("ROLLCALL_POWER_LOSS_ORDERS");
    appended = getenv("ROLLCALL_POWER_LOSS_APPENDED") != NULL;
    char path[LONG_PATH];
    struct stat info;
    snprintf(shadow, sizeof shadow, "%s", shadow_name);
    snprintf(root, sizeof root, "%s", root_name);
    snprintf(path, sizeof path, "%s/whole", shadow);
    if (stat(path, &info)) {
        /* There is none, or it was killed while it was made: what it has not copied would seem to be lost later. */
        remove_tree(shadow);
        mkdir(shadow, 0755);
        snprintf(path, sizeof path, "%s/inodes", shadow);
        mkdir(path, 0755);
        snprintf(path, sizeof path, "%s/tree", shadow);
        mkdir(path, 0755);
        keep_dir(root, 1);
        snprintf(path, sizeof path, "%s/whole", shadow);
        int whole = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (whole < 0) give_up(path);
        close(whole);
    }
}

/* The path is told in the process's log: whoever wants to know what a kill interrupted finds it there. */
static void step(const char *what, const char *path) {
    if (++steps != kill_at) return;
    fprintf(stderr, "power_loss: killed at step %ld: %s %s\n", steps, what, path);
    kill(getpid(), SIGKILL);
}

static char order(void) {
    char first = 0;
    int fd = orders ? open(orders, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    if (read(fd, &first, 1) != 1) first = 0;
    close(fd);
    return first;
}

static int sync_fd(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    struct stat info;
    if (!root[0] || fd_path(fd, path) || !below_root(path) || fstat(fd, &info)) return real(fd);
    enter();
    step("sync", path);
    int result;
    char ordered = S_ISREG(info.st_mode) ? order() : 0;
    if (ordered == 'f' || (S_ISREG(info.st_mode) && fail_at && ++syncs >= fail_at)) {
        errno = EIO;
        result = -1;
    } else if (ordered == 'l') {
        result = 0;
    } else {
        /* The disk's own sync is left out: it would only cost time, the shadow is what counts. */
        result = 0;
        if (S_ISDIR(info.st_mode)) keep_dir(path, 0);
        else if (info.st_nlink) keep_file(path);
    }
    leave();
    return result;
}

int fsync(int fd) { return sync_fd(fd, real_fsync); }
int fdatasync(int fd) { return sync_fd(fd, real_fdatasync); }

/* Inode numbers are used again: what is about to go must not lend its kept bytes to a new file. */
static void forget(const char *path) {
    struct stat info;
    char inode[LONG_PATH];
    if (lstat(path, &info) || !S_ISREG(info.st_mode) || info.st_nlink > 1) return;
    inode_path(info.st_ino, inode);
    real_unlink(inode);
}

int unlinkat(int dir, const char *name, int flags) {
    char path[PATH_MAX];
    if (!root[0] || at_path(dir, name, path) || !below_root(path)) return real_unlinkat(dir, name, flags);
    enter();
    step("remove", path);
    if (!(flags & AT_REMOVEDIR)) forget(path);
    int result = real_unlinkat(dir, name, flags);
    leave();
    return result;
}

int unlink(const char *name) {
    char path[PATH_MAX];
    if (!root[0] || at_path(AT_FDCWD, name, path) || !below_root(path)) return real_unlink(name);
    return unlinkat(AT_FDCWD, name, 0);
}

int rename(const char *from, const char *to) {
    char path[PATH_MAX];
    if (!root[0] || at_path(AT_FDCWD, to, path) || !below_root(path)) return real_rename(from, to);
    enter();
    step("rename to", path);
    forget(path);
    int result = real_rename(from, to);
    leave();
    return result;
}
