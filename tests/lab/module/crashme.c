// SPDX-License-Identifier: Dual BSD/GPL
/*
 * Breaks the kernel on demand: `echo wild > /sys/module/crashme/parameters/run` starts a kernel
 * thread that does what is asked for. Functions are kept out of line and from ending in a jump,
 * so that each stands in the call trace.
 */

#include <linux/completion.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/string.h>

/* The start of a page that is not mapped, in the half of the addresses that user code has. */
#define WILD 0x4141414100UL

static unsigned long data[8];
static DECLARE_COMPLETION(never);

/* Volatile, so that the compiler cannot know where the calls go. */
static void (*volatile target)(void);

static noinline int th_wild(void *unused)
{
	target = (void (*)(void))WILD;
	target();
	barrier();
	return 0;
}

static noinline int th_data(void *unused)
{
	target = (void (*)(void))data;
	target();
	barrier();
	return 0;
}

static noinline int th_null(void *unused)
{
	target = NULL;
	target();
	barrier();
	return 0;
}

static noinline int th_oops(void *unused)
{
	unsigned long *volatile pointer = NULL;

	WRITE_ONCE(*pointer, 1);
	barrier();
	return 0;
}

static noinline void victim(void)
{
	barrier();
}

static noinline void victim_caller(void)
{
	victim();
	barrier();
}

static int panic_before(struct kprobe *probe, struct pt_regs *registers)
{
	panic("crashme: in the handler of a kprobe");
}

/* By its address: the kernel has another "victim", which is data. */
static struct kprobe probe = {
	.addr = (kprobe_opcode_t *)victim, .pre_handler = panic_before
};

static noinline int th_kprobe(void *unused)
{
	victim_caller();
	barrier();
	return 0;
}

static noinline int th_hung(void *unused)
{
	wait_for_completion(&never);
	barrier();
	return 0;
}

static noinline int th_lockup(void *unused)
{
	preempt_disable();
	for (;;)
		cpu_relax();
	return 0;
}

static const struct {
	const char *name;
	int (*function)(void *);
} choices[] = {
	{ "wild", th_wild }, { "data", th_data }, { "null", th_null }, { "oops", th_oops },
	{ "kprobe", th_kprobe }, { "hung", th_hung }, { "lockup", th_lockup },
};

static int run(const char *text, const struct kernel_param *parameter)
{
	int choice;

	for (choice = 0; choice < ARRAY_SIZE(choices); choice++) {
		struct task_struct *task;

		if (!sysfs_streq(text, choices[choice].name))
			continue;
		if (choices[choice].function == th_kprobe) {
			int error = register_kprobe(&probe);

			if (error)
				return error;
		}
		task = kthread_run(choices[choice].function, NULL, "lab_%s", choices[choice].name);
		return PTR_ERR_OR_ZERO(task);
	}
	return -EINVAL;
}

static const struct kernel_param_ops run_operations = { .set = run };

module_param_cb(run, &run_operations, NULL, 0200);
MODULE_PARM_DESC(run, "what to do: wild, data, null, oops, kprobe, hung or lockup");
MODULE_DESCRIPTION("Breaks the kernel on demand, for tests");
MODULE_LICENSE("Dual BSD/GPL");
