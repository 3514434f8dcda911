/* Two intrusive containers: a hash table of nodes by hash, and a heap of nodes by (key, seq). */
#ifndef FAN_STORE_MEMORY_TABLE_H
#define FAN_STORE_MEMORY_TABLE_H

#include <fanfare/env.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fan__table_node {
    struct fan__table_node *next;
    uint64_t hash;
};

/* The buckets grow with the count; where there is no memory for that, chains grow instead. */
struct fan__table {
    const struct fan_env *env;
    struct fan__table_node **buckets;
    size_t capacity;
    size_t count;
};

/* Returns: false without memory. */
bool fan__table_init(struct fan__table *table, const struct fan_env *env);

/* Frees the buckets, not the nodes. */
void fan__table_deinit(struct fan__table *table);

/* The first node with the hash, and the next one after `node`; NULL when there is none. */
struct fan__table_node *fan__table_first(const struct fan__table *table, uint64_t hash);
struct fan__table_node *fan__table_next(const struct fan__table_node *node);

void fan__table_add(struct fan__table *table, struct fan__table_node *node, uint64_t hash);
void fan__table_remove(struct fan__table *table, struct fan__table_node *node);

/* Takes any node out, for tearing down; NULL at the end. *at starts at 0. */
struct fan__table_node *fan__table_pop(struct fan__table *table, size_t *at);

/* place is the index in the heap plus 1, and 0 while the node is in none. */
struct fan__heap_node {
    int64_t key;
    uint64_t seq;
    size_t place;
};

struct fan__heap {
    const struct fan_env *env;
    struct fan__heap_node **nodes;
    size_t count;
    size_t capacity;
};

void fan__heap_init(struct fan__heap *heap, const struct fan_env *env);
void fan__heap_deinit(struct fan__heap *heap);

/*
 * Makes room for `count` nodes in all, so that adding cannot fail. Returns: false without memory.
 */
bool fan__heap_reserve(struct fan__heap *heap, size_t count);
void fan__heap_add(struct fan__heap *heap, struct fan__heap_node *node, int64_t key, uint64_t seq);

/* Does nothing for a node that is in no heap. */
void fan__heap_remove(struct fan__heap *heap, struct fan__heap_node *node);

/* The smallest, NULL when it is empty. */
struct fan__heap_node *fan__heap_top(const struct fan__heap *heap);

#endif
