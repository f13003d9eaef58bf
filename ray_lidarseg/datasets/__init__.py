"""Files to key-frames: readers, taxonomies, splits, shards, augmentation."""
