/* The name of an object that outlives its client. */
#ifndef RUM_HASH_TYPE_H
#define RUM_HASH_TYPE_H

/* 32 characters, as a rule the hexadecimal digits of a hash, and a NUL. A shorter name ends at its NUL; what
 * stands behind that does not count. */
#define HASH_LENGTH 33
#define HASH_STR(a) ((char *)(a).hash_str)

typedef struct hash_type {
    unsigned char hash_str[HASH_LENGTH];
} HASH_TYPE;

#endif
