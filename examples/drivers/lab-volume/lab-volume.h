/* SPDX-License-Identifier: GPL-2.0-only */
/* What lab-volume-core offers: memory that keeps what is written to it. */
#ifndef LAB_VOLUME_H
#define LAB_VOLUME_H

#include <linux/types.h>

/* How much there is, in bytes. */
size_t lab_volume_size(void);
/* Copies from the memory, or to it; -EIO where there is none. */
int lab_volume_transfer(loff_t at, void *buffer, size_t length, bool write);

#endif
