/* RUM for C++: far memory behind ordinary pointers. Link with -lrum.
 *
 * The functions are those of rum_c_version.h, which documents them, under overloaded names. A C program gets the
 * C names by this header, too. */
#ifndef RUM_H
#define RUM_H

#include "rum_c_version.h"

#ifdef __cplusplus

/* Joins the grid; NULL: the file that RUM_MACHINES names. Exits with code 2 and a message when it cannot. */
inline void rum_init(const char *machines_csv) { rum_c_init(machines_csv); }

/* Far memory: by size, on a slave, by name, by name on a slave. NULL and errno on failure. */
inline void *rum_alloc(size_t size) { return rum_c_alloc(size); }
inline void *rum_alloc(size_t size, Location l) { return rum_c_alloc_location(size, l); }
inline void *rum_alloc(size_t size, HASH_TYPE hash) { return rum_c_alloc_hash(size, hash); }
inline void *rum_alloc(size_t size, HASH_TYPE hash, Location l) { return rum_c_alloc_hash_location(size, hash, l); }

/* Zeroed; checked for overflow. */
inline void *rum_calloc(size_t num, size_t size) { return rum_c_calloc(num, size); }
inline void *rum_realloc(void *ptr, size_t size) { return rum_c_realloc(ptr, size); }

/* Frees an allocation, a named object by its pointer, a named object by its place. */
inline void rum_free(void *ptr) { rum_c_free(ptr); }
inline void rum_free(void *ptr, HASH_TYPE hash) { rum_c_free_hash(ptr, hash); }
inline void rum_free(Location l, HASH_TYPE hash) { rum_c_free_hash_location(l, hash); }

/* The named object, or NULL when there is none. */
inline void *rum_get(HASH_TYPE hash, Location l) { return rum_c_get(hash, l); }

inline void rum_flush_cache(void) { rum_c_flush_cache(); }
inline void rum_stats(void) { rum_c_stats(); }
inline void rum_end(void) { rum_c_end(); }
inline const char *rum_errno_string(int error) { return rum_c_errno_string(error); }

#endif
#endif
