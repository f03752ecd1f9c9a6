/* Bad input, one case a run: argv[1] names it. Prints "ok" when the program lives on and all is as it should be. */
#include <pthread.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "rum_c_version.h"

static HASH_TYPE hash = {"name"};
static Location any;

/* Walks through far memory for ever. */
static void *walk(void *block) {
    for (size_t i = 0;; i += 4096)
        ((volatile char *)block)[i % (4 << 20)]++;
    return NULL;
}

static int run_case(const char *name, const char *machines) {
    if (strcmp(name, "before-init") == 0) {
        CHECK(rum_c_alloc(10) == NULL && errno == EINVAL);
        errno = 0;
        CHECK(rum_c_alloc_hash(10, hash) == NULL && errno == EINVAL);
        CHECK(rum_c_calloc(1, 1) == NULL && rum_c_realloc(NULL, 1) == NULL && rum_c_get(hash, any) == NULL);
        rum_c_free(NULL);
        rum_c_flush_cache();
        rum_c_stats();
        rum_c_end();
        return 1;
    }
    if (strcmp(name, "free-before-init") == 0) {
        rum_c_free(malloc(10));
        return 1;
    }
    rum_c_init(machines);
    if (strcmp(name, "join") == 0)
        return 1;
    if (strcmp(name, "twice") == 0) {
        void *block = rum_c_alloc(10);
        rum_c_init(machines);
        rum_c_free(block);
        return 1;
    }
    if (strcmp(name, "twice-other") == 0) {
        rum_c_init("other.csv");
        return 1;
    }
    if (strcmp(name, "huge") == 0) {
        CHECK(rum_c_alloc(SIZE_MAX) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(rum_c_alloc((size_t)1 << 62) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(rum_c_alloc_hash(SIZE_MAX, hash) == NULL && errno == ENOMEM);
        void *block = rum_c_alloc(10);
        errno = 0;
        CHECK(rum_c_realloc(block, SIZE_MAX) == NULL && errno == ENOMEM);
        rum_c_free(block); /* A failed realloc left it alone. */
        return 1;
    }
    if (strcmp(name, "calloc-overflow") == 0) {
        CHECK(rum_c_calloc(SIZE_MAX / 2, 3) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(rum_c_calloc(((size_t)1 << 32) + 1, (size_t)1 << 32) == NULL && errno == ENOMEM);
        return 1;
    }
    if (strcmp(name, "full") == 0) {
        /* The grid has 2 x 64 MiB. */
        CHECK(rum_c_alloc((size_t)1 << 30) == NULL && errno == ENOMEM);
        size_t got = 0;
        void *last = NULL, *next;
        errno = 0;
        while ((next = rum_c_alloc(8 << 20)) != NULL) {
            last = next;
            got += 8;
            CHECK(got <= 128);
        }
        CHECK(errno == ENOMEM && got >= 96);
        rum_c_free(last);
        CHECK(rum_c_alloc(8 << 20) != NULL); /* What is freed can be had again. */
        return 1;
    }
    if (strcmp(name, "quota") == 0) {
        /* The client may hold 16 MiB of the 64 of its slave. */
        errno = 0;
        CHECK(rum_c_alloc(24 << 20) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(rum_c_alloc_hash(24 << 20, hash) == NULL && errno == ENOMEM);
        char *block = rum_c_alloc(8 << 20);
        CHECK(block != NULL);
        fill(block, 8 << 20, 5);
        void *other = rum_c_alloc(8 << 20);
        CHECK(other != NULL);
        errno = 0;
        CHECK(rum_c_alloc(8 << 20) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(rum_c_calloc(8, 1 << 20) == NULL && errno == ENOMEM);
        rum_c_free(other);
        CHECK(rum_c_alloc(8 << 20) != NULL);
        CHECK(first_wrong(block, 8 << 20, 5) == 8 << 20);
        return 1;
    }
    if (strcmp(name, "double-free") == 0) {
        char *block = rum_c_alloc(100);
        rum_c_free(block);
        rum_c_free(block);
    } else if (strcmp(name, "double-free-large") == 0) {
        char *block = rum_c_alloc(3 << 20);
        rum_c_free(block);
        rum_c_free(block);
    } else if (strcmp(name, "free-inside") == 0) {
        char *block = rum_c_alloc(1000);
        rum_c_free(block + 16);
    } else if (strcmp(name, "free-foreign") == 0) {
        void *volatile local = malloc(10);
        rum_c_free(local);
    } else if (strcmp(name, "realloc-foreign") == 0) {
        void *volatile local = malloc(10);
        CHECK(rum_c_realloc(local, 20) == NULL);
    } else if (strcmp(name, "free-named-as-other") == 0) {
        rum_c_alloc_hash(100, hash);
        rum_c_free_hash(rum_c_alloc(10), hash);
    } else if (strcmp(name, "after-end") == 0) {
        void *block = rum_c_alloc(10);
        rum_c_end();
        rum_c_free(block); /* A destructor that runs late. */
        errno = 0;
        CHECK(rum_c_alloc(10) == NULL && errno == EINVAL);
        return 1;
    } else if (strcmp(name, "join-again") == 0) {
        rum_c_end();
        rum_c_init(machines);
        char *block = rum_c_alloc(5 << 20);
        CHECK(block != NULL);
        fill(block, 5 << 20, 3);
        CHECK(first_wrong(block, 5 << 20, 3) == 5 << 20);
        return 1;
    } else if (strcmp(name, "fork") == 0) {
        char *block = rum_c_alloc(1 << 20);
        fill(block, 1 << 20, 1);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            errno = 0;
            CHECK(rum_c_alloc(10) == NULL && errno == EINVAL);
            rum_c_free(block); /* The parent's: stays. */
            exit(7);           /* Runs the handlers of exit: they must leave the parent's grid alone. */
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
        CHECK(first_wrong(block, 1 << 20, 1) == 1 << 20);
        CHECK(rum_c_alloc(8 << 20) != NULL);
        return 1;
    }
    if (strcmp(name, "exit-while-touching") == 0) {
        void *block = rum_c_alloc(4 << 20);
        CHECK(block != NULL);
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, walk, block) == 0);
        while (*(volatile char *)block == 0) /* Until the thread runs. */
            ;
        return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    CHECK(argc >= 2);
    CHECK(run_case(argv[1], argc > 2 ? argv[2] : NULL));
    puts("ok");
    return 0;
}
