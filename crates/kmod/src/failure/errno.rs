//! Error numbers of system calls, by the names of errno(3).

use std::fmt;

/// An error number of Linux (the numbers of every architecture but MIPS, PA-RISC, Alpha and SPARC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $number:literal: $meaning:literal),* $(,)?) => {
        impl Errno {
            $(#[doc = $meaning] pub const $name: Self = Self($number);)*

            /// The name and the meaning; none where no module has been seen to return it.
            pub fn describe(self) -> Option<(&'static str, &'static str)> {
                match self.0 {
                    $($number => Some((stringify!($name), $meaning)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM = 1: "operation not permitted",
    ENOENT = 2: "no such file or entry",
    EINTR = 4: "interrupted",
    EIO = 5: "input/output error",
    ENXIO = 6: "no such device or address",
    ENOEXEC = 8: "exec format error",
    EAGAIN = 11: "resource temporarily unavailable",
    ENOMEM = 12: "out of memory",
    EACCES = 13: "permission denied",
    EFAULT = 14: "bad address",
    EBUSY = 16: "device or resource busy",
    EEXIST = 17: "already there",
    ENODEV = 19: "no such device",
    EINVAL = 22: "invalid argument",
    EFBIG = 27: "file too large",
    ENOSPC = 28: "no space left",
    ERANGE = 34: "out of range",
    ENOSYS = 38: "function not implemented",
    ENOPKG = 65: "package not installed",
    EPROTO = 71: "protocol error",
    EBADMSG = 74: "bad message",
    EOPNOTSUPP = 95: "operation not supported",
    ETIMEDOUT = 110: "timed out",
    ENOKEY = 126: "required key not available",
    EKEYEXPIRED = 127: "key has expired",
    EKEYREVOKED = 128: "key has been revoked",
    EKEYREJECTED = 129: "key was rejected",
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.describe() {
            Some((name, meaning)) => write!(f, "{name}: {meaning}"),
            None => write!(f, "error {}", self.0),
        }
    }
}
