/* A table of squares in far memory. Under `rum local --budget 4M -- ./hello` most of its 64 MiB are on the slaves. */
#include <stdio.h>

#include <rum_c_version.h>

int main(void) {
    rum_c_init(NULL); /* The grid of RUM_MACHINES; a path names another. */
    size_t count = 8 << 20;
    unsigned long *squares = rum_c_alloc(count * sizeof *squares);
    if (squares == NULL) {
        perror("rum_c_alloc");
        return 1;
    }
    for (size_t i = 0; i < count; i++)
        squares[i] = i * i;
    unsigned long sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += squares[i];
    printf("hello from far memory: %lu\n", sum);
    rum_c_free(squares);
    return 0;
}
