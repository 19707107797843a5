// SPDX-License-Identifier: GPL-2.0-only
/* /proc/simple-procfs-kmod says which version is loaded. */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#define ENTRY "simple-procfs-kmod"

static int show(struct seq_file *file, void *unused)
{
	seq_printf(file, "simple-procfs-kmod %s\n", DRIVER_VERSION);
	return 0;
}

static int __init procfs_init(void)
{
	return proc_create_single(ENTRY, 0444, NULL, show) ? 0 : -ENOMEM;
}

static void __exit procfs_exit(void)
{
	remove_proc_entry(ENTRY, NULL);
}

module_init(procfs_init);
module_exit(procfs_exit);
MODULE_DESCRIPTION("A version to be read in /proc");
MODULE_AUTHOR("The Tenon authors");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
