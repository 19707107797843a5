//! The kernel's log, read by `syslog(2)`: in a container `/dev/kmsg` is out of reach, this call is not.

use std::io;

/// `SYSLOG_ACTION_READ_ALL` of `include/linux/syslog.h`: the last lines, without taking them from anyone.
pub const READ_ALL: i32 = 3;

/// How much of the log's end is read: far more than one load ever writes.
const BYTES: usize = 128 * 1024;

/// The end of the kernel's log, one message a line, each as `<level>[seconds.micros] text`.
pub fn read() -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; BYTES];
    let length = read_all(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Reads the end of the log into `buffer` and returns how many bytes it has.
#[expect(unsafe_code, reason = "no safe wrapper of syslog(2) exists")]
fn read_all(buffer: &mut [u8]) -> io::Result<usize> {
    // The kernel takes the length as an `int`; a longer buffer is used in part.
    let length = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
    // SAFETY: `buffer` is valid for writes of `length` bytes, which is at most its own length, for the whole call, and
    // READ_ALL does nothing but write up to that many bytes there.
    let written = unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), length) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}
