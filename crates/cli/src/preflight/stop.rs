//! Being stopped: by Ctrl-C, by whoever ends the job that runs this, or because the terminal has gone.

use std::io;

use futures::FutureExt as _;
use futures::future::{pending, select_all};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals by which a program is asked to end. From the first listening on they no longer end it by themselves.
#[derive(Debug)]
pub(super) struct Stop(Vec<Signal>);

impl Stop {
    /// Listens for those that whoever has started the program does not ignore: with `nohup` it outlives its terminal.
    pub(super) fn listen() -> io::Result<Self> {
        // Where there is no such file, none is.
        let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let heard = kinds.into_iter().filter(|kind| ignored & bit(*kind) == 0);
        heard.map(signal).collect::<io::Result<_>>().map(Self)
    }

    /// Waits for one of them.
    pub(super) async fn asked(&mut self) {
        if self.0.is_empty() {
            return pending().await;
        }
        select_all(self.0.iter_mut().map(|signal| signal.recv().boxed())).await;
    }
}

/// The signals that a process ignores, one bit each, as proc(5) says.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn bit(kind: SignalKind) -> u64 {
    let number = u32::try_from(kind.as_raw_value()).unwrap_or_default();
    1_u64.checked_shl(number.saturating_sub(1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ignores_a_signal_is_known_by_it() {
        // As of a process under nohup; Rust ignores SIGPIPE.
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000440\n";
        let heard = |kind| ignored(status) & bit(kind) == 0;
        assert!(
            !heard(SignalKind::hangup()) && heard(SignalKind::terminate()) && heard(SignalKind::interrupt())
        );
        assert_eq!(ignored(""), 0);
    }
}
