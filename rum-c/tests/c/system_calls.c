/* Far buffers of several times the local budget in the libc calls that hand buffers to the kernel. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio_ext.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "rum_c_version.h"

#define BYTES ((size_t)10 << 20)

static unsigned char *far_a, *far_b;

/* A buffer of BYTES that is not resident where it matters: the other one was walked through since. */
static unsigned char *blank(void) {
    memset(far_a, 0, BYTES);
    fill(far_b, BYTES, 77);
    return far_a;
}

static unsigned char *full(unsigned seed) {
    fill(far_a, BYTES, seed);
    memset(far_b, 0, BYTES);
    return far_a;
}

static int temporary(void) {
    char name[] = "rum-file-XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    return fd;
}

/* The file's contents, as seen through a local buffer. */
static void expect_file(int fd, unsigned seed, size_t bytes) {
    unsigned char *local = malloc(bytes);
    CHECK(pread(fd, local, bytes, 0) == (ssize_t)bytes && first_wrong(local, bytes, seed) == bytes);
    free(local);
}

static int file_with(unsigned seed, size_t bytes) {
    int fd = temporary();
    unsigned char *local = malloc(bytes);
    fill(local, bytes, seed);
    CHECK(pwrite(fd, local, bytes, 0) == (ssize_t)bytes);
    free(local);
    return fd;
}

static void files(void) {
    int fd = temporary();
    CHECK(write(fd, full(1), BYTES) == (ssize_t)BYTES);
    expect_file(fd, 1, BYTES);
    CHECK(lseek(fd, 0, SEEK_SET) == 0 && read(fd, blank(), BYTES) == (ssize_t)BYTES);
    CHECK(first_wrong(far_a, BYTES, 1) == BYTES);
    CHECK(lseek(fd, 0, SEEK_CUR) == (off_t)BYTES);
    CHECK(read(fd, blank(), BYTES) == 0); /* The end. */
    CHECK(pread(fd, blank(), BYTES, 100) == (ssize_t)BYTES - 100); /* Short at the end. */
    CHECK(pwrite(fd, full(2), BYTES, 0) == (ssize_t)BYTES);
    expect_file(fd, 2, BYTES);
    CHECK(pread(fd, blank(), BYTES, 0) == (ssize_t)BYTES && first_wrong(far_a, BYTES, 2) == BYTES);
    errno = 0;
    CHECK(read(-1, far_a, BYTES) == -1 && errno == EBADF);
    int read_only = open("/dev/null", O_RDONLY);
    errno = 0;
    CHECK(write(read_only, far_a, BYTES) == -1 && errno == EBADF);
    close(read_only);
    close(fd);
}

static void vectors(void) {
    /* The array of vectors is far, too. */
    struct iovec *vector = rum_c_alloc(5 * sizeof *vector);
    char local[1000];
    int fd = temporary();
    full(3);
    memcpy(local, far_a, 1000);
    vector[0] = (struct iovec){local, 1000};
    vector[1] = (struct iovec){far_a + 1000, 0};
    vector[2] = (struct iovec){far_a + 1000, 4000001};
    vector[3] = (struct iovec){far_a + 4001001, 17};
    vector[4] = (struct iovec){far_a + 4001018, BYTES - 4001018};
    CHECK(writev(fd, vector, 5) == (ssize_t)BYTES);
    expect_file(fd, 3, BYTES);
    CHECK(pwritev(fd, vector, 5, 0) == (ssize_t)BYTES);
    expect_file(fd, 3, BYTES);
    for (int positioned = 0; positioned < 2; positioned++) {
        blank();
        memset(local, 0, 1000);
        CHECK(lseek(fd, 0, SEEK_SET) == 0);
        CHECK((positioned ? preadv(fd, vector, 5, 0) : readv(fd, vector, 5)) == (ssize_t)BYTES);
        memcpy(far_a, local, 1000);
        CHECK(first_wrong(far_a, BYTES, 3) == BYTES);
    }
    errno = 0;
    volatile int negative = -1; /* Out of the compiler's sight. */
    CHECK(readv(fd, vector, negative) == -1 && errno == EINVAL);
    rum_c_free(vector);
    close(fd);
}

