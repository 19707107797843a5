//! Who is at the other end of a connection, by the kernel's word.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;

/// The user who connected, as seen from here.
pub fn uid(stream: &UnixStream) -> io::Result<u32> {
    credentials(stream.as_raw_fd()).map(|credentials| credentials.uid)
}

/// `SO_PEERCRED` of `unix(7)`. The peer's process id is 0 when it is in another container: a type that takes process
/// ids for positive numbers, as rustix's does, cannot hold the answer.
#[expect(unsafe_code, reason = "no safe wrapper takes a process id of 0, nor gives the user without it")]
fn credentials(socket: RawFd) -> io::Result<libc::ucred> {
    let mut credentials = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let whole = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    let mut length = whole;
    // SAFETY: both pointers are valid for writes during the call, the first for `length` bytes, and the kernel writes no
    // more than that. Every bit pattern is a `ucred`.
    let answer = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    match answer {
        0 if length == whole => Ok(credentials),
        0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_of_this_process_has_its_user() {
        let (one, other) = UnixStream::pair().unwrap();
        let own = rustix::process::getuid().as_raw();
        assert_eq!((uid(&one).unwrap(), uid(&other).unwrap()), (own, own));
    }

    #[test]
    fn what_is_no_socket_has_no_peer() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let error = credentials(file.as_raw_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }
}
