//! A connection on which every message has to be whole in time, however its bytes are spread.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The least that a file has to bring in a second.
const SLOWEST: u64 = 1 << 20;

/// A stream and the time left for what is being said.
#[derive(Debug)]
pub struct Patient<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl<'a> Patient<'a> {
    /// For a message.
    pub fn new(stream: &'a UnixStream, patience: Duration) -> Self {
        Self { stream, until: Instant::now() + patience }
    }

    /// For as many bytes more.
    pub fn extend(&mut self, bytes: u64) {
        self.until += Duration::from_secs(bytes / SLOWEST);
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn bytes_that_drip_do_not_prolong_the_wait() {
        let (agent, loader) = UnixStream::pair().unwrap();
        let drip = thread::spawn(move || {
            // Each pause alone is far shorter than what is waited for.
            while (&agent).write_all(b"x").is_ok() {
                thread::park_timeout(Duration::from_millis(5));
            }
        });
        let start = Instant::now();
        let error =
            io::copy(&mut Patient::new(&loader, Duration::from_millis(100)), &mut io::sink()).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error:?}");
        assert!(start.elapsed() >= Duration::from_millis(100));
        drop(loader);
        drip.join().unwrap();
    }

    #[test]
    fn a_peer_that_reads_nothing_is_given_up() {
        let (_agent, loader) = UnixStream::pair().unwrap();
        let error = io::copy(&mut io::repeat(0), &mut Patient::new(&loader, Duration::from_millis(50)));
        assert!(matches!(error.unwrap_err().kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock));
    }

    #[test]
    fn a_large_file_may_take_its_time() {
        let (_agent, loader) = UnixStream::pair().unwrap();
        let mut peer = Patient::new(&loader, Duration::ZERO);
        peer.extend(1 << 20);
        assert!(peer.left().is_ok());
    }
}
