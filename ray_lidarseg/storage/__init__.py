"""Files by URI, local and on S3, below everything else: whole or not at all, with one retry policy.

Use: ``from ray_lidarseg import storage``, then ``storage.read_bytes(uri)``.
"""

from ray_lidarseg.storage.file_names import file_name, relative_file
from ray_lidarseg.storage.files import (
    check_file_writable,
    check_listable,
    check_writable,
    exists,
    explained,
    fetch,
    info_of,
    list_files,
    list_folders,
    list_sizes,
    remove_file,
    remove_folder,
    resolve,
    write_bytes,
    write_file,
    write_once,
)
from ray_lidarseg.storage.stamps import read_bytes
from ray_lidarseg.storage.uris import absolute, beside, is_local, join, name_of, parts_of

__all__ = [
    "absolute",
    "beside",
    "check_file_writable",
    "check_listable",
    "check_writable",
    "exists",
    "explained",
    "fetch",
    "file_name",
    "info_of",
    "is_local",
    "join",
    "list_files",
    "list_folders",
    "list_sizes",
    "name_of",
    "parts_of",
    "read_bytes",
    "relative_file",
    "remove_file",
    "remove_folder",
    "resolve",
    "write_bytes",
    "write_file",
    "write_once",
]
