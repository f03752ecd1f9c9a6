/* RUM for C: far memory behind ordinary pointers. Link with -lrum.
 *
 * Every function may be called from every thread. A failed call returns NULL and sets errno; rum_c_errno_string
 * says what the number means here.
 *
 *   ENOMEM     the grid, this client's quota or its address range is full, or the size is impossible
 *   EINVAL     rum_c_init was not called yet (one line on stderr says so), or rum_c_end was
 *   EEXIST     an object of this name exists with another size
 *   ENXIO      no line of machines.csv has this Location
 *   ENOENT     no object has this name
 *
 * A forked child does not inherit the grid: its calls fail as if rum_c_init had not been called.
 */
#ifndef RUM_C_VERSION_H
#define RUM_C_VERSION_H

#include <stddef.h>
#include <stdint.h>

#include "Location.h"
#include "hash_type.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Joins the grid of a machines.csv, or, with NULL, of the file that the environment variable RUM_MACHINES names. If the
 * file or the grid is not as it should be, prints one line that says what and where, and exits with code 2.
 * A second call with the same file prints a line and changes nothing; with another file it exits with code 2. */
void rum_c_init(const char *machines_csv);

/* Allocates size bytes of far memory, aligned to 16; their contents are unspecified. A size of 0 gives a pointer of its
 * own, to be freed like any other. */
void *rum_c_alloc(size_t size);

/* The same on the slave named. */
void *rum_c_alloc_location(size_t size, Location l);

/* Creates the object of this name, size bytes of zeros, or finds the one that exists. */
void *rum_c_alloc_hash(size_t size, HASH_TYPE hash);
void *rum_c_alloc_hash_location(size_t size, HASH_TYPE hash, Location l);

/* Allocates an array of num elements of size bytes, all zero. ENOMEM when num * size overflows. */
void *rum_c_calloc(size_t num, size_t size);

/* Allocates size bytes aligned to alignment, a power of two up to 4096. EINVAL when it is not one. */
void *rum_c_aligned_alloc(size_t alignment, size_t size);

/* Changes the size of an allocation, moving it if need be. NULL leaves the old one as it was. realloc(NULL, n)
 * allocates; realloc(p, 0) frees p and returns NULL. */
void *rum_c_realloc(void *ptr, size_t size);

/* Frees an allocation; NULL is ignored. A pointer that is not a live allocation of RUM (freed before, foreign, inside of
 * one, or a named object) ends the program: a line on stderr, then abort. After rum_c_end it does nothing. */
void rum_c_free(void *ptr);

/* Frees a named object for every client. ENOENT in errno when there is none. With a pointer that is not the
 * object's: a line on stderr, then abort. */
void rum_c_free_hash(void *ptr, HASH_TYPE hash);
void rum_c_free_hash_location(Location l, HASH_TYPE hash);

/* The object of this name, or NULL when there is none. l may be all zeros: any slave. */
void *rum_c_get(HASH_TYPE hash, Location l);

/* Returns when all that this program wrote is on the slaves: a client that looks a named object up after that
 * sees it, and this one sees what others flushed. */
void rum_c_flush_cache(void);

/* Prints counters and gauges to stdout, one `name value` a line. */
void rum_c_stats(void);

/* Flushes and leaves the grid; all far memory of this program but named objects is gone. A program need not call
 * it: a program that ends by exit or by returning from main flushes its named objects. */
void rum_c_end(void);

/* What an errno that RUM set means, as a sentence of static storage. */
const char *rum_c_errno_string(int error);

#ifdef __cplusplus
}
#endif

#endif
