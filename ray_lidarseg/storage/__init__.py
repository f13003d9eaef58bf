"""Files by URI, local and on S3, below everything else: whole or not at all, with one retry policy.

Use: ``from ray_lidarseg import storage``, then ``storage.read_bytes(uri)``.
"""

from ray_lidarseg.storage.files import (
    absolute,
    check_file_writable,
    check_listable,
    check_writable,
    exists,
    explained,
    fetch,
    info_of,
    is_local,
    join,
    list_files,
    list_folders,
    read_bytes,
    remove_file,
    remove_folder,
    resolve,
    write_bytes,
    write_once,
)

__all__ = [
    "absolute",
    "check_file_writable",
    "check_listable",
    "check_writable",
    "exists",
    "explained",
    "fetch",
    "info_of",
    "is_local",
    "join",
    "list_files",
    "list_folders",
    "read_bytes",
    "remove_file",
    "remove_folder",
    "resolve",
    "write_bytes",
    "write_once",
]