struct sender {
    int fd;
    const unsigned char *from;
    int way;
};

static void *send_all(void *argument) {
    struct sender *sender = argument;
    size_t done = 0;
    while (done < BYTES) {
        ssize_t sent = -1;
        if (sender->way == 0)
            sent = write(sender->fd, sender->from + done, BYTES - done);
        else if (sender->way == 1)
            sent = send(sender->fd, sender->from + done, BYTES - done, MSG_NOSIGNAL);
        else {
            struct iovec vector = {(void *)(sender->from + done), BYTES - done};
            struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
            sent = sendmsg(sender->fd, &message, MSG_NOSIGNAL);
        }
        CHECK(sent > 0);
        /* A blocking send of a stream sends all. */
        CHECK((size_t)sent == BYTES - done);
        done += (size_t)sent;
    }
    shutdown(sender->fd, SHUT_WR);
    return NULL;
}

/* Sends from far_b to far_a over a connected pair of streams, in every way of sending and receiving. */
static void streams(void) {
    for (int way = 0; way < 4; way++) {
        int pair[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        fill(far_b, BYTES, 40 + way);
        memset(far_a, 0, BYTES);
        struct sender sender = {pair[0], far_b, way};
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, send_all, &sender) == 0);
        size_t done = 0;
        while (done < BYTES) {
            ssize_t got;
            if (way == 0)
                got = read(pair[1], far_a + done, BYTES - done);
            else if (way == 1)
                got = recv(pair[1], far_a + done, BYTES - done, MSG_WAITALL);
            else if (way == 2) {
                struct iovec vector = {far_a + done, BYTES - done};
                struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
                got = recvmsg(pair[1], &message, 0);
            } else
                got = recvfrom(pair[1], far_a + done, BYTES - done, 0, NULL, NULL);
            CHECK(got > 0);
            CHECK(way != 1 || (size_t)got == BYTES); /* MSG_WAITALL. */
            done += (size_t)got;
        }
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(read(pair[1], far_a, BYTES) == 0);
        CHECK(first_wrong(far_a, BYTES, 40 + way) == BYTES);
        close(pair[0]);
        close(pair[1]);
    }
}

/* A nonblocking stream takes what it has room for, and gives what it has. */
static void nonblocking(void) {
    int pipes[2];
    CHECK(pipe2(pipes, O_NONBLOCK) == 0);
    errno = 0;
    CHECK(read(pipes[0], blank(), BYTES) == -1 && errno == EAGAIN);
    ssize_t sent = write(pipes[1], full(5), BYTES);
    CHECK(sent > 0 && sent < (ssize_t)BYTES);
    errno = 0;
    CHECK(write(pipes[1], far_a, BYTES) == -1 && errno == EAGAIN);
    size_t done = 0;
    ssize_t got;
    blank();
    while (done < (size_t)sent && (got = read(pipes[0], far_a + done, BYTES - done)) > 0)
        done += (size_t)got;
    CHECK(done == (size_t)sent && first_wrong(far_a, done, 5) == done);
    close(pipes[0]);
    close(pipes[1]);
}

