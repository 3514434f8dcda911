/*
 * See arena.h. Classes are an eighth of a power of two apart, from SIZE_MIN on, so at most an
 * eighth of a piece is not used. Under AddressSanitizer what waits is poisoned, as if it were
 * freed.
 */
#include "bus/arena.h"

#include "base/env.h"

#include <assert.h>
#include <stdbool.h>

#define SIZE_MIN ((size_t)1 << 10)
#define STEPS 8 /* between a power of two and the next */

#if defined(__SANITIZE_ADDRESS__)
#define POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POISONS 1
#endif
#endif

#ifdef POISONS
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

struct fan__spare {
    struct fan__spare *next;
    size_t size;
};

void fan__arena_init(struct fan__arena *arena, const struct fan_env *env, size_t spare_size_max)
{
    arena->env = env;
    arena->spare_size_max = spare_size_max;
    arena->next_class = 0;
    atomic_init(&arena->spare_size, 0);
    for (size_t i = 0; i < FAN__ARENA_CLASS_COUNT; i++)
        atomic_init(&arena->heads[i], NULL);
}

/* The distance of classes at a size above SIZE_MIN. */
static size_t step_at(size_t size)
{
    size_t power = (size_t)1 << (63 - __builtin_clzll(size - 1));
    return power / STEPS;
}

size_t fan__arena_size(size_t size)
{
    if (size <= SIZE_MIN)
        return size;
    size_t step = step_at(size);
    return (size + step - 1) / step * step;
}

/* FAN__ARENA_CLASS_COUNT for a size that the allocator takes care of. */
static size_t class_of(size_t size)
{
    if (size <= SIZE_MIN)
        return FAN__ARENA_CLASS_COUNT;
    size_t doubling = (size_t)__builtin_clzll(SIZE_MIN) - (size_t)__builtin_clzll(size - 1);
    size_t step = step_at(size);
    size_t class = doubling * STEPS + size / step - STEPS - 1;
    assert(size % step == 0);
    return class < FAN__ARENA_CLASS_COUNT ? class : FAN__ARENA_CLASS_COUNT;
}

static struct fan__spare *pop(struct fan__arena *arena, size_t class)
{
    _Atomic(struct fan__spare *) *head = &arena->heads[class];
    /* acquire: what its last holder did with it, and where it points, comes before. */
    struct fan__spare *spare = atomic_load_explicit(head, memory_order_acquire);
    while (spare && !atomic_compare_exchange_weak_explicit(
                        head, &spare, spare->next, memory_order_acquire, memory_order_acquire))
        continue;
    if (!spare)
        return NULL;
    /* relaxed: a sum. */
    atomic_fetch_sub_explicit(&arena->spare_size, spare->size, memory_order_relaxed);
    ASAN_UNPOISON_MEMORY_REGION(spare, spare->size);
    return spare;
}

/* Frees one piece of the next size that has any. */
static void forget_one(struct fan__arena *arena)
{
    for (size_t i = 0; i < FAN__ARENA_CLASS_COUNT; i++) {
        struct fan__spare *spare = pop(arena, arena->next_class);
        if (spare) {
            fan__free(arena->env, spare);
            return;
        }
        arena->next_class = (arena->next_class + 1) % FAN__ARENA_CLASS_COUNT;
    }
}

void *fan__arena_get(struct fan__arena *arena, size_t size)
{
    size_t class = class_of(size);
    if (class == FAN__ARENA_CLASS_COUNT)
        return fan__alloc(arena->env, size);
    struct fan__spare *spare = pop(arena, class);
    if (spare)
        return spare;
    /* Sizes that are not asked for any more make way; relaxed: a sum. */
    if (atomic_load_explicit(&arena->spare_size, memory_order_relaxed) > arena->spare_size_max / 4)
        forget_one(arena);
    return fan__alloc(arena->env, size);
}

/* Counts a piece that is to wait; false when too much does. */
static bool may_wait(struct fan__arena *arena, size_t size)
{
    /* relaxed: a sum, which is above what waits rather than below it. */
    if (atomic_fetch_add_explicit(&arena->spare_size, size, memory_order_relaxed) + size <=
        arena->spare_size_max)
        return true;
    atomic_fetch_sub_explicit(&arena->spare_size, size, memory_order_relaxed);
    return false;
}

void fan__arena_put(struct fan__arena *arena, void *piece, size_t size)
{
    size_t class = class_of(size);
    if (class == FAN__ARENA_CLASS_COUNT || !may_wait(arena, size)) {
        fan__free(arena->env, piece);
        return;
    }
    _Atomic(struct fan__spare *) *head = &arena->heads[class];
    struct fan__spare *spare = piece;
    *spare = (struct fan__spare){ .size = size };
    ASAN_POISON_MEMORY_REGION(spare + 1, size - sizeof(*spare));
    struct fan__spare *next = atomic_load_explicit(head, memory_order_relaxed);
    /* release: see pop; relaxed: it is looked at again. */
    do
        spare->next = next;
    while (!atomic_compare_exchange_weak_explicit(head, &next, spare, memory_order_release,
                                                  memory_order_relaxed));
}

void fan__arena_trim(struct fan__arena *arena)
{
    for (size_t i = 0; i < FAN__ARENA_CLASS_COUNT; i++) {
        for (struct fan__spare *spare = pop(arena, i); spare; spare = pop(arena, i))
            fan__free(arena->env, spare);
    }
}
