/* Every C function, as a program uses it. */
#include <stdint.h>

#include "check.h"
#include "rum_c_version.h"

static HASH_TYPE named(const char *name) {
    HASH_TYPE hash;
    memset(&hash, 0xEE, sizeof hash); /* What stands behind the NUL must not matter. */
    strcpy(HASH_STR(hash), name);
    return hash;
}

static Location slave(unsigned char number) {
    Location l = {"127.0.0.1", {2, 0, 0, 0, 0, number}};
    return l;
}

static void sizes(void) {
    enum { COUNT = 3000 };
    static unsigned char *block[COUNT];
    static size_t size[COUNT];
    size_t sum = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        size[i] = i % 7 == 0 ? 4096 + i : i % 501 + 1;
        CHECK((block[i] = rum_c_alloc(size[i])) != NULL && (uintptr_t)block[i] % 16 == 0);
        fill(block[i], size[i], i);
        sum += size[i];
    }
    CHECK(sum > 1 << 20); /* More than the local budget. */
    for (unsigned i = 0; i < COUNT; i++) {
        CHECK(first_wrong(block[i], size[i], i) == size[i]);
        if (i % 2)
            rum_c_free(block[i]);
    }
    for (unsigned i = 0; i < COUNT; i += 2) {
        CHECK((block[i] = rum_c_realloc(block[i], size[i] * 3)) != NULL);
        CHECK(first_wrong(block[i], size[i], i) == size[i]);
        CHECK((block[i] = rum_c_realloc(block[i], size[i] / 2 + 1)) != NULL);
        CHECK(first_wrong(block[i], size[i] / 2 + 1, i) == size[i] / 2 + 1);
        rum_c_free(block[i]);
    }
}

static void zeroed(void) {
    for (int round = 0; round < 20; round++) {
        size_t count = 10000 + 1000 * (size_t)round;
        unsigned char *block = rum_c_calloc(count, 3);
        CHECK(block != NULL);
        for (size_t i = 0; i < count * 3; i++)
            CHECK(block[i] == 0);
        memset(block, 0xFF, count * 3); /* The next round reuses this. */
        rum_c_free(block);
    }
}

static void aligned(void) {
    for (size_t alignment = 1; alignment <= 4096; alignment *= 2) {
        void *block = rum_c_aligned_alloc(alignment, 100);
        CHECK(block != NULL && (uintptr_t)block % alignment == 0);
        rum_c_free(block);
    }
    errno = 0;
    CHECK(rum_c_aligned_alloc(24, 100) == NULL && errno == EINVAL);
    CHECK(rum_c_aligned_alloc(8192, 100) == NULL && errno == EINVAL);
}

static void objects(void) {
    Location any;
    memset(&any, 0, sizeof any);
    CHECK(rum_c_get(named("none of this name"), any) == NULL && errno == ENOENT);

    unsigned char *object = rum_c_alloc_hash(10000, named("first"));
    CHECK(object != NULL);
    for (int i = 0; i < 10000; i++)
        CHECK(object[i] == 0);
    fill(object, 10000, 1);
    rum_c_flush_cache();
    CHECK(first_wrong(object, 10000, 1) == 10000);
    CHECK(rum_c_get(named("first"), any) == object);
    CHECK(rum_c_alloc_hash(10000, named("first")) == object);
    CHECK(first_wrong(object, 10000, 1) == 10000);
    errno = 0;
    CHECK(rum_c_alloc_hash(9999, named("first")) == NULL && errno == EEXIST);

    unsigned char *placed = rum_c_alloc_hash_location(5000, named("second"), slave(2));
    CHECK(placed != NULL && placed != object);
    fill(placed, 5000, 2);
    CHECK(rum_c_get(named("second"), slave(2)) == placed);

    rum_c_free_hash(object, named("first"));
    CHECK(rum_c_get(named("first"), any) == NULL);
    errno = 0;
    rum_c_free_hash_location(any, named("first"));
    CHECK(errno == ENOENT);
    rum_c_free_hash_location(slave(2), named("second"));
    CHECK(rum_c_get(named("second"), slave(2)) == NULL);
}

static void places(void) {
    for (unsigned char number = 1; number <= 2; number++) {
        unsigned char *block = rum_c_alloc_location(100000, slave(number));
        CHECK(block != NULL);
        fill(block, 100000, number);
        CHECK(first_wrong(block, 100000, number) == 100000);
        rum_c_free(block);
    }
    Location any;
    memset(&any, 0, sizeof any);
    void *block = rum_c_alloc_location(100, any);
    CHECK(block != NULL);
    rum_c_free(block);
    errno = 0;
    CHECK(rum_c_alloc_location(100, slave(9)) == NULL && errno == ENXIO);

    char text[65];
    CHECK(strcmp(location_to_string(slave(1)), "127.0.0.1, 02:00:00:00:00:01") == 0);
    CHECK(location_to_string_b(slave(2), text) == text && strcmp(text, "127.0.0.1, 02:00:00:00:00:02") == 0);
    CHECK(location_compare(slave(1), slave(1)) && !location_compare(slave(1), slave(2)));
}

int main(int argc, char **argv) {
    rum_c_init(argc > 1 ? argv[1] : NULL);
    sizes();
    zeroed();
    aligned();
    objects();
    places();

    /* A size of 0 gives a pointer of its own; NULL is nothing to free. */
    void *a = rum_c_alloc(0), *b = rum_c_alloc(0);
    CHECK(a != NULL && b != NULL && a != b);
    rum_c_free(a);
    CHECK(rum_c_realloc(b, 0) == NULL);
    void *c = rum_c_realloc(NULL, 77);
    CHECK(c != NULL);
    errno = EDOM;
    rum_c_free(c);
    rum_c_free(NULL);
    rum_c_free_hash(NULL, named("whatever"));
    CHECK(errno == EDOM);

    CHECK(strstr(rum_c_errno_string(ENOMEM), "full") && strstr(rum_c_errno_string(EEXIST), "another size"));
    location_print(slave(1));
    rum_c_stats();
    rum_c_end();
    rum_c_end();
    return 0;
}