/* Messages stay whole and apart, with their control data and addresses, all of it far. */
static void messages(void) {
    int pair[2], big = 1 << 20;
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
    int room;
    socklen_t length = sizeof room;
    CHECK(getsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &room, &length) == 0);
    size_t size = (size_t)room / 2 > 150000 ? 150001 : 60001; /* More than one piece where the limits allow. */
    full(6);
    CHECK(send(pair[0], far_a, size, 0) == (ssize_t)size);
    blank();
    CHECK(recv(pair[1], far_a, BYTES, MSG_PEEK) == (ssize_t)size && first_wrong(far_a, size, 6) == size);
    blank();
    CHECK(recv(pair[1], far_a, BYTES, 0) == (ssize_t)size && first_wrong(far_a, size, 6) == size);
    errno = 0;
    CHECK(send(pair[0], far_a, BYTES, 0) == -1 && errno == EMSGSIZE);
    CHECK(send(pair[0], full(7), 1000, 0) == 1000);
    CHECK(recv(pair[1], blank(), 10, MSG_TRUNC) == 1000 && first_wrong(far_a, 10, 7) == 10 && far_a[10] == 0);

    struct everything {
        struct msghdr message;
        struct iovec vector[2];
        struct sockaddr_un name;
        char control[CMSG_SPACE(sizeof(int))];
        char data[1000];
    } *all = rum_c_calloc(2, sizeof *all);
    int files[2] = {temporary(), -1};
    CHECK(write(files[0], "far", 3) == 3);
    struct everything *out = &all[0], *in = &all[1];
    memset(out->data, 'x', 1000);
    for (struct everything *each = all; each < all + 2; each++) {
        each->vector[0] = (struct iovec){each->data, 300};
        each->vector[1] = (struct iovec){each->data + 300, 700};
        each->message = (struct msghdr){.msg_iov = each->vector, .msg_iovlen = 2, .msg_control = each->control, .msg_controllen = sizeof each->control};
    }
    in->message.msg_name = &in->name;
    in->message.msg_namelen = sizeof in->name;
    struct cmsghdr *control = CMSG_FIRSTHDR(&out->message);
    *control = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(control), &files[0], sizeof(int));
    blank();
    CHECK(sendmsg(pair[0], &out->message, 0) == 1000);
    blank();
    CHECK(recvmsg(pair[1], &in->message, 0) == 1000 && memcmp(in->data, out->data, 1000) == 0);
    CHECK((in->message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0);
    CHECK((control = CMSG_FIRSTHDR(&in->message)) != NULL && control->cmsg_type == SCM_RIGHTS);
    memcpy(&files[1], CMSG_DATA(control), sizeof(int));
    char text[4] = "";
    CHECK(pread(files[1], text, 3, 0) == 3 && strcmp(text, "far") == 0);
    close(files[0]);
    close(files[1]);
    close(pair[0]);
    close(pair[1]);

    /* Addresses. */
    struct sockaddr_un *address = rum_c_calloc(1, sizeof *address);
    address->sun_family = AF_UNIX;
    strcpy(address->sun_path, "far.sock");
    int server = socket(AF_UNIX, SOCK_DGRAM, 0), client = socket(AF_UNIX, SOCK_DGRAM, 0);
    blank();
    CHECK(bind(server, (struct sockaddr *)address, sizeof *address) == 0);
    blank();
    CHECK(sendto(client, "hi", 2, 0, (struct sockaddr *)address, sizeof *address) == 2);
    blank();
    CHECK(connect(client, (struct sockaddr *)address, sizeof *address) == 0 && send(client, "ho", 2, 0) == 2);
    CHECK(recv(server, text, 3, 0) == 2 && recv(server, text, 3, 0) == 2);
    CHECK(unlink("far.sock") == 0);
    struct mmsghdr *several = rum_c_calloc(3, sizeof *several);
    for (int i = 0; i < 3; i++) {
        several[i].msg_hdr.msg_iov = &all[0].vector[0];
        several[i].msg_hdr.msg_iovlen = 1;
    }
    blank();
    CHECK(sendmmsg(client, several, 3, 0) == 3 && several[2].msg_len == 300);
    blank();
    CHECK(recvmmsg(server, several, 3, 0, NULL) == 3 && several[0].msg_len == 300);
    rum_c_free(several);
    rum_c_free(address);
    rum_c_free(all);
    close(server);
    close(client);
}

