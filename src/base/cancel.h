/* The inside of a cancel token: whom to tell when it fires. */
#ifndef FAN_BASE_CANCEL_H
#define FAN_BASE_CANCEL_H

#include <fanfare/cancel.h>

/* Embedded in what wants to be told; the token never allocates for it. */
struct fan__cancel_entry {
    struct fan__cancel_entry *next;
    struct fan__cancel_entry *previous;
    void (*fire)(struct fan__cancel_entry *entry);
    struct fan_cancel *cancel;
};

/*
 * Registers `entry`, whose `fire` is set, and holds the token. `fire` runs once, with the token's
 * lock held: at once when the token has fired already, else when it does. It must take short locks
 * only and must not remove an entry.
 */
void fan__cancel_add(struct fan_cancel *cancel, struct fan__cancel_entry *entry);

/*
 * Ends the registration and the hold; when it returns, `fire` neither runs nor will. Twice is fine.
 */
void fan__cancel_remove(struct fan__cancel_entry *entry);

#endif
