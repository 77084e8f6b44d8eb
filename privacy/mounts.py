"""On which file system a folder lies: a network's may lose the lock, or the write, that the ledger stands on."""

from __future__ import annotations

import re
from pathlib import Path

from privacy.errors import LedgerUnwritable

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = re.compile(
    r"nfs.*|cifs|smb.*|9p|ceph|glusterfs|lustre|afs|ncpfs|coda|gfs2?|ocfs2|beegfs.*|gpfs|orangefs|pvfs2|virtiofs"
    r"|fuse\.(sshfs|glusterfs|ceph.*|s3fs|rclone|gcsfuse|blobfuse.*|davfs.*|smbnetfs|juicefs|objectivefs|moosefs)|davfs"
)


def file_system(mountinfo: str, folder: str) -> str | None:
    """Return the type of the file system that ``folder`` lies on, or None if no mount covers it.

    Args:
        mountinfo: the text of Linux's ``/proc/self/mountinfo`` (proc(5), one mount a line).
        folder: an absolute path without links.
    """
    best, kind = -1, None
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = point in {"/", folder} or folder.startswith(point + "/")
        # A later mount on the same point hides the earlier one.
        if inside and len(point) >= best:
            best, kind = len(point), right.split(" ")[0]
    return kind


def refuse_network(folder: Path) -> None:
    """Refuse a folder on a network file system; where mounts cannot be read, there is nothing to refuse by.

    Raises:
        LedgerUnwritable: it is on one.
    """
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    kind = file_system(mounts, str(folder.resolve()))
    if kind is not None and NETWORK.fullmatch(kind):
        raise LedgerUnwritable(
            f"{folder}: lies on a network file system ({kind}), which may lose what it has confirmed; "
            "keep the ledger on a disk of this machine"
        )
