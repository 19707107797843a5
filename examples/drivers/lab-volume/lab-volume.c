// SPDX-License-Identifier: GPL-2.0-only
/* /dev/labvol0, a disk of a few megabytes. It needs lab-volume-core, and would like crc7, a module of the kernel's own. */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/highmem.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/version.h>

#include "lab-volume.h"

static struct gendisk *disk;
static int major;

static void volume_submit(struct bio *bio)
{
	loff_t at = (loff_t)bio->bi_iter.bi_sector << SECTOR_SHIFT;
	bool write = op_is_write(bio_op(bio));
	struct bvec_iter place;
	struct bio_vec part;

	bio_for_each_segment(part, bio, place) {
		void *buffer = bvec_kmap_local(&part);
		int error = lab_volume_transfer(at, buffer, part.bv_len, write);

		kunmap_local(buffer);
		if (error) {
			bio_io_error(bio);
			return;
		}
		at += part.bv_len;
	}
	bio_endio(bio);
}

static const struct block_device_operations operations = {
	.owner = THIS_MODULE,
	.submit_bio = volume_submit,
};

static struct gendisk *make_disk(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	struct queue_limits limits = {};

	return blk_alloc_disk(&limits, NUMA_NO_NODE);
#else
	struct gendisk *made = blk_alloc_disk(NUMA_NO_NODE);

	return made ? made : ERR_PTR(-ENOMEM);
#endif
}

static int __init volume_init(void)
{
	int error;

	major = register_blkdev(0, "labvol");
	if (major < 0)
		return major;
	disk = make_disk();
	if (IS_ERR(disk)) {
		error = PTR_ERR(disk);
		goto no_disk;
	}
	disk->major = major;
	disk->first_minor = 0;
	disk->minors = 1;
	disk->fops = &operations;
	snprintf(disk->disk_name, DISK_NAME_LEN, "labvol0");
	set_capacity(disk, lab_volume_size() >> SECTOR_SHIFT);
	error = add_disk(disk);
	if (error)
		goto not_added;
	pr_info("lab-volume %s: labvol0 has %zu bytes\n", DRIVER_VERSION, lab_volume_size());
	return 0;

not_added:
	put_disk(disk);
no_disk:
	unregister_blkdev(major, "labvol");
	return error;
}

static void __exit volume_exit(void)
{
	del_gendisk(disk);
	put_disk(disk);
	unregister_blkdev(major, "labvol");
}

module_init(volume_init);
module_exit(volume_exit);
MODULE_DESCRIPTION("A small disk");
MODULE_AUTHOR("The Tenon authors");
MODULE_SOFTDEP("pre: crc7");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
