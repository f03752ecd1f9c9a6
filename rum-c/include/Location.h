/* A slave, as the first two columns of machines.csv name it. */
#ifndef RUM_LOCATION_H
#define RUM_LOCATION_H

#define ETHER_ADDR_LEN_BYTES 6
#define IP_ADDR_LEN_BYTES 45

/* ip_addr ends at its NUL. A Location of zero bytes only means "any slave". */
typedef struct location {
    unsigned char ip_addr[IP_ADDR_LEN_BYTES];
    unsigned char mac_addr[ETHER_ADDR_LEN_BYTES];
} Location;

#ifdef __cplusplus
extern "C" {
#endif

/* "127.0.0.1, 02:00:00:00:00:01". The text is the calling thread's and is valid until its fourth call from now. */
const char *location_to_string(Location l);

/* The same into buf, which must have room for 65 bytes. Returns buf. */
char *location_to_string_b(Location l, char *buf);

/* Prints the location and a newline to stdout. */
void location_print(Location l);

/* 1 when both name the same slave, 0 when not. (Not the order that strcmp gives.) */
int location_compare(Location a, Location b);

#ifdef __cplusplus
}
#endif

#endif
