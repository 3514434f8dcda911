/*
 * A ring of links inside structs, for lists that are entered and left in the middle. A link that is
 * in no list points to itself, so leaving twice is fine.
 */
#ifndef FAN_BUS_LINK_H
#define FAN_BUS_LINK_H

#include <stdbool.h>
#include <stddef.h>

struct fan__link {
    struct fan__link *next;
    struct fan__link *previous;
};

/* The struct that a link is a member of. */
#define FAN__HOLDER(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

static inline void fan__link_init(struct fan__link *link)
{
    link->next = link;
    link->previous = link;
}

static inline bool fan__link_alone(const struct fan__link *link)
{
    return link->next == link;
}

static inline void fan__link_leave(struct fan__link *link)
{
    link->next->previous = link->previous;
    link->previous->next = link->next;
    fan__link_init(link);
}

/* Leaves the list it is in and becomes the last of this one. */
static inline void fan__link_join(struct fan__link *list, struct fan__link *link)
{
    fan__link_leave(link);
    link->previous = list->previous;
    link->next = list;
    list->previous->next = link;
    list->previous = link;
}

#endif
