// A program as one was written for the original's headers: C++98, sizes as int, the original's includes.
#include "rum.h"

extern "C" {
#include "rum_c_version.h"
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void expect(bool ok, const char *what) {
    if (!ok) {
        printf("failed: %s\n", what);
        failures++;
    }
}

static HASH_TYPE make_hash(const char *text) {
    HASH_TYPE hash;
    memset(hash.hash_str, 0, HASH_LENGTH);
    strcpy(HASH_STR(hash), text);
    return hash;
}

int main(int argc, char *argv[]) {
    if (argc < 2)
        return 2;
    rum_init(argv[1]);

    Location l;
    memset(&l, 0, sizeof(l));
    strcpy((char *)l.ip_addr, "127.0.0.1");
    const unsigned char mac[ETHER_ADDR_LEN_BYTES] = {2, 0, 0, 0, 0, 1};
    memcpy(l.mac_addr, mac, ETHER_ADDR_LEN_BYTES);
    char buffer[33 + IP_ADDR_LEN_BYTES];
    expect(strcmp(location_to_string(l), location_to_string_b(l, buffer)) == 0, "location_to_string");
    expect(location_compare(l, l), "location_compare");

    int size = 1000 * sizeof(int);
    int *plain = (int *)rum_alloc(size);
    int *placed = (int *)rum_alloc(size, l);
    HASH_TYPE hash = make_hash("d41d8cd98f00b204e9800998ecf8427e");
    HASH_TYPE other = make_hash("0cc175b9c0f1b6a831c399e269772661");
    int *hashed = (int *)rum_alloc(size, hash);
    int *hashed_placed = (int *)rum_alloc(size, other, l);
    int *zero = (int *)rum_calloc(1000, sizeof(int));
    expect(plain && placed && hashed && hashed_placed && zero, "rum_alloc");
    for (int i = 0; i < 1000; i++) {
        expect(zero[i] == 0, "rum_calloc");
        plain[i] = i;
        placed[i] = -i;
        hashed[i] = i * i;
        hashed_placed[i] = i + 1;
    }
    plain = (int *)rum_realloc(plain, 2 * size);
    rum_flush_cache();
    for (int i = 0; i < 1000; i++)
        expect(plain[i] == i && placed[i] == -i && hashed[i] == i * i && hashed_placed[i] == i + 1, "contents");
    expect(rum_get(other, l) == hashed_placed, "rum_get");
    expect(rum_get(make_hash("missing"), l) == NULL, "rum_get of nothing");

    rum_free(plain);
    rum_free(placed);
    rum_free(zero);
    rum_free(hashed, hash);
    rum_free(l, other);
    expect(rum_get(other, l) == NULL, "rum_free by location and hash");
    rum_stats();
    rum_end();
    printf("%s\n", failures ? "failed" : "ok");
    return failures != 0;
}