static void standard_io(void) {
    FILE *file = fdopen(temporary(), "w+");
    CHECK(file != NULL);
    CHECK(fwrite(full(8), 1, BYTES, file) == BYTES && fflush(file) == 0);
    expect_file(fileno(file), 8, BYTES);
    rewind(file);
    CHECK(fread(blank(), 1000, BYTES / 1000, file) == BYTES / 1000);
    CHECK(first_wrong(far_a, BYTES / 1000 * 1000, 8) == BYTES / 1000 * 1000);
    rewind(file);
    CHECK(fread_unlocked(blank(), 1, 2 * BYTES, file) == BYTES && feof(file)); /* Ends before the buffer does. */
    CHECK(first_wrong(far_a, BYTES, 8) == BYTES);
    CHECK(freopen(NULL, "w+", file) == file && fwrite_unlocked(full(9), BYTES / 2, 2, file) == 2 && fflush(file) == 0);
    expect_file(fileno(file), 9, BYTES);
    fclose(file);

    /* Lines: longer than any buffer on the way. */
    file = fdopen(temporary(), "w+");
    memset(far_a, 'y', BYTES);
    far_a[BYTES - 1] = 0;
    memset(far_b, 0, BYTES);
    CHECK(fputs((char *)far_a, file) >= 0 && fputc('\n', file) == '\n' && ftell(file) == (long)BYTES);
    rewind(file);
    CHECK(fgets((char *)blank(), (int)BYTES, file) == (char *)far_a && strlen((char *)far_a) == BYTES - 1);
    CHECK(strspn((char *)far_a, "y") == BYTES - 1);
    CHECK(fgets((char *)far_a, (int)BYTES, file) == (char *)far_a && strcmp((char *)far_a, "\n") == 0);
    /* The newline comes by itself: fgets stops one byte before its limit. */
    fclose(file);
    int saved = dup(1), target = temporary();
    memset(far_a, 'z', BYTES);
    far_a[BYTES - 1] = 0;
    memset(far_b, 0, BYTES);
    CHECK(fflush(stdout) == 0 && dup2(target, 1) == 1);
    int put = puts((char *)far_a);
    CHECK(fflush(stdout) == 0 && dup2(saved, 1) == 1);
    CHECK(put >= 0 && lseek(target, 0, SEEK_END) == (off_t)BYTES);
    char last[2];
    CHECK(pread(target, last, 2, (off_t)BYTES - 2) == 2 && last[0] == 'z' && last[1] == '\n');
    close(saved);
    close(target);
}

/* Small values and strings that the kernel reads or writes. */
static void small(void) {
    char *place = rum_c_calloc(1, 65536);
    strcpy(place, "far-name");
    blank();
    FILE *file = fopen(place, "w");
    CHECK(file != NULL && fputs("12345", file) >= 0 && fclose(file) == 0);
    struct stat *status = (struct stat *)(place + 8192);
    blank();
    CHECK(stat(place, status) == 0 && status->st_size == 5);
    blank();
    int fd = open(place, O_RDONLY);
    CHECK(fd >= 0);
    blank();
    CHECK(fstat(fd, status) == 0 && status->st_size == 5);
    close(fd);
    strcpy(place + 4096, "far-name-2");
    blank();
    CHECK(rename(place, place + 4096) == 0);
    blank();
    CHECK(access(place, F_OK) == -1 && errno == ENOENT);
    CHECK(symlink(place + 4096, place) == 0);
    blank();
    CHECK(readlink(place, place + 12288, 100) == 10 && memcmp(place + 12288, "far-name-2", 10) == 0);
    blank();
    CHECK(unlink(place) == 0 && unlink(place + 4096) == 0);
    blank();
    CHECK(getcwd(place, 65536) == place && place[0] == '/');
    size_t random = 300000;
    CHECK(getrandom(blank(), random, 0) == (ssize_t)random);
    size_t zeros = 0;
    for (size_t i = 0; i < random; i++)
        zeros += far_a[i] == 0;
    CHECK(zeros < random / 100);

    int pipes[2];
    CHECK(pipe(pipes) == 0 && write(pipes[1], "x", 1) == 1);
    struct pollfd *fds = rum_c_calloc(2, sizeof *fds);
    fds[0] = (struct pollfd){.fd = pipes[0], .events = POLLIN};
    fds[1] = (struct pollfd){.fd = -1};
    blank();
    CHECK(poll(fds, 2, 1000) == 1 && (fds[0].revents & POLLIN));
    int epoll = epoll_create1(0);
    struct epoll_event *events = rum_c_calloc(20000, sizeof *events);
    events[0] = (struct epoll_event){.events = EPOLLIN, .data = {.u64 = 42}};
    blank();
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &events[0]) == 0);
    memset(events, 0, 20000 * sizeof *events);
    blank();
    CHECK(epoll_wait(epoll, events, 20000, 1000) == 1 && events[0].data.u64 == 42);
    close(epoll);
    close(pipes[0]);
    close(pipes[1]);
    rum_c_free(events);
    rum_c_free(fds);
    rum_c_free(place);
}

