/* The list of consumers, and what store.c asks of all of them. A new one gets a row here and a bit in jitunwind.h. */

#define _GNU_SOURCE
#include <errno.h>
#include <link.h>
#include <stdlib.h>

#include "consumer.h"

/* In the order in which they are told. Code is taken back in the opposite order, first from those with `flush`. One that
   frees publications itself stands first: nobody is asked after it. */
const struct consumer *const consumers[] = {
    &libunwind_consumer,
    &libgcc_consumer,
    &llvm_consumer,
    &symbol_files_consumer,
    &jitdump_consumer,
    &perf_map_consumer,
};
_Static_assert(sizeof consumers / sizeof *consumers == CONSUMER_COUNT, "modules count them");
_Static_assert(CONSUMER_COUNT <= 8, "jitunwind_publication.told has a bit for each");

static unsigned joined; /* a bit for each by its index: those that join late, and are there */

int consumers_check(unsigned bits)
{
    unsigned known = 0;
    for (unsigned i = 0; i < CONSUMER_COUNT; i++)
        known |= consumers[i]->bit;
    if (bits & ~known)
        return EINVAL;
    for (unsigned i = 0; i < CONSUMER_COUNT; i++)
        if (bits & consumers[i]->bit && !consumers[i]->joins_late && !consumers[i]->find())
            return ENOTSUP;
    return 0;
}

static int loads_so_far(struct dl_phdr_info *info, size_t size, void *loads)
{
    (void)size;
    *(unsigned long long *)loads = info->dlpi_adds;
    return 1;
}

/* Whether an object may have been loaded since the last time. */
static bool has_loaded_objects(void)
{
    static unsigned long long before;
    unsigned long long now = 0;
    dl_iterate_phdr(loads_so_far, &now);
    bool is_more = now != before;
    before = now;
    return is_more;
}

/* Whether it was to be told, and could be. */
static int tell(unsigned index, struct jitunwind_publication *publication, const struct jitunwind_region *region)
{
    const struct consumer *consumer = consumers[index];
    unsigned bit = 1u << index;
    if (!(publication->consumers & consumer->bit) || (consumer->joins_late && !(joined & bit)))
        return 0;
    int error = consumer->add(publication, region);
    if (!error)
        publication->told |= (uint8_t)bit;
    return error;
}

void consumers_join(unsigned bits, struct jitunwind_publication **published, size_t count)
{
    unsigned missing = 0;
    for (unsigned i = 0; i < CONSUMER_COUNT; i++)
        if (consumers[i]->joins_late && bits & consumers[i]->bit)
            missing |= 1u << i;
    missing &= ~joined;
    if (!missing || !has_loaded_objects())
        return;
    for (unsigned i = 0; i < CONSUMER_COUNT; i++) {
        if (!(missing & 1u << i) || !consumers[i]->find())
            continue;
        joined |= 1u << i;
        for (size_t j = 0; j < count; j++)
            tell(i, published[j], NULL); /* one that there is no memory for goes without */
    }
}

int consumers_add(struct jitunwind_publication *publication, const struct jitunwind_region *region)
{
    int error = 0;
    for (unsigned i = 0; i < CONSUMER_COUNT && !error; i++)
        error = tell(i, publication, region);
    return error;
}

/* Whether the consumer frees the publication later. */
static bool take_back(unsigned index, struct jitunwind_publication *publication)
{
    bool was_told = publication->told >> index & 1;
    return was_told && consumers[index]->remove && consumers[index]->remove(publication);
}

/* Nothing is touched any more that a consumer is to free. */
static void take_back_and_free(struct jitunwind_publication *publication)
{
    for (unsigned i = CONSUMER_COUNT; i--;)
        if (!consumers[i]->flush && take_back(i, publication))
            return;
    free(publication);
}

int consumers_add_more(struct jitunwind_publication *publication, const struct jitunwind_region *region, unsigned bits)
{
    int error = 0;
    publication->consumers |= (uint8_t)bits;
    for (unsigned i = 0; i < CONSUMER_COUNT && !error; i++)
        if (bits & consumers[i]->bit && !(publication->told >> i & 1))
            error = tell(i, publication, region);
    return error;
}

void consumers_remove(struct jitunwind_publication **publications, size_t count)
{
    for (unsigned i = CONSUMER_COUNT; i--;) {
        if (!consumers[i]->flush)
            continue;
        for (size_t j = 0; j < count; j++)
            if (publications[j])
                take_back(i, publications[j]);
        consumers[i]->flush();
    }
    for (size_t j = 0; j < count; j++)
        if (publications[j])
            take_back_and_free(publications[j]);
}

int consumers_flush(void)
{
    int error = 0;
    for (unsigned i = 0; i < CONSUMER_COUNT; i++)
        if (consumers[i]->flush) {
            int failed = consumers[i]->flush();
            error = error ? error : failed;
        }
    return error;
}

const char *consumers_problem(unsigned bits)
{
    for (unsigned i = 0; i < CONSUMER_COUNT; i++)
        if (bits & consumers[i]->bit && consumers[i]->problem && *consumers[i]->problem())
            return consumers[i]->problem();
    return NULL;
}

void consumers_count(struct jitunwind_statistics *statistics)
{
    for (unsigned i = 0; i < CONSUMER_COUNT; i++)
        if (consumers[i]->count)
            consumers[i]->count(statistics);
}
