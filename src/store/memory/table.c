/* Chains over a power of two of buckets; a binary heap of pointers whose nodes know their place. */
#include "store/memory/table.h"

#include "base/env.h"

#include <assert.h>
#include <string.h>

#define TABLE_CAPACITY_FIRST 64
#define HEAP_CAPACITY_FIRST 16

bool fan__table_init(struct fan__table *table, const struct fan_env *env)
{
    *table = (struct fan__table){ .env = env };
    table->buckets = fan__alloc_zero(env, TABLE_CAPACITY_FIRST, sizeof(struct fan__table_node *));
    if (!table->buckets)
        return false;
    table->capacity = TABLE_CAPACITY_FIRST;
    return true;
}

void fan__table_deinit(struct fan__table *table)
{
    fan__free(table->env, table->buckets);
    *table = (struct fan__table){ .env = table->env };
}

static struct fan__table_node **bucket(const struct fan__table *table, uint64_t hash)
{
    return &table->buckets[hash & (table->capacity - 1)];
}

struct fan__table_node *fan__table_first(const struct fan__table *table, uint64_t hash)
{
    struct fan__table_node *node = *bucket(table, hash);
    while (node && node->hash != hash)
        node = node->next;
    return node;
}

struct fan__table_node *fan__table_next(const struct fan__table_node *node)
{
    struct fan__table_node *next = node->next;
    while (next && next->hash != node->hash)
        next = next->next;
    return next;
}

static void grow(struct fan__table *table)
{
    struct fan__table larger = *table;
    larger.capacity = table->capacity * 2;
    larger.buckets = fan__alloc_zero(table->env, larger.capacity, sizeof(struct fan__table_node *));
    if (!larger.buckets)
        return;
    for (size_t i = 0; i < table->capacity; i++) {
        struct fan__table_node *node = table->buckets[i];
        while (node) {
            struct fan__table_node *next = node->next;
            struct fan__table_node **target = bucket(&larger, node->hash);
            node->next = *target;
            *target = node;
            node = next;
        }
    }
    fan__free(table->env, table->buckets);
    *table = larger;
}

void fan__table_add(struct fan__table *table, struct fan__table_node *node, uint64_t hash)
{
    if (table->count >= table->capacity)
        grow(table);
    node->hash = hash;
    struct fan__table_node **target = bucket(table, hash);
    node->next = *target;
    *target = node;
    table->count++;
}

void fan__table_remove(struct fan__table *table, struct fan__table_node *node)
{
    struct fan__table_node **at = bucket(table, node->hash);
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    table->count--;
}

struct fan__table_node *fan__table_pop(struct fan__table *table, size_t *at)
{
    for (; *at < table->capacity; ++*at) {
        struct fan__table_node *node = table->buckets[*at];
        if (node) {
            table->buckets[*at] = node->next;
            table->count--;
            return node;
        }
    }
    return NULL;
}

void fan__heap_init(struct fan__heap *heap, const struct fan_env *env)
{
    *heap = (struct fan__heap){ .env = env };
}

void fan__heap_deinit(struct fan__heap *heap)
{
    fan__free(heap->env, heap->nodes);
    *heap = (struct fan__heap){ .env = heap->env };
}

bool fan__heap_reserve(struct fan__heap *heap, size_t count)
{
    if (count <= heap->capacity)
        return true;
    size_t capacity = heap->capacity ? heap->capacity : HEAP_CAPACITY_FIRST;
    while (capacity < count)
        capacity *= 2;
    struct fan__heap_node **nodes =
        fan__resize(heap->env, heap->nodes, capacity * sizeof(struct fan__heap_node *));
    if (!nodes)
        return false;
    heap->nodes = nodes;
    heap->capacity = capacity;
    return true;
}

static bool is_before(const struct fan__heap_node *a, const struct fan__heap_node *b)
{
    return a->key != b->key ? a->key < b->key : a->seq < b->seq;
}

static void put(struct fan__heap *heap, size_t index, struct fan__heap_node *node)
{
    heap->nodes[index] = node;
    node->place = index + 1;
}

static void rise(struct fan__heap *heap, size_t index, struct fan__heap_node *node)
{
    while (index > 0) {
        size_t parent = (index - 1) / 2;
        if (!is_before(node, heap->nodes[parent]))
            break;
        put(heap, index, heap->nodes[parent]);
        index = parent;
    }
    put(heap, index, node);
}

static void sink(struct fan__heap *heap, size_t index, struct fan__heap_node *node)
{
    for (;;) {
        size_t child = index * 2 + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && is_before(heap->nodes[child + 1], heap->nodes[child]))
            child++;
        if (!is_before(heap->nodes[child], node))
            break;
        put(heap, index, heap->nodes[child]);
        index = child;
    }
    put(heap, index, node);
}

void fan__heap_add(struct fan__heap *heap, struct fan__heap_node *node, int64_t key, uint64_t seq)
{
    assert(node->place == 0 && heap->count < heap->capacity);
    node->key = key;
    node->seq = seq;
    rise(heap, heap->count++, node);
}

void fan__heap_remove(struct fan__heap *heap, struct fan__heap_node *node)
{
    if (node->place == 0)
        return;
    size_t index = node->place - 1;
    assert(heap->nodes[index] == node);
    node->place = 0;
    struct fan__heap_node *last = heap->nodes[--heap->count];
    if (last == node)
        return;
    if (index > 0 && is_before(last, heap->nodes[(index - 1) / 2]))
        rise(heap, index, last);
    else
        sink(heap, index, last);
}

struct fan__heap_node *fan__heap_top(const struct fan__heap *heap)
{
    return heap->count > 0 ? heap->nodes[0] : NULL;
}