/* What cannot be caught gives an error or the right data, never other data. */
static void uncaught(void) {
    int fd = temporary();
    errno = 0;
    ssize_t written = syscall(SYS_write, fd, full(10), BYTES);
    CHECK(written == (ssize_t)BYTES || (written == -1 && errno == EFAULT) || (written > 0 && written < (ssize_t)BYTES));
    if (written > 0)
        expect_file(fd, 10, (size_t)written);
    close(fd);

    FILE *file = fdopen(temporary(), "w+");
    memset(far_a, 'p', BYTES);
    far_a[BYTES - 1] = 0;
    memset(far_b, 0, BYTES);
    int printed = fprintf(file, "%s", (char *)far_a);
    CHECK(printed == (int)BYTES - 1 || printed < 0);
    fflush(file);
    off_t length = lseek(fileno(file), 0, SEEK_END);
    char *local = malloc(BYTES);
    CHECK(pread(fileno(file), local, BYTES, 0) == length);
    for (off_t i = 0; i < length; i++)
        CHECK(local[i] == 'p');
    free(local);
    fclose(file);
}

static void *blocked_read(void *argument) {
    int *fd = argument;
    return read(*fd, far_a, BYTES) == -1 ? NULL : argument;
}

/* A thread that is cancelled while it waits unwinds through the wrapper. */
static void cancelled(void) {
    for (int round = 0; round < 10; round++) { /* More often than there are kept buffers. */
        int pipes[2];
        CHECK(pipe(pipes) == 0);
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, NULL, blocked_read, &pipes[0]) == 0);
        CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
        close(pipes[0]);
        close(pipes[1]);
    }
}

/* A child that goes on with another program, and one that works on local buffers. */
static void children(void) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char local[100];
        int fd = file_with(1, 100);
        _exit(pread(fd, local, 100, 0) == 100 && first_wrong(local, 100, 1) == 100 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(system("exit 3") == 3 << 8);
}

int main(int argc, char **argv) {
    rum_c_init(NULL);
    CHECK((far_a = rum_c_alloc(BYTES)) && (far_b = rum_c_alloc(BYTES)));
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {{"files", files},     {"vectors", vectors},         {"streams", streams}, {"nonblocking", nonblocking},
                 {"messages", messages}, {"standard_io", standard_io}, {"small", small},     {"cancelled", cancelled},
                 {"children", children},     {"uncaught", uncaught}};
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        if (argc > 1 && strcmp(argv[1], tests[i].name) != 0)
            continue;
        fprintf(stderr, "%s\n", tests[i].name);
        tests[i].run();
    }
    puts("ok");
    return 0;
}
