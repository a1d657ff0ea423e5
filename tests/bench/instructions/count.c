/* A plugin of QEMU's user-mode emulators that counts the instructions which the guest executes.
 *
 *   cc -O2 -shared -fPIC -DAPI=1 -o count.so count.c
 *   qemu-aarch64 -plugin ./count.so,out=FILE[,blocks=FILE] PROGRAM
 *
 * Writes the number to FILE when the program ends. With `blocks` it also writes a line `ADDRESS
 * INSTRUCTIONS` for each block of code that ran, the count of all its runs, and then the memory map
 * in which the addresses lie: profile.py makes functions of them.
 *
 * The prototypes are written here because Debian ships no header of the plugin interface: only what
 * has been the same in all its versions since the first, and the number of the version, which QEMU
 * compares with what it supports.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id,
                                           void (*translated)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
                                          void (*executed)(unsigned vcpu, void *data),
                                          int registers, void *data);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*ended)(plugin_id, void *data), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = API;

/* Each virtual processor, that is each thread of the guest, counts for itself, in a cache line of
 * its own. Threads beyond the last share counters, which may lose some: the output says so. */
enum { N_VCPUS = 64 };
static struct {
    uint64_t n;
    char pad[56];
} counts[N_VCPUS];
static int n_vcpus;

/* A block of the guest's code as it was translated; never freed, because QEMU does not say when. */
struct block {
    uint64_t address, n_instructions, n_runs;
    struct block *next;
};
static struct block *blocks;
static const char *out_path, *blocks_path;

static void executed(unsigned vcpu, void *data) {
    if ((int)vcpu >= n_vcpus) n_vcpus = (int)vcpu + 1;
    counts[vcpu % N_VCPUS].n += (uintptr_t)data;
}

static void executed_block(unsigned vcpu, void *data) {
    struct block *block = data;
    executed(vcpu, (void *)(uintptr_t)block->n_instructions);
    block->n_runs += 1;
}

/* QEMU translates under a lock: one call at a time. */
static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
    uintptr_t n = qemu_plugin_tb_n_insns(tb);
    struct block *block;
    (void)id;
    if (!blocks_path) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, (void *)n);
        return;
    }
    block = calloc(1, sizeof *block);
    if (!block) abort();
    block->address = qemu_plugin_tb_vaddr(tb);
    block->n_instructions = n;
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed_block, 0, block);
}

static FILE *create(const char *path) {
    FILE *file = fopen(path, "w");
    if (!file) {
        perror(path);
        abort();
    }
    return file;
}

static void ended(plugin_id id, void *data) {
    uint64_t sum = 0;
    FILE *file, *maps;
    int i, c;
    (void)id;
    (void)data;
    for (i = 0; i < N_VCPUS; i++) sum += counts[i].n;
    file = create(out_path);
    fprintf(file, "%" PRIu64 " instructions, %d threads%s\n", sum, n_vcpus,
            n_vcpus > N_VCPUS ? ", some lost" : "");
    fclose(file);
    if (!blocks_path) return;
    file = create(blocks_path);
    for (; blocks; blocks = blocks->next)
        if (blocks->n_runs)
            fprintf(file, "%" PRIx64 " %" PRIu64 "\n", blocks->address,
                    blocks->n_instructions * blocks->n_runs);
    maps = fopen("/proc/self/maps", "r");
    while (maps && (c = getc(maps)) != EOF) putc(c, file);
    if (maps) fclose(maps);
    fclose(file);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    int i;
    (void)info;
    for (i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) out_path = strdup(argv[i] + 4);
        else if (!strncmp(argv[i], "blocks=", 7)) blocks_path = strdup(argv[i] + 7);
        else return -1;
    }
    if (!out_path) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
