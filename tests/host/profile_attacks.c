/* What a program may try to get out of a container; run by test_engine_profile_attacks.py, free and confined. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_alg.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The result of one attack in a process of its own: 0 when it worked, else -errno. */
static long attempt(long (*attack)(void)) {
    int pipes[2];
    long result = -1;
    if (pipe(pipes)) return -1;
    pid_t child = fork();
    if (!child) {
        result = attack() < 0 ? -errno : 0;
        if (write(pipes[1], &result, sizeof result)) {}
        _exit(0);
    }
    close(pipes[1]);
    if (read(pipes[0], &result, sizeof result) != sizeof result) result = -999;
    waitpid(child, 0, 0);
    return result;
}
static long userns(void) { return unshare(CLONE_NEWUSER); }
static long userns_clone(void) {
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (!child) _exit(0);
    return child;
}
static long mountns(void) { return unshare(CLONE_NEWNS); }
static long cgroupns(void) { return unshare(CLONE_NEWCGROUP); }
static long cgroup(void) {
    mkdir("cg", 0700);
    return mount("cgroup", "cg", "cgroup", 0, "memory") && mount("none", "cg", "cgroup2", 0, 0) ? -1 : 0;
}
static long remount(void) { return mount(0, "/sys/fs/cgroup", 0, MS_REMOUNT | MS_BIND, 0); }
static long proc_rw(void) { return mount(0, "/proc/sys", 0, MS_REMOUNT | MS_BIND, 0); }
static long unmask(void) { return umount2("/proc/keys", MNT_DETACH); }
static long fsopen_(void) { return syscall(430, "tmpfs", 0); }
static long open_tree_(void) { return syscall(428, -100, "/", 1); }
static long keyctl_(void) { return syscall(SYS_keyctl, 0, -3, 0); }
static long add_key_(void) { return syscall(SYS_add_key, "user", "x", "y", 1, -3); }
static long bpf_(void) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.map_type = BPF_MAP_TYPE_ARRAY; attr.key_size = 4; attr.value_size = 4; attr.max_entries = 1;
    return syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr);
}
static long by_handle(void) {
    struct { struct file_handle head; char room[128]; } handle = {.head.handle_bytes = 128};
    int id, root = open(".", O_RDONLY);
    if (name_to_handle_at(root, "", &handle.head, &id, AT_EMPTY_PATH)) return -1;
    return open_by_handle_at(root, &handle.head, O_RDONLY);
}
static long pidfd_steal(void) { return syscall(438, syscall(434, 1, 0), 0, 0); }
static long alg(void) { return socket(AF_ALG, SOCK_SEQPACKET, 0); }
static long alg_bind(void) {
    struct sockaddr_alg name = {.salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha1"};
    int fd = socket(AF_ALG, SOCK_SEQPACKET, 0);
    return fd < 0 ? -1 : bind(fd, (void *)&name, sizeof name);
}
static long inet(void) { return socket(AF_INET, SOCK_STREAM, 0); }
static long inet6(void) { return socket(AF_INET6, SOCK_DGRAM, 0); }
static long local(void) { return socket(AF_UNIX, SOCK_STREAM, 0); }
static long userfault(void) { return syscall(SYS_userfaultfd, 0); }
static long uring(void) { char params[256] = {0}; return syscall(425, 1, params); }
static long perf(void) { char attr[128] = {0}; attr[4] = 112; return syscall(SYS_perf_event_open, attr, 0, -1, -1, 0); }
static long pattern(void) { return open("/proc/sys/kernel/core_pattern", O_WRONLY); }
static long helper(void) { return open("/sys/kernel/uevent_helper", O_WRONLY); }
static long disk(void) { mknod("disk", S_IFBLK | 0600, 254 << 8); return open("disk", O_RDONLY); }
static long memory(void) { mknod("mem", S_IFCHR | 0600, 1 << 8 | 1); return open("mem", O_RDONLY); }
static long module(void) { return syscall(SYS_finit_module, -1, "", 0); }
static long clock_(void) { struct timespec now; clock_gettime(CLOCK_REALTIME, &now); return clock_settime(CLOCK_REALTIME, &now); }
static long socketcall32(void) {
    long result;
    unsigned *arguments = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    arguments[0] = AF_INET; arguments[1] = SOCK_STREAM; arguments[2] = 0;
    __asm__ volatile("push %%rbx; mov %2, %%ebx; int $0x80; pop %%rbx" : "=a"(result)
                     : "a"(102), "r"(1), "c"(arguments) : "memory");
    if (result < 0) { errno = -result; return -1; }
    return result;
}
int main(void) {
    struct { const char *name; long (*attack)(void); } all[] = {
        {"userns", userns},
        {"userns_clone", userns_clone},
        {"mountns", mountns},
        {"cgroupns", cgroupns},
        {"cgroup", cgroup},
        {"remount", remount},
        {"proc_rw", proc_rw},
        {"unmask", unmask},
        {"fsopen", fsopen_},
        {"open_tree", open_tree_},
        {"keyctl", keyctl_},
        {"add_key", add_key_},
        {"bpf", bpf_},
        {"by_handle", by_handle},
        {"pidfd_steal", pidfd_steal},
        {"alg", alg},
        {"alg_bind", alg_bind},
        {"inet", inet},
        {"inet6", inet6},
        {"local", local},
        {"userfault", userfault},
        {"uring", uring},
        {"perf", perf},
        {"pattern", pattern},
        {"helper", helper},
        {"disk", disk},
        {"memory", memory},
        {"module", module},
        {"clock", clock_},
        {"socketcall32", socketcall32},
    };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        printf("%s %ld\n", all[i].name, attempt(all[i].attack));
        fflush(stdout);
    }
    return 0;
}
