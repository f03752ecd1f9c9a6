/* A worker thread that blocks every signal, and then works on far memory that does not fit its budget. */
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include "rum_c_version.h"

enum { NUMBERS = 1 << 20 };

static void *work(void *argument) {
    long *numbers = argument;
    sigset_t all, now;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
    CHECK(sigprocmask(SIG_SETMASK, &all, NULL) == 0);
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &now) == 0);
    CHECK(sigismember(&now, SIGINT) == 1 && sigismember(&now, SIGBUS) == 0);
    for (long i = 0; i < NUMBERS; i++)
        numbers[i] = 3 * i;
    for (long i = 0; i < NUMBERS; i++)
        CHECK(numbers[i] == 3 * i);
    return NULL;
}

int main(void) {
    pthread_t thread;
    rum_c_init(NULL);
    long *numbers = rum_c_alloc(NUMBERS * sizeof *numbers);
    CHECK(numbers);
    CHECK(pthread_create(&thread, NULL, work, numbers) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    rum_c_free(numbers);
    puts("ok");
    return 0;
}
