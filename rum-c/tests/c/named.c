/* A named object across programs: argv[1] says which one of them this is. */
#include "check.h"
#include "rum_c_version.h"

#define BYTES ((size_t)2 << 20)

int main(int argc, char **argv) {
    CHECK(argc == 2);
    const char *part = argv[1];
    HASH_TYPE name = {"900150983cd24fb0d6963f7d28e17f72"};
    Location any;
    memset(&any, 0, sizeof any);
    rum_c_init(NULL);
    if (strcmp(part, "create") == 0) {
        unsigned char *object = rum_c_alloc_hash(BYTES, name);
        CHECK(object != NULL);
        fill(object, BYTES, 1);
        rum_c_flush_cache();
    } else {
        unsigned char *object = rum_c_get(name, any);
        if (strcmp(part, "missing") == 0) {
            CHECK(object == NULL && errno == ENOENT);
        } else if (strcmp(part, "change") == 0) {
            CHECK(object != NULL && first_wrong(object, BYTES, 1) == BYTES);
            errno = 0;
            CHECK(rum_c_alloc_hash(BYTES / 2, name) == NULL && errno == EEXIST);
            fill(object, BYTES, 2); /* The end of the program flushes. */
        } else {
            CHECK(object != NULL && first_wrong(object, BYTES, 2) == BYTES);
            if (strcmp(part, "free") == 0)
                rum_c_free_hash(object, name);
        }
    }
    puts("ok");
    return 0;
}
