/* See histogram.h. */
#include "broker/histogram.h"

#define US UINT64_C(1000)
#define MS (1000 * US)
#define S (1000 * MS)

const struct fan__histogram_scale fan__histogram_times = {
    .count = 21,
    .bounds = { 10 * US,   25 * US, 50 * US,   100 * US, 250 * US, 500 * US, 1 * MS,
                2500 * US, 5 * MS,  10 * MS,   25 * MS,  50 * MS,  100 * MS, 250 * MS,
                500 * MS,  1 * S,   2500 * MS, 5 * S,    10 * S,   30 * S,   60 * S },
};

const struct fan__histogram_scale fan__histogram_sizes = {
    .count = 10,
    .bounds = { 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000 },
};

void fan__histogram_add(struct fan__histogram *histogram, const struct fan__histogram_scale *scale,
                        uint64_t value)
{
    size_t low = 0;
    size_t high = scale->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (value <= scale->bounds[middle])
            high = middle;
        else
            low = middle + 1;
    }
    histogram->counts[low]++;
    histogram->sum += value;
}
