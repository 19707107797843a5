// SPDX-License-Identifier: GPL-2.0-only
/* Shows its parameters in the kernel log and in /sys/module/simple_kmod/parameters. */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#define MAX_NUMBERS 4

static int count = 1;
module_param(count, int, 0444);
MODULE_PARM_DESC(count, "a number");

static char *greeting = "hello";
module_param(greeting, charp, 0444);
MODULE_PARM_DESC(greeting, "a text");

static bool loud;
module_param(loud, bool, 0444);
MODULE_PARM_DESC(loud, "whether to greet in capitals");

static int numbers[MAX_NUMBERS] = { 1, 2 };
static int numbers_given = 2;
module_param_array(numbers, int, &numbers_given, 0444);
MODULE_PARM_DESC(numbers, "up to four numbers");

static int __init simple_init(void)
{
	int i;

	pr_info("simple-kmod %s: count=%d greeting=%s loud=%d\n", DRIVER_VERSION, count,
		greeting, loud);
	for (i = 0; i < numbers_given; i++)
		pr_info("simple-kmod: numbers[%d]=%d\n", i, numbers[i]);
	return 0;
}

static void __exit simple_exit(void)
{
	pr_info("simple-kmod: gone\n");
}

module_init(simple_init);
module_exit(simple_exit);
MODULE_DESCRIPTION("Parameters of every usual type");
MODULE_AUTHOR("The Tenon authors");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
