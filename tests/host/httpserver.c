/* A small HTTP/1.1 server for tests: httpserver PORT [TEXT]. Keeps connections open, answers every GET with TEXT, and on
 * SIGTERM takes no more connections, answers what is asked on those it has with "Connection: close", and ends with the
 * last of them, or two seconds later. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 4096

static char pending[MOST][4096];
static int filled[MOST];
static int open_count, closing;
static const char *text = "ok\n";

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void drop(int fd) {
    close(fd);
    open_count--;
}

/* Answers every whole request that has come; 0 when the connection is done with. */
static int answer(int fd) {
    char *end, reply[512];
    while ((end = memmem(pending[fd], filled[fd], "\r\n\r\n", 4))) {
        int used = end + 4 - pending[fd];
        int last = closing || memmem(pending[fd], used, "Connection: close", 17);
        int size = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n%s\r\n%s",
                            strlen(text), last ? "Connection: close\r\n" : "", text);
        if (write(fd, reply, size) != size) return 0;
        memmove(pending[fd], pending[fd] + used, filled[fd] -= used);
        if (last) return 0;
    }
    return 1;
}

static void receive(int fd) {
    int room = sizeof pending[fd] - filled[fd];
    int got = read(fd, pending[fd] + filled[fd], room);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        drop(fd);
        return;
    }
    filled[fd] += got;
    if (!answer(fd) || filled[fd] == sizeof pending[fd]) drop(fd);
}

static void take(int listener, int poll) {
    int fd, on = 1;
    while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MOST) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event event = {EPOLLIN, {.fd = fd}};
        filled[fd] = 0;
        open_count++;
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int count, char **args) {
    sigset_t mask;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(count > 1 ? atoi(args[1]) : 80)};
    struct epoll_event event, events[64];
    int on = 1, poll = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    double end = 0;
    if (count > 2) text = args[2];
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigprocmask(SIG_BLOCK, &mask, 0);
    int signals = signalfd(-1, &mask, SFD_NONBLOCK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return 1;
    event = (struct epoll_event){EPOLLIN, {.fd = listener}};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    event = (struct epoll_event){EPOLLIN, {.fd = signals}};
    epoll_ctl(poll, EPOLL_CTL_ADD, signals, &event);
    while (!closing || (open_count && now() < end)) {
        int found = epoll_wait(poll, events, 64, 100);
        for (int n = 0; n < found; n++) {
            int fd = events[n].data.fd;
            if (fd == signals && !closing) {
                epoll_ctl(poll, EPOLL_CTL_DEL, signals, 0);
                take(listener, poll);
                close(listener);
                closing = 1;
                end = now() + 2;
            } else if (fd == listener && !closing) {
                take(listener, poll);
            } else if (fd != listener && fd != signals) {
                receive(fd);
            }
        }
    }
    return 0;
}
