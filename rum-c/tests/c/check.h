/* What the test programs share. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s (errno %d: %s)\n", __FILE__, __LINE__, #condition, errno, strerror(errno));    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* A pattern without period at page or piece boundaries. */
static inline unsigned char pattern(size_t index, unsigned seed) {
    return (unsigned char)((index * 2654435761u + seed) >> 13);
}

static inline void fill(void *to, size_t bytes, unsigned seed) {
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)to)[i] = pattern(i, seed);
}

/* The index of the first wrong byte, or bytes. */
static inline size_t first_wrong(const void *from, size_t bytes, unsigned seed) {
    for (size_t i = 0; i < bytes; i++)
        if (((const unsigned char *)from)[i] != pattern(i, seed))
            return i;
    return bytes;
}

#endif
